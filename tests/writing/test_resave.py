"""`convert` to another kind of file: a plain state_dict, the other format, fused weights. torch is the oracle."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from convinspect.checkpoint import open_checkpoint
from convinspect.layers.find import find_layers
from support.conversions import assert_only_reshaped, load
from support.in_process import run
from support.paths import FIXTURES
from support.program import assert_one_line, without_wrote


def _state_of(source: Path) -> dict[str, torch.Tensor]:
    """The state_dict of any STNkd fixture, by torch, from the one that needs no class."""
    return load(FIXTURES / "pointnet_stnkd.pt")  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["module.pt", "legacy_module.pt", "script.pt", "trace.pt", ".pt2", "legacy.pt"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_the_state_dict_of_anything(tmp_path: Path, name: str, suffix: str) -> None:
    source = FIXTURES / (f"pointnet_stnkd{name}" if name.startswith(".") else f"pointnet_stnkd_{name}")
    target = tmp_path / f"out{suffix}"
    done = run("convert", source, "-o", target, "--state-dict", "--to", "linear")
    assert done.returncode == 0, done.stderr
    after, expected = load(target), _state_of(source)
    assert set(after) == set(expected)
    for key, value in expected.items():
        assert torch.equal(after[key].reshape(-1), value.reshape(-1)), key
    assert after["conv1.weight"].shape == expected["conv1.weight"].shape[:2]
    assert stat.S_IMODE(target.stat().st_mode) & 0o200


@pytest.mark.parametrize("suffixes", [(".pt", ".safetensors"), (".safetensors", ".pt")])
def test_from_one_format_to_the_other(tmp_path: Path, suffixes: tuple[str, str]) -> None:
    state = {"c.weight": torch.randn(4, 6, 1), "h.weight": torch.randn(3, 4).half(), "b": torch.randn(3).bfloat16()}
    source, target = (tmp_path / f"{part}{suffix}" for part, suffix in zip(("a", "b"), suffixes, strict=True))
    torch.save(state, source) if suffixes[0] == ".pt" else save_file(state, source, metadata={"author": "me"})
    done = run("convert", source, "-o", target)
    assert done.returncode == 0, done.stderr
    assert_only_reshaped(state, {key: load(target)[key] for key in state}, [])
    assert suffixes[0] == ".pt" or "author" in done.stderr


def test_ties_stay_ties_in_a_pt_and_are_said_in_safetensors(tmp_path: Path) -> None:
    shared = torch.randn(4, 6, 1)
    torch.save({"a.weight": shared, "b.weight": shared, "w": shared.view(6, 4).T}, tmp_path / "a.pt")
    assert run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--state-dict").returncode == 0
    after = load(tmp_path / "b.pt")
    assert after["a.weight"].data_ptr() == after["b.weight"].data_ptr() == after["w"].data_ptr()
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "c.safetensors")
    assert "tied" in done.stderr
    assert torch.equal(load(tmp_path / "c.safetensors")["b.weight"], shared)


@pytest.mark.parametrize(
    "name", ["weight_norm_old", "weight_norm_parametrized", "spectral_norm_parametrized", "pruned"]
)
def test_fused_layers_are_plain_weights(tmp_path: Path, name: str) -> None:
    from convinspect.arrays.effective import effective_weight

    source = FIXTURES / f"{name}.pt"
    done = run("convert", source, "-o", tmp_path / "b.pt", "--fuse", "--to", "linear")
    assert done.returncode == 0, done.stderr
    after = load(tmp_path / "b.pt")
    layers = {layer.name: layer for layer in find_layers(open_checkpoint(source))}
    assert not [key for key in after if "weight_" in key or "parametrizations" in key]
    assert after["conv.weight"].shape == (4, 6)
    for layer_name, layer in layers.items():
        expected = torch.from_numpy(effective_weight(layer))
        assert torch.equal(after[f"{layer_name}.weight"].reshape(expected.shape), expected)


def test_fused_kernels_keep_the_order_that_is_stored(tmp_path: Path) -> None:
    """A ConvTranspose and transformers' Conv1D are shown the other way round, but never written so."""
    torch.manual_seed(0)
    norm = nn.utils.parametrizations.weight_norm
    model: Any = nn.ModuleDict(
        {
            "a": norm(nn.ConvTranspose1d(3, 5, 1)),
            "square": norm(nn.ConvTranspose1d(4, 8, 1, groups=2)),
            "b": nn.utils.parametrizations.spectral_norm(nn.ConvTranspose1d(4, 6, 1)).eval(),
        }
    )
    expected = {name: module.weight.detach() for name, module in model.items()}
    torch.save(model.state_dict(), tmp_path / "a.pt")
    assert run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--fuse").returncode == 0
    after = load(tmp_path / "b.pt")
    for name, weight in expected.items():
        torch.testing.assert_close(after[f"{name}.weight"], weight)


def test_a_pruned_bias_is_fused_too(tmp_path: Path) -> None:
    from torch.nn.utils import prune

    cut: Any = prune.l1_unstructured
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(6, 4, 1), nn.Conv1d(4, 4, 1))
    cut(model[0], "weight", 0.5)
    cut(model[0], "bias", 0.5)
    cut(model[1], "bias", 0.5)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--fuse")
    assert done.returncode == 0, done.stderr
    plain = nn.Sequential(nn.Conv1d(6, 4, 1), nn.Conv1d(4, 4, 1))
    plain.load_state_dict(load(tmp_path / "b.pt"), strict=True)
    x = torch.randn(2, 6, 5)
    assert torch.equal(plain(x), model(x))


def test_what_is_saved_anew_is_said(tmp_path: Path) -> None:
    torch.save(nn.utils.parametrizations.weight_norm(nn.Conv1d(6, 4, 1)).state_dict(), tmp_path / "a.pt")
    plain = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--state-dict").stdout
    fused = run("convert", tmp_path / "a.pt", "-o", tmp_path / "c.pt", "--fuse").stdout
    assert "nothing changes" not in plain + fused
    assert "3 tensors written as a plain state_dict" in plain
    assert "1 layer as plain weights" in fused
    assert "(root)" in fused


def _trained() -> nn.Module:
    return nn.Sequential(nn.Conv1d(6, 4, 1), nn.BatchNorm1d(4))


@pytest.mark.parametrize("wrapped", [False, True])
def test_module_versions_are_kept_where_the_format_can_hold_them(tmp_path: Path, wrapped: bool) -> None:
    state: Any = _trained().state_dict()
    torch.save({"net": {"state_dict": state}, "epoch": 3} if wrapped else state, tmp_path / "a.pt")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--state-dict", "--to", "linear")
    assert done.returncode == 0, done.stderr
    after = load(tmp_path / "b.pt")
    assert after._metadata == state._metadata
    assert "_metadata" not in done.stderr
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.safetensors")
    assert "_metadata, PyTorch's record of each module's version, is not in the new file" in done.stderr


def test_what_stands_beside_the_tensors_is_named_when_it_is_left(tmp_path: Path) -> None:
    state = _trained().state_dict()
    others = {"epoch": 3, "args": {"lr": 0.1}, "ema": dict(state), "lists": [1, 2]}
    torch.save({"model": {"net": state, "best": 0.5}, **others}, tmp_path / "a.pt")
    for target in ("b.pt", "b.safetensors"):
        done = run("convert", tmp_path / "a.pt", "-o", tmp_path / target, "--state-dict", "--root", "model.net")
        assert done.returncode == 0, done.stderr
        assert "epoch, args, lists, model.best beside the tensors: not in the new file" in done.stderr
        assert "root ema" in done.stderr
        assert "layer" not in done.stdout, "nothing was reshaped, so there is no table"


def test_nothing_is_said_where_nothing_is_left(tmp_path: Path) -> None:
    torch.save(dict(_trained().state_dict()), tmp_path / "a.pt")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.safetensors")
    assert done.returncode == 0
    assert without_wrote(done.stderr) == ""


def test_plain_attributes_of_a_script_are_no_part_of_its_state_dict(tmp_path: Path) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(3, 4, 1)
            self.register_buffer("kept", torch.ones(3))
            self.state = torch.zeros(2, 2)

        def forward(self, x: torch.Tensor) -> Any:
            return self.conv(x) + self.state.mean() + self.kept.mean()  # type: ignore[operator]

    script: Any = torch.jit.script(Model())
    script.save(tmp_path / "a.pt")
    for suffix in (".pt", ".safetensors"):
        done = run("convert", tmp_path / "a.pt", "-o", tmp_path / f"b{suffix}", "--state-dict")
        assert done.returncode == 0, done.stderr
        assert set(load(tmp_path / f"b{suffix}")) == set(script.state_dict())
        assert "no part of a state_dict: state" in done.stderr


def test_devices_flags_and_meta_tensors_are_kept_or_said(tmp_path: Path) -> None:
    weight = nn.Parameter(torch.randn(4, 6, 1))
    torch.save({"c.weight": weight, "n": torch.tensor(3), "empty": torch.empty(2, 3, device="meta")}, tmp_path / "a.pt")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--state-dict", "--to", "linear")
    assert done.returncode == 0, done.stderr
    after = torch.load(tmp_path / "b.pt", weights_only=True)
    assert after["c.weight"].requires_grad
    assert torch.equal(after["c.weight"], weight.reshape(4, 6))
    assert after["empty"].is_meta
    assert after["empty"].shape == (2, 3)
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.safetensors")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "'empty' (meta)" in done.stderr
    torch.save({"c.weight": weight}, tmp_path / "c.pt")
    done = run("convert", tmp_path / "c.pt", "-o", tmp_path / "c.safetensors")
    assert "requires_grad, set for 1 tensor," in done.stderr
    with zipfile.ZipFile(tmp_path / "c.pt") as old, zipfile.ZipFile(tmp_path / "d.pt", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b"X\3\0\0\0cpu", b"X\6\0\0\0cuda:0"))
    done = run("convert", tmp_path / "d.pt", "-o", tmp_path / "d.safetensors")
    assert "what was saved on cuda:0 is on the CPU in the new file" in done.stderr


def test_what_fuse_leaves_is_said(tmp_path: Path) -> None:
    model = nn.ModuleDict({"conv": nn.Conv1d(6, 4, 1), "lstm": nn.LSTM(3, 4)})
    nn.utils.parametrizations.weight_norm(model["conv"])
    nn.utils.parametrizations.weight_norm(model["lstm"], "weight_hh_l0")
    torch.save(model.state_dict(), tmp_path / "a.pt")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--fuse")
    assert done.returncode == 0, done.stderr
    assert "conv.weight" in load(tmp_path / "b.pt")
    assert "lstm.parametrizations.weight_hh_l0.original0: computed from several tensors" in done.stderr
    assert "conv.param" not in done.stderr


class _Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(4, 1, 1) + 1)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * self.scale


_NORMS: dict[str, Any] = {
    "weight": nn.utils.parametrizations.weight_norm,
    "spectral": nn.utils.parametrizations.spectral_norm,
    "scale": lambda layer: nn.utils.parametrize.register_parametrization(layer, "weight", _Scaled()),
}


@pytest.mark.parametrize("chain", ["weight spectral", "weight scale", "spectral scale", "spectral spectral", "scale"])
@pytest.mark.parametrize("option", [["--fuse"], ["--to", "linear"]])
def test_norms_in_a_chain_are_no_norm_that_is_known(tmp_path: Path, chain: str, option: list[str]) -> None:
    model = nn.ModuleDict({"conv": nn.Conv1d(6, 4, 1), "plain": nn.Conv1d(6, 4, 1)})
    for name in chain.split():
        _NORMS[name](model["conv"])
    before = model.state_dict()
    torch.save(before, tmp_path / "a.pt")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", *option)
    if "--fuse" in option:
        assert_one_line(done, "nothing can be converted: conv.param", "computed from several tensors")
        assert not (tmp_path / "b.pt").exists()
        return
    assert done.returncode == 0, done.stderr
    assert_only_reshaped(before, load(tmp_path / "b.pt"), ["plain.weight"])
    assert "computed from several tensors" not in done.stderr


def test_what_stands_beside_a_whole_model_is_named(tmp_path: Path) -> None:
    torch.save({"model": nn.Sequential(nn.Conv1d(6, 4, 1)), "epoch": 3, "args": {"lr": 0.1}}, tmp_path / "a.pt")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--state-dict")
    assert done.returncode == 0, done.stderr
    assert "epoch, args beside the tensors: not in the new file" in done.stderr


def test_module_versions_go_with_new_names(tmp_path: Path) -> None:
    state: Any = nn.ModuleDict({"enc": _trained(), "fc": nn.Linear(3, 3)}).state_dict()
    torch.save(state, tmp_path / "a.pt")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--state-dict", "--rename", "enc.*=encoder.*")
    assert (done.returncode, without_wrote(done.stderr)) == (0, "")
    run("convert", tmp_path / "a.pt", "-o", tmp_path / "c.pt", "--rename", "enc.*=encoder.*")
    assert load(tmp_path / "b.pt")._metadata == load(tmp_path / "c.pt")._metadata
    assert "encoder.1" in load(tmp_path / "b.pt")._metadata


@pytest.mark.parametrize("name", ["b.pth.tar", "b.pt.tar", "b.PTH.TAR", "b.ckpt", "b.bin", "b.pth", "b.v2.pt"])
def test_names_that_torch_files_have_are_written_by_torch(tmp_path: Path, name: str) -> None:
    state = {"c.weight": torch.randn(4, 6, 1)}
    torch.save(nn.ModuleDict({"c": nn.Conv1d(6, 4, 1, bias=False)}), tmp_path / "whole.pth.tar")
    save_file(state, tmp_path / "a.safetensors")
    for source, words in (("whole.pth.tar", ["--state-dict"]), ("a.safetensors", [])):
        done = run("convert", tmp_path / source, "-o", tmp_path / name, "--to", "linear", "--force", *words)
        assert done.returncode == 0, done.stderr
        assert zipfile.is_zipfile(tmp_path / name)
        assert load(tmp_path / name)["c.weight"].shape == (4, 6)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("b.tar", "its name is that of a tar archive, which is not written here"),
        ("b.safetensors.tar", "its name is that of a tar archive, which is not written here"),
        ("b.pt.gz", "its name is that of a packed file, which is not written here"),
        ("b", "its name does not say in which format to write"),
    ],
)
def test_names_that_say_no_format_are_refused(tmp_path: Path, name: str, why: str) -> None:
    torch.save(nn.ModuleDict({"c": nn.Conv1d(6, 4, 1)}), tmp_path / "a.pt")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / name, "--to", "linear", "--state-dict")
    assert done.returncode == 2
    assert f"{why}; end it in .safetensors, .pt, .pth" in done.stderr
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["x.png", "x.PNG", "x.svg", "x.html", "x.gif", "x.md", "x.txt", "x.csv", "x.json"])
def test_no_checkpoint_is_written_under_the_name_of_something_else(tmp_path: Path, name: str) -> None:
    """Also where it would stay in its own format, for which the name is not asked."""
    torch.save({"c.weight": torch.ones(4, 6, 1)}, tmp_path / "a.pt")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / name, "--to", "linear")
    assert_one_line(done, f"{name}: its name is that of a", "end it in .safetensors, .pt")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("name", ["a.tar", "a.zip", "a.pth.tar"])
def test_a_checkpoint_may_keep_the_suffix_that_it_has(tmp_path: Path, name: str) -> None:
    torch.save({"c.weight": torch.randn(4, 6, 1)}, tmp_path / name)
    target = tmp_path / f"b{name[1:]}"
    done = run("convert", tmp_path / name, "-o", target, "--to", "linear")
    assert done.returncode == 0, done.stderr
    assert load(target)["c.weight"].shape == (4, 6)
