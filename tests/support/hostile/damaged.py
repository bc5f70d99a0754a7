"""Damaged copies of good files."""

from __future__ import annotations

from pathlib import Path


def cut(path: Path, tmp_path: Path, *, fraction: float = 1.0, minus: int = 0) -> Path:
    """A copy in `tmp_path` of `path`'s first `fraction`, then without its last `minus` bytes."""
    content = path.read_bytes()
    target = tmp_path / f"cut_{path.name}"
    target.write_bytes(content[: int(len(content) * fraction) - minus])
    return target


def flip_byte(path: Path, tmp_path: Path, offset: int) -> Path:
    """A copy in `tmp_path` with the byte at `offset` inverted."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    target = tmp_path / f"flipped_{path.name}"
    target.write_bytes(content)
    return target
