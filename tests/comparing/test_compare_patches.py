"""`compare --patches`: PatchLinear is measured beside the convolution of its place, and a wrong one does not pass."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import convinspect
from convinspect.cli.main import main
from convinspect.comparing import measure as measuring
from convinspect.comparing.claims import claims
from convinspect.comparing.measure import Setting, measure
from convinspect.comparing.subjects import Subject, of_sizes, patch_embeddings
from convinspect.layers.patches import grid_of
from convinspect.modules.patches import Patches, PatchLinear
from support.in_process import run
from support.paths import FIXTURES
from support.program import assert_one_line

SMALL = ["--patch", "2x2", "--out-channels", "5", "--length", "6", "--repeats", "3", "--threads", "1"]
QUICK = ["--batch", "1", "--length", "4", "--repeats", "3", "--threads", "1"]


def command(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    result = run("compare", *words, folder=folder)
    assert "Traceback" not in result.stderr
    return result


def layers_of(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert result.returncode == 0, result.stderr
    return {layer["name"]: layer for layer in json.loads(result.stdout)["layers"]}


@pytest.mark.parametrize("patch", [(4,), (2, 3), (2, 2, 3)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_errors_and_differences_are_those_of_torchs_layers(patch: tuple[int, ...], dtype: str) -> None:
    kind = getattr(torch, dtype)
    subject = of_sizes(patch, 3, 5)
    setting = Setting(batch=2, lengths=(6,), dtypes=(dtype,), repeats=1, threads=torch.get_num_threads())
    (found,) = measure([subject], setting)
    kinds: list[Any] = [nn.Conv1d, nn.Conv2d, nn.Conv3d]
    conv = kinds[len(patch) - 1](3, 5, patch, stride=patch, dtype=kind)
    linear = PatchLinear(3, 5, patch, dims=len(patch), dtype=kind)
    linear.load_state_dict({"weight": subject.weight, "bias": subject.bias})
    conv.load_state_dict({"weight": subject.weight.reshape(conv.weight.shape), "bias": subject.bias})
    x = torch.randn(subject.shape(2, 6), generator=torch.Generator().manual_seed(0)).to(kind)
    with torch.no_grad():
        y, z = conv(x), linear(x)
        error = y.double() - conv.double()(x.double())
    assert y.shape[2:].numel() == 6
    assert found.shape == tuple(x.shape)
    assert found.errors["conv"][0] == (float(error.abs().max()), float(error.square().mean().sqrt()))
    assert found.outputs == (float((y.double() - z.double()).abs().max()), float(y.double().abs().max()))
    assert set(found.exact) == {"output", "input", "weight", "bias"}
    assert not found.differs
    assert all(time.median > 0 for time in (*found.forward.values(), *found.backward.values()))


def other_order(self: Patches, x: torch.Tensor) -> torch.Tensor:
    """Rows as (row, column, channel)."""
    rows = real_rows(self, x)
    sizes = (-1, self.kernel[0] * self.kernel[1])
    return torch.unflatten(rows, -1, sizes).movedim(-1, -2).flatten(-2)


def other_place(self: Patches, x: torch.Tensor) -> torch.Tensor:
    return real_rows(self, x).flip(1)


def one_missing(self: Patches, x: torch.Tensor) -> torch.Tensor:
    rows = real_rows(self, x).clone()
    rows[..., -1] = 0
    return rows


def one_row_more(self: Patches, y: torch.Tensor) -> torch.Tensor:
    return y.movedim(-1, 1).repeat_interleave(2, -1)


real_rows: Callable[[Patches, torch.Tensor], torch.Tensor] = Patches.rows


@pytest.mark.parametrize(
    ("method", "wrong"),
    [("rows", other_order), ("rows", other_place), ("rows", one_missing), ("back", one_row_more)],
    ids=["order", "place", "missing", "shape"],
)
def test_a_wrong_patch_linear_differs(
    method: str, wrong: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Patches, method, wrong)
    found = measure([of_sizes((2, 2), 3, 5)], Setting(1, (6,), repeats=1, threads=1))
    assert found[0].differs
    assert [claim.verdict for claim in claims(found)][2] == "holds"
    monkeypatch.setattr("sys.argv", ["convinspect", "compare", *SMALL])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr().out
    assert end.value.code == 1
    assert "“their outputs and gradients differ”: holds here" in said
    assert "the two do not compute the same" in said
    result = convinspect.compare(patch=(2, 2), out_channels=5, length=6, repeats=3, threads=1)
    assert result.differs


def test_a_wrong_gradient_alone_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    def half(self: Patches, x: torch.Tensor) -> torch.Tensor:
        rows = real_rows(self, x)
        return rows if not rows.requires_grad else (rows + rows.detach()) / 2

    monkeypatch.setattr(Patches, "rows", half)
    (found,) = measure([of_sizes((2, 2), 3, 5)], Setting(1, (6,), repeats=1, threads=1))
    assert [name for name, agreement in found.exact.items() if not agreement.ok] == ["input"]
    assert found.differs


def test_right_ones_do_not_differ_and_end_with_0(tmp_path: Path) -> None:
    result = command(tmp_path, *SMALL, "--format", "json")
    assert result.returncode == 0
    found = json.loads(result.stdout)
    assert found["differs"] is False
    assert all(0 <= share <= 1 for share in found["layers"][0]["share_of_bound"].values())
    assert found["layers"][0]["input_shape"] == [1, 3, 4, 6]
    assert set(found["layers"][0]["forward"]) == {"conv", "patch_linear", "linear"}


def test_without_sizes_it_is_vit_and_qwen2_vl() -> None:
    transformers = pytest.importorskip("transformers")
    vit, qwen = patch_embeddings()
    config = transformers.ViTConfig()
    assert vit.shape(*vit.usual) == (1, config.num_channels, config.image_size, config.image_size)
    assert vit.weight.shape == (config.hidden_size, config.num_channels * config.patch_size**2)
    vision = transformers.Qwen2VLConfig().vision_config
    patch = (vision.temporal_patch_size, vision.patch_size, vision.patch_size)
    assert qwen.shape(*qwen.usual) == (1024, vision.in_channels, *patch)
    assert (qwen.patch, qwen.weight.shape[0], qwen.bias) == (patch, vision.embed_dim, None)


@pytest.mark.parametrize(("length", "sizes"), [(196, (28, 56)), (1000, (50, 160)), (7, (2, 28)), (1, (2, 4))])
def test_so_many_patches_lie_in_a_rectangle(length: int, sizes: tuple[int, int]) -> None:
    subject = of_sizes((2, 4), 1, 1)
    assert subject.shape(3, length) == (3, 1, *sizes)


def vit(folder: Path) -> Path:
    """A file with a patch embedding by name, a convolution that may be one, one that is none, and a pointwise one."""
    torch.manual_seed(0)
    sizes = {"patch_embed.proj": (8, 3, 4, 4), "stem": (6, 3, 2, 2), "again.patch_embed.proj": (8, 3, 4, 4)}
    path = folder / "vit.safetensors"
    save_file({f"{name}.weight": torch.randn(size) for name, size in sizes.items()}, path)
    return path


def test_a_files_patch_embeddings_are_measured(tmp_path: Path) -> None:
    path = vit(tmp_path)
    found = command(tmp_path, path, "--patches", *QUICK, "--format", "json")
    layers = layers_of(found)
    assert {name: (layer["patch"], layer["alike"]) for name, layer in layers.items()} == {
        "again.patch_embed.proj": ([4, 4], 1)
    }
    assert json.loads(found.stdout)["stride_assumed"] == ["again.patch_embed.proj"]
    named = command(tmp_path, path, "--patches", "--layer", "stem", *QUICK)
    assert "stem: its stride is assumed to be its kernel size" in named.stdout


def test_settings_of_a_module_tell(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), nn.Conv2d(4, 5, 3), nn.Conv2d(5, 6, 1), nn.Conv1d(6, 7, 4, 4))
    torch.save(model, tmp_path / "model.pt")
    layers = layers_of(command(tmp_path, "model.pt", "--patches", *QUICK, "--format", "json"))
    assert [(name, layer["input_shape"]) for name, layer in layers.items()] == [
        ("0", [1, 3, 4, 4]),
        ("3", [1, 6, 16]),
    ]
    assert_one_line(
        command(tmp_path, "model.pt", "--patches", "-l", "1", *QUICK), "stride is (1, 1), not its kernel size"
    )
    assert_one_line(command(tmp_path, "model.pt", "--patches", "-l", "2", *QUICK), "its kernel size is 1")


def test_a_linear_is_measured_as_the_convolution_of_its_place(tmp_path: Path) -> None:
    path = vit(tmp_path)
    linear = tmp_path / "linear.safetensors"
    convinspect.convert(path, linear, to="linear", patches=True)
    (layer,) = layers_of(command(tmp_path, linear, "--patch", "4x4", *QUICK, "--format", "json")).values()
    assert (layer["in_channels"], layer["out_channels"], layer["patch"]) == (3, 8, [4, 4])
    words = ["-l", "patch_embed.proj", *QUICK]
    assert_one_line(command(tmp_path, linear, "--patches", *words), "needs their size, --patch 16x16")
    assert_one_line(command(tmp_path, linear, "--patch", "5x5", *words), "48 columns are no multiple of the 25")


def test_tables_csv_and_plots(tmp_path: Path) -> None:
    text = command(tmp_path, *SMALL, "--dtypes", "float32,bfloat16", "--width", "80").stdout
    for words in ("C ÷ P", "PatchLinear", "y apart", "Conv2d(3, 5, 2×2)", "bfloat16", "6 patches of 12 numbers"):
        assert words in text
    assert max(map(len, text.splitlines())) <= 80
    sweep = ["--patch", "4", "--out-channels", "5", "--repeats", "3", "--threads", "1", "--lengths", "1,4,9"]
    rows = list(csv.DictReader(command(tmp_path, *sweep, "--format", "csv").stdout.splitlines()))
    assert [(row["length"], row["input_shape"], row["patch"]) for row in rows] == [
        ("1", "1x3x4", "4"),
        ("4", "1x3x16", "4"),
        ("9", "1x3x36", "4"),
    ]
    assert all(float(row["forward_patch_linear_s"]) > 0 for row in rows)
    assert command(tmp_path, *sweep, "-o", "plot.svg").returncode == 0
    root = ElementTree.fromstring((tmp_path / "plot.svg").read_text(encoding="utf-8"))
    assert len(root.findall(".//{http://www.w3.org/2000/svg}circle")) == 9


def test_a_dtype_that_pytorch_does_not_run_is_said_beside_the_others(tmp_path: Path) -> None:
    result = command(tmp_path, *SMALL, "--dtypes", "float32,float8_e4m3fn", "--format", "json")
    found = json.loads(result.stdout)
    assert result.returncode == 0
    assert [layer["dtype"] for layer in found["layers"]] == ["float32"]
    assert [one["dtype"] for one in found["not_run"]] == ["float8_e4m3fn"]
    text = command(tmp_path, *SMALL, "--dtypes", "float32,float8_e4m3fn").stdout
    assert "not measured: Conv2d(3, 5, 2×2) in float8_e4m3fn, which PyTorch cannot run" in text


def test_what_runs_as_one_of_the_two_alone_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*given: Any) -> torch.Tensor:
        raise NotImplementedError("\"slow_conv3d\" not implemented for 'Half'")

    monkeypatch.setattr(torch.nn.functional, "conv3d", refuses)
    with pytest.raises(convinspect.ConvInspectError, match=r"slow_conv3d.*try another dtype, device or size"):
        convinspect.compare(patch="1x2x2", out_channels=5, batch=1, dtype=["float16"], repeats=3)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--patch", "0x2"], "is no kernel size"),
        (["--patch", "2x2x2x2"], "is no kernel size"),
        (["--patch", "axb"], "is no kernel size"),
        (["--in-channels", "3"], "give its kernel size too, --patch 16x16"),
        (["--out-channels", "3", "--in-channels", "2"], "--in-channels is of a convolution that cuts patches"),
        (["--patches", "--layer", "a"], "none is given"),
        ([*SMALL, "--batch", "2000000000"], "GB are free; give a smaller --batch or --length"),
        ([*SMALL, "--length", "99999999999999999"], "GB are free; give a smaller --batch or --length"),
        (["--patch", "9999999x9999999"], "GB are free; give a smaller --patch"),
        (["--patches", "--out-channels", "2000000000"], "GB are free; give a smaller --out-channels"),
        (["--batch", "2000000000"], "GB are free; give a smaller --batch or --length"),
        ([*SMALL, "--length", "0"], "is no length"),
        ([FIXTURES / "pointnet_stnkd.pt", "--patches"], "no convolution is known to cut patches"),
        ([FIXTURES / "pointnet_stnkd.pt", "--patch", "2x2"], "no Linear is named as a patch embedding"),
        ([FIXTURES / "pointnet_stnkd.pt", "--patch", "2x2", "--in-channels", "3"], "a file is given"),
        ([FIXTURES / "qwen2_vl.safetensors", "--patch", "2x14x14", "-l", "*patch_embed*"], "leave out --patch"),
    ],
)
def test_wrong_wishes_get_one_line(tmp_path: Path, words: list[object], line: str) -> None:
    assert_one_line(command(tmp_path, *words), line)


def test_the_grid_of_any_number_is_there_at_once() -> None:
    """Its divisors were looked for one by one."""
    assert [grid_of(196, dims) for dims in (1, 2, 3)] == [(196,), (14, 14), (1, 14, 14)]
    assert grid_of(1 << 32, 2) == (1 << 16, 1 << 16)
    assert grid_of((1 << 32) - 5, 2) == (1, (1 << 32) - 5), "a prime"
    started = time.perf_counter()
    for count in (10**17 - 1, 10**40 + 1):
        assert math.prod(grid_of(count, 3)) == count
    assert time.perf_counter() - started < 1


def test_too_little_memory_is_told_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "free_memory", lambda device: 1e6)
    monkeypatch.setattr(measuring, "_measured", lambda *given: pytest.fail("measured"))
    small = Subject("small", torch.zeros(2, 4), None, patch=(2, 2))
    large = Subject("large", torch.zeros(400, 400), None, patch=(2, 2))
    with pytest.raises(convinspect.ConvInspectError, match=r"large on \(1, 100, 28, 28\)"):
        measure([small, large], Setting(repeats=3))
