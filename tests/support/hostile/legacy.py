"""Files of the format before PyTorch 1.6.

LEGACY    name → builder
"""

from __future__ import annotations

import struct
from pathlib import Path

from support.hostile.calls import bomb
from support.hostile.containers import legacy_file
from support.hostile.opcodes import PAYLOAD, SAMPLES, beside_a_layer, dict_of, named, pickled, text, tuple_of


def legacy_part(tmp_path: Path, marker: Path, part: str) -> Path:
    """A bomb in place of one of the stream's pickles."""
    return legacy_file(tmp_path, **{part: pickled(bomb(marker))})


def legacy_with(tmp_path: Path, marker: Path, part: str, stream: bytes) -> Path:
    """Anything in place of one of the stream's pickles."""
    return legacy_file(tmp_path, **{part: stream})


def legacy_sources(tmp_path: Path, marker: Path) -> Path:
    """A saved source that would run, with escapes in its file name."""
    source = (text("module"), named("evil", "Net"), text("\x1b[31m[bold].py"), text(f"open({str(marker)!r}, 'w')"))
    net = tuple_of(*source) + b"Q)\x81" + dict_of((text("training"), b"\x88")) + b"b"
    return legacy_file(tmp_path, object=beside_a_layer(net))


def legacy_claim(tmp_path: Path, marker: Path, numel: int) -> Path:
    """The storage's own count says something else than the pickle."""
    path = legacy_file(tmp_path)
    good = path.read_bytes()
    path.write_bytes(good.replace(struct.pack("<q", SAMPLES) + PAYLOAD, struct.pack("<q", numel) + PAYLOAD))
    return path
