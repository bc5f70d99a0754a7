"""`report`: a checkpoint, or two, as one page to look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from convinspect.api.calls import Progress, Source, opened, opened_alike, saying_what_to_install, silent
from convinspect.checkpoint import Checkpoint, whole
from convinspect.errors import naming
from convinspect.remote.addresses import Address

if TYPE_CHECKING:
    from convinspect.page.document import Page


@saying_what_to_install
def report(
    path: Source,
    other: Source | None = None,
    *,
    values: bool | None = None,
    root: str | None = None,
    progress: Progress | None = None,
) -> Page:
    """Draw a checkpoint, or how two differ, as one self-contained HTML page: layers, module tree, kernels.

    Numbers are read in blocks, so that a file may be larger than the memory. The page has at most 5 MB.

    Args:
        path: The checkpoint.
        other: A second one, which is shown beside it, with how the two differ.
        values: Read the numbers too: kernels, histograms, norms. By default of files, and not of addresses, of which
            all of them would be downloaded.
        root: Which dictionary of tensors in the files, as dotted keys; "." for all; by default the model's.
        progress: Called with the number of bytes that were read.

    Returns:
        `.html`, the page as text, `.save(path)`, which writes it, and of two checkpoints the `.verdict` of `diff`.

    Raises:
        ConvInspectError: One of them cannot be opened, or of two that one is damaged.
    """
    from convinspect.page.document import Page, document
    from convinspect.reporting.pair import summarize_pair
    from convinspect.reporting.room import PAGE
    from convinspect.reporting.summary import summarize
    from convinspect.showing.page_data import DIFFERENCES, page_data, pair_data, title_of, verdict_text

    told = progress or silent
    a = opened(path, root, damaged=True)
    if other is None:
        summary = summarize(a, _wanted(values, a), PAGE, told)
        title = title_of(summary)
        return Page(title, document(page_data(summary), title))
    whole(a)
    b = opened_alike(other, root)
    numbers = _wanted(values, a, b)
    with naming(a.path):
        pair = summarize_pair(a, b, numbers, (PAGE - DIFFERENCES) // 2, told)
    title = title_of(pair.a, pair.b)
    return Page(title, document(pair_data(*pair), title), verdict_text(pair.report))


def _wanted(values: bool | None, *checkpoints: Checkpoint) -> bool:
    return not any(_is_far(checkpoint.path) for checkpoint in checkpoints) if values is None else values


def _is_far(path: Path) -> bool:
    return isinstance(path, Address)
