"""Drivers of arrays: in NumPy's own format, whose headers say anything, and in joblib's pickles."""

from __future__ import annotations

import io
import re
import struct
import zlib
from functools import lru_cache
from pathlib import Path
from random import Random

import numpy as np
import pickle_mutations
import zip_mutations
from lz4_frames import lz4_frame

from support.hostile.joblib_streams import dtype, wrapper
from support.hostile.opcodes import PAYLOAD, dict_of, integer, integers, named, pickled, text

_ARRAYS = {
    "conv.weight": np.arange(24, dtype="f4").reshape(4, 6, 1),
    "conv.bias": np.arange(4, dtype="f4"),
    "fc.weight": np.asfortranarray(np.arange(12, dtype=">f8").reshape(3, 4)),
    "Dense_0/kernel": np.arange(6, dtype="f2").reshape(2, 3),
    "names": np.array(["a", "b"]),
    "objects": np.array({"a": [1, 2]}, dtype=object),
    "records": np.zeros(2, [("a", "f4"), ("b", "i4", (2,))]),
    "step": np.int64(3),
}
_TOKENS = (
    *("'<f4'", "'>f8'", "'|O'", "'V2'", "'<U3'", "[('a', '<f4')]", "[]", "None", "''", "b'<f4'", "('<f4', (2,))"),
    *("True", "False", "1", "(4, 6)", "(4, 6, 1)", "()", "(-1,)", f"({1 << 62},)", "(0, 99)", "(2L, 3L)", "((1,),)"),
    *(
        "(4, 6",
        "{",
        "}",
        "9" * 5_000,
        "-" * 3_000,
        "(" * 300,
        "1e3",
        "1j",
        "'\\x1b[31m'",
        "'descr'",
        "'shape'",
        "\0",
        "é",
    ),
)


@lru_cache(maxsize=1)
def _sources() -> tuple[list[bytes], list[zip_mutations.Archive]]:
    """Arrays, and archives of all of them, as NumPy writes them."""
    alone = []
    for array in _ARRAYS.values():
        buffer = io.BytesIO()
        np.save(buffer, array)
        alone.append(buffer.getvalue())
    archives = []
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(buffer, **_ARRAYS)
        archives.append(zip_mutations.opened(buffer.getvalue()))
    return alone, archives


def changed_array(random: Random, content: bytes) -> bytes:
    """An array whose header's text, length, version or bytes are changed, and whose pickle may be another."""
    if not content.startswith(b"\x93NUMPY"):
        return content
    width = 2 if content[6] == 1 else 4
    length = int.from_bytes(content[8 : 8 + width], "little")
    text, payload = content[8 + width : 8 + width + length], content[8 + width + length :]
    if b"'|O'" in text and random.random() < 0.5:
        payload = pickle_mutations.mutated(random, payload, [payload])
    for _ in range(random.choice((0, 1, 1, 1, 2, 4))):
        parts = re.split(rb"('[^']*'|\([^)]*\)|True|False)", text)
        at = random.randrange(len(parts))
        parts[at] = random.choice((random.choice(_TOKENS).encode("latin-1", "replace"), b"", parts[at] * 2))
        text = b"".join(parts)
    if random.random() < 0.15:
        at = random.randrange(len(text) + 1)
        text = text[:at] + random.randbytes(random.choice((1, 2, 9))) + text[at + random.choice((0, 1, 5)) :]
    if random.random() < 0.2:
        payload = random.choice((b"", payload[: random.randint(0, len(payload))], payload + b"\0", payload * 3))
    major = random.choice((1, 1, 2, 3)) if random.random() < 0.97 else random.choice((0, 1, 4, 255))
    claimed = random.choice((0, 1, 65_535, 2**32 - 1)) if random.random() < 0.1 else len(text)
    form = "<H" if major == 1 else "<I"
    return (
        b"\x93NUMPY" + bytes((major, 0)) + struct.pack(form, claimed % 2 ** (16 if major == 1 else 32)) + text + payload
    )


def arrays(random: Random, folder: Path) -> Path:
    """A changed array, or an archive of changed arrays whose zip is sound or changed too."""
    alone, archives = _sources()
    if random.random() < 0.3:
        path = folder / random.choice(("model.npy", ".npy", "a.b.npy"))
        path.write_bytes(changed_array(random, random.choice(alone)))
        return path
    archive = zip_mutations.copied(random.choice(archives))
    for record in archive.records:
        if random.random() < 0.15:
            record.data = changed_array(random, record.data)
            record.method = random.choice((0, 0, 8))
    path = folder / "model.npz"
    path.write_bytes(
        zip_mutations.written(archive) if random.random() < 0.6 else zip_mutations.mutated(random, archive)
    )
    return path


_SHAPES = (integers(4, 6), integers(4, 6, 1), integers(), integer(24), integer(2**62), integers(-1), text("4"), b"N")
_TYPES = ("f4", "f8", "u1", "U3", "O8", "V8", "V0", "f", "", "<f4", "S5", "c8", "f99", "\x1b[31m")
_RAW = (b"\x03\xff\xff\xff" + PAYLOAD, PAYLOAD, b"", b"\xff" * 300, b"." * 96, bytes(97), pickled(b"N"))


def joblib(random: Random, folder: Path) -> Path:
    """joblib's pickles: wrappers that say anything, with any bytes behind them, between sound ones."""
    values = []
    for number in range(random.choice((1, 2, 4))):
        if random.random() < 0.4:
            made = wrapper(random.choice(_SHAPES[:2]))
        else:
            of = random.choice((dtype(random.choice(_TYPES)), b"N", named("numpy", "float32"), dtype("f4", b"N")))
            padding = random.choice((None, integer(16), integer(0), integer(-1), b"N"))
            order = random.choice((text("C"), text("F"), b"N", integer(1)))
            made = wrapper(random.choice(_SHAPES), of, order, padding, random.choice(_RAW))
        values.append((text(f"layer{number}.weight"), made))
    content = pickled(dict_of(*values))
    if random.random() < 0.4:
        at = random.randrange(len(content))
        new = random.choice((b"", random.randbytes(1), pickle_mutations.instruction(random)))
        content = content[:at] + new + content[at + random.choice((0, 1, 4)) :]
    if random.random() < 0.2:
        content = content[: random.randint(0, len(content))]
    path = folder / "model.joblib"
    if random.random() < 0.2:
        content = random.choice((zlib.compress(content), _in_lz4(random, content)))
    path.write_bytes(content)
    return path


def _in_lz4(random: Random, content: bytes) -> bytes:
    """The content as lz4 packs it, sometimes with much behind it, or damaged."""
    packed = lz4_frame(content, random.random() < 0.3, random.choice((0, 0, 0, 1 << 12, 1 << 22)))
    if random.random() < 0.4:
        at = random.randrange(len(packed))
        packed = packed[:at] + random.randbytes(random.choice((0, 1, 4))) + packed[at + random.choice((0, 1, 4)) :]
    return packed
