"""Zips that PyTorch does not write itself but reads, as tools that repack them leave them: converted, or refused."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convinspect.errors import BrokenFile, CannotWrite
from convinspect.formats.files import File
from convinspect.formats.zip.archive import Archive
from convinspect.writing import zip as rewrite_zip
from convinspect.writing.pieces import size_of, write_pieces
from support.conversions import assert_only_reshaped, converted, load

Write = Callable[[zipfile.ZipFile, str, bytes], None]


class Unseekable(io.RawIOBase):
    """A stream as a pipe is one, into which sums are written behind the bytes that they are of."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "wb")  # noqa: SIM115

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._file.write(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"a.weight": torch.randn(300, 70, 1), "a.bias": torch.randn(300), "b.weight": torch.randn(4, 300, 1)}


def repacked(folder: Path, write: Write, streamed: bool = False) -> Path:
    """The same records, each written by `write`."""
    torch.save(state(), folder / "torch.pt")
    path = folder / "a.pt"
    target: Any = Unseekable(path) if streamed else path
    with zipfile.ZipFile(folder / "torch.pt") as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            write(new, name, old.read(name))
    if streamed:
        target.close()
    return path


def stored(file: zipfile.ZipFile, name: str, data: bytes) -> None:
    file.writestr(name, data)


def packed(file: zipfile.ZipFile, name: str, data: bytes) -> None:
    """Only what is no number, or torch could not map it."""
    file.writestr(name, data, None if "/data/" in name else zipfile.ZIP_DEFLATED)


def large(which: str) -> Write:
    """Sizes of one record in 64 bits, small as it is."""

    def write(file: zipfile.ZipFile, name: str, data: bytes) -> None:
        with file.open(name, "w", force_zip64=name.endswith(which)) as record:
            record.write(data)

    return write


def extra(field: bytes, which: str) -> Write:
    """An extra field in the headers of one record."""

    def write(file: zipfile.ZipFile, name: str, data: bytes) -> None:
        info = zipfile.ZipInfo(name)
        info.extra = field if name.endswith(which) else b""
        file.writestr(info, data)

    return write


def check(source: Path, target: Path) -> None:
    before, after = load(source), load(target)
    assert_only_reshaped(before, after, ["a.weight", "b.weight"])
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target) as new:
        assert new.testzip() is None
        assert new.namelist() == old.namelist()
        for name in old.namelist():
            assert name.endswith("data.pkl") or new.read(name) == old.read(name)
            assert new.getinfo(name).compress_type == old.getinfo(name).compress_type


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("write", [stored, packed, large("data/0"), large("version"), large("data.pkl"),
                                   extra(struct.pack("<HH4s", 0x7777, 4, b"mine"), "data/1"),
                                   extra(struct.pack("<HH", 0x4246, 0), "data/0")])  # fmt: skip
def test_what_other_tools_repacked_is_converted_and_back(tmp_path: Path, write: Write, streamed: bool) -> None:
    source = repacked(tmp_path, write, streamed)
    assert load(source).keys() == state().keys()
    converted(source, tmp_path / "b.pt")
    check(source, tmp_path / "b.pt")
    converted(tmp_path / "b.pt", tmp_path / "c.pt", "Conv1d", names=("a", "b"))
    assert all(torch.equal(load(tmp_path / "c.pt")[key], value) for key, value in state().items())


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (extra(b"\x01\x00\x09\x00ab", "data.pkl"), "malformed"),
        (extra(b"\x77\x77\x02\x00abc", "data/1"), "malformed"),
    ],
)
def test_what_cannot_be_edited_safely_is_refused(tmp_path: Path, write: Write, words: str) -> None:
    try:
        source = repacked(tmp_path, write)
    except zipfile.BadZipFile:
        pytest.skip("this Python writes no such file")
    with pytest.raises((CannotWrite, BrokenFile), match=words):
        converted(source, tmp_path / "b.pt")
    assert not (tmp_path / "b.pt").exists()


@pytest.mark.parametrize("which", range(4))
def test_places_that_are_kept_in_64_bits_are_moved_too(tmp_path: Path, which: int) -> None:
    """As behind 4 GB: the place of a record in the directory's extra field, and what PyTorch notes in the record."""
    source = repacked(tmp_path, stored)
    data = source.read_bytes()
    end = data.rindex(b"PK\x05\x06")
    size, start = struct.unpack_from("<LL", data, end + 12)
    at, entries, index = start, b"", 0
    while at < start + size:
        name, more, comment = struct.unpack_from("<HHH", data, at + 28)
        head, rest = bytearray(data[at : at + 46]), data[at + 46 : at + 46 + name + more + comment]
        if index == which:
            place = struct.unpack_from("<L", head, 42)[0]
            struct.pack_into("<H", head, 30, 12)
            struct.pack_into("<L", head, 42, 0xFFFFFFFF)
            rest = rest[:name] + struct.pack("<HHQ", 1, 8, place) + rest[name + more :]
        entries += bytes(head) + rest
        at += 46 + name + more + comment
        index += 1
    tail = bytearray(data[end:])
    struct.pack_into("<L", tail, 12, len(entries))
    source.write_bytes(data[:start] + entries + bytes(tail))
    converted(source, tmp_path / "b.pt")
    check(source, tmp_path / "b.pt")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(new=st.binary(max_size=700), gone=st.sets(st.sampled_from(["data/0", "data/1", "data/2"])), pack=st.booleans())
def test_any_record_of_any_length_leaves_the_others_whole(
    tmp_path: Path, new: bytes, gone: set[str], pack: bool
) -> None:
    """Python's own zipfile checks all sums; storages stay aligned where they were."""
    source = repacked(tmp_path, packed) if pack else tmp_path / "torch.pt"
    if not pack:
        torch.save(state(), source)
    with File(source) as file:
        archive = Archive(file)
        pieces = rewrite_zip.pieces_with_record(file, archive, "data.pkl", new, gone)
        assert sum(map(size_of, pieces)) > 0
        write_pieces(source, pieces, tmp_path / "new.pt", lambda done: None)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(tmp_path / "new.pt") as found:
        assert found.testzip() is None
        kept = [name for name in old.namelist() if name.partition("/")[2] not in gone]
        assert found.namelist() == kept
        for name in kept:
            assert found.read(name) == (new if name.endswith("data.pkl") else old.read(name))
    with File(tmp_path / "new.pt") as file:
        archive = Archive(file)
        if not pack:
            assert all(archive.payload(name) % 64 == 0 for name in archive.records if name.startswith("data/"))


def test_an_end_record_that_cannot_say_the_new_place_is_refused() -> None:
    end = struct.pack("<4sHHHHLLH", b"PK\x05\x06", 0, 0, 3, 3, 100, 1000, 0)
    assert struct.unpack_from("<HHLL", rewrite_zip._end_records(end, 2000, 90, 1), 8) == (2, 2, 90, 2000)
    with pytest.raises(CannotWrite, match="would grow past what its end record can say"):
        rewrite_zip._end_records(end, 0xFFFFFFFF, 90, 0)


def test_a_directory_that_is_none_is_refused() -> None:
    with pytest.raises(CannotWrite, match="malformed directory"):
        rewrite_zip._entries(b"PK\x01\x00" + bytes(60))


def test_deflated_bytes_are_those_that_zip_means() -> None:
    data = b"weights " * 100
    assert zlib.decompress(rewrite_zip._deflated(data), -15) == data
