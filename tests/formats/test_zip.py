"""The structures of a zip: parsed and built in one place, and bounded."""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from random import Random
from types import CodeType

import pytest

from convinspect.checking.scan import check
from convinspect.checkpoint import open_checkpoint
from convinspect.errors import BrokenFile, ConvInspectError, RefusedFile
from convinspect.formats.files import File
from convinspect.formats.zip import ends as zip_ends
from convinspect.formats.zip import structures
from convinspect.formats.zip.archive import Archive
from convinspect.formats.zip.ends import find_directory
from convinspect.formats.zip.layout import entries_of
from convinspect.formats.zip.limits import PIECE, Incomplete, inflated
from convinspect.formats.zip.structures import Memory
from support.hostile import beside_a_layer, named, pickled, tensor, text, zip_file, zip_of
from support.paths import ROOT

SIGNATURE = re.compile(r"PK([\x01-\x08]|\\x0|\\[1-8])")


def strings_in(value: object) -> Iterator[str]:
    """Every text and byte string among the constants of some code."""
    if isinstance(value, CodeType):
        value = value.co_consts
    if isinstance(value, (tuple, frozenset)):
        for one in value:
            yield from strings_in(one)
    elif isinstance(value, (str, bytes)):
        yield value.decode("latin-1") if isinstance(value, bytes) else value


def test_signatures_and_the_format_of_fields_stand_in_one_module() -> None:
    """A parser that decides what a hostile file holds must be one."""
    for path in sorted((ROOT / "convinspect").rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        # Of the code, which Python has compiled already; that takes a tenth of the time of a parse.
        strings = set(strings_in(SourceFileLoader(path.stem, str(path)).get_code(path.stem)))
        if path.name != "structures.py" or path.parent.name != "zip":
            assert "PK" not in strings, path
            assert not any(map(SIGNATURE.search, strings)), path
            assert not re.search(r"^(import|from) zipfile", source, re.MULTILINE), path


def archive_of(count: int, method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr("archive/data.pkl", beside_a_layer(tensor()))
        for number in range(count):
            archive.writestr(f"archive/extra/{number}", b"")
    return stream.getvalue()


def test_entries_and_headers_are_those_that_python_reads() -> None:
    content = archive_of(3, zipfile.ZIP_DEFLATED)
    source = Memory(content)
    ends = find_directory(source)
    assert ends is not None
    entries, wrong = entries_of(source, ends)
    assert wrong == ""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        infos = archive.infolist()
    assert [(one.name, one.crc, one.packed, one.size, one.offset, one.method) for one in entries] == [
        (one.filename, one.CRC, one.compress_size, one.file_size, one.header_offset, one.compress_type) for one in infos
    ]
    for entry in entries:
        local = structures.read_local(source, entry.offset)
        assert local is not None
        assert local.name == entry.raw_name
        assert structures.build_local(*local[1:]) == content[entry.offset : local.payload]


def test_a_directory_is_built_as_it_was_read() -> None:
    content = archive_of(3)
    ends = find_directory(Memory(content))
    assert ends is not None
    directory = content[ends.start : ends.start + ends.size]
    built = b"".join(structures.build_entry(*entry[:3], b"") for entry in structures.entries_in(directory))
    assert built == directory
    assert structures.build_end(structures.parse_end(content, ends.end)) == content[ends.end :]


def many_records(path: Path, count: int, numbered: bool = True) -> Path:
    """A sound archive whose directory has `count` more entries, all of them for one empty record.

    Args:
        path: Where it is written.
        count: How many.
        numbered: Whether each has a name of its own, which takes longer than to refuse them.
    """
    content = archive_of(1)
    ends = find_directory(Memory(content))
    assert ends is not None
    *_, entry = structures.entries_in(content[ends.start : ends.start + ends.size])
    prefix = structures.build_entry(entry.header, b"archive/extra/%07d" % 0, b"", b"")[:-7]
    entries = (
        b"".join([prefix + b"%07d" % number for number in range(count)]) if numbered else (prefix + b"0000000") * count
    )
    size = ends.size + len(entries)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0, 0, size, ends.start, 0)
    path.write_bytes(content[: ends.end] + entries + end)
    return path


def test_a_hundred_thousand_records_are_listed(tmp_path: Path) -> None:
    with File(many_records(tmp_path / "a.pt", 100_000)) as file:
        assert len(Archive(file).records) == 100_002


def test_a_directory_beyond_all_measure_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    path = many_records(tmp_path / "a.pt", 1 << 20, numbered=False)
    with pytest.raises(RefusedFile, match=r"more than 1,048,576 entries"):
        open_checkpoint(path)
    assert check(path).exit_code == 2


def test_a_directory_of_too_many_bytes_is_not_even_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = many_records(tmp_path / "a.pt", 100)
    monkeypatch.setattr(zip_ends, "LARGEST_DIRECTORY", 5_000)
    with File(path) as file, pytest.raises(RefusedFile, match=r"directory takes [\d,]+ bytes"):
        Archive(file)


@pytest.mark.parametrize("more", [0, 1, 200, 257, 300])
def test_a_piece_that_ends_within_a_repetition_is_not_lost(tmp_path: Path, more: int) -> None:
    """Deflate may have taken all packed bytes and still owe some of what they unpack to."""
    data = bytes(PIECE + more)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(data) + packer.flush()
    assert b"".join(inflated([packed], len(data) + 1)) == data
    assert b"".join(inflated(iter([packed[:20], packed[20:]]), len(data))) == data
    with pytest.raises(Incomplete):
        list(inflated([packed[:-20]], len(data)))


def test_packed_records_that_share_bytes_are_not_unpacked_one_by_one(tmp_path: Path) -> None:
    """Else a small file could ask for any number of large records."""
    content = archive_of(0, zipfile.ZIP_DEFLATED)
    ends = find_directory(Memory(content))
    assert ends is not None
    (entry,) = structures.entries_in(content[ends.start : ends.start + ends.size])
    second = structures.build_entry(entry.header, b"archive/code/a.py", b"", b"")
    end = structures.parse_end(content, ends.end)
    end = end._replace(entries_here=2, entries=2, size=end.size + len(second))
    path = tmp_path / "a.pt"
    path.write_bytes(content[: ends.end] + second + structures.build_end(end))
    with File(path) as file, pytest.raises(BrokenFile, match="shares bytes"):
        Archive(file).read("data.pkl")


def test_names_that_are_one_up_to_a_zero_byte_are_two_records_of_one_name(tmp_path: Path) -> None:
    path = zip_file(tmp_path, beside_a_layer(tensor()))
    # `zipfile` cuts names at a zero byte when it writes them.
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data.pkl#evil", pickled(named("os", "system")))
    path.write_bytes(path.read_bytes().replace(b"data.pkl#evil", b"data.pkl\0evil"))
    with pytest.raises(RefusedFile, match="two records"):
        open_checkpoint(path)


def test_a_method_that_pytorch_does_not_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    source = zip_of(tmp_path / "b.pt", {"data.pkl": beside_a_layer(text("x"))})
    with zipfile.ZipFile(source) as plain, zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as packed:
        for info in plain.infolist():
            packed.writestr(info.filename, plain.read(info))
    with pytest.raises(BrokenFile, match="compressed by method 12, which PyTorch cannot read"):
        open_checkpoint(path)


@pytest.mark.parametrize("seed", range(30))
def test_entries_read_together_are_those_that_python_reads(tmp_path: Path, seed: int) -> None:
    """Runs of names of one length, with folders, comments, extra fields, other letters and methods between them."""
    random = Random(seed)
    path = tmp_path / "m.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(random.choice((3, 12, 120))):
            info = zipfile.ZipInfo(f"a/data/{number + random.choice((0, 100, 1000)) * 100}")
            odd = random.random()
            if odd < 0.03:
                info.filename = f"a/dir{number:04}/"
            elif odd < 0.06:
                info.filename = f"a/é{number:05}"
            elif odd < 0.09:
                info.comment = b"PK and more"
            elif odd < 0.12:
                info.extra = b"\x42\x46\x02\x00ab"
            elif odd < 0.15:
                info.filename = f"a/\n{number:05}"
            elif odd < 0.18:
                info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, b"x" * random.choice((0, 5)))
    with zipfile.ZipFile(path) as archive:
        expected = {
            info.filename.removeprefix("a/"): (
                info.header_offset, info.compress_size, info.file_size, info.CRC, info.compress_type, info.flag_bits
            )
            for info in archive.infolist() if not info.is_dir()
        }  # fmt: skip
    assert {name: tuple(record) for name, record in Archive(File(path)).records.items()} == expected
    content = path.read_bytes()
    start = content.rindex(structures.END_SIGNATURE)
    broken = bytearray(content)
    broken[random.randrange(structures.parse_end(content, start).start, start)] ^= 1 << random.randrange(8)
    path.write_bytes(broken)
    assert _found(path) == _found(path, alone=True)


def _found(path: Path, alone: bool = False) -> object:
    """The records of an archive, or what is wrong with it."""
    with pytest.MonkeyPatch.context() as patched:
        if alone:
            patched.setattr("convinspect.formats.zip.archive.entries_alike", lambda *_: None)
        try:
            return [*Archive(File(path)).records.items()]
        except ConvInspectError as error:
            return str(error)
