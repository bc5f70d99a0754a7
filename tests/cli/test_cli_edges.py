"""What a first look by a stranger turned up, each as a test of its kind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from support.paths import FIXTURES
from support.program import assert_one_line, run


def test_an_empty_kernel_is_an_empty_matrix(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.zeros(0, 8, 1), "b.weight": torch.zeros(4, 0, 1), "c.weight": torch.zeros(4, 6, 0)},
               tmp_path / "a.pt")  # fmt: skip
    for options in ((), ("--format", "json"), ("--format", "csv"), ("--heatmap",), ("--stats",)):
        assert run("weights", tmp_path / "a.pt", "a", "b", "c", *options).returncode == 0, options
    assert_one_line(run("weights", tmp_path / "a.pt", "a", "--kernel", "0"), "no outputs")


def test_an_empty_tensor_of_no_layer_is_an_empty_matrix(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(0, 3), "y": torch.zeros(2, 0, 4)}, tmp_path / "a.pt")
    for options in ((), ("--format", "json"), ("--format", "csv"), ("--format", "md"), ("--heatmap",), ("--stats",)):
        result = run("weights", tmp_path / "a.pt", "*", *options)
        assert (result.returncode, result.stderr) == (0, ""), options


def test_a_transposed_convolution_shows_its_outputs_and_its_bias() -> None:
    source = FIXTURES / "conv_transpose.pt"
    expected = torch.load(source, weights_only=True)
    (layer,) = json.loads(run("weights", source, "up1", "--format", "json").stdout)["layers"]
    assert layer["weight"] == expected["up1.weight"].transpose(0, 1).tolist()
    assert layer["bias"] == expected["up1.bias"].tolist()
    assert "kernel 1 of 4" in run("weights", source, "up1", "--kernel", "1").stdout


@pytest.mark.parametrize(
    "module",
    [
        nn.ConvTranspose1d(3, 5, 2), nn.ConvTranspose2d(3, 4, (2, 3)), nn.Conv2d(3, 5, (2, 3)), nn.Conv1d(3, 3, 1),
        nn.Linear(3, 5), "c_attn",
    ],
    ids=str,
)  # fmt: skip
def test_json_says_in_which_order_numbers_stand(tmp_path: Path, module: Any) -> None:
    """Turned from `axes` into `stored_axes` they are the file's, whose shape is beside them."""
    if module == "c_attn":
        state = {"c_attn.weight": torch.randn(3, 9), "c_attn.bias": torch.zeros(9)}
    else:
        state = {f"up.{key}": value for key, value in module.state_dict().items()}
    torch.save(state, tmp_path / "a.pt")
    (layer,) = json.loads(run("weights", tmp_path / "a.pt", "*", "--format", "json").stdout)["layers"]
    stored = next(value for key, value in state.items() if key.endswith("weight"))
    numbers = torch.tensor(layer["weight"])
    turned = numbers.permute([layer["axes"].index(axis) for axis in layer["stored_axes"]])
    assert layer["shape"] == list(stored.shape)
    assert torch.equal(turned, stored)
    assert layer["axes"][:2] == ["out", "in"]
    assert [len(layer["rows"]), len(layer["columns"])] == list(numbers.shape[:2])


def test_one_unreadable_layer_does_not_hide_the_others() -> None:
    result = run("weights", FIXTURES / "weight_norm_without_v.pt", "*")
    assert result.returncode == 2
    assert "fc · Linear" in result.stdout
    assert "partner" in result.stderr


@pytest.mark.parametrize("option", ["--rows", "--cols"])
def test_every_layer_without_the_slice_is_told_so_in_the_words_of_the_command_line(tmp_path: Path, option: str) -> None:
    torch.save({f"{name}.weight": torch.zeros(4, 6, 1) for name in "abc"}, tmp_path / "m.pt")
    shown = run("weights", tmp_path / "m.pt", option, "9:")
    assert shown.returncode == 2
    assert shown.stderr.count(f"error: {tmp_path / 'm.pt'}: {option} '9:' chooses nothing") == 3


def test_several_matrices_in_one_csv_say_whose_they_are(tmp_path: Path) -> None:
    torch.save({"wide.weight": torch.randn(2, 3, 3)}, tmp_path / "a.pt")
    shown = run("weights", tmp_path / "a.pt", "wide", "--format", "csv").stdout
    assert "wide tap 0 of 3 out 0" in shown
    assert "wide tap 2 of 3 out 1" in shown


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_output_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "convinspect", "shapes", str(FIXTURES / "views.pt")],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr


def test_head_is_no_error_for_long_output(tmp_path: Path) -> None:
    torch.save({f"layers.{i}.weight": torch.zeros(2, 3, 1) for i in range(3000)}, tmp_path / "a.pt")
    command = f"{sys.executable} -m convinspect shapes {tmp_path / 'a.pt'} | head -n 1; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_storage_that_claims_more_than_its_record_is_said(tmp_path: Path) -> None:
    from support.hostile import HOSTILE

    name = next(name for name in HOSTILE if name.startswith("zip_") and "10_12" in name and "expanded" not in name)
    assert run("shapes", HOSTILE[name](tmp_path, tmp_path / "marker")).returncode == 2


def test_a_linear_named_like_a_position_stays_a_linear(tmp_path: Path) -> None:
    torch.save({"attn.linear_pos.weight": torch.zeros(4, 6), "pos_embed.weight": torch.zeros(9, 6)}, tmp_path / "a.pt")
    found = json.loads(run("shapes", tmp_path / "a.pt", "--all", "--format", "json").stdout)["layers"]
    assert [layer["kind"] for layer in found] == ["Linear", "Embedding"]


def test_names_that_a_shell_would_obey_are_taken_as_they_are(tmp_path: Path) -> None:
    """bash itself says what the words that it is offered mean; what zsh would run is not offered."""
    names = [
        "a;id",
        "a$(x)",
        "ab",
        "a'b",
        'a"b',
        "a\\b",
        "a*",
        "a b",
        "a`id`",
        "a&b",
        "a<b",
        "a~",
        "a#b",
        "a!b",
        "a{1,2}",
    ]
    torch.save({f"{name}.weight": torch.zeros(2, 3, 1) for name in names}, tmp_path / "a.pt")
    words = f"convinspect weights {tmp_path / 'a.pt'} a"
    done = run(env={"_CONVINSPECT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "3"})
    line = done.stdout.replace("\n", " ")
    taken = subprocess.run(["bash", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True, check=True)
    assert sorted(taken.stdout.splitlines()) == sorted(names)
    done = run(env={"_CONVINSPECT_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": words})
    for name in names:
        assert (name in done.stdout) == set("\"'`$\\").isdisjoint(name), name


def test_a_name_with_a_line_end_is_not_completed(tmp_path: Path) -> None:
    torch.save({f"{name}.weight": torch.zeros(2, 3, 1) for name in ("a\nid", "ab", "a\x1b[31m")}, tmp_path / "a.pt")
    words = f"convinspect weights {tmp_path / 'a.pt'} a"
    done = run(env={"_CONVINSPECT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "3"})
    assert done.stdout.split("\n") == ["ab", ""]


def test_the_models_own_class_is_named_inside_a_wrapper() -> None:
    assert "__main__.Net" in run("shapes", FIXTURES / "net_gone_parallel.pt").stdout


@pytest.mark.filterwarnings("ignore")
def test_weights_of_quantized_layers_alone_are_called_what_they_are(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})  # type: ignore[no-untyped-call]
    torch.jit.script(quantized).save(tmp_path / "q.pt")
    assert "dequantized from qint8" in run("weights", tmp_path / "q.pt").stdout
    gptq = {"fc.qweight": torch.zeros(8, 16, dtype=torch.int32), "fc.qzeros": torch.zeros(1, 2, dtype=torch.int32)}
    torch.save(gptq | {"fc.scales": torch.zeros(1, 16)}, tmp_path / "gptq.pt")
    assert_one_line(run("weights", tmp_path / "gptq.pt"), "its convolutions and Linear are quantized")
    torch.save(nn.BatchNorm1d(4).state_dict(), tmp_path / "norm.pt")
    assert_one_line(run("weights", tmp_path / "norm.pt"), "no convolution and no Linear")
