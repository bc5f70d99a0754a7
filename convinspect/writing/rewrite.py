"""Change shapes or names of tensors in a file: a new header, and ranges of the old file for the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from convinspect.errors import CannotWrite
from convinspect.formats.files import File
from convinspect.formats.safetensors import is_safetensors
from convinspect.records import Edit
from convinspect.writing.atomic import check_room
from convinspect.writing.changes import Changes as Changes  # whoever writes a file has these
from convinspect.writing.moving import made, start_of
from convinspect.writing.pieces import Piece, Range, size_of, to_be_written, write_pieces
from convinspect.writing.safetensors_header import edited_header


def write_file(
    source: Path, changes: Changes, target: Path, progress: Callable[[int], None], in_archive: bool = False
) -> None:
    """Write a file that has these changes and no others.

    Args:
        source: A `torch.save` file of either format, or a safetensors file.
        changes: What to change.
        target: The new file.
        progress: Called now and then with the number of bytes that were written since the last call.
        in_archive: Write the archive that the source lies in, with the new file in it.

    Raises:
        ConvInspectError: The source cannot be read, its format cannot be changed, or the disk has no room.
        OSError: The target cannot be written.
    """
    with File(source) as file:
        pieces = pieces_for(file, changes)
        if in_archive:
            from convinspect.writing.archived import wrapped

            source, pieces = wrapped(source, pieces)
        check_room(target, sum(map(size_of, pieces)), lambda: to_be_written(source, target.parent, pieces))
        write_pieces(source, pieces, target, progress)


def pieces_for(file: File, changes: Changes) -> list[Piece]:
    """The pieces of a new file that has these changes and no others.

    Args:
        file: A `torch.save` file of either format, or a safetensors file.
        changes: What to change.

    Raises:
        CannotWrite: The file's format records shapes in more than one place, such as TorchScript.
    """
    if not changes:
        return [Range(0, file.size)]
    head = file.read(0, 64)
    if is_safetensors(head):
        return _safetensors(file, changes.edits)
    # Imported here, as what the other format does without.
    from convinspect.writing import torch_save

    if torch_save.is_zip(head):
        return torch_save.pieces_of_zip(file, changes)
    if torch_save.is_legacy(file):
        return torch_save.pieces_of_legacy(file, changes)
    raise CannotWrite("shapes in this kind of file cannot be changed")


def _safetensors(file: File, edits: Sequence[Edit]) -> list[Piece]:
    length = int.from_bytes(file.read(0, 8), "little")
    shapes = {edit.tensor.key: edit.shape for edit in edits if edit.shape != edit.tensor.shape}
    names = {edit.tensor.key: edit.key for edit in edits if edit.key is not None}
    base = 8 + length
    pieces: list[Piece] = [edited_header(file.read(8, length), shapes, names)]
    at = base
    for edit in sorted((edit for edit in edits if edit.moves_bytes), key=lambda edit: start_of(edit.tensor)):
        start = start_of(edit.tensor)
        pieces += [Range(at, start), made(edit)]
        at = start + edit.tensor.nbytes
    return [*pieces, Range(at, file.size)]
