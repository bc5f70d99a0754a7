"""Readers of saved models, each from a path to `Contents`. The content of a file decides its format."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from convinspect.errors import ConvInspectError, NotThere, unreadable
from convinspect.formats import pieces, places, sharded, sources
from convinspect.formats.files import File
from convinspect.formats.journal import check_no_journal
from convinspect.formats.safetensors import is_safetensors, read_safetensors
from convinspect.records import Contents

if TYPE_CHECKING:
    from convinspect.formats.pickle.record import Pickle
    from convinspect.formats.places import Below
    from convinspect.formats.sources import Source


def _open_within(path: Path) -> Source:
    # Imported here, since most paths lead to files.
    from convinspect.formats.containers.members import open_member

    return open_member(path)


def _list_within(path: Path) -> Below | None:
    from convinspect.formats.containers.members import members_below

    return members_below(path)


sources.open_within = _open_within
places.list_within = _list_within


def read_contents(path: Path, keep_pickles: bool = False, pickle: Pickle | None = None) -> Contents:
    """List a file or folder of any supported format, from its headers alone.

    Args:
        path: The file or folder.
        keep_pickles: Keep the trees of pickles too, which take about as much memory as the tensors' records.
        pickle: The file's pickle, if it was read before.

    Raises:
        ConvInspectError: It cannot be listed; the error names `path` and says what to do.
    """
    try:
        with collector_paused():
            return _read_any(path, keep_pickles, pickle)
    except ConvInspectError as error:
        raise error.at(path) from None
    except OSError as error:
        raise unreadable(error, path) from None
    except RecursionError:
        raise NotThere("its parts nest too deeply to follow", path=path) from None


def _read_any(path: Path, keep_pickles: bool, pickle: Pickle | None = None) -> Contents:
    def read_file(path: Path) -> Contents:
        check_no_journal(path)
        return _read_file(path, keep_pickles)

    check_no_journal(path)
    inside = places.below(path)
    is_folder = path.is_dir() or inside is not None
    if is_folder or places.name_of(path).startswith("."):
        # Imported here, as all that only some checkpoints need: a listing of one safetensors file is a third faster.
        from convinspect.formats.torch import distributed

        if distributed.is_distributed(path):
            return distributed.read_distributed(path, pickle, keep_pickles)
    if is_folder or places.name_of(path) == "data.pkl":
        from convinspect.formats.torch import unpacked

        if unpacked.is_unpacked(path):
            return unpacked.read_unpacked(path, pickle, keep_pickles)
    if path.is_dir():
        return sharded.read_folder(path, read_file, lambda path: _read_any(path, keep_pickles))
    with File(path) as file:
        head = file.read(0, 64)
        versions = {path: file.version}
        within = file.source.within
    if sharded.is_index(path, head):
        contents = sharded.read_index(path, read_file)
        return contents._replace(versions={**versions, **contents.versions}, within=within)
    contents = _read_file(path, keep_pickles, pickle)
    contents = contents if contents.within else contents._replace(within=within)
    return pieces.alone(contents) if pieces.is_piece(contents) else contents


def _read_file(path: Path, keep_pickles: bool, pickle: Pickle | None = None) -> Contents:
    with File(path) as file:
        contents = _read_opened(file, pickle)
        if isinstance(contents, Contents):
            pickles = contents.pickles if keep_pickles else {}
            return contents._replace(versions={path: file.version}, pickles=pickles)
    return _read_any(contents, keep_pickles, pickle)


def _read_opened(file: File, pickle: Pickle | None) -> Contents | Path:
    """What is in a file, or where its checkpoint lies, if it is an archive that holds one."""
    head = file.read(0, 64)
    if is_safetensors(head):
        return read_safetensors(file)
    # Imported here, since other files open faster without what these formats need.
    from convinspect.formats.zip.structures import is_zip

    if is_zip(head):
        return _read_zip(file, pickle)
    from convinspect.formats.torch import legacy

    if legacy.is_legacy(file):
        return legacy.read_torch_legacy(file, pickle)
    if head.startswith(b"\x93"):
        from convinspect.formats.numpy_files import arrays

        if arrays.is_array(head):
            return arrays.read_array(file)
    from convinspect.formats.torch.plain_pickle import is_pickle, read_plain_pickle
    from convinspect.formats.unsupported.heads import unsupported_file_error

    if is_pickle(file):
        return read_plain_pickle(file, pickle)
    from convinspect.formats.containers.choose import checkpoint_in

    if (member := checkpoint_in(file)) is not None:
        return member
    raise unsupported_file_error(file)


def _read_zip(file: File, pickle: Pickle | None) -> Contents | Path:
    from convinspect.formats.torch import archive as torch_zip
    from convinspect.formats.torch import exported
    from convinspect.formats.zip.archive import Archive
    from convinspect.formats.zip.ends import find_directory

    if file.path.suffix == ".distcp":
        from convinspect.formats.torch.distributed_file import read_part

        return read_part(file)
    if find_directory(file) is None:
        from convinspect.formats.torch.truncated import read_cut_zip

        return read_cut_zip(file)
    archive = Archive(file)
    if exported.is_exported(archive):
        return exported.read_exported(file, archive)
    if "data.pkl" not in archive.records:
        from convinspect.formats.numpy_files import arrays

        if arrays.is_archive(archive.names()):
            return arrays.read_archive(file, archive)
        from convinspect.formats.containers.choose import checkpoint_in_zip

        if (member := checkpoint_in_zip(file, archive)) is not None:
            return member
    return torch_zip.read_archive(file, archive, pickle)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the garbage collector.

    A large listing creates hundreds of thousands of containers and frees few of them. The garbage collector would scan
    them repeatedly in vain; without it the listing takes half the time.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
