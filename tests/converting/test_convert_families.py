"""`convert --like` and saving anew over whole families of state_dicts; torch and safetensors are the oracle."""

from __future__ import annotations

from pathlib import Path

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from convinspect.checkpoint import open_checkpoint
from convinspect.converting.like import plan_like
from convinspect.converting.plan import Plan, Request, chosen_layers, plan
from convinspect.layers.find import find_layers
from convinspect.writing.same_format import save_edits
from convinspect.writing.state_dict import resave
from support.conversions import CONTAINERS, load
from support.sampling import times

State = dict[str, torch.Tensor]
FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
QUIET = [HealthCheck.function_scoped_fixture]


def fresh(folder: Path, *names: str) -> list[Path]:
    """Paths of files that are not there."""
    paths = [folder / name for name in names]
    for path in paths:
        path.unlink(missing_ok=True)
    return paths


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    bits = [one.contiguous().reshape(-1).view(torch.uint8) for one in (a, b)]
    return a.dtype == b.dtype and torch.equal(*bits)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[State, State]:
    """Two state_dicts of one model: ranks differ, and now and then widths do."""
    here: State = {}
    there: State = {}
    for number in range(draw(st.integers(1, 5))):
        out, into = draw(st.integers(2, 5)), draw(st.integers(2, 5))
        ranks = [draw(st.integers(0, 3)) for _ in range(2)]
        wider = draw(st.sampled_from([0, 0, 0, 1]))
        dtype = draw(st.sampled_from(FLOATS))
        here[f"l{number}.weight"] = torch.randn(out, into, *[1] * ranks[0]).to(dtype)
        there[f"l{number}.weight"] = torch.randn(out + wider, into, *[1] * ranks[1]).to(dtype)
        if draw(st.booleans()):
            here[f"l{number}.bias"] = torch.randn(out).to(dtype)
            there[f"l{number}.bias"] = torch.randn(out + wider).to(dtype)
    return here, there


@given(pairs(), st.sampled_from(sorted(CONTAINERS)))
@settings(deadline=None, max_examples=times(30, 60), suppress_health_check=QUIET)
def test_like_gives_every_shape_that_differs_in_rank_alone(
    tmp_path: Path, both: tuple[State, State], kind: str
) -> None:
    source, other, target = fresh(tmp_path, f"a.{kind}", f"b.{kind}", f"c.{kind}")
    for state, path in zip(both, (source, other), strict=True):
        CONTAINERS[kind](state, path)
    checkpoint, wanted = open_checkpoint(source), open_checkpoint(other)
    layers = find_layers(checkpoint)
    names = {tensor.key: name for name, tensor in checkpoint.tensors.items()}
    planned = plan_like(layers, names, wanted.tensors, find_layers(wanted), chosen_layers(layers, (), ()))
    save_edits(checkpoint, planned.edits, target, lambda done: None)
    before, like, after = load(source), load(other), load(target)
    assert list(after) == list(before)
    for key, old in before.items():
        fits = old.numel() == like[key].numel()
        assert after[key].shape == (like[key].shape if fits else old.shape), key
        assert same_bits(after[key], old), key
    refused = {one.name for one in planned.refusals if not one.done}
    assert refused == {key.partition(".")[0] for key in before if before[key].numel() != like[key].numel()}


@st.composite
def tangled(draw: st.DrawFn) -> State:
    """Tensors that share storages, are no rows after another, or are empty."""
    state: State = {}
    for number in range(draw(st.integers(1, 5))):
        out, into = draw(st.integers(0, 4)), draw(st.integers(1, 4))
        weight = torch.randn(out, into, 1).to(draw(st.sampled_from(FLOATS)))
        form = draw(st.sampled_from(["plain", "turned", "tied", "slice"]))
        state[f"l{number}.weight"] = weight
        if form == "turned":
            state[f"l{number}.weight"] = weight.permute(1, 0, 2)
        elif form == "tied":
            state[f"m{number}.weight"] = weight
        elif form == "slice":
            state[f"m{number}.weight"] = torch.cat([weight, weight])[out:]
    return state


@given(tangled(), st.sampled_from(["zip.pt", "legacy.pt"]), st.booleans())
@settings(deadline=None, max_examples=times(30, 60), suppress_health_check=QUIET)
def test_what_is_saved_anew_is_what_was_there(tmp_path: Path, state: State, kind: str, reshape: bool) -> None:
    source, again, other = fresh(tmp_path, f"a.{kind}", "b.pt", "c.safetensors")
    CONTAINERS[kind](state, source)
    checkpoint = open_checkpoint(source)
    planned = plan(find_layers(checkpoint), Request("Linear")) if reshape else Plan()
    for target in (again, other):
        resave(checkpoint, planned.edits, planned.groups, (), target)
    changed = {edit.tensor.key for edit in planned.edits}
    for after in (load(again), load_file(other)):
        assert set(after) == set(state)
        for key, old in state.items():
            assert after[key].shape == (old.shape[:2] if key in changed else old.shape)
            assert same_bits(after[key], old)
    kept = load(again)
    for a in state:
        for b in state:
            tied = state[a].untyped_storage().data_ptr() == state[b].untyped_storage().data_ptr() and state[a].numel()
            assert not tied or kept[a].untyped_storage().data_ptr() == kept[b].untyped_storage().data_ptr()
