"""`compare` as a function: measure a checkpoint's layers, or PointNet's, and check claims."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from convinspect.arrays.devices import check_device, check_dtype, check_dtype_on, load_average
from convinspect.arrays.to_torch import weight_and_bias
from convinspect.checkpoint import Checkpoint
from convinspect.comparing.claims import Claim, claims
from convinspect.comparing.measure import Measured, Setting, Subject, circumstances, measure, pointnet
from convinspect.dtypes import COMPLEX
from convinspect.errors import CannotConvert, CannotShow, ConvInspectError, Option, Wording
from convinspect.kinds import TRANSFORMERS_CONV1D
from convinspect.layers.find import find_layers
from convinspect.layers.select import select
from convinspect.layouts import torch_shape
from convinspect.records import Layer
from convinspect.text import one_line, plural


@dataclass(frozen=True, slots=True)
class Options:
    """The options of `compare`.

    Attributes:
        layer: Names or globs of the layers; () for all pointwise convolutions.
        batch: N of the input (N, C, L).
        lengths: L, one or more.
        dtypes: PyTorch's names, one or more.
        device: PyTorch's name of the device, such as "cuda".
        threads: Number of threads of PyTorch's operators on the CPU; None for PyTorch's own choice.
        repeats: Number of timings of each, at least 3; the result is their median.
        seed: Seed of the random inputs.
    """

    layer: tuple[str, ...] = ()
    batch: int = 8
    lengths: tuple[int, ...] = (1024,)
    dtypes: tuple[str, ...] = ("float32",)
    device: str = "cpu"
    threads: int | None = None
    repeats: int = 7
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """The results of `compare`.

    Attributes:
        layers: One record for each layer, dtype and length.
        claims: Claims about Conv1d and Linear, and whether they hold here.
        setting: The parameters of the measurement.
        circumstances: What the figures depend on, by name: versions, libraries, threads, load.
    """

    layers: list[Measured]
    claims: list[Claim]
    setting: Setting
    circumstances: Mapping[str, Any]

    def __repr__(self) -> str:
        measurements, claims_made = plural(len(self.layers), "measurement"), plural(len(self.claims), "claim")
        return f"<comparison on {one_line(self.setting.device)}: {measurements}, {claims_made}>"


def compare(
    checkpoint: Checkpoint | None, options: Options, progress: Callable[[str], None] = lambda what: None
) -> Comparison:
    """Measure Conv1d of kernel size 1 against Linear on this machine: speed, precision, gradients.

    Args:
        checkpoint: The checkpoint whose layers are measured; None for PointNet's three, with random weights.
        options: Which layers, and how.
        progress: Called with a description of the next measurement.

    Raises:
        CannotShow: A length, dtype or device is invalid, or PyTorch cannot run it.
        CannotConvert: None of the layers is a pointwise Conv1d or a Linear, or layers are named without a checkpoint.
        ConvInspectError: A name matches no layer, or numbers cannot be read.
    """
    setting = setting_of(options)
    load = load_average()
    subjects = subjects_of(checkpoint, options)
    try:
        layers = measure(subjects, setting, progress)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        remedy = Wording("try another ", Option("dtype", None), ", ", Option("device", None), " or size")
        raise CannotShow(f"PyTorch cannot run it ({reason})", remedy) from None
    return Comparison(layers, claims(layers), setting, circumstances(setting, load))


def setting_of(options: Options) -> Setting:
    """The parameters of the measurement, after checking the options.

    Raises:
        CannotShow: A length, dtype or device is invalid.
    """
    for length in options.lengths:
        if length < 1:
            raise CannotShow(Wording(Option("length", None), f" {length} is no length"), "lengths are at least 1")
    for dtype in options.dtypes:
        check_dtype(dtype)
    check_device(options.device)
    for dtype in options.dtypes:
        # An 8-bit dtype can be stored but not computed with; a product raises an error.
        if getattr(torch, dtype).itemsize > 1:
            check_dtype_on(options.device, dtype, "", Wording("give another ", Option("dtype", None)))
    return Setting(
        options.batch,
        tuple(dict.fromkeys(options.lengths)),
        tuple(dict.fromkeys(options.dtypes)),
        options.device,
        options.threads or torch.get_num_threads(),
        options.repeats,
        options.seed,
    )


def subjects_of(checkpoint: Checkpoint | None, options: Options) -> list[Subject]:
    """PointNet's layers, or a checkpoint's.

    Raises:
        CannotConvert: None of them is a pointwise Conv1d or a Linear, or layers are named without a checkpoint.
        ConvInspectError: A name matches no layer, or numbers cannot be read.
    """
    if checkpoint is None:
        if options.layer:
            raise CannotConvert(Wording(Option("layer", None), " chooses layers of a file, and none is given"))
        return pointnet(options.seed)
    try:
        return _distinct(select(find_layers(checkpoint), options.layer, pointwise=not options.layer))
    except ConvInspectError as error:
        raise error.at(checkpoint.path) from None


def _distinct(layers: Iterable[Layer]) -> list[Subject]:
    """Layers that can be run both ways; only the first of those with the same sizes."""
    same_sizes: dict[tuple[object, ...], list[Layer]] = {}
    for layer in filter(_runs_both_ways, layers):
        same_sizes.setdefault((layer.weight.shape, layer.bias is None), []).append(layer)
    if not same_sizes:
        problem = "none of these layers is a pointwise Conv1d or a Linear of real numbers"
        raise CannotConvert(problem, Wording("choose others with ", Option("layer", None)))
    return [_subject(first, len(others)) for first, *others in same_sizes.values()]


def _runs_both_ways(layer: Layer) -> bool:
    known = layer.kind in ("Conv1d", "Linear", TRANSFORMERS_CONV1D) and (layer.groups or 1) == 1
    return known and layer.weight.dtype not in COMPLEX and all(size == 1 for size in torch_shape(layer)[2:])


def _subject(layer: Layer, alike: int) -> Subject:
    weight, bias = weight_and_bias(layer)
    weight = weight.float()
    matrix = weight.T.contiguous() if layer.kind == TRANSFORMERS_CONV1D else weight.flatten(1)
    return Subject(layer.name or "(root)", matrix, None if bias is None else bias.float(), alike)
