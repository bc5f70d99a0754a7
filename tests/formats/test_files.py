"""A file read by offset, and what is said of one that cannot be opened or read."""

from __future__ import annotations

import errno
import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from convinspect import formats
from convinspect.errors import BrokenFile, ConvInspectError, NotThere
from convinspect.formats import sources
from convinspect.formats.files import File, cut_short
from convinspect.formats.sources import read_at


def test_reads_give_what_is_there_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    with File(tmp_path / "a") as file:
        assert (file.read(2, 3), file.read(8, 9), file.read(10, 1), file.read(-1, 2)) == (b"234", b"89", b"", b"")
        assert file.part(4)(1, 2) == b"56"
    with File(tmp_path / "a", 2, 4) as part:
        assert (part.size, part.read(0, 99), part.read(3, 99)) == (4, b"2345", b"5")


def test_a_system_that_gives_less_at_once_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux gives at most 2 GB at once, a network file system often less."""
    (tmp_path / "a").write_bytes(b"0123456789")
    monkeypatch.setattr(sources, "read_at", lambda handle, size, offset: read_at(handle, min(size, 3), offset))
    with File(tmp_path / "a") as file:
        assert file.read(1, 8) == b"12345678"


def test_a_file_that_became_shorter_gives_what_is_left(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    with File(tmp_path / "a") as file:
        os.truncate(tmp_path / "a", 4)
        assert file.read(2, 8) == b"23"


def test_a_system_without_reads_by_offset_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    monkeypatch.delattr(os, "pread", raising=False)
    with File(tmp_path / "a") as file:
        assert (file.read(5, 3), file.read(0, 2), file.read(9, 2)) == (b"567", b"01", b"9")


def test_threads_that_share_a_file_get_their_own_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without reads by offset they share its one position."""
    monkeypatch.delattr(os, "pread", raising=False)
    data = os.urandom(1 << 16)
    (tmp_path / "a").write_bytes(data)
    interval = sys.getswitchinterval()
    seek = os.lseek

    def slow(*arguments: int) -> int:
        place = seek(*arguments)
        time.sleep(0)
        return place

    monkeypatch.setattr(os, "lseek", slow)
    try:
        sys.setswitchinterval(1e-6)
        with File(tmp_path / "a") as file, ThreadPoolExecutor(4) as pool:
            places = [at * 37 % 65_000 for at in range(2_000)]
            found = list(pool.map(lambda at: file.read(at, 64), places))
    finally:
        sys.setswitchinterval(interval)
    assert found == [data[at : at + 64] for at in places]


def test_bytes_that_the_disk_does_not_give_are_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(handle: int, size: int, offset: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "a").write_bytes(b"0123456789")
    monkeypatch.setattr(sources, "read_at", failing)
    with File(tmp_path / "a") as file, pytest.raises(BrokenFile, match="Input/output error") as caught:
        file.read(0, 1)
    assert caught.value.path == tmp_path / "a"
    assert "disk or network" in caught.value.remedy


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (FileNotFoundError(errno.ENOENT, "gone"), "there is no such file"),
        (IsADirectoryError(errno.EISDIR, "folder"), "it is a folder, not a file"),
        (PermissionError(errno.EACCES, "denied"), "it may not be read; ask its owner"),
        (OSError(errno.ELOOP, "Too many levels of symbolic links"), r"cannot be opened \(Too many levels"),
        (OSError("no reason"), r"cannot be opened \(unknown\)"),
        (ValueError("embedded null byte"), r"cannot be opened \(its name is no file name here\)"),
    ],
)
def test_what_keeps_a_file_closed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Exception, words: str
) -> None:
    def refused(*_: object) -> int:
        raise refusal

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refused)
        with pytest.raises(NotThere) as caught:
            File(tmp_path / "a.pt")
    assert caught.value.path == tmp_path / "a.pt"
    assert re.search(words, str(caught.value))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(NotThere, match="it is a folder"):
        File(tmp_path)


@pytest.mark.unlike_windows
def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotThere, match="it is a pipe or device"):
        File(tmp_path / "pipe")


def test_a_cut_file_says_how_much_is_missing_where_that_is_known() -> None:
    assert cut_short(10, 30, " of the header").problem == (
        "it is truncated: 10 bytes of 30 expected (20 are missing) of the header"
    )
    assert cut_short(10, None).problem == cut_short(10, 5).problem == "it is truncated: 10 bytes"


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (OSError(errno.EIO, "Input/output error"), BrokenFile, "cannot be read"),
        (PermissionError(errno.EACCES, "Permission denied"), BrokenFile, "ask its owner"),
        (RecursionError(), NotThere, "nest too deeply"),
        (BrokenFile("it is wrong"), BrokenFile, "it is wrong"),
    ],
)
def test_what_stops_a_listing_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[ConvInspectError], words: str
) -> None:
    def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr(formats, "_read_any", failing)
    with pytest.raises(kind, match=words) as caught:
        formats.read_contents(tmp_path / "a.pt")
    assert caught.value.path == tmp_path / "a.pt"
