"""Instructions that make up a small share of a checkpoint's pickle, each by its code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from convinspect.formats.pickle.state import EXTENSION, State, line_span, two_names
from convinspect.formats.pickle.values import (
    Call,
    Dict,
    OutOfBand,
    Persistent,
    Set,
    Tuple,
    items_into,
    paired,
    pairs_into,
)
from convinspect.records import Span

_LONGEST_INTEGER = 8_192
"""Bits of an integer that is kept as one."""
_UNUSUAL = frozenset("ioP\x97210ld\x8bILFSTV\x90\x91\x92\x93")
"""What no pickler of state_dicts writes."""

_Rare: TypeAlias = Callable[[State, Any, int], None]
"""(state, argument, offset): carries out one instruction."""


def carry_out(state: State, code: str, arg: Any, at: int) -> None:
    """Carry out a rare instruction.

    Args:
        state: The machine's.
        code: Of the instruction, which is in `pickletools.opcodes` and not among those that the machine's loop knows.
        arg: Its argument.
        at: Its offset in the stream.
    """
    if code in _UNUSUAL:
        state.rare.setdefault(code, at)
    _RARE[code](state, arg, at)


def _build(state: State, arg: Any, at: int) -> None:
    attributes = state.pop()
    target = state.stack[-1]
    if isinstance(target, Call):
        target.states = target.states or []
        target.states.append(attributes)
    else:
        state.rare.setdefault("b", at)


def _stack_global(state: State, arg: Any, at: int) -> None:
    name, module = state.pop(), state.stack[-1]
    if not (isinstance(name, str) and isinstance(module, str)):
        raise TypeError
    state.stack[-1] = state.named(module, name, Span(state.starts[-1], at + 1))


def _newobj(state: State, arg: Any, at: int) -> None:
    args = state.pop()
    state.stack[-1] = Call(state.stack[-1], args)


def _newobj_ex(state: State, arg: Any, at: int) -> None:
    kwargs, args = state.pop(), state.pop()
    state.stack[-1] = Call(state.stack[-1], args, kwargs)


def _inst(state: State, arg: Any, at: int) -> None:
    items, start = state.pop_mark()
    function = state.named(*two_names(arg), line_span(arg, at))
    state.push(Call(function, Tuple(tuple(items), start, at + 1)), start)


def _obj(state: State, arg: Any, at: int) -> None:
    items, start = state.pop_mark()
    function = items.pop(0)
    state.push(Call(function, Tuple(tuple(items), start, at + 1)), start)


def _setitem(state: State, arg: Any, at: int) -> None:
    places = state.starts[-2:]
    value, key = state.pop(), state.pop()
    pairs, batches = pairs_into(state.stack[-1])
    pairs.append((key, value))
    batches.append((places[0], at + 1, places))


def _dict(state: State, arg: Any, at: int) -> None:
    items, start = state.pop_mark()
    state.push(Dict(list(paired(items))), start)


def _append(state: State, arg: Any, at: int) -> None:
    value = state.pop()
    items_into(state.stack[-1]).append(value)


def _appends(state: State, arg: Any, at: int) -> None:
    items, _ = state.pop_mark()
    items_into(state.stack[-1]).extend(items)


def _frozenset(state: State, arg: Any, at: int) -> None:
    items, start = state.pop_mark()
    state.push(Set(items, frozen=True), start)


def _pop(state: State, arg: Any, at: int) -> None:
    # A POP right above a mark removes the mark, as the standard unpickler does.
    if state.stack:
        state.pop()
    else:
        state.pop_mark()


def _pop_mark(state: State, arg: Any, at: int) -> None:
    state.pop_mark()


def _extension(length: int) -> _Rare:
    """EXT1, EXT2 or EXT4, which has so many bytes and names something by a number."""

    def extension(state: State, arg: Any, at: int) -> None:
        state.globals.setdefault(f"{EXTENSION}{arg}", Span(at, at + length))
        state.push(OutOfBand(f"extension {arg}"), at)

    return extension


def _long4(state: State, arg: Any, at: int) -> None:
    # Python writes no integer of more digits out, and none is a size or a key of ours.
    state.push(arg if arg.bit_length() <= _LONGEST_INTEGER else OutOfBand(hex(arg)), at)


def _literal(state: State, arg: Any, at: int) -> None:
    state.push(arg, at)


_RARE: dict[str, _Rare] = {
    "b": _build,
    "\x93": _stack_global,
    "\x81": _newobj,
    "\x92": _newobj_ex,
    "i": _inst,
    "o": _obj,
    "s": _setitem,
    "d": _dict,
    "]": lambda state, arg, at: state.push([], at),
    "l": lambda state, arg, at: state.push(*state.pop_mark()),
    "a": _append,
    "e": _appends,
    "\x90": _appends,
    "\x8f": lambda state, arg, at: state.push(Set(), at),
    "\x91": _frozenset,
    "P": lambda state, arg, at: state.push(Persistent(arg), at),
    "0": _pop,
    "1": _pop_mark,
    "2": lambda state, arg, at: state.push(state.stack[-1], at),
    **dict.fromkeys("ILFSTV", _literal),
    "\x82": _extension(2),
    "\x83": _extension(3),
    "\x84": _extension(5),
    "\x8b": _long4,
    "\x97": lambda state, arg, at: state.push(OutOfBand("buffer"), at),
}
