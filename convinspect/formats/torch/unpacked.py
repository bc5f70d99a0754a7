"""An unpacked file of `torch.save`: a folder with its pickle `data.pkl` and a file of its own for each storage."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from convinspect.errors import BrokenFile, NotThere, RefusedFile, unreadable
from convinspect.formats.files import File
from convinspect.formats.pickle.record import Pickle
from convinspect.formats.places import Below, below, is_folder, name_of
from convinspect.formats.sources import folder_of, version_at, version_of
from convinspect.formats.torch.archive import read_archive
from convinspect.formats.zip.archive import STORAGE, Archive
from convinspect.formats.zip.limits import LARGEST_UNPACKED, MOST_RECORDS
from convinspect.formats.zip.structures import STORED, Record
from convinspect.records import Container, Contents, Storage, Version
from convinspect.remote.addresses import Address

PICKLE = "data.pkl"
_FOLDERS = ("data", "code", "constants", ".data")
"""Folders of `torch.save` and TorchScript in which records lie."""
_BESIDE = ("data/0", "version", ".data/version", "byteorder")
_DEEPEST = 12
_KINDS = {Container.TORCH_ZIP: Container.TORCH_UNPACKED, Container.TORCH_SCRIPT: Container.SCRIPT_UNPACKED}


def is_unpacked(path: Path) -> bool:
    """True for such a folder, or for the `data.pkl` in one."""
    given = is_folder(path)
    if not given and name_of(path) != PICKLE:
        return False
    folder = path if given else folder_of(path)
    inside = below(folder)
    if inside is not None:
        return is_unpacked_in(inside.sizes)
    if given and not (folder / PICKLE).is_file():
        return False
    return any((folder / name).is_file() for name in _BESIDE)


def is_unpacked_in(names: Collection[str]) -> bool:
    """As `is_unpacked`, from the names of the files in a folder and below."""
    return PICKLE in names and any(name in names for name in _BESIDE)


def read_unpacked(path: Path, pickle: Pickle | None = None, keep_pickle: bool = False) -> Contents:
    """List an unpacked file of `torch.save`.

    Args:
        path: Its folder, or the `data.pkl` in it.
        pickle: The pickle, if it was read before.
        keep_pickle: Keep the tree of that pickle too.

    Raises:
        ConvInspectError: It cannot be read, or is hostile.
    """
    folder = path if is_folder(path) else folder_of(path)
    with File(folder / PICKLE) as file:
        archive = Unpacked(folder, file)
        contents = read_archive(file, archive, pickle)
    return contents._replace(
        path=path,
        container=_KINDS.get(contents.container, contents.container),
        versions=archive.versions,
        within=archive.within,
        pickles=contents.pickles if keep_pickle else {},
    )


class Unpacked(Archive):
    """The files of such a folder as an archive's records.

    Args:
        folder: It.
        file: Its `data.pkl`, open.

    Attributes:
        versions: The files, as they were when they were listed.
        within: What holds the folder, where it lies in an archive, with its article; else "".

    Raises:
        NotThere: The folder lies on a server that lists none.
        RefusedFile: A file is a link that leads out of the folder, or there are far too many.
    """

    def __init__(self, folder: Path, file: File) -> None:
        self.file = file
        self.folder = ""
        self.versions: dict[Path, Version] = {}
        self.records: dict[str, Record] = {}
        self.within = ""
        self._path = folder
        try:
            inside = below(folder)
            self.within = "" if inside is None else inside.within
            for name, size, version in _files(folder) if inside is None else _files_within(inside, version_at(folder)):
                self.records[name] = Record(0, size, size, 0, STORED, 0)
                self.versions[folder / name] = version
                if len(self.records) > MOST_RECORDS:
                    raise RefusedFile(f"the folder holds more than {MOST_RECORDS:,} files", path=folder)
        except OSError as error:
            raise unreadable(error, folder) from None
        if not self.records:
            problem = "it is one file of an unpacked checkpoint, and its server does not say what lies beside it"
            raise NotThere(problem, "fetch the whole folder, and give that", folder / PICKLE)

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(record.size for record in self.records.values())

    def place(self, name: str) -> Path:
        """The file that is a record."""
        return self._path / name

    def payload(self, name: str) -> int:
        """Where a record's bytes begin in its file."""
        return 0

    def read(self, name: str) -> bytes:
        """The bytes of a record that is no storage.

        Raises:
            BrokenFile: It is missing.
            RefusedFile: It is far too large.
        """
        record = self.records.get(name)
        if record is None or STORAGE.fullmatch(name):
            raise BrokenFile(f"the folder lacks {name}", "unpack it again")
        if name == PICKLE:
            return self.file.read(0, self.file.size)
        if record.size > LARGEST_UNPACKED:
            raise RefusedFile(f"its {name} has {record.size:,} bytes, which is far more than any has")
        with File(self.place(name)) as file:
            return file.read(0, file.size)

    def storage(self, name: str, nbytes: int, byteorder: str, key: str | None = None) -> Storage:
        """As of `Archive`: the storage in record `name`, without reading it."""
        key = name.rpartition("/")[2] if key is None else key
        record = self.records.get(name)
        if record is None:
            return Storage(self.place(PICKLE), key, nbytes, 0, None, byteorder=byteorder)
        return Storage(self.place(name), key, nbytes, record.size, 0, byteorder=byteorder)

    def storages(self, byteorder: str) -> Callable[[str, int], Storage]:
        """As of `Archive`: what gives the storage of a key."""
        return lambda key, nbytes: self.storage(f"data/{key}", nbytes, byteorder, key)


def _files(folder: Path, below: str = "", depth: int = 0) -> Iterator[tuple[str, int, Version]]:
    """The files of the folder, and of the folders in it that an archive of `torch.save` has, by their path below it.

    A key in a pickle is only looked up among these names, so that none leads elsewhere.
    """
    if isinstance(folder, Address):
        yield from _files_there(folder, below, depth)
        return
    with os.scandir(folder / below) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        name = below + entry.name
        if entry.is_dir(follow_symlinks=False):
            if depth < _DEEPEST and (depth or entry.name in _FOLDERS):
                yield from _files(folder, f"{name}/", depth + 1)
        elif entry.is_file():
            if entry.is_symlink() and (below or entry.name == PICKLE):
                _check_inside(folder, Path(entry.path), name)
            status = entry.stat()
            yield name, status.st_size, version_of(status)


def _files_within(inside: Below, version: Version) -> Iterator[tuple[str, int, Version]]:
    """As `_files`, of a folder in an archive, whose version is the archive's."""
    for name, size in sorted(inside.sizes.items()):
        depth = name.count("/")
        if not depth or (depth <= _DEEPEST and name.partition("/")[0] in _FOLDERS):
            yield name, size, version


def _files_there(folder: Address, below: str, depth: int) -> Iterator[tuple[str, int, Version]]:
    """As `_files`, of a folder at an address."""
    for entry in sorted(folder.joinpath(*below.split("/")[:-1]).iterdir(), key=lambda entry: entry.name):
        name = below + entry.name
        if entry.is_dir():
            if depth < _DEEPEST and (depth or entry.name in _FOLDERS):
                yield from _files_there(folder, f"{name}/", depth + 1)
        else:
            status = entry.stat()
            yield name, status.st_size, version_of(status)


def _check_inside(folder: Path, path: Path, name: str) -> None:
    if Path(os.path.realpath(folder)) not in Path(os.path.realpath(path)).parents:
        problem = f"its {name} is a link to a file outside of its folder"
        raise RefusedFile(problem, "copy that file into the folder where you trust it", folder)
