"""Scan the files of a distributed checkpoint: pieces one behind another, each a torch.save file of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from convinspect.checking.containers import scan_file
from convinspect.checking.findings import Place, Scan, finding
from convinspect.errors import ConvInspectError, NotACheckpoint
from convinspect.formats.files import File
from convinspect.formats.safetensors import is_safetensors, read_safetensors
from convinspect.formats.torch.archive import read_torch_zip
from convinspect.formats.torch.distributed import begins_safetensors
from convinspect.formats.zip.structures import is_zip


def scan_piece_file(file: File, spans: Mapping[tuple[int, int], str], values: bool) -> Scan[None]:
    """Scan the pieces in a file.

    Args:
        file: One of the checkpoint's `*.distcp`.
        spans: The tensors by (offset, length) of their pieces.
        values: Look at the numbers too.
    """
    ends = max((start + size for start, size in spans), default=0)
    body = _safetensors_at(file, (start for start, size in spans if start + size < file.size))
    if body is not None:
        message = f"its tensors lie as one safetensors file, which begins at byte {body:,} (tail -c +{body + 1})"
        yield finding("pieces-as-safetensors", file.path, message, Place("", body, file.size - body, body))
        spans = {span: name for span, name in spans.items() if span[0] != body}
    else:
        # The same writer ends a file of objects with a safetensors file of no tensors.
        body = _safetensors_at(file, [ends])
    if body is not None:
        spans = {**spans, (body, file.size - body): ""}
    reached = 0
    for (start, size), name in sorted(spans.items()):
        place = Place("", start, size, start)
        if start + size > file.size:
            message = f"a piece ends at byte {start + size:,} of {file.size:,}"
            yield finding("storage-short", file.path, message, place)
            continue
        if start < reached:
            yield finding("overlap", file.path, "two pieces share bytes", place)
        elif start > reached and file.read(reached, min(start - reached, 1 << 20)).strip(b"\0"):
            message = f"{start - reached:,} bytes belong to no piece"
            yield finding("gap", file.path, message, Place("", reached, start - reached, reached))
        reached = max(reached, start + size)
        try:
            with File(file.path, start, size) as part:
                yield from _scan_piece(part, name, values)
        except NotACheckpoint:
            # Objects beside the tensors are pieces too.
            continue
        except ConvInspectError as error:
            yield finding("unreadable", file.path, error.problem, place, remedy=error.remedy)
    left = file.size - reached
    if left > 0:
        message = f"{left:,} bytes follow the last piece"
        yield finding("trailing-bytes", file.path, message, Place("", reached, left, reached))


def _scan_piece(part: File, name: str, values: bool) -> Scan[None]:
    yield from scan_file(part, f"piece at {part.start:,} > ")
    if is_safetensors(part.read(0, min(64, part.size))):
        for problem in read_safetensors(part).problems:
            yield finding("storage-short", part.path, problem.what, Place("", part.start, part.size, part.start))
    if values and is_zip(part.read(0, 4)):
        from convinspect.checking.nonfinite import scan_values

        yield from scan_values(read_torch_zip(part), name)


def _safetensors_at(file: File, starts: Iterable[int]) -> int | None:
    """Where the one safetensors file of all tensors begins that `SerializationFormat.SAFETENSORS` writes; or None.

    The pieces are then listed with the lengths of their numbers and that one place.
    """
    return next((start for start in sorted(set(starts)) if begins_safetensors(file, start)), None)
