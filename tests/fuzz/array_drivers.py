"""Drivers of arrays in NumPy's own format: headers that say anything, alone and in archives."""

from __future__ import annotations

import io
import re
import struct
from functools import lru_cache
from pathlib import Path
from random import Random

import numpy as np
import pickle_mutations
import zip_mutations

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
