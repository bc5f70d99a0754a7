"""Devices that are not here: what would happen on them, as far as it can be seen from the CPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from convinspect.arrays import devices
from convinspect.arrays.devices import clock_of, full_float32, has_dtype
from convinspect.cli import main
from convinspect.comparing.measure import Setting, circumstances, measure
from convinspect.comparing.subjects import pointnet
from convinspect.showing.compare import _measured_on
from support.paths import FIXTURES

SWITCHES = devices._switches()


def switches() -> list[Any]:
    """Every switch of both sets, None where it cannot be read."""
    read = [
        torch.get_float32_matmul_precision,
        lambda: torch.backends.cuda.matmul.allow_tf32,
        lambda: torch.backends.cudnn.allow_tf32,
        *(lambda one=one: one.fp32_precision for one in SWITCHES),
    ]
    return [devices._readable(one) for one in read]


def by_the_older(precision: str, convolution: bool) -> None:
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = convolution


def by_the_newer(place: str, precision: str) -> None:
    library, _, name = place.partition(".")
    one: Any = getattr(torch.backends, library)
    (getattr(one, name) if name else one).fp32_precision = precision


@pytest.fixture
def put_back() -> Any:
    found = [one.fp32_precision for one in SWITCHES]
    yield
    by_the_older("highest", True)
    for one, precision in zip(SWITCHES, found, strict=True):
        one.fp32_precision = precision


@pytest.mark.usefixtures("put_back")
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(
    "prepare",
    [
        lambda: None,
        lambda: by_the_older("high", True),
        lambda: by_the_older("medium", False),
        pytest.param(lambda: by_the_newer("cuda.matmul", "tf32"), id="newer-matmul"),
        pytest.param(lambda: by_the_newer("cudnn.conv", "ieee"), id="newer-conv"),
        pytest.param(lambda: by_the_newer("mkldnn.matmul", "bf16"), id="newer-cpu"),
    ],
)
def test_float32_is_whole_inside_and_as_it_was_outside(prepare: Any, fails: bool) -> None:
    """The older switches cannot be read where the newer ones were set otherwise: that is no reason to fail."""
    if not SWITCHES and "newer" in str(prepare):
        pytest.skip("this PyTorch has no newer switches")
    prepare()
    before = switches()

    def inside() -> None:
        with full_float32():
            assert switches() == ["highest", False, False, *["ieee"] * len(SWITCHES)]
            if fails:
                raise KeyError("a fault of the user's code")

    if fails:
        with pytest.raises(KeyError):
            inside()
    else:
        inside()
    assert switches() == before


@pytest.mark.usefixtures("put_back")
def test_a_models_own_switches_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the user's code sets when it is imported would make float32 as coarse as TF32, and the bound with it."""
    from convinspect.checkpoint import open_checkpoint
    from convinspect.verifying.model import try_models
    from convinspect.verifying.model_runs import RunOptions

    (tmp_path / "code_of_switches.py").write_text(
        "import torch\nfrom torch import nn\ntorch.set_float32_matmul_precision('high')\nSEEN = []\n"
        "class Net(nn.Conv1d):\n"
        "    def __init__(self): super().__init__(6, 4, 1)\n"
        "    def forward(self, x):\n"
        "        SEEN.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))\n"
        "        return super().forward(x)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.save(nn.Conv1d(6, 4, 1).state_dict(), tmp_path / "a.pt")
    one = open_checkpoint(tmp_path / "a.pt")
    spec = "code_of_switches:Net"
    assert not try_models(one, one, {}, RunOptions(spec, spec, (torch.randn(1, 6, 5).double(),), gradients=True)).cause
    assert set(sys.modules["code_of_switches"].SEEN) == {("highest", False)}
    assert torch.get_float32_matmul_precision() == "high"


@pytest.mark.parametrize(
    "name", ["hpu", "privateuseone", "mkldnn", "mps", "xpu", "cuda:99", "cuda:x", "meta", "", " ", "\x1b[31m", "7"]
)
@pytest.mark.parametrize("words", [["verify", str(FIXTURES / "pointnet_stnkd.pt")], ["compare"]], ids=lambda it: it[0])
def test_a_device_that_is_not_here_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], name: str
) -> None:
    if name in ("mps", "xpu") and torch.accelerator.is_available():
        pytest.skip("it is here")
    monkeypatch.setattr(sys, "argv", ["convinspect", *words, "--device", name])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    line = capsys.readouterr().err
    assert "cannot be used" in line
    assert line.count("\n") == 1
    assert len(line) < 400
    assert "\x1b" not in line


def without_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Apple's GPUs, where float64 is a TypeError."""
    real = torch.zeros

    def zeros(*size: Any, dtype: Any = None, **options: Any) -> torch.Tensor:
        if dtype is torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        made: torch.Tensor = real(*size, dtype=dtype, **options)
        return made

    monkeypatch.setattr(torch, "zeros", zeros)


def test_a_device_without_float64_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert has_dtype("cpu", "float64")
    without_float64(monkeypatch)
    assert not has_dtype("cpu", "float64")
    for words in (["verify", str(FIXTURES / "pointnet_stnkd.pt")], ["compare", "--dtype", "float64"]):
        monkeypatch.setattr(sys, "argv", ["convinspect", *words, "--device", "cpu:0"])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        assert "has no float64" in capsys.readouterr().err


def test_errors_are_measured_on_the_cpu_where_the_device_has_no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting(1, (4,), repeats=1)
    (there,) = measure(pointnet()[:1], setting)
    moved: list[torch.device] = []
    real = torch.Tensor.cpu

    def cpu(tensor: torch.Tensor) -> torch.Tensor:
        moved.append(tensor.device)
        return real(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    without_float64(monkeypatch)
    (here,) = measure(pointnet()[:1], setting)
    assert moved
    assert (here.errors, here.gradients) == (there.errors, there.gradients)


def test_the_clock_waits_for_the_very_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's own timer waits for the current device, which need not be the one that was asked for."""
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    assert clock_of("cpu")() <= clock_of("cpu:0")()
    assert not waited
    times = [clock_of("cuda:1")() for _ in range(2)]
    assert times[0] <= times[1]
    assert waited == [torch.device("cuda:1")] * 2
    measure(pointnet()[:1], Setting(1, (4,), repeats=1))
    assert len(waited) == 2


def test_what_a_figure_depends_on_is_that_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"the name of {device}")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 90100)
    about = circumstances(Setting(device="cuda:1"), 0.0)
    facts = [about[key] for key in ("device", "oneDNN", "MKL", "cuDNN")]
    assert facts == ["the name of cuda:1", False, False, 90100]
    assert "cuDNN 90100, TF32 off" in str(_measured_on(about))
    assert circumstances(Setting(device="mps"), 0.0)["oneDNN"] is False
    assert circumstances(Setting(), 0.0)["cuDNN"] is None
    assert json.dumps(about)
    assert devices.load_average() >= 0
