"""Driver of pickles that `torch.save` did not write: instructions and the streams in byte strings are changed."""

from __future__ import annotations

import pickle
import struct
from functools import lru_cache
from pathlib import Path
from random import Random

import numpy as np
import pickle_mutations
from torch import nn

from support.hostile.joblib_streams import dtype
from support.hostile.opcodes import PAYLOAD, dict_of, integer, integers, octets, pickled, tensor, text
from support.hostile.plain_pickles import array, loaded, stream
from support.paths import FIXTURES

_ARRAYS = {
    "conv.weight": np.arange(24, dtype="f4").reshape(4, 6, 1),
    "fc.weight": np.asfortranarray(np.arange(12, dtype=">f8").reshape(3, 4)),
    "flag": np.array([True]),
    "objects": np.array(["a", None], dtype=object),
}
_SHAPES = (integers(4, 6, 1), integers(), integer(24), integers(-1), integers(1 << 62, 4), integers(0, 9), text("4"))
_TYPES = ("f4", "f8", "O8", "U2", "V8", "?", "b1", "f99", "", "M8")


@lru_cache(maxsize=1)
def sources() -> list[bytes]:
    """Pickles of tensors, of a module and of arrays, in every protocol; and Paddle's, with arrays in parts."""
    model = nn.Sequential(nn.Conv1d(4, 6, 1), nn.Linear(3, 2))
    values: list[object] = [dict(model.state_dict()), model, {"model": _ARRAYS}, {"a": {"kernel": np.eye(2)}, "b": {}}]
    cut = [(FIXTURES / "paddle" / f"cut_protocol_{protocol}.pdparams").read_bytes() for protocol in (2, 3)]
    return [pickle.dumps(value, protocol) for value in values for protocol in range(6)] + cut


def plain(random: Random, folder: Path) -> Path:
    """A changed pickle of another writer, or one whose strings hold anything."""
    if random.random() < 0.6:
        content = pickle_mutations.mutated(random, random.choice(sources()), sources())
    else:
        content = pickled(dict_of(*((text(f"l{at}.weight"), _value(random)) for at in range(random.choice((1, 2, 5))))))
    if random.random() < 0.2:
        at = random.randrange(len(content) + 1)
        content = content[:at] + random.randbytes(random.choice((0, 1, 4))) + content[at + random.choice((0, 1, 9)) :]
    path = folder / "model.pkl"
    path.write_bytes(content)
    return path


def _value(random: Random) -> bytes:
    if random.random() < 0.5:
        data = octets(random.choice((PAYLOAD, PAYLOAD[:5], b"", PAYLOAD * 3)))
        return array(random.choice(_SHAPES), dtype(random.choice(_TYPES)), random.choice((data, b"N", text("ab"))))
    made = stream(count=random.choice((24, 24, 0, -1, 2**62)))
    if random.random() < 0.5:
        at = random.randrange(len(made))
        made = made[:at] + pickle_mutations.instruction(random) + made[at + random.choice((0, 1, 5)) :]
    if random.random() < 0.2:
        made = made[: random.randrange(len(made))] + struct.pack("<q", pickle_mutations.number(random) % 2**62)
    return tensor(held_in=loaded(made))
