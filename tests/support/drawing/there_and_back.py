"""One drawn file: its pointwise convolutions become Linear and convolutions again, and the bytes must be the same.

Where the way back cannot give the same bytes, `convert` must have said so; and it must not have said so elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from unittest import mock

import torch
from safetensors.torch import load_file, save
from torch import nn
from torch.utils.serialization import config

from convinspect.converting.job import Job, convert
from convinspect.converting.options import Options
from convinspect.errors import CannotConvert

State = dict[str, torch.Tensor]

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_OTHERS = (
    torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool, torch.uint16, torch.uint32,
    torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu, torch.complex64, torch.complex128, torch.complex32,
)  # fmt: skip
_OLD = (
    *_FLOATS, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool, torch.complex64,
    torch.complex128,
)  # fmt: skip
_WIDTHS = (1, 2, 3, 4, 5, 5, 6, 7, 255, 256, 300)


class Miss(AssertionError):
    """The bytes differ and it was not said, or are the same although it was said."""


class File(NamedTuple):
    """A drawn file.

    Attributes:
        path: The file, or the folder of shards.
        kinds: Names of the layers to convert, by their kind.
        to: What they become.
        what: How it was drawn, for people.
    """

    path: Path
    kinds: Mapping[str, list[str]]
    to: str
    what: str


def run(seed: int, folder: Path) -> Counter[str]:
    """Draw the file of a seed in an empty folder, convert it there and back.

    Returns:
        What was seen, counted.

    Raises:
        Miss: A promise is broken.
    """
    random = Random(seed)
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = draw(random, folder)
        seen = Counter({"cases": 1, **dict.fromkeys(file.what.split(", "), 1)})
        try:
            return seen + _check(file, folder)
        except Exception as error:
            raise Miss(f"{file.what}: {' '.join(repr(error).split())[:400]}") from error


def _check(file: File, folder: Path) -> Counter[str]:
    """Convert a file's layers to one kind, and each kind back."""
    suffix = "".join(file.path.suffixes)
    there = folder / f"there{suffix}"
    names = tuple(name for group in file.kinds.values() for name in group)
    options = Options(to=file.to, from_=tuple(file.kinds), layer=names, dry_run=True)
    try:
        plan = convert(file.path, None, options).plan
        going = tuple(conversion.layer.name for conversion in plan.conversions)
        job = convert(file.path, there, replace(options, layer=going, dry_run=False))
    except CannotConvert as error:
        assert not there.exists()
        return Counter({"refused": 1, f"refused: {error.problem[:60]}": 1})
    changed = {conversion.layer.name: conversion.layer.kind for conversion in job.plan.conversions}
    _assert_same_numbers(file.path, there)
    at, said = there, _is_said(job)
    for number, kind in enumerate(dict.fromkeys(changed.values())):
        wanted = tuple(name for name, was in changed.items() if was == kind)
        back = folder / f"back{number}{suffix}"
        try:
            again = convert(at, back, Options(to=kind.lower(), from_=(file.to,), layer=wanted))
        except CannotConvert as error:
            if "optimizer" not in error.problem:
                raise
            # Now that shapes are alike, whose state is whose cannot be told.
            return Counter({"back refused for the optimizer": 1})
        if {conversion.layer.name for conversion in again.plan.conversions} != set(wanted):
            raise Miss(f"not converted back: {[str(refusal.reason) for refusal in again.plan.refusals]}")
        at = back
    _assert_same_numbers(file.path, at)
    same = contents(at) == contents(file.path)
    if same is said:
        raise Miss(f"the bytes are {'the same' if same else 'others'}, said: {said}")
    alike = folder / f"alike{suffix}"
    convert(there, alike, Options(like=file.path))
    if contents(alike) != contents(file.path) and not any("the weights' own" in note for note in job.notes):
        raise Miss("the bytes are others with `like` the original")
    refused = {f"left: {str(refusal.reason)[:50]}": 1 for refusal in plan.refusals}
    return Counter({"same bytes" if same else "other strides, said": 1, "layers": len(changed), **refused})


def _is_said(job: Job) -> bool:
    return any("converting back" in note for note in job.notes)


def contents(path: Path) -> dict[str, bytes]:
    """Bytes of a file, or of the files in a folder, by name."""
    if path.is_dir():
        return {one.name: one.read_bytes() for one in sorted(path.iterdir())}
    return {"": path.read_bytes()}


def _loaded(path: Path) -> Any:
    """The oracle's reading."""
    if path.is_dir():
        shards = [_loaded(one) for one in sorted(path.iterdir()) if one.suffix != ".json"]
        return {key: value for shard in shards for key, value in shard.items()}
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, weights_only=False)


def _assert_same_numbers(before: Path, after: Path) -> None:
    """Both load, and hold the same numbers under the same names."""
    old, new = (_tensors(_loaded(path)) for path in (before, after))
    # safetensors gives no order.
    assert old.keys() == new.keys()
    for key, one in old.items():
        assert one.dtype == new[key].dtype, key
        assert _bits(one) == _bits(new[key]), key


def _bits(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().clone(memory_format=torch.contiguous_format).flatten()
    return bytes(flat.view(torch.uint8).numpy().tobytes()) if flat.numel() else b""


def _tensors(thing: Any, prefix: str = "") -> State:
    if isinstance(thing, torch.Tensor):
        return {prefix: thing}
    if isinstance(thing, nn.Module):
        thing = thing.state_dict()
    items = thing.items() if isinstance(thing, dict) else enumerate(thing) if isinstance(thing, list | tuple) else ()
    return {key: value for name, below in items for key, value in _tensors(below, f"{prefix}.{name}").items()}


# ---------------------------------------------------------------------------------------------------- drawing


def draw(random: Random, folder: Path) -> File:
    """A file in an empty folder."""
    to = random.choice((0, 0, 0, 1, 2, 3))
    state, kinds, words = draw_state(random, [dims for dims in range(4) if dims != to])
    container = random.choice(tuple(CONTAINERS))
    path, more = CONTAINERS[container](random, state, folder)
    return File(path, kinds, _KINDS[to], ", ".join([container, *more, *words, f"to {_KINDS[to]}"]))


_KINDS = ("linear", "conv1d", "conv2d", "conv3d")


def draw_state(random: Random, dimensions: Sequence[int]) -> tuple[State, dict[str, list[str]], list[str]]:
    """Tensors by name, names of the Linear layers and pointwise convolutions by kind, and words for what was drawn.

    Args:
        random: What decides.
        dimensions: How many dimensions the kernels may have; 0 is a Linear.
    """
    state: State = {}
    kinds: dict[str, list[str]] = {}
    words: set[str] = set()
    usual = random.choice(tuple(_STRIDES))
    for number in range(random.randint(1, 4)):
        dims = random.choice(dimensions)
        name = random.choice(("layers.{}", "m{}", "block.{}.conv", "module.{}", "a[{}]", "ünï{}")).format(number)
        dtype = random.choice(_FLOATS if random.random() < 0.7 else _OTHERS)
        layout = usual if random.random() < 0.6 else random.choice(tuple(_STRIDES))
        out, into = random.choice(_WIDTHS), random.choice(_WIDTHS)
        weight = _STRIDES[layout](random, (out, into, *(1,) * dims), dtype)
        state[f"{name}.weight"] = weight
        kinds.setdefault(_KINDS[dims], []).append(name)
        words |= {layout, str(dtype).removeprefix("torch.")}
        if random.random() < 0.5:
            state[f"{name}.bias"] = torch.randn(weight.shape[0])
        if random.random() < 0.2:
            state[f"tied{number}.weight"] = weight
            kinds[_KINDS[dims]].append(f"tied{number}")
            words.add("tied")
        if random.random() < 0.1:
            state[f"view{number}.weight"] = weight.detach()
            kinds[_KINDS[dims]].append(f"view{number}")
            words.add("two views")
    if random.random() < 0.4:
        state["norm.weight"], state["norm.bias"] = torch.ones(5), torch.zeros(5)
    if random.random() < 0.4:
        kernel = torch.randn(4, 3, 3, 3)
        state["stem.weight"] = kernel.to(memory_format=torch.channels_last) if random.random() < 0.5 else kernel
    if random.random() < 0.2:
        state["steps"] = torch.tensor(7)
    names = list(state)
    random.shuffle(names)
    return {name: state[name] for name in names}, kinds, sorted(words)


def _numbers(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Any bytes of that dtype that every library reads: small whole numbers."""
    count = int(torch.tensor(shape).prod())
    if dtype.is_complex or (dtype.is_floating_point and dtype.itemsize > 1):
        return torch.randn(count, dtype=torch.complex64 if dtype.is_complex else None).to(dtype).reshape(shape)
    raw = torch.randint(0, 2, (count * dtype.itemsize,), dtype=torch.uint8)
    return raw.view(dtype).reshape(shape)


def _plain(random: Random, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return _numbers(shape, dtype)


def _turned(random: Random, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """`W.T[..., None]`."""
    return _unsqueezed(_numbers(shape[1::-1], dtype).T, shape)


def _unsqueezed(matrix: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    for _ in shape[2:]:
        matrix = matrix.unsqueeze(-1)
    return matrix


def _permuted(random: Random, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """From TensorFlow's (…, in, out)."""
    dims = len(shape) - 2
    return _numbers((*shape[2:], shape[1], shape[0]), dtype).permute(dims + 1, dims, *range(dims))


def _channels_last(random: Random, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    order = (0, *range(2, len(shape)), 1)
    stored = _numbers(tuple(shape[axis] for axis in order), dtype)
    return stored.permute(*(order.index(axis) for axis in range(len(shape))))


def _expanded(random: Random, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    axis = random.randrange(2)
    return _numbers(tuple(1 if at == axis else size for at, size in enumerate(shape)), dtype).expand(shape)


def _within(random: Random, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Rows of a longer tensor."""
    start = random.randint(0, 3)
    return _numbers((shape[0] + 5, *shape[1:]), dtype)[start : start + shape[0]]


def _center(random: Random, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """The middle of larger kernels."""
    whole = _numbers((*shape[:2], *(3 for _ in shape[2:])), dtype)
    for axis in range(2, len(shape)):
        whole = whole.narrow(axis, 1, 1)
    return whole


def _stepped(random: Random, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return _numbers((shape[0], shape[1] * 2, *shape[2:]), dtype)[:, ::2]


def _any_strides(random: Random, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Strides of dimensions of size 1 say nothing, and may be anything."""
    whole = _numbers(shape, dtype)
    stride = [
        step if size > 1 else random.choice((1, 2, 7, 300, 70000))
        for size, step in zip(shape, whole.stride(), strict=True)
    ]
    return torch.as_strided(whole, shape, stride)


def _empty(random: Random, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    axis = random.randrange(2)
    return torch.zeros(tuple(0 if at == axis else size for at, size in enumerate(shape)), dtype=dtype)


_STRIDES: dict[str, Callable[[Random, tuple[int, ...], torch.dtype], torch.Tensor]] = {
    "row by row": _plain,
    "turned": _turned,
    "permuted": _permuted,
    "channels-last": _channels_last,
    "expanded": _expanded,
    "a part": _within,
    "a kernel's middle": _center,
    "stepped": _stepped,
    "any strides": _any_strides,
    "empty": _empty,
}


# -------------------------------------------------------------------------------------------------- containers

Saved = tuple[Path, list[str]]


def _around(random: Random, state: State) -> tuple[object, str]:
    """What is saved: the tensors alone or within something."""
    inner: Any = {
        key: nn.Parameter(one) if one.is_floating_point() and random.random() < 0.3 else one
        for key, one in state.items()
    }
    for key, one in state.items():
        twins = [name for name, other in state.items() if other is one]
        inner[key] = inner[twins[0]]
    how = random.choice(("plain", "ordered", "nested", "training", "listed"))
    if all(one.dtype in _FLOATS for one in state.values()) and random.random() < 0.3:
        how = "resumed"
    if how != "plain":
        inner = OrderedDict(inner)
        inner._metadata = OrderedDict((key.rpartition(".")[0], {"version": 1}) for key in inner)
    if how == "nested":
        return {"epoch": 3, "model": {"state_dict": inner}, "args": {"lr": 0.1, "name": "x" * 300}}, how
    if how == "training":
        ema = {key: one.detach().clone() for key, one in state.items()}
        return {"state_dict": inner, "ema": ema, "step": 1 << 40, "best": None}, how
    if how == "resumed":
        return {"model": inner, "optimizer": _optimizer(inner)}, how
    if how == "listed":
        return {"model": inner, "history": [torch.ones(2), {"loss": torch.zeros(())}], "note": ("a", 1.5)}, how
    return inner, how


def _optimizer(state: State) -> dict[str, Any]:
    """Adam's, after a step."""
    owned = {id(one): nn.Parameter(one.detach()) for one in state.values()}
    adam = torch.optim.Adam(owned.values())
    for one in owned.values():
        one.grad = torch.ones_like(one)
    with contextlib.suppress(RuntimeError):  # expanded tensors cannot be written to
        adam.step()
    return adam.state_dict()


def _zip(random: Random, state: State, folder: Path) -> Saved:
    thing, how = _around(random, state)
    crc, alignment = random.random() < 0.6, random.choice((1, 8, 64, 64, 64, 256, 4096, 65536))
    protocol = random.choice((1, 2, 2, 2, 3, 4, 5))
    order = "big" if random.random() < 0.1 else "little"
    patch: Any = config.patch  # type: ignore[attr-defined]
    path = folder / random.choice(("model.pt", "pytorch_model.bin", "a.ckpt"))
    with (
        patch({"save.compute_crc32": crc, "save.storage_alignment": alignment}),
        mock.patch("sys.byteorder", order),
    ):
        torch.save(thing, path, pickle_protocol=protocol)
    return path, [how, f"protocol {protocol}", f"alignment {alignment}", order, *(() if crc else ("no sums",))]


def _legacy(random: Random, state: State, folder: Path) -> Saved:
    # That format has a class of storages for each dtype, and none for the newer ones.
    thing, how = _around(
        random, {key: one if one.dtype in _OLD else one.to(torch.float32) for key, one in state.items()}
    )
    protocol = random.choice((1, 2, 2, 2, 3, 4, 5))
    path = folder / "model.pt"
    torch.save(thing, path, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    return path, [how, f"protocol {protocol}"]


def _safetensors(random: Random, state: State, folder: Path) -> Saved:
    path = folder / "model.safetensors"
    whole = {key: _storable(one) for key, one in state.items()}
    metadata = random.choice((None, {"format": "pt"}, {"format": "pt", "ü": '"\\ [bold]'}))
    raw = save(whole, metadata)
    if random.random() < 0.6:
        raw = _with_other_header(random, raw)
    path.write_bytes(raw)
    return path, []


def _storable(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as safetensors can have it."""
    unknown = tensor.dtype in (torch.complex32, torch.complex128)
    return (tensor.to(torch.complex64) if unknown else tensor).clone(memory_format=torch.contiguous_format)


def _with_other_header(random: Random, raw: bytes) -> bytes:
    """The file with a header of the same content, in another order and form."""
    length = int.from_bytes(raw[:8], "little")
    items = list(json.loads(raw[8 : 8 + length]).items())
    random.shuffle(items)
    header = json.dumps(
        dict(items),
        separators=random.choice(((",", ":"), (", ", ": "), (" ,", " :"))),
        ensure_ascii=random.random() < 0.5,
    )
    text = header.encode() + b" " * random.randint(0, 20)
    return len(text).to_bytes(8, "little") + text + raw[8 + length :]


def _shards(random: Random, state: State, folder: Path) -> Saved:
    path = folder / "model"
    path.mkdir()
    suffix = random.choice(("safetensors", "bin"))
    halves = [half for start in (0, 1) if (half := dict(list(state.items())[start::2]))]
    index: dict[str, Any] = {"metadata": {"total_size": 0}, "weight_map": {}}
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    for number, half in enumerate(halves):
        name = f"{stem}-0000{number + 1}-of-00002.{suffix}"
        if suffix == "bin":
            torch.save(half, path / name)
        else:
            half = {key: _storable(one) for key, one in half.items()}
            (path / name).write_bytes(save(half, {"format": "pt"}))
        index["weight_map"] |= dict.fromkeys(half, name)
        index["metadata"]["total_size"] += sum(one.numel() * one.dtype.itemsize for one in half.values())
    (path / f"{stem}.{suffix}.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return path, [suffix]


CONTAINERS: dict[str, Callable[[Random, State, Path], Saved]] = {
    "zip": _zip,
    "zip again": _zip,
    "legacy": _legacy,
    "safetensors": _safetensors,
    "shards": _shards,
}
