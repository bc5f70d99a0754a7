"""What converting, renaming and a line of PyTorch mend together: carried out as `diff` and `convert --like` say."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from support.in_process import run


class Model(nn.Module):
    """Parameters of the given shapes under the given names."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        for key, value in state.items():
            owner: nn.Module = self
            *levels, last = key.split(".")
            for level in levels:
                if level not in dict(owner.named_children()):
                    owner.add_module(level, nn.Module())
                owner = getattr(owner, level)
            owner.register_parameter(last, nn.Parameter(torch.zeros_like(value)))


def pair(folder: Path, prefix: str) -> tuple[dict[str, Tensor], Model]:
    """A, which needs a conversion, a permutation and a renaming, in a file; and the model of B, which is in another."""
    ours = {"enc.w": torch.randn(4, 3, 5, 6, 7), "pw.weight": torch.randn(6, 4, 1), "bn.weight": torch.randn(6)}
    wanted = {
        "enc.w": ours["enc.w"].permute(4, 0, 1, 2, 3).contiguous(),
        "pw.weight": ours["pw.weight"][..., 0],
        "bn.weight": ours["bn.weight"],
    }
    torch.save({prefix + key: value for key, value in ours.items()}, folder / "a.pt")
    model = Model(wanted)
    torch.save(model.state_dict(), folder / "b.pt")
    return wanted, model


def carried_out(path: Path, said: str) -> dict[str, Tensor]:
    """The state_dict of the file after the lines of PyTorch that were printed."""
    sd: dict[str, Tensor] = torch.load(path, weights_only=True)
    lines = re.findall(r"^  ((?:sd\[|for k in).*)", said, re.MULTILINE)
    assert lines
    for line in lines:
        exec(line, {"sd": sd})
    return sd


def loads(model: Model, sd: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    model.load_state_dict(sd, strict=True)
    assert all(torch.equal(value, wanted[key]) for key, value in model.state_dict().items())


def typed(folder: Path, said: str) -> None:
    for line in re.findall(r"^  convinspect (.*)", said, re.MULTILINE):
        done = run(*shlex.split(line), folder=folder)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("prefix", ["", "module."])
def test_diff_gives_the_steps_in_order_and_they_come_true(tmp_path: Path, prefix: str) -> None:
    wanted, model = pair(tmp_path, prefix)
    said = run("diff", "a.pt", "b.pt", folder=tmp_path).stdout
    assert "still not load" not in said
    assert "A will load after converting 1 layer" in said
    typed(tmp_path, said)
    loads(model, carried_out(tmp_path / "a_converted.pt", said), wanted)


def test_the_closing_line_of_like_gives_the_lines_that_remain(tmp_path: Path) -> None:
    wanted, model = pair(tmp_path, "")
    said = run("convert", "a.pt", "-o", "c.pt", "--like", "b.pt", folder=tmp_path).stdout
    assert "still not load" not in said
    assert "The result loads there after these lines of PyTorch" in said
    loads(model, carried_out(tmp_path / "c.pt", said), wanted)


def test_the_closing_line_names_the_renaming_first(tmp_path: Path) -> None:
    wanted, model = pair(tmp_path, "module.")
    said = run("convert", "a.pt", "-o", "c.pt", "--like", "b.pt", folder=tmp_path).stdout
    assert "still not load" not in said
    assert "loads there after the --rename that `convinspect diff` gives, and then" in said
    typed(tmp_path, run("diff", "c.pt", "b.pt", folder=tmp_path).stdout)
    loads(model, carried_out(tmp_path / "c_converted.pt", said), wanted)
    said = run("convert", "a.pt", "-o", "d.pt", "--like", "b.pt", "--rename", "module.*=*", folder=tmp_path).stdout
    assert "The result loads there after these lines of PyTorch" in said
    loads(model, carried_out(tmp_path / "d.pt", said), wanted)


def test_a_layer_that_no_line_mends_takes_the_promise_back(tmp_path: Path) -> None:
    pair(tmp_path, "")
    for name, size in (("a.pt", 3), ("b.pt", 5)):
        state = torch.load(tmp_path / name, weights_only=True)
        torch.save({**state, "head.weight": torch.zeros(size, 2)}, tmp_path / name)
    said = run("convert", "a.pt", "-o", "c.pt", "--like", "b.pt", folder=tmp_path).stdout
    assert "so it will still not load there" in said
    torch.save({**torch.load(tmp_path / "a.pt", weights_only=True), "more": torch.zeros(2)}, tmp_path / "a.pt")
    said = run("convert", "a.pt", "-o", "d.pt", "--like", "b.pt", folder=tmp_path).stdout
    assert "so it will still not load there" in said


def test_what_pytorch_may_refuse_beside_is_not_promised(tmp_path: Path) -> None:
    pair(tmp_path, "")
    state = torch.load(tmp_path / "b.pt", weights_only=True)
    torch.save({**state, "bn._extra_state": {"a": 1}}, tmp_path / "b.pt")
    said = run("convert", "a.pt", "-o", "c.pt", "--like", "b.pt", folder=tmp_path).stdout
    assert "loads there" not in said
    assert "`convinspect diff` says if it loads" in said


def test_an_error_with_a_renaming_and_a_line_of_pytorch_promises_what_is_known(tmp_path: Path) -> None:
    head = {"head.fc.weight": torch.randn(6, 2), "head.fc.bias": torch.randn(6), "head.out.weight": torch.randn(3, 6)}
    ours = {"enc.w": torch.randn(4, 3, 5), **{f"module.{key}": value for key, value in head.items()}}
    wanted = {"enc.w": ours["enc.w"].permute(2, 0, 1).contiguous(), **head}
    torch.save(ours, tmp_path / "a.pt")
    model = Model(wanted)
    with pytest.raises(RuntimeError) as raised:
        model.load_state_dict(ours)
    (tmp_path / "e.txt").write_text(str(raised.value), encoding="utf-8")
    said = run("diff", "a.pt", "--error", "e.txt", folder=tmp_path).stdout
    assert "still not load" not in said
    assert "These faults are gone after renaming its keys and the PyTorch below" in said
    typed(tmp_path, said)
    loads(model, carried_out(tmp_path / "a_converted.pt", said), wanted)
    found = json.loads(run("diff", "a.pt", "--error", "e.txt", "--format", "json", folder=tmp_path).stdout)
    assert (found["verdict"], found["loads_after_pytorch"]) == ("undecided", False)
