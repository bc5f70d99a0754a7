"""Square matrices beside others that are stored transposed: named, left, turned on request. The oracle is PyTorch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import convinspect
from support.in_process import run
from support.turning import model, turned


@pytest.mark.parametrize("bias", [True, False])
def test_square_matrices_are_turned_on_request_and_compute_the_same(tmp_path: Path, bias: bool) -> None:
    net = model(bias)
    torch.save(turned(net.state_dict()), tmp_path / "a.pt")
    torch.save(net.state_dict(), tmp_path / "b.pt")
    x = torch.randn(3, 6)
    wanted = net(x)
    left = run("convert", tmp_path / "a.pt", "-o", tmp_path / "c.pt", "--like", tmp_path / "b.pt")
    assert left.returncode == 0
    assert "2 square matrices may be stored transposed as others here are (1, 2)" in left.stderr
    assert "still not load" not in left.stdout
    net.load_state_dict(torch.load(tmp_path / "c.pt"), strict=True)
    assert not torch.allclose(net(x), wanted)
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "d.pt", "--like", tmp_path / "b.pt", "--turn-square")
    assert done.returncode == 0
    assert "Conv1D (transformers)" not in done.stdout or bias
    assert "may be stored" not in done.stderr
    net.load_state_dict(torch.load(tmp_path / "d.pt"), strict=True)
    assert torch.allclose(net(x), wanted)
    # The way back gives the same bytes.
    run("convert", tmp_path / "d.pt", "-o", tmp_path / "e.pt", "--like", tmp_path / "a.pt", "--turn-square")
    assert (tmp_path / "e.pt").read_bytes() == (tmp_path / "a.pt").read_bytes()


def test_json_and_python_name_the_doubt(tmp_path: Path) -> None:
    net = model()
    torch.save(turned(net.state_dict()), tmp_path / "a.pt")
    torch.save(net.state_dict(), tmp_path / "b.pt")
    found = json.loads(run("convert", tmp_path / "a.pt", "--like", tmp_path / "b.pt", "-n", "--format", "json").stdout)
    assert found["maybe_transposed"] == ["1", "2"]
    job = convinspect.convert(tmp_path / "a.pt", like=tmp_path / "b.pt", turn_square=True, dry_run=True)
    assert [conversion.layer.name for conversion in job.plan.conversions] == ["0", "1", "2", "3"]
    refused = run("convert", tmp_path / "a.pt", "-n", "--to", "linear", "--turn-square")
    assert refused.returncode == 2
    assert "--like" in refused.stderr


def test_embeddings_and_untransposed_files_are_never_turned(tmp_path: Path) -> None:
    net = model()
    plain = net.state_dict() | {"token_embedding.weight": torch.randn(4, 4), "c.weight": torch.randn(4, 4, 1)}
    source = turned(net.state_dict()) | {key: plain[key] for key in ("token_embedding.weight", "c.weight")}
    torch.save(source, tmp_path / "a.pt")
    torch.save(plain, tmp_path / "b.pt")
    job = convinspect.convert(tmp_path / "a.pt", like=tmp_path / "b.pt", turn_square=True, dry_run=True)
    assert [conversion.layer.name for conversion in job.plan.conversions] == ["0", "1", "2", "3"]
    job = convinspect.convert(tmp_path / "b.pt", like=tmp_path / "b.pt", turn_square=True, dry_run=True)
    assert not job.plan.conversions
    assert not job.plan.refusals


def test_diff_says_the_doubt_and_numbers_settle_it(tmp_path: Path) -> None:
    net = model()
    source = turned(net.state_dict()) | {"1.weight": net.state_dict()["1.weight"]}
    torch.save(source, tmp_path / "a.pt")
    torch.save(net.state_dict(), tmp_path / "b.pt")
    report = convinspect.diff(tmp_path / "a.pt", tmp_path / "b.pt")
    assert report.maybe_turned == ("1.weight", "2.weight")
    assert "may compute something else" in run("diff", tmp_path / "a.pt", tmp_path / "b.pt").stdout
    report = convinspect.diff(tmp_path / "a.pt", tmp_path / "b.pt", values=True)
    assert (report.maybe_turned, set(report.converted)) == ((), {"0", "2", "3"})
    assert "--turn-square --exclude 1" in run("diff", tmp_path / "a.pt", tmp_path / "b.pt", "--values").stdout


def test_a_square_kernel_beside_turned_matrices_gets_a_warning(tmp_path: Path) -> None:
    net = model()
    kernel = torch.randn(4, 4, 1)
    torch.save(turned(net.state_dict()) | {"c.weight": kernel}, tmp_path / "a.pt")
    torch.save(net.state_dict() | {"c.weight": kernel.squeeze(-1)}, tmp_path / "b.pt")
    job = convinspect.convert(tmp_path / "a.pt", like=tmp_path / "b.pt", dry_run=True)
    warned = {each.layer.name: each.warnings for each in job.plan.conversions}
    assert "no shape tells" in warned["c"][0]
    assert not warned["0"]
    # An oblong kernel that is not turned shows that kernels are not.
    shown = {"d.weight": torch.randn(5, 4, 1)}
    torch.save(turned(net.state_dict()) | {"c.weight": kernel} | shown, tmp_path / "a.pt")
    flat = {"c.weight": kernel.squeeze(-1), "d.weight": shown["d.weight"].squeeze(-1)}
    torch.save(net.state_dict() | flat, tmp_path / "b.pt")
    job = convinspect.convert(tmp_path / "a.pt", like=tmp_path / "b.pt", dry_run=True)
    assert not {each.layer.name: each.warnings for each in job.plan.conversions}["c"]


def test_a_root_that_is_chosen_is_that_of_the_other_checkpoint_too(tmp_path: Path) -> None:
    main, critic = nn.Linear(3, 2), nn.Linear(6, 4)
    states = {"model": main.state_dict(), "critic": critic.state_dict()}
    torch.save({name: turned(state) for name, state in states.items()}, tmp_path / "a.pt")
    torch.save(states, tmp_path / "b.pt")
    shown = run("diff", "a.pt", "b.pt", "--root", "critic", folder=tmp_path).stdout.rstrip()
    line = shown.splitlines()[-1].split()
    assert line[:2] == ["convinspect", "convert"]
    assert run(*line[1:], folder=tmp_path).returncode == 0
    fixed = torch.load(tmp_path / line[line.index("-o") + 1])
    critic.load_state_dict(fixed["critic"], strict=True)
    assert torch.equal(fixed["critic"]["weight"], states["critic"]["weight"])
    assert torch.equal(fixed["model"]["weight"], states["model"]["weight"].t())


def test_a_square_convolution_is_reshaped_whatever_its_name(tmp_path: Path) -> None:
    """One of GPT-2's names is no sign that a convolution becomes transformers' Conv1D."""
    state = {"c_proj.weight": torch.rand(2, 2, 1), "c_proj.bias": torch.rand(2)}
    flat = state | {"c_proj.weight": state["c_proj.weight"].squeeze(-1)}
    torch.save(state, tmp_path / "a.pt")
    torch.save(flat, tmp_path / "b.pt")
    difference = convinspect.diff(tmp_path / "a.pt", tmp_path / "b.pt", values=True).tensors[0]
    assert (difference.kind, difference.deviation) == ("rank differs", None)
    convinspect.convert(tmp_path / "a.pt", tmp_path / "c.pt", like=tmp_path / "b.pt")
    assert torch.equal(torch.load(tmp_path / "c.pt")["c_proj.weight"], flat["c_proj.weight"])
