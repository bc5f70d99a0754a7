"""New files share their source's blocks where the file system can, and are copies of the same bytes where it cannot."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from convinspect.errors import CannotWrite
from convinspect.writing import clones
from convinspect.writing.clones import shares_blocks, whole_blocks
from convinspect.writing.pieces import BLOCK, Made, Piece, Range, copy_whole, to_be_written, write_pieces
from support.conversions import converted

if sys.platform != "linux":
    pytest.skip("these file systems are Linux's", allow_module_level=True)

from support.disks import memory_disk, mounted_disk, overlaid, shared_bytes

pytestmark = pytest.mark.unlike_windows
MB = 1 << 20


@pytest.fixture(scope="module", params=["xfs", "btrfs"])
def sharing(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system that shares blocks."""
    try:
        with mounted_disk(tmp_path_factory.mktemp("disk"), request.param, 320 * MB) as place:
            yield place
    except PermissionError as error:
        pytest.skip(str(error))


@pytest.fixture
def there(sharing: Path) -> Iterator[Path]:
    """An empty folder of it."""
    folder = sharing / "there"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(params=["ext4", "tmpfs", "overlay"])
def copying(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system that shares none."""
    folder = tmp_path / "other"
    folder.mkdir()
    try:
        if request.param == "ext4":
            with mounted_disk(folder, "ext4", 32 * MB) as place:
                yield place
        else:
            with memory_disk(folder, "size=16m"):
                if request.param == "tmpfs":
                    yield folder
                else:
                    with overlaid(folder) as place:
                        yield place
    except PermissionError as error:
        pytest.skip(str(error))


def random_file(path: Path, nbytes: int) -> Path:
    path.write_bytes(os.urandom(nbytes))
    return path


def model(path: Path, floats: int) -> dict[str, torch.Tensor]:
    weights = {"conv.weight": torch.randn(4, 6, 1), "big": torch.randn(floats)}
    (save_file if path.suffix == ".safetensors" else torch.save)(weights, path)
    return weights


def load(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path)


def free(folder: Path) -> int:
    os.sync()
    return shutil.disk_usage(folder).free


# ------------------------------------------------------------------------------------------------- where it works


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_converted_file_shares_its_numbers_with_the_source(there: Path, suffix: str) -> None:
    source, target, back = (there / f"{name}{suffix}" for name in "abc")
    weights = model(source, 2 * MB)
    before = free(there)
    converted(source, target, names=["conv"])
    assert before - free(there) < MB
    assert shared_bytes(target) > weights["big"].nbytes - 2 * BLOCK
    new = load(target)
    assert torch.equal(new["big"], weights["big"])
    assert torch.equal(new["conv.weight"], weights["conv.weight"][..., 0])
    converted(target, back, "Conv1d", names=["conv"])
    assert back.read_bytes() == source.read_bytes()
    assert shared_bytes(back) > weights["big"].nbytes - 2 * BLOCK


@pytest.mark.parametrize(
    ("start", "end", "head", "shared"),
    [
        (0, 40 * BLOCK, 0, 40 * BLOCK),
        (0, 40 * BLOCK + 1, 0, 40 * BLOCK),
        (1, 40 * BLOCK - 1, 1, 38 * BLOCK),
        (BLOCK + 7, 9 * BLOCK, 7, 7 * BLOCK),
        (3 * BLOCK + 7, 9 * BLOCK, 2 * BLOCK + 7, 5 * BLOCK),
        (7, 40 * BLOCK, 8, 0),
        (5, 90, 5, 0),
        (BLOCK - 1, 2 * BLOCK - 1, BLOCK - 1, 0),
    ],
)
def test_whole_blocks_alone_are_shared_and_the_ends_copied(
    there: Path, start: int, end: int, head: int, shared: int
) -> None:
    source, target = random_file(there / "a", 40 * BLOCK + 100), there / "b"
    data = source.read_bytes()
    pieces: list[Piece] = [b"h" * head, Range(start, end), Made(3, lambda: (b"end",)), Range(0, 50)]
    told: list[int] = []
    os.sync()
    write_pieces(source, pieces, target, told.append)
    assert target.read_bytes() == b"h" * head + data[start:end] + b"end" + data[:50]
    assert sum(told) == end - start + 3 + 50
    assert shared_bytes(target) == shared
    assert to_be_written(source, there, pieces) == target.stat().st_size - shared


def test_a_folder_shares_its_blocks_whatever_is_in_it(there: Path) -> None:
    source, target = there / "a", there / "b"
    source.mkdir()
    weights = model(source / "model.safetensors", MB)
    random_file(source / "other.dat", MB)
    before = free(there)
    converted(source, target, names=["conv"])
    assert before - free(there) < MB
    assert shared_bytes(target / "other.dat") == MB
    assert torch.equal(load(target / "model.safetensors")["big"], weights["big"])


def test_what_shares_blocks_is_asked_with_the_very_files(there: Path, tmp_path: Path) -> None:
    source = random_file(there / "a", BLOCK)
    (there / "in it").mkdir()
    assert shares_blocks(source, there)
    assert shares_blocks(source, there / "in it")
    assert not shares_blocks(source, tmp_path)
    assert not shares_blocks(random_file(tmp_path / "b", BLOCK), there)
    assert not shares_blocks(random_file(there / "less than a block", BLOCK - 1), there)
    assert not shares_blocks(there / "gone", there)
    assert not shares_blocks(source, there / "gone")
    assert sorted(os.listdir(there)) == ["a", "in it", "less than a block"]


# ------------------------------------------------------------------------------------------------- room


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_larger_than_the_room_left_is_converted(there: Path, suffix: str) -> None:
    source, target = there / f"a{suffix}", there / f"b{suffix}"
    weights = model(source, 8 * MB)
    fill(there, 16 * MB)
    assert free(there) < source.stat().st_size
    converted(source, target, names=["conv"])
    assert torch.equal(load(target)["big"], weights["big"])


def test_a_folder_larger_than_the_room_left_is_converted(there: Path) -> None:
    source, target = there / "a", there / "b"
    source.mkdir()
    model(source / "model.safetensors", 5 * MB)
    random_file(source / "other.dat", 16 * MB)
    fill(there, 16 * MB)
    assert free(there) < 36 * MB
    converted(source, target, names=["conv"])
    assert (target / "other.dat").stat().st_size == 16 * MB


def test_a_file_for_which_blocks_must_be_written_needs_the_room(there: Path) -> None:
    """Other numbers than the source's, or another place in the block."""
    source = random_file(there / "a", 8 * MB)
    room = free(there)
    made = Made(room, lambda: ())
    assert to_be_written(source, there, [made, Range(0, MB)]) == room + (MB if room % BLOCK else 0)
    assert to_be_written(source, there, [b"1", Range(0, MB)]) == MB + 1


def fill(folder: Path, left: int) -> None:
    """Take up all room but some."""
    with open(folder / "filling", "wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free(folder) - left))


def test_room_that_runs_out_while_blocks_are_shared(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system may refuse, though it was asked: another writer, a quota, its own structures."""
    source, target = there / "a.safetensors", there / "b.safetensors"
    model(source, 8 * MB)
    fill(there, 10 * MB)
    original, calls = clones.clone, [0]

    def without_room(*arguments: int) -> bool:
        calls[0] += 1
        return calls[0] == 1 and original(*arguments)

    monkeypatch.setattr("convinspect.writing.pieces._AT_ONCE", MB)
    monkeypatch.setattr("convinspect.writing.pieces.clone", without_room)
    monkeypatch.setattr("convinspect.writing.clones.clone", lambda *_: True)
    if hasattr(os, "copy_file_range"):
        monkeypatch.setattr(os, "copy_file_range", refuse)
    before = sorted(os.listdir(there))
    with pytest.raises(CannotWrite, match=r"No space left on device\); make room on the disk, or write elsewhere"):
        converted(source, target, names=["conv"])
    assert sorted(os.listdir(there)) == before


def refuse(*_: object) -> int:
    raise OSError(errno.EOPNOTSUPP, "Operation not supported")


# ------------------------------------------------------------------------------------------------- where it does not


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_other_file_systems_copy(copying: Path, suffix: str) -> None:
    source, target = copying / f"a{suffix}", copying / f"b{suffix}"
    weights = model(source, MB)
    assert not shares_blocks(source, copying)
    converted(source, target, names=["conv"])
    assert torch.equal(load(target)["big"], weights["big"])


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ETXTBSY])
@pytest.mark.parametrize("calls", [0, 1])
def test_a_refused_clone_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, calls: int) -> None:
    """At once or later, as of files with other attributes."""
    left = [calls]

    def ioctl(writer: int, request: int, argument: bytes) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(number, os.strerror(number))
        reader, start, size, to = clones.CLONE.unpack(argument)
        os.pwrite(writer, os.pread(reader, size, start), to)
        return 0

    monkeypatch.setattr("fcntl.ioctl", ioctl)
    monkeypatch.setattr("convinspect.writing.pieces._AT_ONCE", 2 * BLOCK)
    source = random_file(tmp_path / "a", 9 * BLOCK + 5)
    copy_whole(source, tmp_path / "b", lambda _: None)
    assert (tmp_path / "b").read_bytes() == source.read_bytes()


def test_a_system_without_clones_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    source = random_file(tmp_path / "a", 9 * BLOCK)
    assert not shares_blocks(source, tmp_path)
    copy_whole(source, tmp_path / "b", lambda _: None)
    assert (tmp_path / "b").read_bytes() == source.read_bytes()


def test_whole_blocks_of_a_range() -> None:
    assert whole_blocks(0, 10, 0, 4) == (0, 8)
    assert whole_blocks(3, 12, 7, 4) == (4, 12)
    assert whole_blocks(3, 12, 8, 4) == (12, 12)
    assert whole_blocks(5, 7, 1, 4) == (7, 7)
    assert whole_blocks(0, 10, 0, 0) == (10, 10)
