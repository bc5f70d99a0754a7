"""Tar archives, against the standard library's reader and GNU tar."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convinspect.errors import ConvInspectError, RefusedFile
from convinspect.formats.containers import tar
from convinspect.formats.containers.member import Inside
from convinspect.formats.files import File
from convinspect.formats.sources import InMemory
from support.sampling import times

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
NAMES = st.lists(
    st.text(
        st.characters(min_codepoint=33, exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=90
    ).filter(lambda name: name not in (".", "..")),
    min_size=1,
    max_size=3,
).map("/".join)  # fmt: skip


def listed(data: bytes) -> Inside:
    return tar.members_of(File.over(Path("x.tar"), InMemory(data, (0,))))


def made(files: dict[str, bytes], form: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def of_library(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        inside = [(info.name, archive.extractfile(info)) for info in archive if info.isreg()]
        return {tar.clean(name): file.read() for name, file in inside if file is not None}


@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=times(30, 60), deadline=None)
@given(files=st.dictionaries(NAMES, st.binary(max_size=1500), max_size=5))
def test_members_are_those_of_the_standard_library(form: int, files: dict[str, bytes]) -> None:
    try:
        data = made(files, form)
    except (ValueError, UnicodeError):
        return  # ustar has no room for such a name
    found = listed(data)
    assert not found.problem
    bytes_of = {name: data[one.start : one.start + one.size] for name, one in found.members.items()}
    assert bytes_of == of_library(data)


def test_gnu_tar(tmp_path: Path) -> None:
    long = "d" * 120 + "/" + "e" * 120
    (tmp_path / long).parent.mkdir()
    for name in ("a", "ü", long):
        (tmp_path / name).write_bytes(name.encode() * 700)
    (tmp_path / "link").symlink_to("a")
    for form in ("gnu", "posix", "ustar", "oldgnu", "v7"):
        names = ["a", "ü", "link"] if form in ("ustar", "v7") else ["a", "ü", "link", long]
        subprocess.run(["tar", f"--format={form}", "-cf", "x.tar", *names], cwd=tmp_path, check=True)
        data = (tmp_path / "x.tar").read_bytes()
        members = listed(data).members
        assert list(members) == names
        assert members["link"].unreadable == "it is a link"
        for name in ("a", "ü"):
            assert data[members[name].start :][: members[name].size] == name.encode() * 700


def test_files_with_holes_are_named_and_left(tmp_path: Path) -> None:
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(1 << 22)
        file.seek(1 << 21)
        file.write(b"x" * 4096)
    (tmp_path / "after").write_bytes(b"after")
    for form in ("gnu", "posix"):
        subprocess.run(["tar", f"--format={form}", "-Scf", "x.tar", "holes", "after"], cwd=tmp_path, check=True)
        data = (tmp_path / "x.tar").read_bytes()
        assert len(data) < 1 << 20
        members = listed(data).members
        assert [name for name, one in members.items() if one.unreadable] == ["holes"]
        assert data[members["after"].start :][: members["after"].size] == b"after"


def test_the_last_of_two_members_of_one_name_counts_as_when_unpacked() -> None:
    once, twice = made({"a": b"old"}, tarfile.GNU_FORMAT), made({"a": b"newer"}, tarfile.GNU_FORMAT)
    data = once[:1024] + twice
    (member,) = listed(data).members.values()
    assert data[member.start : member.start + member.size] == b"newer" == of_library(data)["a"]
    assert (listed(data).repeated, listed(once).repeated) == (("a",), ())


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("target", ["a", "./a", "d/" * 40 + "file", "missing", "later", "new"])
def test_hard_links_are_what_the_library_reads(form: int, target: str) -> None:
    stored = {"a": b"first" * 300, "d/" * 40 + "file": b"deep", "later": b"later", "new": b"old"}
    before = made({name: stored[name] for name in stored if name != "later"}, form).rstrip(b"\0")
    before += bytes(-len(before) % 512)
    link = tarfile.TarInfo("link")
    link.type, link.linkname, link.size = tarfile.LNKTYPE, target, 700  # some writers repeat the file's size
    after = made({"later": b"later", "new": b"newer"}, form)
    data = before + link.tobuf(form) + after  # type: ignore[arg-type]
    found = listed(data)
    assert found.repeated == ("new",)
    assert list(found.members)[-2:] == ["later", "new"]
    member = found.members["link"]
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        try:
            file = archive.extractfile("link")
        except KeyError:
            file = None
        assert (file is None) == bool(member.unreadable) == (target in ("missing", "later"))
        assert file is None or file.read() == data[member.start : member.start + member.size]


def test_a_size_of_many_digits_or_bits() -> None:
    head = made({"a": b""}, tarfile.GNU_FORMAT)[:512]
    large = tarfile.TarInfo("a")
    large.size = 1 << 40
    wide = large.tobuf(tarfile.GNU_FORMAT)[:512]
    assert listed(wide).members["a"].size == 1 << 40
    assert listed(head).members["a"].size == 0
    data = made({"a": b"x" * 700}, tarfile.GNU_FORMAT)
    changed = tar.header_with_size(data[:512], 123)
    assert changed is not None
    assert tarfile.TarInfo.frombuf(changed, "utf-8", "strict").size == 123
    assert tar.header_with_size(changed, 700) == data[:512]
    assert tar.header_with_size(wide, 5) is None
    assert tar.header_with_size(data[:512], 1 << 40) is None


@pytest.mark.parametrize("size", [1 << 21, 1 << 62])
def test_a_header_of_any_size_is_not_read_into_memory(size: int) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, size
    with pytest.raises(RefusedFile, match="claims"):
        listed(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 12))


def test_more_members_than_models_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar, "MOST_MEMBERS", 10)
    assert len(listed(made({f"{n}": b"" for n in range(10)}, tarfile.GNU_FORMAT)).members) == 10
    with pytest.raises(RefusedFile, match="more than 10 members"):
        listed(made({f"{n}": b"" for n in range(11)}, tarfile.GNU_FORMAT))


def test_a_damaged_header_ends_the_list_and_is_said() -> None:
    data = bytearray(made({"a": b"x" * 600, "b": b"y"}, tarfile.GNU_FORMAT))
    data[1536 + 10] ^= 1
    found = listed(bytes(data))
    assert list(found.members) == ["a"]
    assert "byte 1,536" in found.problem


def test_any_bytes_end_as_a_list_or_an_error() -> None:
    random = Random(20261129)
    whole = made({"weights.ckpt": b"w" * 3000, "d" * 130: b"", "config": b"c"}, tarfile.PAX_FORMAT)
    for _ in range(4000):
        data = bytearray(whole)
        for _ in range(random.randint(1, 6)):
            at = (
                random.randrange(len(data))
                if random.random() < 0.3
                else random.choice((0, 1024, 4608)) + random.randrange(512)
            )
            data[at % len(data)] = random.choice((0, 0x80, 0xFF, random.randrange(256), ord("7"), ord("S")))
        if random.random() < 0.7:
            # With its checksum right, so that the other fields are looked at.
            for at in range(0, len(data) - 511, 512):
                head = data[at : at + 512]
                if head[257:262] == b"ustar":
                    total = sum(head[:148]) + 256 + sum(head[156:])
                    data[at + 148 : at + 156] = f"{total:06o}\0 ".encode()
        try:
            found = listed(bytes(data))
        except ConvInspectError:
            continue
        assert all(one.start >= 512 and one.size >= 0 for one in found.members.values() if not one.unreadable)
