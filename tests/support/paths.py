"""Where things lie."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TESTS = ROOT / "tests"
FIXTURES = ROOT / "fixtures"
STNKD = FIXTURES / "pointnet_stnkd.pt"
