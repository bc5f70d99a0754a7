"""Values that are small to write down and endless to walk, or no value that a checkpoint should hold.

VALUES          name → opcodes
LARGE_VALUES    name → function that gives them
SHAPES          name → opcodes of a tensor's size
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from support.hostile.opcodes import (
    call,
    dict_of,
    get,
    instance,
    integer,
    integers,
    named,
    octets,
    put,
    storage,
    tensor,
    text,
    tuple_of,
)


def doubled(start: bytes, join: Callable[[int], bytes], times: int) -> bytes:
    """`start`, then `times` containers that each hold the one before twice; `join(slot)` pushes such a container."""
    steps = b"".join(put(slot) + b"0" + join(slot) for slot in range(times))
    return start + steps


def pair_in_list(slot: int) -> bytes:
    """A list of the remembered value, twice."""
    return b"(" + get(slot) * 2 + b"l"


def pair_in_dict(slot: int) -> bytes:
    """A dict of the remembered value under two names."""
    return dict_of((text("left"), get(slot)), (text("right"), get(slot)))


def doubled_tuple() -> bytes:
    """A tuple doubled 60 times."""
    return b"N" + b"2\x86" * 60


def module_in_itself() -> bytes:
    """A module that is its own child."""
    container = named("torch.nn.modules.container", "Sequential") + b")\x81" + put(9)
    empty = call(named("collections", "OrderedDict"))
    child = empty + text("child") + get(9) + b"s"
    state = {"training": b"\x88", "_parameters": empty, "_buffers": empty, "_modules": child}
    return container + dict_of(*((text(name), value) for name, value in state.items())) + b"b"


def nested_modules(depth: int) -> bytes:
    """Modules one within the other."""
    before = named("torch.nn.modules.container", "Sequential") + b")\x81}" + text("_modules") + b"}" + text("a")
    return before * depth + instance("torch.nn.modules.linear", "Linear") + b"ssb" * depth


def nested_dicts(depth: int) -> bytes:
    """Dictionaries one within the other, a tensor in the innermost."""
    return (b"}" + text("a")) * depth + tensor() + b"s" * depth


def nested_calls(depth: int) -> bytes:
    """f(f(f(…)))."""
    return named("package", "f") * depth + b"N" + b"\x85R" * depth


def odd_keys() -> bytes:
    """Keys that are no strings."""
    keys = (
        *(integer(3), b"N", b"\x88", octets(b"key"), b"G" + struct.pack(">d", float("nan")), integers(1, 2)),
        *(named("builtins", "print"), call(named("package", "Key"), text("a"))),
    )
    return dict_of(*((key, tensor()) for key in keys))


SHAPES: dict[str, bytes] = {
    "strings": tuple_of(text("4"), text("6"), text("1")),
    "nested": tuple_of(integers(4, 6), integer(1)),
    "none": b"N",
    "number": integer(24),
    "list": b"](" + integer(4) + integer(6) + b"e",
    "floats": tuple_of(*[b"G" + struct.pack(">d", 4.0)] * 3),
    "infinite": tuple_of(*[b"G" + struct.pack(">d", float("inf"))] * 3),
    "booleans": tuple_of(b"\x88", b"\x88", b"\x89"),
    "negative": integers(-4, 6, 1),
    "short": integers(4, 6),
    "long": integers(*[1] * 20_000),
    "huge": integers(10**400, 6, 1),
    "overflowing": integers(2**32, 2**32, 1),
    "int64_edge": integers(2**63 - 1, 2**63 - 1, 2**63 - 1),
    "escape": tuple_of(text("\x1b[31m"), integer(6), integer(1)),
    "of_no_arguments": call(named("torch", "Size")),
}

VALUES: dict[str, bytes] = {
    **{f"size_{name}": tensor(size=size) for name, size in SHAPES.items()},
    **{f"stride_{name}": tensor(stride=size) for name, size in SHAPES.items()},
    "offset_negative": tensor(offset=integer(-1)),
    "offset_past_end": tensor(offset=integer(1)),
    "offset_huge": tensor(offset=integer(10**400)),
    "offset_text": tensor(offset=text("0")),
    "expanded_10_12": tensor(size=integers(10**6, 10**6), stride=integers(0, 0)),
    "expanded_10_12_in_rows": tensor(size=integers(10**12, 6), stride=integers(0, 1)),
    "storage_of_10_12": tensor(
        size=integers(10**6, 10**6), stride=integers(10**6, 1), held_in=storage(numel=integer(10**12))
    ),
    "storage_numel_negative": tensor(held_in=storage(numel=integer(-24))),
    "storage_numel_huge": tensor(held_in=storage(numel=integer(10**400))),
    "storage_numel_text": tensor(held_in=storage(numel=text("24"))),
    "storage_key_outside": tensor(held_in=storage(key=text("../../../../etc/passwd"))),
    "storage_key_absent": tensor(held_in=storage(key=text("1"))),
    "storage_key_number": tensor(held_in=storage(key=integer(0))),
    "storage_key_dict": tensor(held_in=storage(key=b"}")),
    "storage_key_escape": tensor(held_in=storage(key=text("\x1b[31m[bold]"))),
    "storage_kind_foreign": tensor(held_in=storage(kind=named("os", "system"))),
    "storage_kind_text": tensor(held_in=storage(kind=text("FloatStorage"))),
    "storage_device_escape": tensor(held_in=storage(device=text("\x1b[31mcuda\r\n"))),
    "storage_device_number": tensor(held_in=storage(device=integer(0))),
    "storage_is_text": tensor(held_in=text("0") + b"Q"),
    "storage_is_number": tensor(held_in=integer(7) + b"Q"),
    "storage_is_empty": tensor(held_in=b")Q"),
    "storage_is_cycle": tensor(held_in=b"]" + put(8) + get(8) + b"aQ"),
    "rebuild_without_arguments": call(named("torch._utils", "_rebuild_tensor_v2")),
    "rebuild_of_numbers": call(named("torch._utils", "_rebuild_tensor_v2"), *[integer(1)] * 6),
    "rebuild_argument_not_a_tuple": named("torch._utils", "_rebuild_tensor_v2") + integer(1) + b"R",
    "parameter_of_number": call(named("torch._utils", "_rebuild_parameter"), integer(1), b"\x88", b"N"),
    "parameter_chain": named("torch._utils", "_rebuild_parameter") * 20_000
    + tensor()
    + (b"\x88" + b"N" + b"\x87R") * 20_000,
    "tuple_doubled": doubled_tuple(),
    "tuple_doubled_as_key": dict_of((doubled_tuple(), tensor())),
    "tuple_doubled_as_size": tensor(size=doubled_tuple()),
    "tuple_doubled_as_metadata": call(named("collections", "OrderedDict"))
    + dict_of((text("_metadata"), doubled_tuple()))
    + b"b",
    "list_doubled": doubled(b"]", pair_in_list, 60),
    "dict_doubled": doubled(dict_of((text("w"), tensor())), pair_in_dict, 60),
    "list_in_itself": b"]" + put(9) + get(9) + b"a",
    "dict_in_itself": b"}" + put(9) + text("self") + get(9) + b"s" + text("w") + tensor() + b"s",
    "module_in_itself": module_in_itself(),
    "unhashable_key": dict_of((b"}", tensor())),
    "odd_keys": odd_keys(),
    "key_of_5_000_digits": dict_of((integer(10**5_000), tensor())),
    "escapes_in_class": instance("\x1b[31mevil\r", "[bold]Net[/bold]", ("a", integer(1))),
    "call_with_escapes": call(named("evil\x1b]0;title\x07", "f\u202e"), text("x")),
}

LARGE_VALUES: dict[str, Callable[[], bytes]] = {
    "nested_lists": lambda: b"]" * 100_000 + b"a" * 99_999,
    "nested_tuples": lambda: b")" + b"\x85" * 100_000,
    "nested_dicts": lambda: nested_dicts(20_000),
    "nested_calls": lambda: nested_calls(30_000),
    "nested_modules": lambda: nested_modules(5_000),
    "integer_of_a_million_digits": lambda: b"I" + b"9" * 1_000_000 + b"\n",
    "long_of_a_million_digits": lambda: b"L" + b"9" * 1_000_000 + b"L\n",
    "long_of_5_mb": lambda: integer(1 << 40_000_000),
    "size_of_5_mb": lambda: tensor(size=integers(1 << 40_000_000, 1)),
    "numel_of_5_mb": lambda: tensor(held_in=storage(numel=integer(1 << 40_000_000))),
    "name_of_5_mb": lambda: dict_of((text("\x1b[1m" * 1_250_000), tensor())),
}
