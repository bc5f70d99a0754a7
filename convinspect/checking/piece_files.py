"""Scan the files of a distributed checkpoint: pieces one behind another, each a torch.save file of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from convinspect.checking.containers import scan_file
from convinspect.checking.findings import Finding, Note, Place, Scan, finding
from convinspect.errors import BrokenFile, ConvInspectError, NotACheckpoint
from convinspect.formats.files import File
from convinspect.formats.safetensors import is_safetensors, read_safetensors
from convinspect.formats.torch.archive import read_torch_zip
from convinspect.formats.torch.distributed_file import PARTS, listed_beside, parts_of
from convinspect.formats.torch.distributed_items import begins_safetensors, item_of
from convinspect.formats.torch.distributed_pieces import Chunk, ChunkedTensor, Pieces
from convinspect.formats.torch.distributed_pieces import Place as Where
from convinspect.formats.zip.structures import is_zip


class Item(NamedTuple):
    """What lies at a place: a chunk of a tensor, or an object, which has neither."""

    place: Where
    tensor: ChunkedTensor | None = None
    chunk: Chunk | None = None

    @property
    def name(self) -> str:
        """The tensor's key; "" of an object."""
        return "" if self.tensor is None else self.tensor.key


def items_of(pieces: Pieces) -> Iterator[Item]:
    """All that lies in the files of a distributed checkpoint."""
    for tensor in pieces.tensors:
        for chunk in tensor.chunks:
            if chunk.place is not None:
                yield Item(chunk.place, tensor, chunk)
    yield from (Item(one.place) for one in pieces.objects if one.place is not None)


def scan_part(file: File) -> Scan[None]:
    """Scan one of the checkpoint's `*.distcp` by itself, with what the `.metadata` beside it says, if it is there."""
    listed, _ = listed_beside(file.path)
    items: dict[tuple[int, int], list[Item]] = {}
    if listed is not None:
        for item in items_of(listed):
            if item.place.file.name == file.path.name:
                items.setdefault((item.place.offset, item.place.length), []).append(item)
        every = [item for some in items.values() for item in some]
        if any(one.tensor and one.chunk and one.tensor.shape != one.chunk.shape for one in every):
            yield finding("piece", file.path, PARTS)
    else:
        for part in parts_of(file):
            if not part.whole:
                place = Place("", part.start, part.size, part.start)
                yield finding("storage-short", file.path, "it is cut short or malformed from there on", place)
                file = file.within(0, part.start)
            elif part.kind == "zip":
                items[part.start, part.size] = [Item(Where(file.path, part.start, part.size))]
    # Its numbers are looked at once it is listed.
    yield from scan_piece_file(file, items, values=False)


def scan_piece_file(file: File, items: Mapping[tuple[int, int], Sequence[Item]], values: bool) -> Scan[None]:
    """Scan the pieces in a file.

    Args:
        file: One of the checkpoint's `*.distcp`.
        items: What it holds, by (offset, length).
        values: Look at the numbers too.
    """
    spans = {span: found[0].name for span, found in items.items()}
    ends = max((start + size for start, size in spans), default=0)
    body = _safetensors_at(file, (start for start, size in spans if start + size < file.size))
    if body is not None:
        message = f"its tensors lie as one safetensors file, which begins at byte {body:,} (tail -c +{body + 1})"
        yield finding("pieces-as-safetensors", file.path, message, Place("", body, file.size - body, body))
        spans = {span: name for span, name in spans.items() if span[0] != body}
        yield from _scan_agreement(file, [item for span, found in items.items() if span[0] == body for item in found])
    else:
        # The same writer ends a file of objects with a safetensors file of no tensors.
        body = _safetensors_at(file, [ends])
    if body is not None:
        spans = {**spans, (body, file.size - body): ""}
    reached = 0
    for (start, size), name in sorted(spans.items()):
        yield from _scan_span(file, start, size, reached)
        if start + size <= file.size:
            reached = max(reached, start + size)
            yield from _scan_item(file, (start, size), name, items.get((start, size), ()), values)
    left = file.size - reached
    if left > 0:
        message = f"{left:,} bytes follow the last piece"
        yield finding("trailing-bytes", file.path, message, Place("", reached, left, reached))


def _scan_span(file: File, start: int, size: int, reached: int) -> Scan[None]:
    """Scan where a piece lies, of which the one before ends at `reached`."""
    place = Place("", start, size, start)
    if start + size > file.size:
        message = f"a piece ends at byte {start + size:,} of {file.size:,}"
        yield finding("storage-short", file.path, message, place)
    elif start < reached:
        yield finding("overlap", file.path, "two pieces share bytes", place)
    elif start > reached and file.read(reached, min(start - reached, 1 << 20)).strip(b"\0"):
        message = f"{start - reached:,} bytes belong to no piece"
        yield finding("gap", file.path, message, Place("", reached, start - reached, reached))


def _scan_item(file: File, span: tuple[int, int], name: str, items: Sequence[Item], values: bool) -> Scan[None]:
    """Scan a piece, and where nothing is wrong with it by itself, whether it is what `.metadata` says."""
    start, size = span
    through = dict.fromkeys(word for item in items for word in item.place.transforms)
    if through:
        yield Note(f"not looked at, since it went through {', '.join(through)}: {file.path.name} at byte {start:,}")
        return
    wrong = False
    try:
        with File(file.path, start, size) as part:
            for said in _scan_piece(part, name, values):
                wrong = wrong or isinstance(said, Finding)
                yield said
    except NotACheckpoint:
        # Objects beside the tensors are pieces too.
        pass
    except ConvInspectError as error:
        wrong = True
        yield finding("unreadable", file.path, error.problem, Place("", start, size, start), remedy=error.remedy)
    if not wrong:
        yield from _scan_agreement(file, items)


def _scan_agreement(file: File, items: Iterable[Item]) -> Scan[None]:
    """Whether pieces of tensors are what `.metadata` says, as far as they can be read."""
    for item in items:
        if item.tensor is None or item.chunk is None:
            continue
        try:
            item_of(file, item.tensor, item.chunk)
        except BrokenFile as error:
            place = Place("", item.place.offset, item.place.length, item.place.offset)
            yield finding("piece-differs", file.path, error.problem, place, remedy=error.remedy, subject=item.name)
        except ConvInspectError:
            # It has no plain numbers, which says nothing against it.
            continue


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
