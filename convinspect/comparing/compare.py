"""`compare` as a function: measure the layers of a file, or well-known ones, and check claims."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from convinspect.arrays.devices import check_device, check_dtype, check_dtype_on, load_average
from convinspect.checkpoint import Checkpoint
from convinspect.comparing.claims import Claim, claims
from convinspect.comparing.measure import Measured, NotRun, Setting, check_memory, circumstances, measure
from convinspect.comparing.subjects import Subject, of_sizes, patch_embeddings, patches_of, pointnet, pointwise_of
from convinspect.errors import CannotConvert, CannotShow, ConvInspectError, Option, Wording
from convinspect.text import dimensions, one_line, plural


@dataclass(frozen=True, slots=True)
class Options:
    """The options of `compare`.

    Attributes:
        layer: Names or globs of the layers; () for all pointwise convolutions, or all that cut patches.
        patches: Convolutions that cut patches (stride = kernel size) are measured, and not those of kernel size 1.
        patch: Kernel size of one that is in no file, or in whose place a file's Linear is, as "16x16"; for `patches`.
        in_channels: Channels of one that is in no file; 3 by default.
        out_channels: Likewise; 768 by default.
        batch: N of the input; None for 8, or what is usual of such a convolution.
        lengths: L of the input (N, C, L), or patches of each example, one or more; () for 1024, or what is usual.
        dtypes: PyTorch's names, one or more.
        device: PyTorch's name of the device, such as "cuda".
        threads: Number of threads of PyTorch's operators on the CPU; None for PyTorch's own choice.
        repeats: Number of timings of each, at least 3; the result is their median.
        seed: Seed of the random inputs.
    """

    layer: tuple[str, ...] = ()
    patches: bool = False
    patch: str | None = None
    in_channels: int | None = None
    out_channels: int | None = None
    batch: int | None = None
    lengths: tuple[int, ...] = ()
    dtypes: tuple[str, ...] = ("float32",)
    device: str = "cpu"
    threads: int | None = None
    repeats: int = 7
    seed: int = 0

    @property
    def of_patches(self) -> bool:
        """Convolutions that cut patches are meant; a kernel size says so too."""
        return self.patches or self.patch is not None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The results of `compare`.

    Attributes:
        layers: One record for each layer, dtype and length.
        claims: Claims about the convolution and Linear, and whether they hold here.
        setting: The parameters of the measurement.
        circumstances: What the figures depend on, by name: versions, libraries, threads, load.
        left: What PyTorch does not run.
        assumed: Names of the file's layers whose stride is assumed to be their kernel size.
    """

    layers: list[Measured]
    claims: list[Claim]
    setting: Setting
    circumstances: Mapping[str, Any]
    left: tuple[NotRun, ...] = ()
    assumed: tuple[str, ...] = ()

    @property
    def differs(self) -> bool:
        """A layer's two forms differ in float64 by more than rounding explains."""
        return any(layer.differs for layer in self.layers)

    def __repr__(self) -> str:
        measurements, claims_made = plural(len(self.layers), "measurement"), plural(len(self.claims), "claim")
        return f"<comparison on {one_line(self.setting.device)}: {measurements}, {claims_made}>"


def compare(
    checkpoint: Checkpoint | None, options: Options, progress: Callable[[str], None] = lambda what: None
) -> Comparison:
    """Measure a convolution against Linear on this machine: speed, precision, gradients.

    Args:
        checkpoint: The checkpoint whose layers are measured; None for PointNet's three, or the patch embeddings of
            ViT-B/16 and Qwen2-VL, with random weights.
        options: Which layers, and how.
        progress: Called with a description of the next measurement.

    Raises:
        CannotShow: A length, kernel size, dtype or device is invalid, PyTorch cannot run it, or memory is too small.
        CannotConvert: None of the layers is a convolution of the kind that is meant, or a Linear in its place, or
            layers are named without a checkpoint.
        ConvInspectError: A name matches no layer, or numbers cannot be read.
    """
    setting = setting_of(options)
    load = load_average()
    subjects = subjects_of(checkpoint, options)
    left: list[NotRun] = []
    layers = measure(subjects, setting, progress, left)
    if not layers:
        remedy = Wording("try another ", Option("dtype", None), ", ", Option("device", None), " or size")
        raise CannotShow(f"PyTorch cannot run it ({left[0].reason})", remedy)
    assumed = tuple(subject.name for subject in subjects if subject.assumed)
    return Comparison(layers, claims(layers), setting, circumstances(setting, load), tuple(left), assumed)


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
    # Of patches each layer has its own.
    usual = (None, ()) if options.of_patches else (8, (1024,))
    return Setting(
        options.batch or usual[0],
        tuple(dict.fromkeys(options.lengths)) or usual[1],
        tuple(dict.fromkeys(options.dtypes)),
        options.device,
        options.threads or torch.get_num_threads(),
        options.repeats,
        options.seed,
    )


def subjects_of(checkpoint: Checkpoint | None, options: Options) -> list[Subject]:
    """Well-known layers, one of given sizes, or a checkpoint's.

    Raises:
        CannotShow: The kernel size is none, or sizes are given without one.
        CannotConvert: None of them is of the kind that is meant, or layers are named without a checkpoint.
        ConvInspectError: A name matches no layer, or numbers cannot be read.
    """
    patch = _patch(options)
    channels = [name for name in ("in_channels", "out_channels") if getattr(options, name) is not None]
    if channels and not options.of_patches:
        said = Wording(Option(channels[0], None), " is of a convolution that cuts patches")
        raise CannotShow(said, Wording("give its kernel size too, ", Option("patch", "16x16")))
    if checkpoint is not None:
        if channels:
            raise CannotShow(Wording(Option(channels[0], None), " is of a layer in no file, and a file is given"))
        try:
            if options.of_patches:
                return patches_of(checkpoint, options.layer, patch)
            return pointwise_of(checkpoint, options.layer)
        except ConvInspectError as error:
            raise error.at(checkpoint.path) from None
    if options.layer:
        raise CannotConvert(Wording(Option("layer", None), " chooses layers of a file, and none is given"))
    if not options.of_patches:
        return pointnet(options.seed)
    if not patch and not channels:
        return patch_embeddings(options.seed)
    return [_given(patch or (16, 16), options)]


def _given(patch: tuple[int, ...], options: Options) -> Subject:
    """A layer of the sizes that are given.

    Raises:
        CannotShow: There is no memory for it.
    """
    wide_in, wide_out = options.in_channels or 3, options.out_channels or 768
    names = [name for name in ("patch", "in_channels", "out_channels") if getattr(options, name) is not None]
    remedy = Wording("give a smaller ", Option(names[-1], None))
    check_memory("a weight of these sizes", wide_in * wide_out * math.prod(patch), "cpu", remedy)
    return of_sizes(patch, wide_in, wide_out, options.seed)


def _patch(options: Options) -> tuple[int, ...]:
    """The kernel size that is given; () if none is.

    Raises:
        CannotShow: It is none.
    """
    patch = () if options.patch is None else dimensions(options.patch)
    if patch is None or len(patch) > 3:
        given = options.patch or ""
        raise CannotShow(
            Wording(Option("patch", None), f" {one_line(given)!r} is no kernel size"), "write it as 16x16, or 2x14x14"
        )
    return patch
