"""A folder in gives a folder out: weights, index and optimizer converted, the other files as they were.

torch is the oracle: the new folder is loaded strictly, and training goes on from it as from the old one.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import convinspect
from convinspect.errors import CannotConvert, CannotWrite, ConvInspectError
from support.in_process import run
from support.memory import peak, reset_peak


class Convs(nn.Module):
    """Two pointwise convolutions, which `Linears` computes the same as."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv1d(8, 16, 1), nn.LayerNorm(16), nn.Conv1d(16, 3, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.first(x.transpose(1, 2)).transpose(1, 2)).relu()
        out: Tensor = self.last(y.transpose(1, 2)).transpose(1, 2)
        return out


class Linears(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.norm(self.first(x)).relu())
        return out


def grouped(model: nn.Module) -> torch.optim.Optimizer:
    """As Trainer makes its optimizer: weights that decay first, then biases and norms."""
    decaying = [parameter for name, parameter in model.named_parameters() if name.endswith("t") and "norm" not in name]
    kept = {id(parameter) for parameter in decaying}
    others = [parameter for parameter in model.parameters() if id(parameter) not in kept]
    groups = [{"params": decaying, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.01, foreach=False)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    torch.manual_seed(seed)
    optimizer.zero_grad()
    model(torch.randn(4, 5, 8)).square().sum().backward()
    optimizer.step()


def save_shards(state: dict[str, Tensor], folder: Path, suffix: str) -> None:
    """Two shards and their index, as `save_pretrained` names them."""
    stem, names = ("model", list(state)) if suffix == "safetensors" else ("pytorch_model", list(state))
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[:2], names[2:]), 1):
        shard = f"{stem}-{number:05}-of-00002.{suffix}"
        tensors = {name: state[name].contiguous() for name in part}
        if suffix == "safetensors":
            save_file(tensors, folder / shard, {"format": "pt"})
        else:
            torch.save(tensors, folder / shard)
        weight_map |= dict.fromkeys(part, shard)
    total = sum(tensor.nbytes for tensor in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def load_folder(folder: Path) -> dict[str, Any]:
    """All weights of a folder, by its makers' own loaders."""
    shards = [path for path in folder.iterdir() if path.name.startswith(("model", "pytorch_model"))]
    state: dict[str, Any] = {}
    for path in shards:
        if path.suffix == ".safetensors":
            state |= load_file(path)
        elif path.suffix == ".bin":
            state |= torch.load(path, weights_only=True)
    return state


KINDS = ("one.safetensors", "one.bin", "shards.safetensors", "shards.bin")


def trainer_folder(folder: Path, kind: str = "one.safetensors", optimizer: str = "optimizer.pt") -> nn.Module:
    """A checkpoint as Trainer writes it, after one step; gives the model."""
    folder.mkdir()
    torch.manual_seed(0)
    model = Convs()
    adam = grouped(model)
    step(model, adam, 1)
    layout, _, suffix = kind.partition(".")
    if layout == "shards":
        save_shards(model.state_dict(), folder, suffix)
    elif suffix == "bin":
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    else:
        save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})
    torch.save(adam.state_dict(), folder / optimizer)
    scheduler = torch.optim.lr_scheduler.LambdaLR(adam, lambda at: 1.0)
    torch.save(scheduler.state_dict(), folder / "scheduler.pt")
    torch.save({"python": 1, "cpu": torch.get_rng_state()}, folder / "rng_state.pth")
    torch.save({"output_dir": "x"}, folder / "training_args.bin")
    (folder / "trainer_state.json").write_text('{"global_step": 1}')
    (folder / "config.json").write_text('{"model_type": "convs"}')
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    return model


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def written(tmp_path: Path) -> list[str]:
    """What lies beside the source folder."""
    return sorted(path.name for path in tmp_path.iterdir() if path.name != "a")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimizer", ["optimizer.pt", "optimizer.bin"])
def test_training_goes_on_in_the_new_folder(tmp_path: Path, kind: str, optimizer: str) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    model = trainer_folder(source, kind, optimizer)
    done = run("convert", source, "-o", target, "--to", "linear")
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    assert names_in(target) == names_in(source)
    changed = {path.name for path in source.rglob("*") if path.is_file()
               if path.read_bytes() != (target / path.relative_to(source)).read_bytes()}  # fmt: skip
    kept = [name for name in changed if not name.startswith(("model", "pytorch_model"))]
    assert kept == [optimizer]
    assert not [name for name in changed if name.endswith(".json")]  # the index was right, and is
    old, new = grouped(model), Linears()
    old.load_state_dict(torch.load(source / optimizer, weights_only=True))
    new.load_state_dict(load_folder(target), strict=True)
    resumed = grouped(new)
    resumed.load_state_dict(torch.load(target / optimizer, weights_only=True))
    for seed in (2, 3):
        step(model, old, seed)
        step(new, resumed, seed)
    for name, parameter in model.named_parameters():
        other = new.get_parameter(name)
        torch.testing.assert_close(other, parameter.reshape(other.shape), rtol=2e-5, atol=1e-6)
    report = convinspect.verify(source, target)
    assert report.equal
    assert any(optimizer in note and "converted too" in note for note in report.notes)
    assert not convinspect.check(target).findings
    back = convinspect.convert(target, tmp_path / "c", to="conv1d", layer=["first", "last"])
    assert back.followers.roots == (optimizer,)
    for path in source.rglob("*"):
        assert path.is_dir() or path.read_bytes() == (tmp_path / "c" / path.relative_to(source)).read_bytes(), path


def test_a_resumed_run_from_the_old_optimizer_fails(tmp_path: Path) -> None:
    """What the conversion of the optimizer is for: the old one does not fit the new weights."""
    trainer_folder(tmp_path / "a")
    convinspect.convert(tmp_path / "a", tmp_path / "b", to="linear", keep_optimizer=True)
    assert (tmp_path / "b/optimizer.pt").read_bytes() == (tmp_path / "a/optimizer.pt").read_bytes()
    new = Linears()
    new.load_state_dict(load_folder(tmp_path / "b"))
    resumed = grouped(new)
    resumed.load_state_dict(torch.load(tmp_path / "b/optimizer.pt", weights_only=True))
    with pytest.raises(RuntimeError):
        step(new, resumed, 2)
    report = convinspect.verify(tmp_path / "a", tmp_path / "b")
    assert not report.equal
    assert any(name.startswith("optimizer.pt.state.0") for name in report.changed)


def test_the_state_is_left_empty_on_request(tmp_path: Path) -> None:
    trainer_folder(tmp_path / "a", "shards.safetensors")
    convinspect.convert(tmp_path / "a", tmp_path / "b", to="linear", drop_optimizer=True)
    old, new = (torch.load(tmp_path / each / "optimizer.pt", weights_only=True) for each in "ab")
    assert new == {"state": {}, "param_groups": old["param_groups"]}
    resumed = grouped(model := Linears())
    resumed.load_state_dict(new)
    step(model, resumed, 2)


def test_names_that_the_optimizer_keeps_follow(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    model = Convs()
    save_file(model.state_dict(), tmp_path / "a/model.safetensors")
    adam = torch.optim.AdamW(model.named_parameters())
    step(model, adam, 1)
    torch.save(adam.state_dict(), tmp_path / "a/optimizer.pt")
    job = convinspect.convert(tmp_path / "a", tmp_path / "b", to="linear", rename="first=enter", exclude="last")
    assert job.followers.roots == ("optimizer.pt",)
    new = torch.load(tmp_path / "b/optimizer.pt", weights_only=True)
    assert new["param_groups"][0]["param_names"][:2] == ["enter.weight", "enter.bias"]
    assert new["state"][0]["exp_avg"].shape == (16, 8)
    assert new["state"][4]["exp_avg"].shape == (3, 16, 1)


def test_several_optimizers_and_one_without_state(tmp_path: Path) -> None:
    model = trainer_folder(tmp_path / "a", optimizer="optimizer.bin")
    shutil.copy(tmp_path / "a/optimizer.bin", tmp_path / "a/optimizer_1.bin")
    torch.save(torch.optim.SGD(model.parameters()).state_dict(), tmp_path / "a/optimizer_2.bin")
    job = convinspect.convert(tmp_path / "a", tmp_path / "b", to="linear")
    assert job.followers.roots == ("optimizer.bin", "optimizer_1.bin")
    assert (tmp_path / "b/optimizer_1.bin").read_bytes() == (tmp_path / "b/optimizer.bin").read_bytes()
    assert (tmp_path / "b/optimizer_2.bin").read_bytes() == (tmp_path / "a/optimizer_2.bin").read_bytes()


def test_doubt_is_refused(tmp_path: Path) -> None:
    """Of two weights of one shape one is converted, and the state says not whose it is."""
    (tmp_path / "a").mkdir()
    model = nn.Sequential(nn.Conv1d(4, 4, 1), nn.Conv1d(4, 4, 1))
    adam = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 4, 3)).sum().backward()
    adam.step()
    save_file(model.state_dict(), tmp_path / "a/model.safetensors")
    torch.save(adam.state_dict(), tmp_path / "a/optimizer.pt")
    done = run("convert", tmp_path / "a", "-o", tmp_path / "b", "--to", "linear", "--layer", "0")
    assert done.returncode == 2
    assert "'optimizer.pt'" in done.stderr
    assert "--drop-optimizer" in done.stderr
    assert not written(tmp_path)
    convinspect.convert(tmp_path / "a", tmp_path / "b", to="linear")
    assert torch.load(tmp_path / "b/optimizer.pt", weights_only=True)["state"][0]["exp_avg"].shape == (4, 4)


def another_model(folder: Path) -> None:
    other = nn.Linear(3, 7)
    adam = torch.optim.AdamW(other.parameters())
    other(torch.randn(2, 3)).sum().backward()
    adam.step()
    torch.save(adam.state_dict(), folder / "optimizer.pt")


def cut(folder: Path) -> None:
    os.truncate(folder / "optimizer.pt", 900)


def whole_object(folder: Path) -> None:
    torch.save(grouped(Convs()), folder / "optimizer.pt")


def weights(folder: Path) -> None:
    torch.save({"a": torch.zeros(3)}, folder / "optimizer.pt")


def link_out(folder: Path) -> None:
    (folder / "optimizer.pt").rename(folder.parent / "a-elsewhere.pt")
    (folder / "optimizer.pt").symlink_to("../a-elsewhere.pt")


def deepspeed(folder: Path) -> None:
    (folder / "global_step1").mkdir()
    torch.save({}, folder / "global_step1" / "zero_pp_rank_0_mp_rank_00_optim_states.pt")


def fsdp(folder: Path) -> None:
    (folder / "optimizer_0").mkdir()
    (folder / "optimizer_0" / "__0_0.distcp").write_bytes(b"x")


@pytest.mark.parametrize("spoil", [another_model, cut, whole_object, weights, link_out, deepspeed, fsdp])
def test_state_that_cannot_follow_is_refused_by_name(tmp_path: Path, spoil: Any) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    trainer_folder(source)
    spoil(source)
    before = written(tmp_path)
    with pytest.raises(CannotConvert, match=r"optimizer\.pt|global_step1|optimizer_0") as caught:
        convinspect.convert(source, target, to="linear")
    assert "drop_optimizer" in str(caught.value)
    assert "keep_optimizer" in str(caught.value)
    assert written(tmp_path) == before
    convinspect.convert(source, target, to="linear", drop_optimizer=True)
    Linears().load_state_dict(load_folder(target))
    assert not (target / "global_step1").exists()
    assert not (target / "optimizer_0").exists()
    if spoil in (cut, whole_object, weights, link_out):
        assert not (target / "optimizer.pt").exists()
    job = convinspect.convert(source, tmp_path / "c", to="linear", keep_optimizer=True)
    if spoil is link_out:
        assert any("a link out of the folder" in note for note in job.notes)
        assert not os.path.lexists(tmp_path / "c/optimizer.pt")
    else:
        assert names_in(tmp_path / "c") == names_in(source)


@pytest.mark.parametrize("given", ["a", "a/model.safetensors"])
def test_a_file_out_names_the_optimizer_that_stays_behind(tmp_path: Path, given: str) -> None:
    trainer_folder(tmp_path / "a")
    done = run("convert", tmp_path / given, "-o", tmp_path / "b.safetensors", "--to", "linear", "--format", "json")
    assert done.returncode == 0
    assert done.stderr.count("warning: optimizer.pt beside model.safetensors") == 1
    assert "-o" in done.stderr
    assert json.loads(done.stdout)["warnings"]
    Linears().load_state_dict(load_file(tmp_path / "b.safetensors"))
    same = run("convert", tmp_path / given, "-o", tmp_path / "c.safetensors", "--rename", "first=enter")
    assert same.returncode == 0
    assert "optimizer" not in same.stderr


def test_pieces_of_a_distributed_state_beside_a_file_are_named(tmp_path: Path) -> None:
    save_file(Convs().state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "__0_0.distcp").write_bytes(b"x")
    job = convinspect.convert(tmp_path / "model.safetensors", tmp_path / "b.safetensors", to="linear")
    assert len(job.warnings) == 1
    assert job.warnings[0].startswith("__0_0.distcp beside model.safetensors")


def test_shards_to_one_file_still_work(tmp_path: Path) -> None:
    trainer_folder(tmp_path / "a", "shards.safetensors")
    job = convinspect.convert(tmp_path / "a", tmp_path / "b.safetensors", to="linear")
    assert "optimizer.pt" in job.warnings[0]
    Linears().load_state_dict(load_file(tmp_path / "b.safetensors"))


def test_an_opened_folder_and_a_dry_run(tmp_path: Path) -> None:
    trainer_folder(tmp_path / "a")
    opened = convinspect.open(tmp_path / "a")
    plan = convinspect.convert(opened, to="linear", dry_run=True)
    assert plan.followers.roots == ("optimizer.pt",)
    assert not written(tmp_path)
    convinspect.convert(opened, tmp_path / "b", to="linear")
    assert names_in(tmp_path / "b") == names_in(tmp_path / "a")
    convinspect.convert(opened, to="linear", in_place=True)
    for file in filter(Path.is_file, (tmp_path / "a").rglob("*")):
        assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes(), file


def test_json_tells_what_is_carried_along(tmp_path: Path) -> None:
    trainer_folder(tmp_path / "a")
    (tmp_path / "a/.git").mkdir()
    (tmp_path / "a/checkpoint-7").mkdir()
    (tmp_path / "a/checkpoint-7/model.safetensors").write_bytes(b"large")
    done = run("convert", tmp_path / "a", "-o", tmp_path / "b", "--to", "linear", "--format", "json")
    found = json.loads(done.stdout)
    assert found["carried"] == ["1_Pooling/config.json", "config.json", "rng_state.pth", "scheduler.pt",
                                "trainer_state.json", "training_args.bin"]  # fmt: skip
    left = [(one["name"], one["reason"]) for one in found["not_carried"]]
    assert left == [(".git", "a hidden folder"), ("checkpoint-7", "a checkpoint of its own")]
    assert "not in the new folder: checkpoint-7" in done.stderr
    assert found["optimizer"]["roots"] == ["optimizer.pt"]
    assert not (tmp_path / "b/checkpoint-7").exists()


def test_other_weights_are_carried_along_and_named(tmp_path: Path) -> None:
    trainer_folder(tmp_path / "a")
    torch.save(Convs().state_dict(), tmp_path / "a/pytorch_model.bin")
    job = convinspect.convert(tmp_path / "a", tmp_path / "b", to="linear")
    assert any("pytorch_model.bin" in note and "unchanged" in note for note in job.notes)


# --------------------------------------------------------------------------------------------------- targets


def test_an_empty_folder_is_a_target_and_another_is_not(tmp_path: Path) -> None:
    trainer_folder(tmp_path / "a")
    target = tmp_path / "b"
    target.mkdir()
    convinspect.convert(tmp_path / "a", target, to="linear")
    (tmp_path / "a/config.json").write_text("new")
    with pytest.raises(CannotWrite, match="not empty"):
        convinspect.convert(tmp_path / "a", target, to="linear")
    assert (target / "config.json").read_text() != "new"
    convinspect.convert(tmp_path / "a", target, to="linear", force=True)
    assert (target / "config.json").read_text() == "new"
    assert written(tmp_path) == ["b"]
    (target / "mine.txt").write_text("kept")
    with pytest.raises(CannotWrite, match=r"'mine\.txt'"):
        convinspect.convert(tmp_path / "a", target, to="linear", force=True)
    assert (target / "mine.txt").read_text() == "kept"
    assert written(tmp_path) == ["b"]


def test_two_renames_replace_a_folder_where_names_cannot_be_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from convinspect.writing import atomic

    trainer_folder(tmp_path / "a")
    convinspect.convert(tmp_path / "a", tmp_path / "b", to="linear")
    monkeypatch.setattr(atomic, "_exchanged", lambda new, old: False)
    convinspect.convert(tmp_path / "a", tmp_path / "b", to="linear", drop_optimizer=True, force=True)
    assert not torch.load(tmp_path / "b/optimizer.pt", weights_only=True)["state"]
    assert written(tmp_path) == ["b"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("target", ["a", ".", "file", "b.onnx"])
def test_targets_that_are_refused(tmp_path: Path, target: str, force: bool) -> None:
    trainer_folder(tmp_path / "a")
    (tmp_path / "file").write_text("mine")
    before = names_in(tmp_path)
    with pytest.raises(CannotWrite):
        convinspect.convert(tmp_path / "a", tmp_path / target, to="linear", force=force)
    assert names_in(tmp_path) == before
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("made", [False, True])
def test_a_target_within_the_source(tmp_path: Path, made: bool) -> None:
    trainer_folder(tmp_path / "a")
    before = names_in(tmp_path / "a")
    if made:
        (tmp_path / "a/linear").mkdir()
    convinspect.convert(tmp_path / "a", tmp_path / "a/linear", to="linear")
    assert names_in(tmp_path / "a/linear") == before


# ---------------------------------------------------------------------------------------------- other files


def test_links_lead_within_the_folder_or_are_left_out(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    trainer_folder(source)
    (tmp_path / "secret").write_text("s")
    (source / "vocab.txt").symlink_to("../secret")
    (source / "more").symlink_to("/etc")
    (source / "gone").symlink_to("nowhere")
    (source / "loop").symlink_to("loop")
    (source / "latest.bin").symlink_to(source / "model.safetensors")
    (source / "pooling").symlink_to("1_Pooling")
    os.mkfifo(source / "pipe")
    job = convinspect.convert(source, target, to="linear")
    assert job.beside is not None
    assert job.beside.carried is not None
    left = {item.name: item.left for item in job.beside.carried.left}
    assert left == {"vocab.txt": "a link out of the folder", "more": "a link out of the folder",
                    "gone": "a link to nothing", "loop": "a link to nothing", "pipe": "a pipe or device"}  # fmt: skip
    assert names_in(target) == names_in(source) - set(left)
    assert os.readlink(target / "latest.bin") == "model.safetensors"
    assert load_file(target / "latest.bin")["first.weight"].shape == (16, 8)
    assert os.readlink(target / "pooling") == "1_Pooling"
    assert not any(path.is_symlink() and path.name not in ("latest.bin", "pooling") for path in target.iterdir())


def test_a_snapshot_in_the_hub_cache_becomes_files(tmp_path: Path) -> None:
    """huggingface_hub keeps `snapshots/REVISION/NAME` as links to `blobs/HASH`."""
    trainer_folder(tmp_path / "plain")
    blobs, snapshot = tmp_path / "models--x/blobs", tmp_path / "models--x/snapshots/0a1b"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(path for path in (tmp_path / "plain").iterdir() if path.is_file()):
        shutil.copy(path, blobs / f"{number}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    (snapshot / "other").symlink_to("../../../plain/config.json")
    job = convinspect.convert(snapshot, tmp_path / "b", to="linear")
    assert job.followers.roots == ("optimizer.pt",)
    assert names_in(tmp_path / "b") == {path.name for path in (tmp_path / "plain").iterdir() if path.is_file()}
    assert not any(path.is_symlink() for path in (tmp_path / "b").iterdir())
    assert (tmp_path / "b/config.json").read_bytes() == (tmp_path / "plain/config.json").read_bytes()


def test_the_index_total_is_of_the_weights_alone(tmp_path: Path) -> None:
    trainer_folder(tmp_path / "a", "shards.safetensors")
    index = tmp_path / "a/model.safetensors.index.json"
    right = index.read_text()
    told = json.loads(right)
    told["metadata"]["total_size"] += 8
    index.write_text(json.dumps(told, indent=2, sort_keys=True) + "\n")
    convinspect.convert(tmp_path / "a", tmp_path / "b", to="linear")
    assert (tmp_path / "b" / index.name).read_text() == right


def test_a_name_with_no_weights_stays_so(tmp_path: Path) -> None:
    """A folder whose only .bin files are a run's own is no model."""
    (tmp_path / "a").mkdir()
    torch.save({"output_dir": "x"}, tmp_path / "a/training_args.bin")
    with pytest.raises(ConvInspectError):
        convinspect.convert(tmp_path / "a", tmp_path / "b", to="linear")
    assert not written(tmp_path)


# --------------------------------------------------------------------------------------------------- failures


def failing(monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException) -> None:
    from convinspect.writing import carried, pieces

    original = pieces.copy_whole

    def copy(source: Path, target: Path, progress: Any) -> None:
        if source.name == name:
            raise error
        original(source, target, progress)

    monkeypatch.setattr(carried, "copy_whole", copy)


@pytest.mark.parametrize("force", [False, True])
def test_a_full_disk_or_an_interrupt_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    trainer_folder(tmp_path / "a")
    if force:
        convinspect.convert(tmp_path / "a", tmp_path / "b", to="linear")
        (tmp_path / "b/config.json").write_text("as it was")
    for error in (OSError(28, "No space left on device"), KeyboardInterrupt()):
        failing(monkeypatch, "trainer_state.json", error)
        with pytest.raises((ConvInspectError, KeyboardInterrupt)):
            convinspect.convert(tmp_path / "a", tmp_path / "b", to="linear", force=force)
        assert written(tmp_path) == ["b"] * force
        assert not force or (tmp_path / "b/config.json").read_text() == "as it was"


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from convinspect.writing import carried, pieces

    trainer_folder(tmp_path / "a")
    original = pieces.copy_whole

    def copy(source: Path, target: Path, progress: Any) -> None:
        original(source, target, progress)
        if source.name == "config.json":
            source.write_text("another")

    monkeypatch.setattr(carried, "copy_whole", copy)
    with pytest.raises(ConvInspectError, match="changed while"):
        convinspect.convert(tmp_path / "a", tmp_path / "b", to="linear")
    assert not written(tmp_path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may read all files")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    trainer_folder(tmp_path / "a")
    (tmp_path / "a/config.json").chmod(0)
    with pytest.raises(ConvInspectError, match=r"config\.json"):
        convinspect.convert(tmp_path / "a", tmp_path / "b", to="linear")
    assert not written(tmp_path)


def test_room_is_asked_for_before_anything_is_written(tmp_path: Path) -> None:
    trainer_folder(tmp_path / "a")
    with open(tmp_path / "a/data.arrow", "wb") as file:
        file.truncate(1 << 43)
    done = run("convert", tmp_path / "a", "-o", tmp_path / "b", "--to", "linear")
    assert done.returncode == 2
    assert "bytes free" in done.stderr
    assert not written(tmp_path)


def test_large_files_are_not_read_into_memory(tmp_path: Path) -> None:
    trainer_folder(tmp_path / "a")
    with open(tmp_path / "a/data.arrow", "wb") as file:
        file.truncate(1 << 28)
    before = reset_peak()
    convinspect.convert(tmp_path / "a", tmp_path / "b", to="linear")
    assert peak() - before < 1 << 26
    assert (tmp_path / "b/data.arrow").stat().st_size == 1 << 28
