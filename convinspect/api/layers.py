"""`compare` and `explain`: what single layers compute, and how fast."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from convinspect.api.calls import (
    Source,
    check_at_least,
    kernel_text,
    opened,
    saying_what_to_install,
    several,
    silent,
)
from convinspect.remote.addresses import path_of
from convinspect.showing.notebook import show_in_notebooks

if TYPE_CHECKING:
    import torch

    from convinspect.comparing.compare import Comparison
    from convinspect.explaining.example import Example


@saying_what_to_install
def compare(
    path: Source | None = None,
    *,
    layer: str | Iterable[str] = (),
    patches: bool = False,
    patch: str | Sequence[int] | None = None,
    in_channels: int | None = None,
    out_channels: int | None = None,
    batch: int | None = None,
    length: int | Iterable[int] | None = None,
    dtype: str | Iterable[str] = "float32",
    device: str = "cpu",
    threads: int | None = None,
    repeats: int = 7,
    seed: int = 0,
    root: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Measure a convolution against Linear on this machine: speed, precision, gradients.

    It is Conv1d of kernel size 1, or with `patches` or `patch` convolutions that cut patches (stride = kernel size).

    Args:
        path: A checkpoint; without it, PointNet's three layers with random weights, or the patch embeddings of ViT-B/16
            and Qwen2-VL.
        layer: Names or globs of its layers; all pointwise convolutions by default, or all that cut patches.
        patches: Measure convolutions that cut patches.
        patch: Kernel size of one that is in no file, or in whose place the file's Linear is, as "16x16" or (16, 16).
        in_channels: Its channels; 3 by default.
        out_channels: Likewise; 768 by default.
        batch: N of the input (N, C, L); 8 by default. Of patches 1, and of those in three dimensions 1,024.
        length: L, one or several; 1,024 by default. Of patches how many each example has: 196, and of those in three
            dimensions 1.
        dtype: PyTorch's name of it, such as "float32", one or several.
        device: Where to run, such as "cuda".
        threads: Of PyTorch's operators on the CPU; PyTorch's own choice by default.
        repeats: Timings of each, at least 3; their median counts.
        seed: Of the random inputs.
        root: Which dictionary of tensors in the file, as dotted keys; "." for all; by default the model's.
        progress: Called with what is measured next, in words.

    Returns:
        `.layers`, the times (in seconds), errors and gradients of each, and `.claims`, what is often said of the two
        with whether it holds here. `.differs`: in float64 the two differ by more than rounding explains. Figures are of
        this machine alone.

    Raises:
        ConvInspectError: There is no such layer, device or dtype, or PyTorch cannot run it.
    """
    from convinspect.comparing.compare import Comparison, Options
    from convinspect.comparing.compare import compare as measure
    from convinspect.showing.compare import comparison_tables

    check_at_least(1, batch=batch, threads=threads, in_channels=in_channels, out_channels=out_channels)
    check_at_least(3, repeats=repeats)
    check_at_least(0, seed=seed)
    show_in_notebooks(Comparison, comparison_tables)
    options = Options(
        several(layer), patches, kernel_text(patch),
        in_channels, out_channels, batch, () if length is None else several(length), several(dtype), device, threads,
        repeats, seed,
    )  # fmt: skip
    return measure(None if path is None else opened(path, root, damaged=True), options, progress or silent)


@saying_what_to_install
def explain(
    path: Source | None = None,
    layer: str | None = None,
    *,
    samples: int = 4,
    seed: int = 0,
    input: str | Path | torch.Tensor | None = None,
    patches: bool = False,
    lang: Literal["en", "zh"] = "en",
    root: str | None = None,
) -> Example:
    """Run one layer on a few rows of data, to see how n rows of `in` columns become n rows of `out`.

    Args:
        path: A checkpoint; without it, a small built-in layer of 3 → 6.
        layer: Which of its layers.
        samples: How many rows of data are drawn, or patches.
        seed: Of the data that are drawn for a file's layer.
        input: Your own data, (n, in), or of patches an image, (C, …): a tensor, or a .csv, .npy or .pt file.
        patches: The layer is a convolution over patches: `samples` of them are cut from an image.
        lang: The language that a notebook draws it in: English or Chinese ("zh").
        root: Which dictionary of tensors in the file, as dotted keys; "." for all; by default the model's.

    Returns:
        The data `.x` (n, in), the kernels `.w` (out, in, taps), `.b` (out), and the results `.f` (n - taps + 1, out),
        all computed by PyTorch in float64. With `patches`, `.image` is what was cut, `.x` are the flattened patches,
        `.f` is what the convolution gives for each, `.y` what the Linear gives. A notebook draws it.

    Raises:
        ConvInspectError: The layer is none that can be explained, or the data do not fit it.
    """
    from convinspect.explaining.example import Example
    from convinspect.explaining.explain import Options
    from convinspect.explaining.explain import explain as compute
    from convinspect.showing.explain_steps import overview

    check_at_least(1, samples=samples)
    check_at_least(0, seed=seed)
    show_in_notebooks(Example, overview)
    options = Options(layer, samples, seed, path_of(input) if isinstance(input, str) else input, patches, lang)
    return compute(None if path is None else opened(path, root, damaged=True), options)
