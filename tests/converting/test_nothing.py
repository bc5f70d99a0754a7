"""Nothing to convert means nothing written, exit code 2, and the option that would help."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from convinspect import convert
from convinspect.errors import CannotConvert
from support.conversions import load
from support.in_process import run
from support.program import assert_one_line


def _saved(folder: Path, model: Any, name: str = "a.pt") -> Path:
    torch.save(model.state_dict() if isinstance(model, nn.Module) else model, folder / name)
    return folder / name


def _refused(source: Path, *words: object, said: tuple[str, ...], silent: str = "\0") -> None:
    """Hold that a run writes nothing, says the parts in one line, and that its dry run says the same."""
    before = {path: path.read_bytes() for path in source.parent.iterdir()}
    done = run("convert", source, "-o", source.parent / f"out{source.suffix}", *words)
    assert_one_line(done, "nothing can be converted", *said)
    assert silent not in done.stderr
    assert {path: path.read_bytes() for path in source.parent.iterdir()} == before
    plan = run("convert", source, *words, "--dry-run")
    assert plan.returncode == 0
    assert all(part in plan.stderr for part in ("warning: nothing can be converted", "nothing would be written", *said))


@pytest.mark.parametrize(
    ("model", "words", "said"),
    [
        (
            nn.Sequential(nn.Conv2d(6, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv3d(4, 3, 1), nn.Conv2d(3, 3, 3)),
            ["--to", "linear"],
            ("no layer is a pointwise Conv1d", "--from conv2d takes 2 pointwise Conv2d", "--from conv3d takes 1"),
        ),
        (nn.Sequential(nn.Conv1d(6, 4, 1)), ["--to", "conv2d"], ("no layer is a Linear", "--from conv1d takes 1 ")),
        (nn.Sequential(nn.Linear(6, 4)), ["--to", "linear"], ("1 layer is Linear already",)),
        (nn.Sequential(nn.Conv1d(6, 4, 3)), ["--to", "linear"], ("layer 0: its kernel size is 3, not 1",)),
        (
            nn.Sequential(nn.Conv1d(6, 4, 1), nn.Conv1d(4, 2, 1)),
            ["--to", "linear", "--exclude", "*"],
            ("--exclude holds back 2 layers",),
        ),
        (
            {f"block{n}.thing.weight": torch.ones(4, 6) for n in range(3)},
            ["--to", "conv1d"],
            ("a Linear and an Embedding look alike", "--layer takes 3 of them by their full names"),
        ),
        (
            {f"layer{n}.weight": torch.ones(4, 1, 1) for n in range(2)},
            ["--to", "linear"],
            ("reads as depthwise", "--layer takes 2 of them"),
        ),
        ({"n.weight": torch.ones(4), "n.bias": torch.ones(4)}, ["--to", "conv1d"], ("no layer is a Linear",)),
    ],
)
def test_each_remedy_is_counted(tmp_path: Path, model: Any, words: list[str], said: tuple[str, ...]) -> None:
    _refused(_saved(tmp_path, model), *words, said=said)


def test_transformers_own_conv1d_needs_its_option(tmp_path: Path) -> None:
    save_file({"h.c_fc.weight": torch.ones(8, 24), "h.c_fc.bias": torch.ones(24)}, tmp_path / "a.safetensors")
    _refused(tmp_path / "a.safetensors", "--to", "linear", said=("--from transformers takes 1 Conv1D (transformers)",))


def test_the_remedy_holds(tmp_path: Path) -> None:
    source = _saved(tmp_path, nn.Sequential(nn.Conv2d(6, 4, 1), nn.Conv2d(4, 4, 1)))
    done = run("convert", source, "-o", tmp_path / "b.pt", "--to", "linear", "--from", "conv2d")
    assert done.returncode == 0
    assert "2 layers converted" in done.stdout


def test_layers_in_another_root(tmp_path: Path) -> None:
    thing = {
        "model": nn.Sequential(nn.Linear(6, 40)).state_dict(),
        "head": nn.Sequential(nn.Conv1d(3, 2, 1)).state_dict(),
    }
    source = _saved(tmp_path, thing)
    _refused(source, "--to", "linear", "--root", "model", said=("--root head has 1",))
    assert run("convert", source, "-o", tmp_path / "b.pt", "--to", "linear", "--root", "head").returncode == 0


# ------------------------------------------------------------------------------------------------ with --like


@pytest.mark.parametrize(("here", "there"), [("", "model."), ("model.", ""), ("net.a.", "net.b."), ("module.x.", "")])
def test_a_prefix_on_one_side(tmp_path: Path, here: str, there: str) -> None:
    conv = nn.Sequential(nn.Conv1d(6, 4, 1), nn.Conv1d(4, 2, 1)).state_dict()
    linear = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2)).state_dict()
    source = _saved(tmp_path, {here + key: value for key, value in conv.items()})
    other = _saved(tmp_path, {there + key: value for key, value in linear.items()}, "b.pt")
    _refused(source, "--like", other, said=("no tensor has the name of one in b.pt", "--rename", "pairs 2 tensors"))
    line = run("convert", source, "-o", tmp_path / "c.pt", "--like", other).stderr
    rule = line.split("--rename ")[1].split(" pairs")[0].strip("'")
    done = run("convert", source, "-o", tmp_path / "c.pt", "--like", other, "--rename", rule)
    assert done.returncode == 0, done.stderr
    assert {key: value.shape for key, value in load(tmp_path / "c.pt").items()} == {
        key: value.shape for key, value in load(other).items()
    }


def test_like_a_file_of_other_names_or_of_equal_shapes(tmp_path: Path) -> None:
    source = _saved(tmp_path, nn.Sequential(nn.Conv1d(6, 4, 1)))
    other = _saved(tmp_path, {"x.y.weight": torch.ones(3, 3), "z.weight": torch.ones(2)}, "b.pt")
    said = "no tensor has the name of one in b.pt", "`convinspect diff` compares a.pt and b.pt"
    _refused(source, "--like", other, said=said)
    same = _saved(tmp_path, nn.Sequential(nn.Conv1d(6, 4, 1)), "same.pt")
    _refused(source, "--like", same, said=("what is in both has the shapes of same.pt already",))


# -------------------------------------------------------------------------------------- what is a job of its own


@pytest.mark.parametrize(
    ("words", "target"),
    [
        (["--rename", "0=first"], "b.pt"),
        (["--state-dict"], "b.pt"),
        ([], "b.safetensors"),
    ],
)
def test_other_jobs_are_done_and_that_no_layer_was_converted_is_said(
    tmp_path: Path, words: list[str], target: str
) -> None:
    source = _saved(tmp_path, nn.Sequential(nn.Conv2d(6, 4, 1)))
    assert run("convert", source, "-o", tmp_path / target, *words).stderr.count("warning") == 0
    done = run("convert", source, "-o", tmp_path / target, "--force", "--to", "linear", *words)
    assert done.returncode == 0, done.stderr
    said = "warning: no layer is converted: no layer is a pointwise Conv1d; --from conv2d takes 1 pointwise Conv2d"
    assert said in done.stderr


def test_a_rename_and_a_fuse_that_change_nothing(tmp_path: Path) -> None:
    source = _saved(tmp_path, nn.Sequential(nn.Conv1d(6, 4, 1)))
    _refused(source, "--rename", "0=0", said=("the new names are the old ones",))
    _refused(source, "--fuse", said=("no weight is computed from several tensors",))


def test_in_python(tmp_path: Path) -> None:
    source = _saved(tmp_path, nn.Sequential(nn.Conv2d(6, 4, 1)))
    with pytest.raises(CannotConvert, match=r"from_='conv2d' takes 1 pointwise Conv2d"):
        convert(source, tmp_path / "b.pt", to="linear")
    assert not (tmp_path / "b.pt").exists()


def test_pointwise_layers_of_kinds_that_were_not_taken_are_named_and_the_advice_takes_all(tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Conv1d(6, 4, 1), nn.Conv2d(6, 4, 1), nn.Conv2d(4, 3, 1), nn.Conv3d(4, 3, 1), nn.Conv2d(4, 3, 3)
    )
    source = _saved(tmp_path, model)
    said = "not converted: 2 pointwise Conv2d and 1 pointwise Conv3d; "
    advice = "--from conv1d --from conv2d --from conv3d"
    done = run("convert", source, "-o", tmp_path / "b.pt", "--to", "linear")
    assert f"note: {said}{advice} takes them too\n" in done.stderr
    assert f"{said}{advice}" in run("convert", source, "--to", "linear", "--dry-run").stderr
    job = convert(source, tmp_path / "c.pt", to="linear")
    assert any(f"{said}from_=('conv1d', 'conv2d', 'conv3d')" in note for note in job.notes)
    kinds = [("Conv2d", "conv2d", 2), ("Conv3d", "conv3d", 1)]
    told = [{"kind": kind, "from": option, "layers": number} for kind, option, number in kinds]
    payload = run("convert", source, "--to", "linear", "--dry-run", "--json").stdout
    assert json.loads(payload)["other_kinds"] == told
    done = run("convert", source, "-o", tmp_path / "all.pt", "--to", "linear", *advice.split(), "--json")
    assert json.loads(done.stdout)["other_kinds"] == []
    assert "not converted" not in done.stderr
    assert [len(load(tmp_path / "all.pt")[f"{n}.weight"].shape) for n in range(5)] == [2, 2, 2, 2, 4]


@pytest.mark.parametrize("number", [1, 2])
def test_pointwise_layers_beside_patches_are_named_and_the_other_run_takes_them(tmp_path: Path, number: int) -> None:
    layers = [nn.Conv2d(6, 6, 1) for _ in range(number)]
    model = nn.ModuleDict({"patch_embed": nn.Conv2d(3, 6, 4, 4), **{f"pw{n}": each for n, each in enumerate(layers)}})
    source = _saved(tmp_path, model)
    done = run("convert", source, "-o", tmp_path / "b.pt", "--to", "linear", "--patches")
    them = "it" if number == 1 else "them"
    said = f"not converted: {number} pointwise Conv2d; another run, with --from conv2d without --patches, takes {them}"
    assert f"note: {said}\n" in done.stderr
    assert (
        "not converted"
        not in run("convert", source, "--to", "linear", "--patches", "--layer", "patch_embed", "-n").stderr
    )
    again = run("convert", tmp_path / "b.pt", "-o", tmp_path / "c.pt", "--to", "linear", "--from", "conv2d")
    assert again.returncode == 0, again.stderr
    assert {len(tensor.shape) for key, tensor in load(tmp_path / "c.pt").items() if "weight" in key} == {2}


def test_programs_are_told_of_them_where_nothing_is_converted_too(tmp_path: Path) -> None:
    source = _saved(tmp_path, nn.Sequential(nn.Conv2d(6, 4, 1), nn.Conv2d(6, 4, 3)))
    payload = run("convert", source, "--to", "linear", "--dry-run", "--json").stdout
    assert json.loads(payload)["other_kinds"] == [{"kind": "Conv2d", "from": "conv2d", "layers": 1}]


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ((nn.Conv1d(6, 4, 1), nn.Conv2d(6, 4, 3), nn.Linear(4, 4)), ["--to", "linear"]),
        ((nn.Conv1d(6, 4, 1), nn.Conv2d(6, 4, 1)), ["--to", "linear", "--from", "conv1d"]),
        ((nn.Conv1d(6, 4, 1), nn.Conv2d(6, 4, 1)), ["--to", "linear", "--exclude", "1"]),
        ((nn.Conv1d(6, 4, 1), nn.Conv2d(6, 4, 1)), ["--to", "linear", "--layer", "0"]),
        ((nn.Linear(6, 4), nn.Conv2d(6, 4, 1)), ["--to", "conv1d"]),
    ],
    ids=["none is left", "kinds chosen", "excluded", "layers chosen", "not to Linear"],
)
def test_no_other_kinds_are_named_where_none_was_meant(
    tmp_path: Path, layers: tuple[nn.Module, ...], words: list[str]
) -> None:
    done = run("convert", _saved(tmp_path, nn.Sequential(*layers)), "-o", tmp_path / "b.pt", *words)
    assert done.returncode == 0
    assert "not converted" not in done.stderr
