"""`compare`: the figures are those that PyTorch gives, and the verdicts follow from them."""

from __future__ import annotations

import csv
import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

from convinspect.arrays.devices import full_float32
from convinspect.arrays.error_bound import Agreement
from convinspect.comparing import measure as measuring
from convinspect.comparing.claims import claims
from convinspect.comparing.compare import Comparison
from convinspect.comparing.measure import Measured, Setting, Time, _time, circumstances, measure
from convinspect.comparing.subjects import Subject, pointnet
from convinspect.render.table import Block, Table, plain
from convinspect.showing.compare import comparison_payload, comparison_tables
from convinspect.text import to_noise
from support.in_process import run
from support.paths import FIXTURES
from support.program import assert_one_line

QUICK = ["--batch", "1", "--length", "16", "--repeats", "3", "--threads", "1"]


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    result = run("compare", *words, folder=folder)
    assert "Traceback" not in result.stderr
    return result


def made(conv: float, linear: float, noise: float = 0.01, **other: Any) -> Measured:
    """Figures that might have been measured."""
    times = {
        "conv1d": Time(conv, conv * noise),
        "linear": Time(linear, linear * noise),
        "transposed": Time(linear * 2, linear * noise),
    }
    fields: dict[str, Any] = {
        "errors": {"conv1d": [(1e-6, 1e-7)] * 3, "linear": [(1e-6, 1e-7)] * 3},
        "gradients": {"input": (1e-6, 1.0)},
        "exact": {"input": Agreement(share=0.1)},
    }
    return Measured("conv", (6, 4), "float32", 8, 0, times, times, **{**fields, **other})


@pytest.mark.parametrize(
    ("pairs", "verdict"),
    [
        ([(2.0, 1.0), (1.2, 1.0)], "holds"),
        ([(2.0, 1.0), (1.0, 1.0)], "within noise"),
        ([(2.0, 1.0), (0.5, 1.0)], "does not hold"),
        ([(1.0, 1.0)], "within noise"),
    ],
)
def test_speed_is_judged_by_every_layer_and_beyond_noise(pairs: list[tuple[float, float]], verdict: str) -> None:
    claim = claims([made(*pair) for pair in pairs])[0]
    assert claim.verdict == verdict
    assert claims([made(*pair, noise=0.5) for pair in pairs])[0].verdict == "within noise"


# Milliseconds of one call, seven timings each, with bursts as other programs cause them.
BUSY = (
    (5.259, 7.359, 3.296, 0.609, 0.608, 0.432, 0.476),
    (0.496, 0.63, 7.23, 5.885, 0.5, 4.539, 0.435),
    (0.49, 0.511, 0.496, 7.341, 2.004, 5.909, 0.459),
)


def constructed(median: float, width: float) -> tuple[float, ...]:
    """Seven timings evenly around a median, of which the middle half is `width` times the median wide."""
    return tuple(median * (1 + width * (n - 3) / 4) for n in range(7))


SETTLED = (constructed(0.45, 0.01), constructed(140.0, 0.95))


def recorded(conv: tuple[float, ...], linear: tuple[float, ...]) -> Measured:
    times = [_time([value * 1e-3 for value in values]) for values in (conv, linear, linear)]
    one = made(1, 1)
    forward = dict(zip(one.forward, times, strict=True))
    return replace(one, forward=forward, backward=forward)


@pytest.mark.parametrize("busy", BUSY)
def test_a_busy_machine_is_said_and_no_ratio_is_given(busy: tuple[float, ...]) -> None:
    for pair in ((busy, SETTLED[0]), (SETTLED[0], busy), (busy, busy)):
        layers = [recorded(SETTLED[0], SETTLED[0]), recorded(*pair)]
        first, second, third = claims(layers)
        assert (first.verdict, first.cause) == ("not told", "busy")
        assert not re.search(r"\d", " ".join(map(str, first.figures)))
        # What is not of time can be told all the same.
        assert (second.cause, third.cause) == (None, None)
        comparison = Comparison(layers, [first, second, third], Setting(), circumstances(Setting(), 0.0))
        forward, *_, said = comparison_tables(comparison)
        assert isinstance(forward, Table)
        assert "cannot tell: the machine was busy" in "\n".join(
            map(plain, said.lines if isinstance(said, Block) else ())
        )
        ratios = [list(map(plain, row[-2:])) for row in forward.rows]
        assert ratios == [["1.00", "1.00"], ["busy", "busy"]]
        payload = comparison_payload(comparison)
        settled = [time["settled"] for layer in payload["layers"] for time in layer["forward"].values()]
        assert settled[:3] == [True] * 3
        assert not all(settled[3:])
        assert payload["claims"][0]["cause"] == "busy"


def test_a_quiet_machine_is_not_called_busy() -> None:
    assert not recorded(constructed(140.0, 1.05), SETTLED[0]).settled
    layers = [recorded(values, values) for values in SETTLED]
    first = claims(layers)[0]
    assert (first.verdict, first.cause) == ("within noise", None)
    payload = comparison_payload(Comparison(layers, [first], Setting(), circumstances(Setting(), 0.0)))
    assert all(time["settled"] for layer in payload["layers"] for time in layer["forward_backward"].values())
    assert payload["claims"][0]["cause"] is None


@pytest.mark.parametrize(
    ("value", "noise", "text"),
    [
        (1.2444, 0.0312, "1.24"), (1.2444, 0.4, "1.2"), (1.2444, 3.0, "1"), (0.0123, 0.5, "0.01"), (102.0, 34.0, "100"),
        (12.345, 0.0001, "12.3"), (1234.5, 0.5, "1230"), (0.9996, 0.002, "1.000"), (2.0, 0.0, "2.00"),
        (0.0, 0.1, "0.0"), (float("inf"), 1.0, "inf"),
    ],
)  # fmt: skip
def test_a_figure_has_no_more_digits_than_its_noise_leaves(value: float, noise: float, text: str) -> None:
    assert to_noise(value, noise) == text


@pytest.mark.parametrize(("rms", "verdict"), [(2e-7, "holds"), (1e-7, "within noise"), (5e-8, "does not hold")])
def test_precision_is_judged_by_rms_errors(rms: float, verdict: str) -> None:
    errors = {"conv1d": [(1e-6, 1e-7)] * 3, "linear": [(1e-6, rms)] * 3}
    assert claims([made(1, 1, errors=errors)])[1].verdict == verdict
    noisy = {"conv1d": [(1e-6, 1e-7)] * 3, "linear": [(1e-6, rms), (1e-6, rms * 4), (1e-6, rms / 4)]}
    assert claims([made(1, 1, errors=noisy)])[1].verdict == "within noise"


@pytest.mark.parametrize(
    ("share", "apart", "verdict"), [(0.1, 1e-6, "within noise"), (0.0, 0.0, "does not hold"), (2.0, 1e-6, "holds")]
)
def test_gradients_are_judged_in_float64(share: float, apart: float, verdict: str) -> None:
    one = made(1, 1, gradients={"input": (apart, 1.0)}, exact={"input": Agreement(share=share)})
    assert claims([one])[2].verdict == verdict


def test_errors_and_gradients_are_those_of_torch() -> None:
    torch.manual_seed(0)
    conv = nn.Conv1d(6, 4, 1)
    assert conv.bias is not None
    subject = Subject("conv", conv.weight.detach().squeeze(-1), conv.bias.detach())
    setting = Setting(batch=2, lengths=(5,), repeats=1, threads=torch.get_num_threads())
    (found,) = measure([subject], setting)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, 5, generator=generator)
    with torch.no_grad():
        exact = nn.functional.conv1d(x.double(), conv.weight.double(), conv.bias.double())
        error = (conv(x).double() - exact).abs()
    assert found.errors["conv1d"][0] == (float(error.max()), float(error.square().mean().sqrt()))
    assert len(found.errors["linear"]) == 5
    assert set(found.gradients) == {"input", "weight", "bias"}
    assert all(one.ok for one in found.exact.values())
    assert all(time.median > 0 for time in (*found.forward.values(), *found.backward.values()))


def test_threads_and_tf32_are_put_back() -> None:
    threads = torch.get_num_threads()
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    try:
        with full_float32():
            assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.allow_tf32
        measure(pointnet()[:1], Setting(1, (4,), repeats=1, threads=1))
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    assert torch.get_num_threads() == threads


def test_pointnet_is_the_default_and_the_three_claims_end_it(tmp_path: Path) -> None:
    text = command(tmp_path, *QUICK).stdout
    assert [word for word in ("64 → 64", "64 → 128", "128 → 1024") if word in text] == [
        "64 → 64",
        "64 → 128",
        "128 → 1024",
    ]
    for words in (
        "Linear is faster",
        "Conv1d is more precise",
        "their gradients differ",
        "torch",
        "oneDNN",
        "1 thread,",
    ):
        assert words in text
    assert text.count(" here") + text.count("cannot tell: the machine was busy") == 3


def test_json_csv_and_plots(tmp_path: Path) -> None:
    found = json.loads(command(tmp_path, *QUICK, "--dtypes", "float32,bfloat16", "--format", "json").stdout)
    assert [(one["name"], one["dtype"]) for one in found["layers"][:2]] == [("conv1", "float32"), ("conv1", "bfloat16")]
    told = [one for one in found["claims"] if one["cause"] != "busy"]
    assert {one["verdict"] for one in told} <= {"holds", "does not hold", "within noise"}
    assert len(told) >= 2
    sweep = [*QUICK[:2], *QUICK[4:], "--lengths", "1,8,64"]
    rows = list(csv.DictReader(command(tmp_path, *sweep, "--format", "csv").stdout.splitlines()))
    assert [row["length"] for row in rows] == ["1", "8", "64"] * 3
    assert all(float(row["forward_conv1d_s"]) > 0 for row in rows)
    for name in ("plot.svg", "plot.html"):
        assert command(tmp_path, *sweep, "-o", name).returncode == 0
        text = (tmp_path / name).read_text(encoding="utf-8")
        root = ElementTree.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])
        assert "prefers-color-scheme: dark" in text
        circles = root.findall(".//{http://www.w3.org/2000/svg}circle")
        assert len(circles) == 27
        assert all(0 <= float(one.get("cx", "-1")) <= 360 for one in circles)


def test_a_files_layers_are_measured_once_for_each_size(tmp_path: Path) -> None:
    model = nn.Sequential(*(nn.Conv1d(6, 6, 1) for _ in range(3)), nn.Conv1d(6, 4, 1), nn.Conv1d(6, 6, 3))
    torch.save(model.state_dict(), tmp_path / "model.pt")
    found = json.loads(command(tmp_path, "model.pt", *QUICK, "--format", "json").stdout)
    assert [(one["name"], one["alike"]) for one in found["layers"]] == [("0", 2), ("3", 0)]
    found = json.loads(command(FIXTURES, "gpt2_names.pt", "-l", "*c_fc*", *QUICK, "--format", "json").stdout)
    assert {(one["in_channels"], one["out_channels"]) for one in found["layers"]} == {(8, 32)}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--length", "0"], "is no length"),
        (["--length", "1,x"], "is no length"),
        (["--dtype", "int8"], "no floating dtype"),
        (["--device", "abacus"], "cannot be used"),
        (["--dtype", "float8_e4m3fn", *QUICK], "cannot run it"),
        (["--layer", "conv1"], "none is given"),
        (["gone.pt"], "no such file"),
        ([str(FIXTURES / "embeddings.pt")], "none of these layers"),
    ],
)
def test_wrong_wishes_get_one_line(tmp_path: Path, words: list[str], line: str) -> None:
    result = command(tmp_path, *words)
    assert result.returncode == 2
    assert line in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_timing_is_long_enough_for_the_clock() -> None:
    class Slow:
        def timeit(self, number: int) -> Any:
            return type("M", (), {"median": 0.5})

    assert measuring._count(Slow()) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_numbers_beyond_all_bounds_tell_nothing(value: float) -> None:
    weight = torch.randn(4, 6)
    weight[0, 0] = value
    subject = Subject("a", weight, None)
    found = measure([subject], Setting(batch=1, lengths=(4,), repeats=3))
    verdicts = {one.text: one.verdict for one in claims(found)}
    assert verdicts["Conv1d is more precise than Linear"] == "not told"


def test_complex_layers_are_not_measured_by_their_real_parts(tmp_path: Path) -> None:
    torch.save({"c.weight": torch.randn(4, 6, 1, dtype=torch.complex64)}, tmp_path / "a.pt")
    assert_one_line(run("compare", tmp_path / "a.pt"), "real numbers")
