"""Arrays in NumPy's own format that lie: about their size, their bytes, their members.

NUMPY      name → builder(tmp_path, marker)
"""

from __future__ import annotations

import struct
import zipfile
from functools import partial
from pathlib import Path

from support.hostile.calls import bomb
from support.hostile.containers import Member, deflated_repeat, raw_zip
from support.hostile.opcodes import PAYLOAD, Builder


def array_header(descr: str = "'<f4'", shape: str = "(4, 6)", order: str = "False", length: int | None = None) -> bytes:
    """An array's header, of version 2; each part is as it stands in its text, and the length may lie."""
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode("latin-1")
    return b"\x93NUMPY\2\0" + struct.pack("<I", len(text) if length is None else length) + text


HEADERS = {
    "shape_negative": array_header(shape="(-4, -6)"),
    "shape_2_60": array_header(shape=f"({1 << 60},)"),
    "shape_product": array_header(shape="(" + "65536, " * 40 + ")"),
    "shape_of_4_000_digits": array_header(shape=f"({'9' * 4_000},)"),
    "shape_of_ones": array_header(shape="(" + "1, " * 3_000 + ")"),
    "shape_disagrees": array_header(shape="(400, 600)"),
    "shape_smaller": array_header(shape="(4, 3)"),
    "shape_nested": array_header(shape="((4, 6), 1)"),
    "length_beyond": array_header(length=9_999),
    "length_of_4_gb": array_header(length=2**32 - 1),
    "length_0": array_header(length=0),
    "length_short": array_header(length=20),
    "deep": array_header(shape="(" * 4_900 + ")" * 4_900),
    "signs": array_header(shape="-" * 9_000 + "1"),
    "call": array_header(descr="__import__('os').system('true')"),
    "escapes": array_header(descr="'<f4\\x1b[31m'"),
    "fields_deep": array_header(descr="[('a'," * 60 + "'O'" + ")]" * 60),
    "no_text": b"\x93NUMPY\3\0" + struct.pack("<I", 4) + b"\xff\xfe\xfd\xfc",
    "version_9": b"\x93NUMPY\x09\0" + bytes(64),
}


def array_file(tmp_path: Path, marker: Path, header: bytes) -> Path:
    """An array with this header."""
    path = tmp_path / "model.npy"
    path.write_bytes(header + PAYLOAD)
    return path


def array_archive(tmp_path: Path, marker: Path, header: bytes, method: int = zipfile.ZIP_STORED) -> Path:
    """The same in an archive, beside a sound one."""
    path = tmp_path / "model.npz"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("conv.weight.npy", array_header() + PAYLOAD)
        archive.writestr("fc.weight.npy", header + PAYLOAD)
    return path


def _array_of_objects(tmp_path: Path, marker: Path, archive: bool) -> Path:
    header = array_header("'|O'", "()") + bomb(marker)
    return array_archive(tmp_path, marker, header) if archive else array_file(tmp_path, marker, header)


def _members(tmp_path: Path, marker: Path, kind: str) -> Path:
    whole = array_header() + PAYLOAD
    sound = Member("conv.weight.npy", [whole], len(whole))
    if kind == "overlap":
        others = [Member(f"fc{i}.weight.npy", [], len(whole), len(whole), offset=0) for i in range(40)]
    elif kind == "quine":
        packed, size = deflated_repeat(bytes(1 << 20), 4, b"")
        others = [Member(f"fc{i}.weight.npy", packed if not i else [], size, method=8, offset=0) for i in range(40)]
    elif kind == "bomb":
        header = array_header("'<f8'", f"({1 << 15}, {1 << 16})")
        packed, size = deflated_repeat(bytes(1 << 20), 1 << 8)
        first, head = deflated_repeat(header, 1)
        # The two streams are one: the first block ends where the second begins.
        others = [Member("fc.weight.npy", [first[0], *packed], head + size * 64, method=8)]
    elif kind == "zeros":
        packed, size = deflated_repeat(bytes(1 << 20), 300)
        others = [Member("fc.weight.npy", packed, size, method=8)]
    elif kind == "method_12":
        others = [Member("fc.weight.npy", [whole], len(whole), method=12)]
    elif kind == "encrypted":
        others = [Member("fc.weight.npy", [whole], len(whole), flags=1)]
    elif kind == "outside":
        others = [Member("fc.weight.npy", [whole], len(whole), offset=1 << 31)]
    else:
        others = [Member("../../fc.weight.npy", [whole], len(whole)), Member(".npy", [whole], len(whole))]
        others += [Member("\x1b[31m.npy", [whole], len(whole)), Member("a/../b.npy", [whole], len(whole))]
    return raw_zip(tmp_path / "model.npz", [sound, *others])


KINDS = ("overlap", "quine", "bomb", "zeros", "method_12", "encrypted", "outside", "names")

NUMPY: dict[str, Builder] = {
    **{f"npy_{name}": partial(array_file, header=header) for name, header in HEADERS.items()},
    **{f"npz_{name}": partial(array_archive, header=header) for name, header in HEADERS.items()},
    **{f"npz_packed_{name}": partial(array_archive, header=header, method=8) for name, header in HEADERS.items()},
    "npy_objects": partial(_array_of_objects, archive=False),
    "npz_objects": partial(_array_of_objects, archive=True),
    **{f"npz_{kind}": partial(_members, kind=kind) for kind in KINDS},
}
