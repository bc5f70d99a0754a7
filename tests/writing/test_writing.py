"""A new file takes its name whole or not at all, whatever the system refuses meanwhile."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convinspect.errors import BrokenFile, CannotWrite, ChangedMeanwhile, NotThere
from convinspect.formats import sources
from convinspect.formats.files import check_unchanged
from convinspect.formats.sources import version_of
from convinspect.writing import pieces as writing
from convinspect.writing.atomic import (
    check_room,
    left_behind,
    new_file,
    new_folder,
    reporting_changes,
)
from convinspect.writing.pieces import Made, Piece, Range, copy_whole, write_pieces


def refusing(code: int, refuses: Callable[..., bool] = lambda *_: True, instead_of: Any = None) -> Callable[..., Any]:
    """A call of the system that fails where `refuses` says so, and is `instead_of` elsewhere."""

    def call(*arguments: Any, **options: Any) -> Any:
        if refuses(*arguments):
            raise OSError(code, os.strerror(code))
        return instead_of(*arguments, **options)

    return call


def approve(path: Path) -> None:
    """A check that finds nothing wrong."""


def make(target: Path, meanwhile: Callable[[], object] = lambda: None) -> None:
    """A new file of ours, and what happens before it gets its name."""
    with new_file(target, approve) as new:
        new.write_bytes(b"ours")
        meanwhile()


def make_folder(target: Path, meanwhile: Callable[[], object] = lambda: None) -> None:
    """The same for a folder that holds a file."""
    with new_folder(target, approve) as new:
        (new / "a").write_bytes(b"ours")
        meanwhile()


# ------------------------------------------------------------------------------------------------- what is read


def test_files_are_held_to_what_they_were(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"1")
    version = version_of(os.stat(file))
    check_unchanged({file: version})
    file.write_bytes(b"12")
    with pytest.raises(ChangedMeanwhile, match="it changed while it was read"):
        check_unchanged({file: version})
    file.unlink()
    with pytest.raises(ChangedMeanwhile, match="vanished"):
        check_unchanged({file: version})
    with pytest.raises(BrokenFile, match="cannot be read"):
        check_unchanged({Path(__file__) / "below": version})


def test_what_goes_wrong_is_laid_to_a_change_only_where_there_is_one(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"1")
    versions = {file: version_of(os.stat(file))}
    with pytest.raises(ZeroDivisionError), reporting_changes(versions):
        raise ZeroDivisionError
    file.write_bytes(b"12")
    with pytest.raises(ChangedMeanwhile), reporting_changes(versions):
        raise ZeroDivisionError


# ------------------------------------------------------------------------------------------------- pieces


@pytest.mark.parametrize("limit", [None, 0, 7, 1000])
def test_pieces_follow_one_another_by_whatever_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    """The kernel copies all, nothing (another file system), or a few bytes before it gives up."""
    data = os.urandom(5000)
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(data)
    if limit is not None:
        copied: list[int] = []

        def by_kernel(reader: int, writer: int, size: int, at: int) -> int:
            if len(copied) == 2 or not limit:
                raise OSError(errno.EXDEV, "Invalid cross-device link")
            copied.append(os.write(writer, data[at : at + min(size, limit)]))
            return copied[-1]

        monkeypatch.setattr(os, "copy_file_range", by_kernel, raising=False)
        monkeypatch.setattr(writing, "_READ_AT_ONCE", 512)
    told: list[int] = []
    pieces: list[Piece] = [b"head", Range(100, 4000), Made(6, lambda: (b"abc", b"def")), Range(0, 10)]
    write_pieces(source, pieces, target, told.append)
    assert target.read_bytes() == b"head" + data[100:4000] + b"abcdef" + data[:10]
    assert sum(told) == 3900 + 6 + 10


def test_a_whole_copy_is_the_same_under_the_umask(tmp_path: Path) -> None:
    source = tmp_path / "a"
    source.write_bytes(b"x" * 5000)
    source.chmod(0o600)
    old = os.umask(0o027)
    try:
        copy_whole(source, tmp_path / "b", lambda done: None)
    finally:
        os.umask(old)
    assert (tmp_path / "b").read_bytes() == source.read_bytes()
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o640


def test_a_source_that_ends_too_early_is_said_to_have_changed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"short")
    with pytest.raises(ChangedMeanwhile, match="became shorter") as caught:
        write_pieces(tmp_path / "a", [Range(0, 10)], tmp_path / "b", lambda done: None)
    assert caught.value.path == tmp_path / "a"


def test_a_source_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotThere, match="no such file") as missing:
        write_pieces(tmp_path / "gone", [b""], tmp_path / "b", lambda done: None)
    assert missing.value.path == tmp_path / "gone"
    (tmp_path / "a").write_bytes(b"0123456789")
    monkeypatch.setattr(os, "copy_file_range", refusing(errno.EIO), raising=False)
    monkeypatch.setattr(sources, "read_at", refusing(errno.EIO))
    with pytest.raises(BrokenFile, match="Input/output error") as caught:
        write_pieces(tmp_path / "a", [Range(0, 10)], tmp_path / "b", lambda done: None)
    assert caught.value.path == tmp_path / "a"


# ------------------------------------------------------------------------------------------------- the name


def test_another_file_that_came_meanwhile_stays(tmp_path: Path) -> None:
    target = tmp_path / "new.pt"
    with pytest.raises(CannotWrite, match="another program has made it meanwhile"):
        make(target, lambda: target.write_bytes(b"theirs"))
    assert target.read_bytes() == b"theirs"
    assert list(tmp_path.iterdir()) == [target]


def test_another_folder_that_came_meanwhile_stays(tmp_path: Path) -> None:
    target = tmp_path / "new"

    def theirs() -> None:
        target.mkdir()
        (target / "a").write_bytes(b"theirs")

    with pytest.raises(CannotWrite, match="another program has made it meanwhile"):
        make_folder(target, theirs)
    assert (target / "a").read_bytes() == b"theirs"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_came_in_place_of_a_folder_stays(tmp_path: Path) -> None:
    target = tmp_path / "new"
    with pytest.raises(CannotWrite, match="another program has made it meanwhile"):
        make_folder(target, lambda: target.write_bytes(b"theirs"))
    assert target.read_bytes() == b"theirs"
    assert list(tmp_path.iterdir()) == [target]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    with new_folder(tmp_path / "new", approve) as new:
        (new / "below").mkdir()
        (new / "below" / "a").write_bytes(b"ours")
    assert (tmp_path / "new" / "below" / "a").read_bytes() == b"ours"


@pytest.mark.unlike_windows
def test_without_hard_links_the_name_is_taken_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", refusing(errno.EPERM))
    make(tmp_path / "new.pt")
    assert (tmp_path / "new.pt").read_bytes() == b"ours"
    assert [one.name for one in tmp_path.iterdir()] == ["new.pt"]


@pytest.mark.unlike_windows
def test_a_name_that_the_system_refuses_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", refusing(errno.EPERM))
    monkeypatch.setattr(os, "rename", refusing(errno.EROFS))
    with pytest.raises(CannotWrite, match="Read-only file system") as caught:
        make(tmp_path / "b")
    assert caught.value.path == tmp_path / "b"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.unlike_windows
def test_a_replaced_file_hands_on_its_mode_and_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"old")
    target.chmod(0o640)
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "chown", lambda path, owner, group: given.append((owner, group)))
    with new_file(target, approve) as new:
        new.write_bytes(b"new")
        new.chmod(0o600)
    found = target.stat()
    assert (target.read_bytes(), stat.S_IMODE(found.st_mode)) == (b"new", 0o640)
    assert given == [(-1, found.st_gid), (found.st_uid, -1)], "the group by itself, which may be allowed alone"


@pytest.mark.unlike_windows
def test_owners_that_cannot_be_kept_stop_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"old")
    for name in ("chown", "chmod"):
        monkeypatch.setattr(os, name, refusing(errno.EPERM))
    with new_file(tmp_path / "a", approve) as new:
        new.write_bytes(b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["x" * 250, "名" * 80, "a" + "é" * 100])
def test_a_name_as_long_as_the_system_allows_is_written(tmp_path: Path, name: str) -> None:
    """The temporary name beside it is longer than a part of it, and must be allowed too."""
    with new_file(tmp_path / name, approve) as new:
        assert len(os.fsencode(new.parent.name)) < 255
        new.write_bytes(b"ours")
        assert left_behind(tmp_path / name) == [new.parent]
    assert [one.name for one in tmp_path.iterdir()] == [name]
    assert left_behind(tmp_path / name) == []
    assert left_behind(tmp_path / "gone" / name) == []


def test_a_check_that_fails_speaks_of_the_target(tmp_path: Path) -> None:
    def check(path: Path) -> None:
        raise BrokenFile("it is wrong", path=path)

    with pytest.raises(BrokenFile) as caught, new_file(tmp_path / "new.pt", check) as new:
        new.write_bytes(b"ours")
    assert caught.value.path == tmp_path / "new.pt"
    assert list(tmp_path.iterdir()) == []

    def check_source(path: Path) -> None:
        raise BrokenFile("it is wrong", path=Path("source.pt"))

    with pytest.raises(BrokenFile) as caught, new_file(tmp_path / "new.pt", check_source) as new:
        new.write_bytes(b"ours")
    assert caught.value.path == Path("source.pt")


# ------------------------------------------------------------------------------------------------- the disk


def is_folder(handle: int) -> bool:
    return stat.S_ISDIR(os.fstat(handle).st_mode)


def test_folders_that_cannot_be_synced_stop_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", refusing(errno.EINVAL, is_folder, os.fsync))
    make_folder(tmp_path / "new")
    assert (tmp_path / "new" / "a").read_bytes() == b"ours"


def test_folders_that_cannot_be_opened_stop_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "open", refusing(errno.EACCES, lambda path, *_: Path(path).is_dir(), os.open))
    make(tmp_path / "new.pt")
    assert (tmp_path / "new.pt").read_bytes() == b"ours"


@pytest.mark.parametrize("call", ["open", "fsync"])
def test_a_file_that_cannot_be_synced_is_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def is_ours(file: Any, *_: Any) -> bool:
        return not is_folder(file) if call == "fsync" else str(file).endswith("new.pt")

    with pytest.raises(CannotWrite, match="Input/output error"):
        make(
            tmp_path / "new.pt",
            lambda: monkeypatch.setattr(os, call, refusing(errno.EIO, is_ours, getattr(os, call))),
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("code", "remedy"), [(errno.ENOSPC, "make room"), (errno.EACCES, "choose another place")])
def test_the_remedy_fits_the_reason(tmp_path: Path, code: int, remedy: str) -> None:
    with pytest.raises(CannotWrite) as caught:
        make(tmp_path / "new.pt", refusing(code))
    assert remedy in caught.value.remedy
    with pytest.raises(CannotWrite, match="No such file"):
        make(tmp_path / "gone" / "new.pt")


def test_room_is_asked_for_where_the_file_is_to_lie(tmp_path: Path) -> None:
    check_room(tmp_path / "new.pt", 1)
    with pytest.raises(CannotWrite, match="bytes free, 1,000,000,000,000,000,000 are needed") as caught:
        check_room(tmp_path / "new.pt", 10**18)
    assert caught.value.path == tmp_path
    check_room(tmp_path / "gone" / "new.pt", 10**18)
