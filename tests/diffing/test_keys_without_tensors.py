"""`diff` and `--error` on keys whose value is no tensor; the verdict is that of `load_state_dict(strict=True)`."""

from __future__ import annotations

import io
import json
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.ao.nn import quantized

from convinspect.checkpoint import open_checkpoint
from convinspect.diffing.checkpoints import diff
from convinspect.diffing.differences import DiffReport, Verdict
from convinspect.diffing.fixes import ErrorReport, suggest_fixes
from convinspect.diffing.load_error import read_error
from support.in_process import command, run
from support.sampling import times

State = dict[str, Any]
MANY = settings(max_examples=times(40, 100), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Extra(nn.Module):
    """A pointwise convolution whose module keeps something else in its state_dict."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value, self.pw = value, nn.Conv1d(3, 4, 1)

    def get_extra_state(self) -> Any:
        return self.value

    def set_extra_state(self, state: Any) -> None:
        pass


def nested(layout: torch.layout) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)], layout=layout)
    module = nn.Module()
    module.register_buffer("n", value)
    return module


MODULES: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.Conv1d(3, 4, 1),
    "linear": lambda: nn.Linear(3, 4),
    "lazy": lambda: nn.LazyLinear(4),
    "lazy conv": lambda: nn.LazyConv1d(4, 1),
    "dict": lambda: Extra({"scale": 1.5}),
    "none": lambda: Extra(None),
    "bytes": lambda: Extra(io.BytesIO(b"x" * 300)),
    "tensor": lambda: Extra(torch.ones(3)),
    "longer tensor": lambda: Extra(torch.ones(5, dtype=torch.int64)),
    "no extra": lambda: nn.ModuleDict({"pw": nn.Conv1d(3, 4, 1)}),
    "nested": lambda: nested(torch.strided),
    "jagged": lambda: nested(torch.jagged),
    "one buffer": lambda: nn.ParameterDict({"n": torch.ones(2, 3)}),
}
STRAY = [3, "text", None, {"lr": 0.1}, [1, 2], io.BytesIO(b"abc")]


def model_of(kinds: list[str]) -> nn.Module:
    return nn.Sequential(*(MODULES[kind]() for kind in kinds))


def held(folder: Path, a: State, b: State, **wish: Any) -> DiffReport:
    torch.save(a, folder / "a.pt")
    torch.save(b, folder / "b.pt")
    return diff(open_checkpoint(folder / "a.pt"), open_checkpoint(folder / "b.pt"), **wish)


def loads(model: nn.Module, state: State) -> bool:
    try:
        model.load_state_dict(state, strict=True)
    except Exception:
        return False
    return True


@MANY
@given(
    a=st.lists(st.sampled_from(sorted(MODULES)), min_size=1, max_size=4),
    b=st.lists(st.sampled_from(sorted(MODULES)), min_size=1, max_size=4),
    same=st.booleans(),
    stray=st.dictionaries(st.sampled_from(["epoch", "args"]), st.sampled_from(STRAY), max_size=1),
    odd=st.sampled_from([None, *STRAY[:4]]),
)
def test_the_verdict_is_that_of_pytorch(
    tmp_path: Path, a: list[str], b: list[str], same: bool, stray: State, odd: Any
) -> None:
    """Modules of every kind on both sides, and stray or wrong values among A's."""
    b = a if same else b
    state: Any = model_of(a).state_dict()
    wanted = model_of(b)
    state.update(stray)
    weights = [key for key, value in state.items() if isinstance(value, torch.Tensor) and key.endswith("weight")]
    if odd is not None and weights:
        state[weights[0]] = odd
    reference = wanted.state_dict()
    if not any(isinstance(value, torch.Tensor) for value in [*state.values(), *reference.values()]):
        return
    report = held(tmp_path, state, reference)
    assert (report.verdict == Verdict.LOADS) == loads(wanted, state), report.obstacles


@pytest.mark.parametrize("value", [None, {"scale": 1}, 3])
def test_an_extra_state_that_is_missing_or_in_the_way_is_said(tmp_path: Path, value: Any) -> None:
    plain, extra = nn.ModuleDict({"pw": nn.Conv1d(3, 4, 1)}).state_dict(), Extra(value).state_dict()
    report = held(tmp_path, plain, extra)
    assert report.obstacles == ("_extra_state is not in A",)
    report = held(tmp_path, extra, plain)
    assert report.obstacles == ("_extra_state is not in B",)
    assert held(tmp_path, extra, extra).same
    done = run("diff", tmp_path / "a.pt", tmp_path / "b.pt", "--all", "--format", "json")
    row = next(each for each in json.loads(done.stdout)["tensors"] if each["name"] == "_extra_state")
    assert row["other_a"] == {"key": "_extra_state", "type": "None" if value is None else type(value).__name__}
    assert row["a"] is None


def test_a_prefix_on_them_is_taken_off_and_the_command_renames_them(tmp_path: Path) -> None:
    state = nn.Sequential(OrderedDict(block=Extra({"scale": 1}))).state_dict()
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "a.pt")
    torch.save(state, tmp_path / "b.pt")
    done = run("diff", tmp_path / "a.pt", tmp_path / "b.pt", "--format", "json")
    said = json.loads(done.stdout)
    assert said["verdict"] == "loads after converting"
    assert said["rename"] == ["module.*=*"]
    run("convert", tmp_path / "a.pt", "-o", tmp_path / "c.pt", "--rename", *said["rename"])
    nn.Sequential(OrderedDict(block=Extra(None))).load_state_dict(torch.load(tmp_path / "c.pt"), strict=True)


def test_a_stray_value_of_b_alone_is_no_obstacle_and_is_said(tmp_path: Path) -> None:
    state = nn.Conv1d(3, 4, 1).state_dict()
    report = held(tmp_path, state, {**state, "epoch": 3})
    assert report.verdict == Verdict.LOADS
    assert not report.same
    assert held(tmp_path, {**state, "epoch": 3}, state).verdict == Verdict.DOES_NOT_LOAD
    assert held(tmp_path, {**state, "epoch": 3}, {**state, "epoch": 3}).same
    done = run("diff", tmp_path / "a.pt", tmp_path / "b.pt")
    assert "epoch: no module keeps such a key" in " ".join(done.stdout.split())
    # Beside a state_dict it is no key of it.
    wrapped = {"epoch": 3, "state_dict": state}
    assert held(tmp_path, wrapped, state).same


def test_values_that_are_plain_are_compared(tmp_path: Path) -> None:
    states = [Extra(value).state_dict() for value in (3, 4)]
    pw = {key: value for key, value in states[0].items() if key != "_extra_state"}
    kinds = {each.name: each.kind for each in held(tmp_path, states[0] | pw, states[1] | pw, values=True).tensors}
    assert kinds["_extra_state"] == "values differ"
    states = [Extra({"a": value}).state_dict() | pw for value in (3, 3)]
    kinds = {each.name: each.kind for each in held(tmp_path, *states, values=True).tensors}
    assert kinds["_extra_state"] == "not compared"


# ------------------------------------------------------------------------------------------------------- --error


def answered(folder: Path, model: nn.Module, state: State) -> ErrorReport:
    with pytest.raises(RuntimeError) as failure:
        model.load_state_dict(state, strict=True)
    torch.save(state, folder / "a.pt")
    return suggest_fixes(open_checkpoint(folder / "a.pt"), read_error(str(failure.value)))


def test_an_error_about_them_gets_its_answer(tmp_path: Path) -> None:
    state = nn.Sequential(OrderedDict(block=Extra({"scale": 1}))).state_dict()
    plain = nn.Sequential(OrderedDict(block=nn.ModuleDict({"pw": nn.Conv1d(3, 4, 1)})))
    report = answered(tmp_path, plain, state)
    assert [(each.item.key, each.reason) for each in report.answers] == [
        ("block._extra_state", "the model has no such key")
    ]
    prefixed = {f"module.{key}": value for key, value in state.items()}
    report = answered(tmp_path, nn.Sequential(OrderedDict(block=Extra(None))), prefixed)
    assert {str(each.fix) for each in report.answers} == {"rename"}
    assert report.rules == ("module.*=*",)
    wrong = {**plain.state_dict(), "block.pw.weight": {"a": 1}}
    report = answered(tmp_path, plain, wrong)
    assert [each.reason for each in report.answers] == ["it is no tensor there (dict)"]


def old_spectral_norm() -> tuple[nn.Module, State]:
    """A state_dict as PyTorch before 1.1 wrote it, which kept the weight and not v."""
    model = nn.Sequential(nn.utils.spectral_norm(nn.Conv1d(4, 6, 1)))
    state: Any = model.state_dict()
    v = state.pop("0.weight_v")
    matrix = state["0.weight_orig"].flatten(1)
    state["0.weight"] = state["0.weight_orig"] / torch.dot(state["0.weight_u"], matrix @ v)
    state._metadata["0"].pop("spectral_norm")
    return model, state


def test_an_old_spectral_norm_loads_and_loads_after_renaming(tmp_path: Path) -> None:
    model, state = old_spectral_norm()
    reference = model.state_dict()
    report = held(tmp_path, dict(state), reference)
    assert report.verdict == Verdict.LOADS
    assert loads(model, dict(state))
    prefixed = {f"module.{key}": value for key, value in state.items()}
    found = answered(tmp_path, model, prefixed)
    assert (found.verdict, found.obstacles) == (Verdict.UNDECIDED, ())
    new = {key.removeprefix("module."): value for key, value in prefixed.items()}
    assert loads(model, new)
    # A new one, with its version, keeps no weight beside it.
    extra: Any = model.state_dict()
    extra["0.weight"] = state["0.weight"]
    extra.pop("0.weight_v")
    report = held(tmp_path, extra, reference)
    assert report.verdict == Verdict.DOES_NOT_LOAD
    assert not loads(model, extra)


def test_an_old_weight_norm_under_another_prefix_loads_after_renaming(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        old = nn.Sequential(nn.utils.weight_norm(nn.Conv1d(4, 6, 1)))
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 6, 1)))
    found = answered(tmp_path, model, {f"module.{key}": value for key, value in old.state_dict().items()})
    assert (found.verdict, found.obstacles) == (Verdict.UNDECIDED, ())
    run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--rename", *(found.rules or ()))
    model.load_state_dict(torch.load(tmp_path / "b.pt"), strict=True)


# ------------------------------------------------------------------------------------------------- quantized modules


def _quantized_model() -> nn.ModuleDict:
    linear: Any = quantized.Linear
    conv: Any = quantized.Conv2d
    return nn.ModuleDict({"proj": linear(3, 2), "conv": conv(3, 2, 1), "head": nn.Linear(2, 2)})


def test_a_quantized_linear_is_renamed_as_the_one_value_that_it_is(tmp_path: Path) -> None:
    model, outer = _quantized_model(), nn.ModuleDict({"model": _quantized_model()})
    torch.save(outer.state_dict(), tmp_path / "a.pt")
    torch.save(model.state_dict(), tmp_path / "b.pt")
    done = command(tmp_path, "convert", "a.pt", "-o", "renamed.pt", "--rename", "model.*=*")
    assert done.returncode == 0, done.stderr
    model.load_state_dict(torch.load(tmp_path / "renamed.pt", weights_only=False))
    refused = command(tmp_path, "convert", "a.pt", "-o", "x.pt", "--rename", "*._packed_params.0=*.weight")
    assert refused.returncode == 2
    assert "is not one key of a dictionary" in refused.stderr


def test_a_quantized_linear_without_its_version_does_not_load(tmp_path: Path) -> None:
    model = _quantized_model()
    torch.save(dict(model.state_dict()), tmp_path / "a.pt")
    torch.save(model.state_dict(), tmp_path / "b.pt")
    with pytest.raises(KeyError):
        model.load_state_dict(torch.load(tmp_path / "a.pt", weights_only=False))
    report = diff(open_checkpoint(tmp_path / "a.pt"), open_checkpoint(tmp_path / "b.pt"))
    assert report.verdict == "does not load"
    assert "whose version A does not record" in report.obstacles[0]


@pytest.mark.parametrize(("leaf", "value"), [("scale", 0.5), ("zero_point", 3), ("zero_point", None)])
@pytest.mark.parametrize("module", ["proj", "conv", "head"])
def test_quantized_modules_read_numbers(tmp_path: Path, module: str, leaf: str, value: Any) -> None:
    model = _quantized_model()
    if module == "head":
        model["head"].register_buffer(leaf, torch.zeros(()))
    state = model.state_dict()
    torch.save(state, tmp_path / "b.pt")
    state[f"{module}.{leaf}"] = value
    torch.save(state, tmp_path / "a.pt")
    try:
        model.load_state_dict(state)
        loaded = True
    except (RuntimeError, TypeError):
        loaded = False
    report = diff(open_checkpoint(tmp_path / "a.pt"), open_checkpoint(tmp_path / "b.pt"))
    assert (report.verdict == "loads") == loaded


def test_a_quantized_linear_takes_no_other_dtype(tmp_path: Path) -> None:
    state = _quantized_model().state_dict()
    torch.save(state, tmp_path / "b.pt")
    state["proj._packed_params.dtype"] = None
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(RuntimeError, match="Unsupported dtype"):
        _quantized_model().load_state_dict(state)
    report = diff(open_checkpoint(tmp_path / "a.pt"), open_checkpoint(tmp_path / "b.pt"))
    assert (report.verdict, len(report.obstacles)) == ("does not load", 1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["plain", "meta", "sparse", "quantized", "double"])
def test_a_lazy_module_takes_what_can_be_copied_into_a_plain_tensor(tmp_path: Path, kind: str) -> None:
    weight = torch.rand(4, 3)
    quantize: Any = torch.quantize_per_tensor
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "plain": lambda: weight, "meta": lambda: weight.to("meta"), "sparse": weight.to_sparse,
        "quantized": lambda: quantize(weight, 0.1, 0, torch.qint8), "double": weight.double,
    }  # fmt: skip
    state = {"weight": ways[kind](), "bias": torch.rand(4)}
    model = nn.LazyLinear(4)
    torch.save(state, tmp_path / "a.pt")
    torch.save(model.state_dict(), tmp_path / "b.pt")
    report = diff(open_checkpoint(tmp_path / "a.pt"), open_checkpoint(tmp_path / "b.pt"))
    try:
        model.load_state_dict(state)
        loaded = True
    except RuntimeError:
        loaded = False
    assert (report.verdict == "loads") == loaded, report.obstacles
