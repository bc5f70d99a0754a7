"""`convert` of safetensors: any layout of the header keeps its own, and safetensors reads what was meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from convinspect.checkpoint import open_checkpoint
from convinspect.converting.rename import renaming, together
from convinspect.errors import CannotConvert
from convinspect.formats.pieces import SHARDING
from convinspect.writing.safetensors_header import edited_header
from convinspect.writing.same_format import save_edits
from support.conversions import converted, load
from support.in_process import run
from support.program import without_wrote
from support.sampling import times

SHAPES = st.lists(st.integers(0, 5), min_size=2, max_size=4).map(tuple)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(lambda n: n != "__metadata__")
LAYOUTS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "indent": st.sampled_from([None, 0, 2, "\t"]),
        "separators": st.sampled_from([(",", ":"), (", ", ": "), (" ,", " :\n")]),
        "ensure_ascii": st.booleans(),
    }
)


def entry(shape: tuple[int, ...], order: list[str]) -> dict[str, Any]:
    fields = {"dtype": "F32", "shape": list(shape), "data_offsets": [0, 4]}
    return {name: fields[name] for name in order}


@given(
    st.dictionaries(NAMES, st.tuples(SHAPES, SHAPES, st.permutations(["dtype", "shape", "data_offsets"])), min_size=1),
    LAYOUTS,
    st.integers(0, 20),
    st.dictionaries(NAMES, st.text()),
    st.data(),
)
@settings(deadline=None, max_examples=times(40, 100))
def test_a_header_says_what_was_meant_and_back_again(
    tensors: dict[str, tuple[tuple[int, ...], tuple[int, ...], list[str]]],
    layout: dict[str, Any],
    blanks: int,
    metadata: dict[str, str],
    data: st.DataObject,
) -> None:
    header = {"__metadata__": metadata} | {key: entry(old, order) for key, (old, _, order) in tensors.items()}
    text = json.dumps(header, **layout).encode()
    text += b" " * (-len(text) % 8 + 8 * blanks)
    chosen = data.draw(st.sets(st.sampled_from(sorted(tensors))))
    new = edited_header(text, {key: tensors[key][1] for key in chosen}, {})
    assert len(new) % 8 == 0
    assert int.from_bytes(new[:8], "little") == len(new) - 8
    wanted = {key: {**one, "shape": list(tensors[key][1])} if key in chosen else one for key, one in header.items()}
    assert list(json.loads(new[8:]).items()) == list(wanted.items())
    back = edited_header(new[8:], {key: tensors[key][0] for key in chosen}, {})
    assert back[8:] == text
    renamed = edited_header(text, {}, {key: f"{key}.ü" for key in chosen})
    assert list(json.loads(renamed[8:])) == [f"{key}.ü" if key in chosen else key for key in header]


@given(
    st.dictionaries(NAMES, st.tuples(SHAPES, SHAPES), min_size=1),
    LAYOUTS,
    st.integers(0, 20),
    st.sampled_from([None, {}, {"format": "mlx"}]),
)
@settings(deadline=None, max_examples=times(40, 100))
def test_a_header_that_was_not_padded_comes_back_too(
    tensors: dict[str, tuple[tuple[int, ...], tuple[int, ...]]],
    layout: dict[str, Any],
    blanks: int,
    metadata: dict[str, str] | None,
) -> None:
    """Nothing asks a writer to pad it, and MLX does not."""
    fields = ["data_offsets", "dtype", "shape"]
    header = {"__metadata__": metadata} | {key: entry(old, fields) for key, (old, _) in tensors.items()}
    text = json.dumps(header, **layout).encode() + b" " * blanks
    new = edited_header(text, {key: shape for key, (_, shape) in tensors.items()}, {})
    assert int.from_bytes(new[:8], "little") == len(new) - 8
    assert (len(new) % 8 == 0) == (len(text) % 8 == 0)
    assert json.loads(new[8:]) == header | {key: entry(shape, fields) for key, (_, shape) in tensors.items()}
    back = edited_header(new[8:], {key: old for key, (old, _) in tensors.items()}, {})
    assert back[8:] == text
    named = edited_header(text, {}, {key: f"{key}.ü" for key in tensors})
    # Names are written in the header's own spelling, which is that of json.dumps here.
    assert edited_header(named[8:], {}, {f"{key}.ü": key for key in tensors})[8:] == text


DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn]


@st.composite
def states(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """Convolutions and other tensors of any dtype, in any order."""
    state: dict[str, torch.Tensor] = {}
    for name in draw(st.lists(st.from_regex(r"[a-zü]{1,3}", fullmatch=True), min_size=1, max_size=5, unique=True)):
        out, into = draw(st.integers(1, 5)), draw(st.integers(2, 5))
        dtype = draw(st.sampled_from(DTYPES))
        tail = draw(st.sampled_from([(), (1,), (1, 1), (3,)]))
        state[f"{name}.weight"] = torch.randn(out, into, *tail).to(dtype)
        if draw(st.booleans()):
            state[f"{name}.bias"] = torch.randn(out).to(dtype)
        if draw(st.booleans()):
            state[f"{name}.number"] = torch.tensor(3)
    return state


# Hypothesis draws words of this program, too; what this key holds has a meaning.
@given(states(), st.dictionaries(st.text().filter(lambda key: key != SHARDING), st.text()).filter(bool))
@settings(deadline=None, max_examples=times(30, 60), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_only_the_shapes_asked_for_change(
    tmp_path: Path, state: dict[str, torch.Tensor], metadata: dict[str, str]
) -> None:
    source, target, back = (tmp_path / f"{name}.safetensors" for name in ("a", "b", "c"))
    for path in (target, back):
        path.unlink(missing_ok=True)
    save_file(state, source, metadata=metadata)
    if not any(key.endswith("weight") and one.shape[2:] == (1,) for key, one in state.items()):
        with pytest.raises(CannotConvert, match="nothing can be converted"):
            converted(source, target)
        return
    planned = converted(source, target)
    changed = {f"{one.layer.name}.weight" for one in planned.conversions}
    assert changed == {key for key, one in state.items() if key.endswith("weight") and one.shape[2:] == (1,)}
    with safe_open(target, "pt") as opened:
        assert opened.metadata() == metadata
    after = load_file(target)
    before = load_file(source)
    assert list(after) == list(before)
    for key, old in before.items():
        wanted = old.reshape(old.shape[:2]) if key in changed else old
        assert (after[key].shape, after[key].dtype) == (wanted.shape, wanted.dtype)
        assert torch.equal(after[key].reshape(-1).view(torch.uint8), wanted.reshape(-1).view(torch.uint8))
    if changed:
        names = tuple(one.layer.name for one in planned.conversions)
        converted(target, back, "Conv1d", names=names)
        assert back.read_bytes() == source.read_bytes()


def test_a_name_that_the_format_keeps_for_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"d": torch.zeros(2, 2), "e": torch.zeros(1)}, path)
    with pytest.raises(CannotConvert, match="__metadata__"):
        renaming(open_checkpoint(path), ["d=__metadata__"])


def test_shapes_and_names_change_in_one_go(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    header = {"ü.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
    text = json.dumps(header, indent=1).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + torch.arange(6.0).numpy().tobytes())
    checkpoint = open_checkpoint(path)
    names = renaming(checkpoint, ["ü=b"]).edits
    save_edits(checkpoint, together([], names), tmp_path / "b.safetensors", lambda done: None)
    assert list(load(tmp_path / "b.safetensors")) == ["b.weight"]
    assert b'\n "b.weight": {\n  "dtype"' in (tmp_path / "b.safetensors").read_bytes()


def mlx_file(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """As MLX's `Module.save_weights` writes one: metadata of null, names in order, and no padding."""
    header: dict[str, Any] = {"__metadata__": None}
    payload = b""
    for key, tensor in sorted(tensors.items()):
        numbers = tensor.numpy().tobytes()
        ends = [len(payload), len(payload) + len(numbers)]
        header[key] = {"data_offsets": ends, "dtype": "F32", "shape": list(tensor.shape)}
        payload += numbers
    text = json.dumps(header, separators=(",", ":")).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + payload)
    return path


@pytest.mark.parametrize("length", range(8))
def test_metadata_of_null_and_no_padding_is_a_file_like_any_other(tmp_path: Path, length: int) -> None:
    name = "x" * (length + 1)
    wide = {f"{name}.weight": torch.randn(4, 1, 6), f"{name}.bias": torch.randn(4), "other": torch.arange(3.0)}
    path = mlx_file(tmp_path / "a.safetensors", wide)
    with safe_open(path, "pt") as file:
        assert not file.metadata()
    assert all(torch.equal(tensor, wide[key]) for key, tensor in load_file(path).items())
    linear, back = tmp_path / "linear.safetensors", tmp_path / "back.safetensors"
    for words in (
        ("shapes", path),
        ("weights", path, name),
        ("check", path),
        ("check", path, "--values"),
        ("explain", path, name),
        ("convert", path, "--to", "linear", "--layer", name, "-o", linear),
        ("verify", path, linear),
        ("check", linear),
        ("convert", linear, "--to", "conv1d", "--layer", name, "-o", back),
        ("diff", path, back, "--values"),
        ("convert", linear, "-o", tmp_path / "a.pt"),
        ("convert", linear, "--to", "conv1d", "--layer", name, "--state-dict", "-o", tmp_path / "plain.safetensors"),
    ):
        done = run(*words)
        assert (done.returncode, without_wrote(done.stderr)) == (0, ""), words
    assert load_file(linear)[f"{name}.weight"].shape == (4, 6)
    assert torch.equal(load_file(linear)[f"{name}.weight"], wide[f"{name}.weight"][:, 0])
    assert b'"__metadata__":null' in linear.read_bytes()
    assert back.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("metadata", [[], "", 0, False, {"a": None}, {"a": 1}])
def test_other_metadata_stays_what_safetensors_says_of_it(tmp_path: Path, metadata: object) -> None:
    header = json.dumps({"__metadata__": metadata, "w": entry((1,), ["dtype", "shape", "data_offsets"])}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(SafetensorError):
        load_file(path)
    assert run("check", path).returncode != 0
