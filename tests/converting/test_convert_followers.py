"""What follows a converted weight, or stays and is named: optimizer state, EMA copies, other roots; held by torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from convinspect.errors import CannotConvert
from support.conversions import converted, load
from support.in_process import run
from support.paths import FIXTURES


def _trained(optimizer: Callable[[Any], torch.optim.Optimizer]) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(6, 6, 1), nn.Conv1d(6, 4, 1))
    found = optimizer(model.parameters())
    _step(model, found, torch.randn(2, 6, 5), swap=False)
    return model, found


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, swap: bool) -> None:
    optimizer.zero_grad()
    y = model(x.transpose(1, 2)).transpose(1, 2) if swap else model(x)
    y.square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.AdamW(p, lr=0.1),
        lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.SGD(p, lr=0.1),
        lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.9),
    ],
)
def test_training_resumes_with_the_same_numbers(tmp_path: Path, optimizer: Any) -> None:
    model, trained = _trained(optimizer)
    torch.save({"model": model.state_dict(), "optimizer": trained.state_dict()}, tmp_path / "a.pt")
    converted(tmp_path / "a.pt", tmp_path / "b.pt")
    after = load(tmp_path / "b.pt")
    linear = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 4))
    linear.load_state_dict(after["model"], strict=True)
    resumed = optimizer(linear.parameters())
    resumed.load_state_dict(after["optimizer"])
    x = torch.randn(2, 6, 5)
    _step(model, trained, x, swap=False)
    _step(linear, resumed, x, swap=True)
    for old, new in zip(model.parameters(), linear.parameters(), strict=True):
        torch.testing.assert_close(new, old.reshape(new.shape))


def test_doubt_about_the_optimizer_is_refused(tmp_path: Path) -> None:
    """It has more parameters than the model."""
    model, _ = _trained(lambda p: torch.optim.AdamW(p))
    larger = torch.optim.AdamW([*model.parameters(), nn.Parameter(torch.ones(3))])
    _step(model, larger, torch.randn(2, 6, 5), swap=False)
    torch.save({"model": model.state_dict(), "optimizer": larger.state_dict()}, tmp_path / "a.pt")
    with pytest.raises(CannotConvert, match="parameters"):
        converted(tmp_path / "a.pt", tmp_path / "b.pt")
    assert not (tmp_path / "b.pt").exists()
    converted(tmp_path / "a.pt", tmp_path / "b.pt", keep_optimizer=True)
    after = load(tmp_path / "b.pt")
    assert after["optimizer"]["state"][0]["exp_avg"].dim() == 3


def test_groups_in_another_order_follow_where_all_of_a_shape_change(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv1d(6, 6, 1), nn.Conv1d(6, 6, 1))
    weights = [value for key, value in model.named_parameters() if key.endswith("weight")]
    biases = [value for key, value in model.named_parameters() if key.endswith("bias")]
    groups: list[dict[str, Any]] = [{"params": weights}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups)
    _step(model, optimizer, torch.randn(2, 6, 5), swap=False)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "a.pt")
    converted(tmp_path / "a.pt", tmp_path / "b.pt")
    after = load(tmp_path / "b.pt")["optimizer"]["state"]
    assert [after[number]["exp_avg"].dim() for number in range(4)] == [2, 2, 1, 1]
    with pytest.raises(CannotConvert, match=r"0.weight changes and 1.weight does not"):
        converted(tmp_path / "a.pt", tmp_path / "c.pt", names=("0",))


def test_factored_state_is_refused(tmp_path: Path) -> None:
    state = {"c.weight": torch.randn(4, 6, 1)}
    optimizer = {"state": {0: {"step": 1, "exp_avg_sq_row": torch.randn(4)}}, "param_groups": [{"params": [0]}]}
    torch.save({"model": state, "optimizer": optimizer}, tmp_path / "a.pt")
    with pytest.raises(CannotConvert, match="exp_avg_sq_row"):
        converted(tmp_path / "a.pt", tmp_path / "b.pt")


def test_ema_copies_follow(tmp_path: Path) -> None:
    converted(FIXTURES / "ema.pt", tmp_path / "b.pt")
    after = load(tmp_path / "b.pt")
    assert after["ema"]["conv.weight"].shape == after["model"]["conv.weight"].shape == (4, 6)


# ------------------------------------------------------------------------------------------ roots and odd tensors


def test_several_roots_as_one(tmp_path: Path) -> None:
    thing = {name: nn.Sequential(nn.Conv1d(6, 4, 1)).state_dict() for name in ("G", "D")}
    torch.save(thing, tmp_path / "a.pt")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear", "--root", ".")
    assert done.returncode == 0, done.stderr
    after = load(tmp_path / "b.pt")
    assert [after[name]["0.weight"].shape for name in ("G", "D")] == [(4, 6), (4, 6)]
    one = run("convert", tmp_path / "a.pt", "-o", tmp_path / "c.pt", "--to", "linear", "--root", "D")
    assert "root in use: D" in one.stdout
    assert "left unchanged: G" in one.stdout


def test_roots_over_the_same_numbers_follow_and_lists_are_named(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv1d(6, 4, 1), nn.BatchNorm1d(4))
    weights = [value.detach().clone() for value in model.parameters()]
    lists = {"ema_weights": weights, "ema_more": [*(one.clone() for one in weights), torch.ones(3)]}
    thing = {"model": model.state_dict(), "best": model.state_dict(), **lists}
    torch.save(thing, tmp_path / "a.pt")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear")
    after = load(tmp_path / "b.pt")
    assert after["best"]["0.weight"].shape == after["model"]["0.weight"].shape == (4, 6)
    # A list in the order of parameters follows where every shape fits, as an optimizer's state does.
    assert after["ema_weights"][0].shape == (4, 6)
    assert after["ema_more"][0].shape == (4, 6, 1)
    assert "changed with them: best, ema_weights" in done.stdout
    assert "left unchanged: ema_more" in done.stdout


def _trained_pair(widths: tuple[int, int]) -> dict[str, Any]:
    """Two models and their optimizers, of one pointwise layer each."""
    content: dict[str, Any] = {}
    for name, width in zip(("generator", "discriminator"), widths, strict=True):
        model = nn.Sequential(nn.Conv1d(6, width, 1))
        optimizer = torch.optim.Adam(model.parameters())
        _step(model, optimizer, torch.randn(2, 6, 5), swap=False)
        content |= {name: model.state_dict(), f"{name}_optimizer": optimizer.state_dict()}
    return content


def test_an_optimizer_that_fits_two_models_is_refused(tmp_path: Path) -> None:
    torch.save(_trained_pair((4, 4)), tmp_path / "a.pt")
    with pytest.raises(CannotConvert, match="fits the model at 'generator' and the one at 'discriminator'"):
        converted(tmp_path / "a.pt", tmp_path / "b.pt")
    trained = _trained_pair((4, 4))
    best = {
        "model": trained["generator"],
        "optimizer": trained["generator_optimizer"],
        "best": trained["discriminator"],
    }
    torch.save(best, tmp_path / "c.pt")
    # Snapshots of one model, and the only optimizer: its state goes with the model in use.
    done = run("convert", tmp_path / "c.pt", "-o", tmp_path / "d.pt", "--to", "linear", "--root", "model")
    assert done.returncode == 0, done.stderr
    assert "left unchanged: best" in done.stdout
    assert load(tmp_path / "d.pt")["optimizer"]["state"][0]["exp_avg"].shape == (4, 6)


def test_an_optimizer_of_another_model_stays(tmp_path: Path) -> None:
    before = _trained_pair((4, 5))
    torch.save(before, tmp_path / "a.pt")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear")
    assert done.returncode == 0, done.stderr
    after = load(tmp_path / "b.pt")
    assert after["generator"]["0.weight"].shape == after["generator_optimizer"]["state"][0]["exp_avg"].shape == (4, 6)
    for name in ("discriminator", "discriminator_optimizer"):
        assert str(after[name]) == str(before[name])
    assert "of other models, and left: discriminator, discriminator_optimizer" in done.stdout


@pytest.mark.parametrize("prefix", ["", "net."])
@pytest.mark.parametrize("groups", [1, 2])
def test_names_tell_which_state_is_whose(tmp_path: Path, prefix: str, groups: int) -> None:
    """The optimizer was made in another order than the model, of layers that are alike."""
    model: Any = nn.ModuleDict({"a": nn.Conv1d(4, 4, 1), "b": nn.Conv1d(4, 4, 1)})
    named = list(model.named_parameters())[::-1]
    split = [{"params": named[:2]}, {"params": named[2:]}] if groups == 2 else named
    optimizer = torch.optim.Adam(split)
    model["a"](model["b"](torch.randn(2, 4, 3))).sum().backward()
    optimizer.step()
    state = {prefix + key: value for key, value in model.state_dict().items()}
    torch.save({"model": state, "optimizer": optimizer.state_dict()}, tmp_path / "a.pt")
    converted(tmp_path / "a.pt", tmp_path / "b.pt", names=(f"{prefix}a",))
    after = load(tmp_path / "b.pt")
    order = [name for group in after["optimizer"]["param_groups"] for name in group["param_names"]]
    for number, name in enumerate(order):
        assert after["optimizer"]["state"][number]["exp_avg"].shape == after["model"][prefix + name].shape, name
    assert after["model"][f"{prefix}a.weight"].shape == (4, 4)


def test_names_of_no_tensor_are_a_doubt(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv1d(4, 4, 1))
    optimizer = torch.optim.Adam(model.named_parameters())
    _step(model, optimizer, torch.randn(2, 4, 3), swap=False)
    state = {key.replace("0", "other"): value for key, value in model.state_dict().items()}
    torch.save({"model": state, "optimizer": optimizer.state_dict()}, tmp_path / "a.pt")
    with pytest.raises(CannotConvert, match=r"names parameters that the model does not have \(0.weight\)"):
        converted(tmp_path / "a.pt", tmp_path / "b.pt")


def test_copies_below_an_emas_own_names_follow(tmp_path: Path) -> None:
    """As ema_pytorch keeps them: the model that is trained and its average, side by side."""
    state = nn.Sequential(nn.Conv1d(6, 4, 1)).state_dict()
    ema = {f"{part}.{key}": value.clone() for part in ("online_model", "ema_model") for key, value in state.items()}
    torch.save({"model": state, "ema": {"initted": torch.tensor(True), **ema}}, tmp_path / "a.pt")
    converted(tmp_path / "a.pt", tmp_path / "b.pt")
    after = load(tmp_path / "b.pt")["ema"]
    assert after["ema_model.0.weight"].shape == after["online_model.0.weight"].shape == (4, 6)
    assert after["ema_model.0.bias"].shape == (4,)


# ------------------------------------------------------------------------------- copies whose names lost their dots


def lit_ema(model: nn.Module, averaged: str) -> dict[str, torch.Tensor]:
    """A state_dict as latent diffusion's models have it: they register an EMA of one of their modules as buffers."""
    inner = model.get_submodule(averaged)
    model.add_module("model_ema", nn.Module())
    ema = model.get_submodule("model_ema")
    ema.register_buffer("decay", torch.tensor(0.9999))
    ema.register_buffer("num_updates", torch.tensor(7))
    for name, parameter in inner.named_parameters():
        ema.register_buffer(name.replace(".", ""), parameter.detach() + 1)
    return model.state_dict()


def diffusion() -> nn.Module:
    inner = nn.Sequential(nn.Conv1d(6, 4, 1), nn.ModuleDict({"proj_in": nn.Conv1d(4, 4, 1)}))
    return nn.ModuleDict({"model": nn.ModuleDict({"diffusion_model": inner}), "first": nn.Conv1d(3, 6, 1)})


@pytest.mark.parametrize("averaged", ["model", ""])
@pytest.mark.parametrize("words", [[], ["--state-dict"], ["--root", "."]])
@pytest.mark.parametrize("target", ["b.pt", "b.safetensors"])
def test_copies_whose_names_lost_their_dots_follow(
    tmp_path: Path, averaged: str, words: list[str], target: str
) -> None:
    state = lit_ema(diffusion(), averaged)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "a.pt")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / target, "--to", "linear", "--layer", "*proj_in", *words)
    assert done.returncode == 0, done.stderr
    assert "1 layer converted with 1 copy" in done.stdout
    assert "changed with them: " in done.stdout
    after = load(tmp_path / target)
    after = after.get("state_dict", after)
    prefix = "state_dict." if words == ["--root", "."] and target.endswith(".safetensors") else ""
    copy = f"model_ema.{'' if averaged else 'model'}diffusion_model1proj_inweight"
    for key, value in state.items():
        shape = (4, 4) if key in (copy, "model.diffusion_model.1.proj_in.weight") else value.shape
        assert torch.equal(after[prefix + key], value.reshape(shape)), key
    plan = run("convert", tmp_path / "a.pt", "--to", "linear", "--layer", "*proj_in", "-n", *words).stdout
    assert any(line.split()[-1:] == ["copy"] and copy in line for line in plan.splitlines())


def test_copies_without_dots_verify_and_one_that_did_not_follow_does_not(tmp_path: Path) -> None:
    state = lit_ema(diffusion(), "model")
    torch.save(state, tmp_path / "a.pt")
    run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear")
    for pair in (("a.pt", "b.pt"), ("b.pt", "a.pt")):
        done = run("verify", *(tmp_path / name for name in pair))
        assert done.returncode == 0, done.stdout
        assert "2 tensors of model_ema were converted too" in done.stdout
    after = load(tmp_path / "b.pt")
    key = "model_ema.diffusion_model0weight"
    assert after[key].shape == (4, 6)
    for value, cause in ((state[key], "it did not follow its weight"), (after[key] + 1, "differ")):
        torch.save(after | {key: value}, tmp_path / "c.pt")
        done = run("verify", tmp_path / "a.pt", tmp_path / "c.pt")
        assert done.returncode == 1, done.stdout
        assert cause in done.stdout


def test_copies_in_doubt_are_named_and_left(tmp_path: Path) -> None:
    """Two modules whose names differ in dots alone, of which the EMA itself has only one; and another shape."""
    model = nn.ModuleDict({"ab": nn.Conv1d(6, 4, 1), "a": nn.ModuleDict({"b": nn.Conv1d(6, 4, 1)})})
    state = model.state_dict() | {"c.weight": torch.ones(4, 6, 1)}
    state |= {"model_ema.abweight": torch.ones(4, 6, 1), "model_ema.cweight": torch.ones(4, 6)}
    torch.save(state, tmp_path / "a.pt")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear")
    assert done.returncode == 0, done.stderr
    assert "left unchanged: model_ema.abweight, model_ema.cweight" in done.stdout
    after = load(tmp_path / "b.pt")
    assert after["model_ema.abweight"].shape == (4, 6, 1)
    assert after["ab.weight"].shape == after["a.b.weight"].shape == (4, 6)


def test_what_the_other_checkpoint_wants_of_a_copy_is_done_once(tmp_path: Path) -> None:
    state = lit_ema(diffusion(), "model")
    torch.save(state, tmp_path / "a.pt")
    torch.save({key: value.squeeze(-1) for key, value in state.items()}, tmp_path / "b.pt")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "c.pt", "--like", tmp_path / "b.pt")
    assert done.returncode == 0, done.stderr
    wanted, after = load(tmp_path / "b.pt"), load(tmp_path / "c.pt")
    assert all(torch.equal(after[key], value) for key, value in wanted.items())


def test_groups_in_the_models_own_order_follow_where_all_of_a_shape_change(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv1d(6, 6, 1), nn.Conv1d(6, 6, 1))
    optimizer = torch.optim.AdamW([{"params": layer.parameters()} for layer in model])
    _step(model, optimizer, torch.randn(2, 6, 5), swap=False)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "a.pt")
    converted(tmp_path / "a.pt", tmp_path / "b.pt")
    after = load(tmp_path / "b.pt")["optimizer"]["state"]
    assert [after[number]["exp_avg"].dim() for number in range(4)] == [2, 1, 2, 1]
    with pytest.raises(CannotConvert, match="keeps no names, and of the parameters of shape"):
        converted(tmp_path / "a.pt", tmp_path / "c.pt", names=("0",))
    assert not (tmp_path / "c.pt").exists()


def test_state_of_no_known_parameter_is_a_doubt(tmp_path: Path) -> None:
    optimizer = {"state": {7: {"exp_avg": torch.zeros(4, 6, 1)}}, "param_groups": [{"params": [0]}]}
    torch.save({"model": {"c.weight": torch.zeros(4, 6, 1)}, "optimizer": optimizer}, tmp_path / "a.pt")
    with pytest.raises(CannotConvert, match="keeps state for no known parameter"):
        converted(tmp_path / "a.pt", tmp_path / "b.pt")


def test_tensors_of_an_optimizer_that_are_no_state_stay(tmp_path: Path) -> None:
    """A learning rate may be a tensor too."""
    model = nn.Sequential(nn.Conv1d(6, 4, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(0.5), foreach=False)
    _step(model, optimizer, torch.randn(2, 6, 5), swap=False)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "a.pt")
    converted(tmp_path / "a.pt", tmp_path / "b.pt")
    after = load(tmp_path / "b.pt")["optimizer"]
    assert after["state"][0]["exp_avg"].shape == (4, 6)
    assert after["param_groups"][0]["lr"].item() == 0.5
