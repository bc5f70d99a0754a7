"""joblib's pickles, in which arrays stand between instructions, whose wrappers lie.

JOBLIB      name → value(marker): a whole stream
"""

from __future__ import annotations

from pathlib import Path

from support.hostile.calls import bomb
from support.hostile.opcodes import (
    PAYLOAD,
    Value,
    call,
    dict_of,
    get,
    instance,
    integer,
    integers,
    named,
    octets,
    pickled,
    put,
    text,
    tuple_of,
)

_CLASS = ("joblib.numpy_pickle", "NumpyArrayWrapper")
_DTYPE_STATE = tuple_of(integer(3), text("<"), b"N", b"N", b"N", integer(-1), integer(-1), integer(0))


def dtype(name: str = "f4", state: bytes = _DTYPE_STATE) -> bytes:
    """Push a dtype."""
    return call(named("numpy", "dtype"), text(name), b"\x89", b"\x88") + state + b"b"


def wrapper(
    shape: bytes = integers(4, 6, 1),
    of: bytes | None = None,
    order: bytes = text("C"),
    padding: bytes | None = integer(16),
    raw: bytes = b"\x03\xff\xff\xff" + PAYLOAD,
) -> bytes:
    """Push an array; the defaults are a sound one of PAYLOAD's numbers."""
    state = [("subclass", named("numpy", "ndarray")), ("shape", shape), ("order", order)]
    state += [("dtype", dtype() if of is None else of), ("allow_mmap", b"\x88")]
    state += [("numpy_array_alignment_bytes", padding)] if padding is not None else []
    return instance(*_CLASS, *state) + raw


def stream(value: bytes) -> bytes:
    """A state_dict with one sound kernel and a value."""
    return pickled(dict_of((text("conv.weight"), wrapper()), (text("fc.weight"), value)))


JOBLIB: dict[str, Value] = {
    "sound": lambda marker: stream(wrapper(integers(4, 6))),
    "no_padding": lambda marker: stream(wrapper(integers(4, 6), padding=None, raw=PAYLOAD)),
    "shape_2_60": lambda marker: stream(wrapper(integer(2**60))),
    "shape_negative": lambda marker: stream(wrapper(integers(-4, 6))),
    "shape_of_axes": lambda marker: stream(wrapper(integers(*[1] * 200))),
    "shape_is_text": lambda marker: stream(wrapper(text("4"))),
    "shape_missing": lambda marker: stream(instance(*_CLASS, ("order", text("C")))),
    "beyond_the_end": lambda marker: stream(wrapper(integers(400, 600))),
    "padding_beyond": lambda marker: stream(wrapper(raw=b"\xff" + PAYLOAD)),
    "dtype_is_none": lambda marker: stream(wrapper(of=b"N")),
    "dtype_of_no_size": lambda marker: stream(wrapper(of=dtype("f"))),
    "dtype_huge": lambda marker: stream(wrapper(of=dtype(f"V{10**11}"))),
    "dtype_text": lambda marker: stream(wrapper(integers(3), of=dtype("U8"))),
    "objects": lambda marker: stream(wrapper(integers(1), of=dtype("O8"), raw=pickled(bomb(marker)))),
    "objects_cut": lambda marker: stream(wrapper(integers(1), of=dtype("O8"), raw=pickled(bomb(marker))[:-1])),
    "objects_deep": lambda marker: stream(wrapper(of=dtype("O8"), raw=pickled(b"(" * 9_000 + b"t" * 9_000))),
    "bomb_beside": lambda marker: pickled(dict_of((text("conv.weight"), wrapper()), (text("x"), bomb(marker)))),
    "bomb_in_numbers": lambda marker: stream(
        wrapper(integer(len(pickled(bomb(marker)))), of=dtype("u1"), padding=None, raw=pickled(bomb(marker)))
    ),
    "stop_in_numbers": lambda marker: stream(wrapper(integer(9), of=dtype("u1"), padding=None, raw=b"." * 9)),
    "many": lambda marker: pickled(dict_of(*((integer(i), wrapper()) for i in range(500)))),
    "wrapper_again": lambda marker: pickled(b"](" + wrapper() + put(7) + get(7) * 1_000 + b"e"),
    "built_twice": lambda marker: stream(instance(*_CLASS) + b"}b" * 50),
    "string_of_2_mb": lambda marker: pickled(
        dict_of((text("a"), octets(bytes(2 << 20))), (text("b.weight"), wrapper()))
    ),
    "no_stop": lambda marker: stream(wrapper())[:-1],
    "no_instruction": lambda marker: stream(wrapper(raw=b"\0" + PAYLOAD + b"\xff")),
}


def joblib_file(tmp_path: Path, marker: Path, make: Value) -> Path:
    """Such a stream as a file."""
    path = tmp_path / "model.joblib"
    path.write_bytes(make(marker))
    return path
