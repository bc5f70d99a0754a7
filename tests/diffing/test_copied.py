"""Which tensors PyTorch copies into which: what `diff` says against `load_state_dict`."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.masked import masked_tensor

import convinspect
from support.paths import FIXTURES

NUMBERS = torch.ones(4, 4)
MAKERS: dict[str, Callable[[], Any]] = {
    "float32": lambda: NUMBERS.clone(),
    "float64": lambda: NUMBERS.double(),
    "float8": lambda: NUMBERS.to(torch.float8_e4m3fn),
    "int8": lambda: NUMBERS.to(torch.int8),
    "qint8": lambda: torch.quantize_per_tensor(NUMBERS, 0.1, 0, torch.qint8),
    "quint8": lambda: torch.quantize_per_tensor(NUMBERS, 0.1, 0, torch.quint8),
    "per channel": lambda: torch.quantize_per_channel(NUMBERS, torch.ones(4), torch.zeros(4), 0, torch.qint8),
    "coo": lambda: NUMBERS.to_sparse(),
    "csr": lambda: NUMBERS.to_sparse_csr(),
    "masked": lambda: masked_tensor(NUMBERS.clone(), NUMBERS.bool()),
}


def loads(a: Any, b: Any) -> bool:
    module = nn.Module()
    module.register_buffer("w", b)
    try:
        module.load_state_dict({"w": a})
    except (RuntimeError, NotImplementedError, TypeError):
        return False
    return True


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("pair", list(itertools.product(MAKERS, repeat=2)), ids=" to ".join)
def test_diff_says_what_load_state_dict_does(tmp_path: Path, pair: tuple[str, str]) -> None:
    for name, maker in zip("ab", pair, strict=True):
        torch.save({"w": MAKERS[maker]()}, tmp_path / f"{name}.pt")
    report = convinspect.diff(tmp_path / "a.pt", tmp_path / "b.pt")
    assert (not report.obstacles) == loads(MAKERS[pair[0]](), MAKERS[pair[1]]()), report.obstacles


def test_a_whole_dtensor_and_plain_tensors_do_not_mix(tmp_path: Path) -> None:
    """`aten.copy_: got mixed torch.Tensor and DTensor`, says PyTorch in both directions."""
    path = FIXTURES / "parallel" / "fsdp2_1of1.pt"
    shapes = {name: tensor.shape for name, tensor in convinspect.open(path).tensors.items()}
    torch.save({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "plain.pt")
    for a, b in ((path, tmp_path / "plain.pt"), (tmp_path / "plain.pt", path)):
        report = convinspect.diff(a, b)
        assert (report.verdict, len(report.obstacles)) == ("does not load", len(shapes))
        assert "DTensor" in report.obstacles[0]
    assert convinspect.diff(path, path).verdict == "loads"


TORCHAO = (
    "Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig", "Float8WeightOnlyConfig", "IntxWeightOnlyConfig",
    "Int8DynamicActivationIntxWeightConfig",
)  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_settings_of_torchao_are_compared(tmp_path: Path) -> None:
    """One class serves several ways of quantizing, and copies from its own way alone (`_same_metadata`)."""
    quantization = pytest.importorskip("torchao.quantization")

    def model(config: str | None) -> nn.Module:
        net = nn.Sequential(nn.Linear(128, 128))
        if config:
            quantization.quantize_(net, getattr(quantization, config)())
        return net

    kinds = [None, *(config for config in TORCHAO if hasattr(quantization, config))]
    for kind in kinds:
        torch.save(model(kind).state_dict(), tmp_path / f"{kind}.pt")
    for a, b in itertools.product(kinds, repeat=2):
        try:
            model(b).load_state_dict(model(a).state_dict())
            verdict = "loads"
        except (RuntimeError, NotImplementedError, ValueError):
            verdict = "does not load"
        report = convinspect.diff(tmp_path / f"{a}.pt", tmp_path / f"{b}.pt")
        assert report.verdict == verdict, (a, b)
        # What PyTorch does not copy is not counted as the same.
        assert (report.counts["same"] == 2) == (verdict == "loads")


class _Lazy(nn.Module):
    def __init__(self, layer: type[nn.Module] = nn.LazyLinear) -> None:
        super().__init__()
        self.a = layer(3)


def _normed(norm: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return nn.Sequential(norm(nn.Conv1d(6, 4, 1)), norm(nn.Linear(4, 3)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("fronts", [("", "module."), ("gen.", ""), ("gen.", "net.")])
@pytest.mark.parametrize(
    "norm",
    [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm, nn.utils.weight_norm,
     nn.utils.parametrizations.weight_norm],
    ids=["old spectral", "spectral", "old weight", "weight"],
)  # fmt: skip
def test_a_norm_under_another_prefix_loads_once_it_is_renamed(
    tmp_path: Path, norm: Callable[[nn.Module], nn.Module], fronts: tuple[str, str], suffix: str
) -> None:
    source, model = (nn.ModuleDict({f[:-1]: _normed(norm)}) if f else _normed(norm) for f in fronts)
    path = tmp_path / f"a{suffix}"
    if suffix == ".pt":
        torch.save(source.state_dict(), path)
    else:
        save_file({key: value.contiguous() for key, value in source.state_dict().items()}, path)
    with pytest.raises(RuntimeError) as error:
        model.load_state_dict(source.state_dict())
    report = convinspect.diff(path, error=str(error.value))
    assert (report.verdict, report.obstacles) == ("undecided", ())
    assert report.rules
    convinspect.convert(path, tmp_path / f"b{suffix}", rename=list(report.rules))
    model.load_state_dict(
        torch.load(tmp_path / "b.pt") if suffix == ".pt" else load_file(tmp_path / "b.safetensors"), strict=True
    )


def test_what_has_no_shape_yet_is_promised_nothing(tmp_path: Path) -> None:
    source = nn.ModuleDict({"gen": _Lazy()})
    torch.save(source.state_dict(), tmp_path / "a.pt")
    model = _Lazy(lambda width: nn.Linear(4, width))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError) as error:
        model.load_state_dict(source.state_dict())
    assert convinspect.diff(tmp_path / "a.pt", error=str(error.value)).verdict == "undecided"
    with pytest.raises(RuntimeError, match="uninitialized"):
        model.load_state_dict(source["gen"].state_dict())
