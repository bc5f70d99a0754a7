"""`convert --in-place` without a copy: the bytes are those of a conversion to a new file, and nothing is ever lost.

`KILLS=400 pytest -n 0 tests/writing/test_in_place.py` kills before every call of the system and 400 times by the clock,
on every file system that may be mounted here; CI does some of it.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

import convinspect
from convinspect.errors import BrokenFile, CannotWrite, ChangedMeanwhile, NotThere
from convinspect.formats.journal import journal_of
from convinspect.writing.in_place import edit as in_place
from convinspect.writing.in_place import open_files, recover
from convinspect.writing.in_place.file_ranges import Shift, shift

if sys.platform != "linux":
    pytest.skip("files are edited in place as Linux has it", allow_module_level=True)

from support import in_process
from support.disks import memory_disk, mounted_disk
from support.faults import Program
from support.like_windows import VARIABLE, like_windows
from support.program import assert_one_line, run, without_wrote

pytestmark = pytest.mark.unlike_windows
KILLS = int(os.environ.get("KILLS", "16"))
KINDS = ("ext4", "xfs", "btrfs", "tmpfs")


class Case(NamedTuple):
    """What is edited.

    Attributes:
        name: A file or folder in `sources`.
        options: What it becomes.
        copied: The kinds of file systems on which it can only be copied.
    """

    name: str
    options: tuple[str, ...] = ("--to", "linear")
    copied: tuple[str, ...] = ()

    def arguments(self, folder: Path) -> tuple[str, ...]:
        """The command line."""
        return ("convert", str(folder / self.name), "--in-place", *self.options)


# Where the header outgrows its room, bytes must move, for which btrfs and tmpfs have no way.
GROWING = ("btrfs", "tmpfs")
CASES = {
    "a zip": Case("conv.pt"),
    "a zip that grows": Case("linear.pt", ("--to", "conv2d"), GROWING),
    "a zip that shrinks": Case("grown.pt", ("--to", "linear", "--from", "conv2d"), GROWING),
    "a safetensors": Case("conv.safetensors"),
    "a safetensors that grows": Case("linear.safetensors", ("--to", "conv2d"), GROWING),
    "a safetensors that shrinks": Case("grown.safetensors", ("--to", "linear", "--from", "conv2d"), GROWING),
    "numbers that move": Case("gpt.safetensors", ("--to", "linear", "--from", "transformers")),
    "a folder of shards": Case("shards"),
    "a folder with its optimizer": Case("trainer"),
    "a distributed checkpoint": Case("distributed"),
}
one_of_each = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())

# So many that a header of shapes grows beyond a block.
LAYERS = 260


def state(*more: int, layers: int = LAYERS) -> dict[str, torch.Tensor]:
    """Layers of some 300 kB in all, each with its bias."""
    weights = {f"layer{i}.weight": torch.randn(16, 16, *more) for i in range(layers)}
    return weights | {f"layer{i}.bias": torch.randn(16) for i in range(layers)}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of all cases."""
    folder = tmp_path_factory.mktemp("sources")
    torch.manual_seed(0)
    torch.save(state(1), folder / "conv.pt")
    save_file(state(1), folder / "conv.safetensors")
    linear = state()
    torch.save(linear, folder / "linear.pt")
    save_file(linear, folder / "linear.safetensors")
    for suffix in ("pt", "safetensors"):
        convinspect.convert(folder / f"linear.{suffix}", folder / f"grown.{suffix}", to="conv2d")
    gpt = {"h.0.attn.c_attn.weight": torch.randn(64, 192), "h.0.attn.c_attn.bias": torch.randn(192)}
    save_file({**gpt, "wte.weight": torch.randn(500, 64)}, folder / "gpt.safetensors")
    (folder / "shards").mkdir()
    where: dict[str, str] = {}
    for number in (1, 2, 3):
        part = {f"{number}.{key}": tensor for key, tensor in state(1, layers=30).items()}
        save_file(part, folder / "shards" / f"model-{number:05}-of-00003.safetensors")
        where |= dict.fromkeys(part, f"model-{number:05}-of-00003.safetensors")
    (folder / "shards/model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    trainer = folder / "trainer"
    trainer.mkdir()
    model = torch.nn.Sequential(torch.nn.Conv1d(96, 96, 1), torch.nn.ReLU(), torch.nn.Conv1d(96, 96, 1))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 96, 4)).sum().backward()
    optimizer.step()
    save_file(model.state_dict(), trainer / "model.safetensors")
    torch.save(optimizer.state_dict(), trainer / "optimizer.pt")
    save_distributed(state(1, layers=12), checkpoint_id=folder / "distributed", no_dist=True)
    return folder


@pytest.fixture
def there(sources: Path, tmp_path: Path) -> Path:
    """A folder of its own with all sources."""
    return shutil.copytree(sources, tmp_path / "there")


Bytes = dict[str, bytes]


def contents(path: Path) -> Bytes:
    """All files of a path, by their names below it."""
    if path.is_dir():
        return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}
    return {"": path.read_bytes()}


def inodes(path: Path) -> set[int]:
    """Those of all files of a path; a copy has another."""
    return {file.stat().st_ino for file in (path.rglob("*") if path.is_dir() else [path])}


@pytest.fixture(scope="module")
def results(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Case, Bytes]:
    """What each case becomes as a new file, which other tests prove right."""
    folder = tmp_path_factory.mktemp("results")
    made = {}
    for case in CASES.values():
        target = folder / case.name
        done = run("convert", sources / case.name, "-o", target, *case.options)
        assert done.returncode == 0, done.stderr
        made[case] = contents(target)
        (shutil.rmtree if target.is_dir() else os.remove)(target)
    return made


@pytest.fixture(scope="module", params=KINDS)
def disk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A file system of each kind, and its name."""
    folder = tmp_path_factory.mktemp("disks") / request.param
    folder.mkdir()
    make = (
        memory_disk(folder, "size=64m") if request.param == "tmpfs" else mounted_disk(folder, request.param, 320 << 20)
    )
    try:
        with make as place:
            yield request.param, place
    except PermissionError as error:
        pytest.skip(str(error))


# ------------------------------------------------------------------------------------------------- what is written


@one_of_each
def test_the_bytes_are_those_of_a_new_file(
    disk: tuple[str, Path], sources: Path, results: dict[Case, Bytes], case: Case
) -> None:
    """And no file is copied, but where bytes must move and the file system has no way, which is said."""
    kind, folder = disk
    copy = shutil.copytree if (sources / case.name).is_dir() else shutil.copy
    path = Path(copy(sources / case.name, folder / case.name))
    before, mode = inodes(path), path.stat().st_mode
    job = convinspect.convert(path, in_place=True, **arguments_of(case))
    assert contents(path) == results[case]
    assert path.stat().st_mode == mode
    copied = [note for note in job.notes if "whole new copy" in note]
    assert bool(copied) == (kind in case.copied)
    assert (inodes(path) == before) == (not copied)
    assert not list(folder.rglob(".*convinspect*"))
    (shutil.rmtree if path.is_dir() else os.remove)(path)


def arguments_of(case: Case) -> dict[str, Any]:
    """The options as Python takes them."""
    names = {"--to": "to", "--from": "from_"}
    return {names[flag]: value for flag, value in zip(case.options[::2], case.options[1::2], strict=True)}


@one_of_each
def test_a_copy_is_made_on_request(there: Path, results: dict[Case, Bytes], case: Case) -> None:
    path = there / case.name
    before = inodes(path)
    done = run(*case.arguments(there), "--copy")
    assert (done.returncode, without_wrote(done.stderr)) == (0, "")
    assert contents(path) == results[case]
    assert not inodes(path) & before


def test_a_copy_needs_something_to_replace(there: Path) -> None:
    done = run("convert", there / "conv.pt", "-o", there / "b.pt", "--to", "linear", "--copy")
    assert done.returncode == 2
    assert "--in-place" in done.stderr


def test_a_link_is_followed(there: Path, results: dict[Case, Bytes]) -> None:
    (there / "elsewhere").mkdir()
    link = there / "elsewhere/link.pt"
    link.symlink_to("../conv.pt")
    convinspect.convert(link, to="linear", in_place=True)
    assert link.is_symlink()
    assert contents(there / "conv.pt") == results[CASES["a zip"]]


def test_an_index_is_edited_with_its_shards(there: Path, results: dict[Case, Bytes]) -> None:
    convinspect.convert(there / "shards/model.safetensors.index.json", to="linear", in_place=True)
    assert contents(there / "shards") == results[CASES["a folder of shards"]]


def test_new_names_go_into_the_index_too(there: Path, tmp_path: Path) -> None:
    rules: dict[str, Any] = {"rename": "1.layer*=first.*", "to": "linear"}
    convinspect.convert(there / "shards", tmp_path / "new", **rules)
    convinspect.convert(there / "shards", in_place=True, **rules)
    assert contents(there / "shards") == contents(tmp_path / "new")


# ------------------------------------------------------------------------------------------ when it must be a copy


def reason(path: Path, **options: Any) -> str:
    """Why a file was copied."""
    notes = convinspect.convert(path, in_place=True, **(options or {"to": "linear"})).notes
    return "".join(note for note in notes if "whole new copy" in note)


def test_hard_links_keep_the_old_content(there: Path, results: dict[Case, Bytes]) -> None:
    other = there / "other.pt"
    os.link(there / "conv.pt", other)
    old = other.read_bytes()
    assert "hard links" in reason(there / "conv.pt")
    assert other.read_bytes() == old
    assert contents(there / "conv.pt") == results[CASES["a zip"]]


@pytest.mark.parametrize("mapped", [True, False])
def test_a_reader_keeps_the_old_content(there: Path, results: dict[Case, Bytes], mapped: bool) -> None:
    path = there / "conv.pt"
    old: Any = torch.load(path, mmap=True) if mapped else path.open("rb")
    assert "open" in reason(path)
    if mapped:
        assert old["layer0.weight"].shape == (16, 16, 1)
    assert contents(path) == results[CASES["a zip"]]
    del old


def test_without_leases_only_what_stays_is_edited(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some network file systems and on macOS: whether somebody reads is not known."""
    from convinspect.writing.in_place import leases

    monkeypatch.setattr(leases, "_take", lambda handle: None)
    assert not reason(there / "conv.pt")
    assert "not tell" in reason(there / "linear.pt", to="conv2d")


def test_a_file_that_may_not_be_written_to(there: Path, results: dict[Case, Bytes]) -> None:
    if not os.getuid():
        pytest.skip("root may write to every file")
    (there / "conv.pt").chmod(0o444)
    assert "may not be written" in reason(there / "conv.pt")
    assert contents(there / "conv.pt") == results[CASES["a zip"]]


def test_shards_that_are_links_are_copied(there: Path, results: dict[Case, Bytes]) -> None:
    """As a snapshot in a hub's cache: the same blob may belong to other revisions."""
    blob = there / "blob"
    shard = there / "shards/model-00002-of-00003.safetensors"
    shard.rename(blob)
    old = blob.read_bytes()
    shard.symlink_to(blob)
    assert "links" in reason(there / "shards")
    assert blob.read_bytes() == old
    assert contents(there / "shards") == results[CASES["a folder of shards"]]


def test_a_folder_that_is_copied_keeps_its_modes(there: Path) -> None:
    folder = there / "trainer"
    (folder / "notes").mkdir()
    (folder / "notes/key.txt").write_text("secret")
    modes = {"": 0o700, "model.safetensors": 0o600, "optimizer.pt": 0o640, "notes": 0o750, "notes/key.txt": 0o400}
    for name, mode in modes.items():
        (folder / name).chmod(mode)
    before = inodes(folder)
    convinspect.convert(folder, to="linear", in_place=True, copy=True)
    assert not inodes(folder) & before
    assert {name: (folder / name).stat().st_mode & 0o777 for name in modes} == modes


def test_the_folder_that_one_stands_in(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its path, a dot, has no name: it was reported as a dry run."""
    monkeypatch.chdir(there / "shards")
    done = run("convert", ".", "--in-place", "--to", "linear")
    assert done.stdout.startswith(". → .\n"), done


def test_a_copy_that_cannot_be_made_says_why_one_is_needed(there: Path) -> None:
    """A clone of a repository has a folder that no copy takes along."""
    (there / "shards/.git").mkdir()
    (there / "shards/.git/HEAD").write_text("")
    shard = there / "shards/model-00002-of-00003.safetensors"
    shard.rename(there / "blob")
    shard.symlink_to(there / "blob")
    done = run("convert", there / "shards", "--in-place", "--to", "linear")
    assert done.returncode == 2
    assert "must be copied (its files are links" in done.stderr
    assert "'.git/HEAD'" in done.stderr
    assert "a new folder with -o" in done.stderr


@pytest.mark.parametrize("missing", ["fcntl", "pwrite"])
def test_other_systems_copy(
    there: Path, monkeypatch: pytest.MonkeyPatch, missing: str, results: dict[Case, Bytes]
) -> None:
    if missing == "fcntl":
        monkeypatch.setitem(sys.modules, "fcntl", None)
    else:
        monkeypatch.delattr(os, "pwrite")
    assert reason(there / "conv.pt")
    assert contents(there / "conv.pt") == results[CASES["a zip"]]


def test_without_locks_it_copies_and_leaves_an_interrupted_edit_alone(
    there: Path, monkeypatch: pytest.MonkeyPatch, results: dict[Case, Bytes]
) -> None:
    """Of an edit on another system, as on a disk that both share: it is told, and neither read nor undone."""
    interrupted(there / "conv.pt", monkeypatch)
    left = contents(there)
    monkeypatch.setenv(VARIABLE, "1")
    assert_one_line(run("recover", there / "conv.pt"), "cannot lock", "the system that edited it")
    assert_one_line(run("recover", there / "linear.pt"), "nothing to recover")
    assert_one_line(run("shapes", there / "conv.pt"), "convinspect recover")
    assert_one_line(run("convert", there / "conv.pt", "--in-place", "--to", "linear"), "cannot lock")
    assert contents(there) == left
    with like_windows():
        for name in ("conv.safetensors", "shards"):
            assert "cannot lock" in reason(there / name)
    assert contents(there / "conv.safetensors") == results[CASES["a safetensors"]]
    assert contents(there / "shards") == results[CASES["a folder of shards"]]


# ------------------------------------------------------------------------------------------------- interruptions


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    started = Program()
    yield started
    started.close()


def interrupted(path: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Bytes:
    """Edit a file as if the power failed after the last byte was written, and return what it was."""
    old = contents(path)

    class PowerCut(BaseException):
        pass

    def cut(*_: object) -> None:
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(in_place, "_check_in_place", cut)
        patch.setattr(in_place, "_undo", cut)
        with pytest.raises(PowerCut):
            convinspect.convert(path, in_place=True, **(options or {"to": "linear"}))
    return old


READING = {
    "shapes": (),
    "weights": (),
    "check": (),
    "verify": (),
    "diff": ("OTHER",),
    "convert": ("-o", "NEW", "--to", "linear"),
    "compare": (),
}


@pytest.mark.parametrize("command", READING)
def test_no_command_reads_what_was_interrupted(there: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    path = there / "conv.pt"
    interrupted(path, monkeypatch)
    link = there / "link.pt"
    link.symlink_to(path)
    words = {"OTHER": str(there / "linear.pt"), "NEW": str(there / "new.pt")}
    for name in (path, link):
        done = in_process.run(command, name, *(words.get(word, word) for word in READING[command]))
        assert done.returncode == 2, done
        assert done.stderr.count("\n") == 1
        assert f"convinspect recover {name}" in done.stderr
    assert not (there / "new.pt").exists()


def test_it_is_no_target_either(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(there / "conv.pt", monkeypatch)
    done = run("convert", there / "linear.pt", "-o", there / "conv.pt", "--to", "conv1d", "--force")
    assert done.returncode == 2
    assert "convinspect recover" in done.stderr


@pytest.mark.parametrize(
    "name", ["shards", "shards/model.safetensors.index.json", "shards/model-00002-of-00003.safetensors"]
)
def test_all_of_an_interrupted_folder_is_refused(there: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    old = interrupted(there / "shards", monkeypatch)
    with pytest.raises(BrokenFile, match="convinspect recover"):
        convinspect.open(there / name)
    assert convinspect.check(there / name).exit_code == 2
    assert len(convinspect.recover(there / name).files) == 3
    assert contents(there / "shards") == old


@one_of_each
def test_recover_gives_the_old_bytes_back(there: Path, monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    path = there / case.name
    before = path.stat()
    old = interrupted(path, monkeypatch, **arguments_of(case))
    done = run("recover", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "as it was" in done.stdout
    assert contents(path) == old
    assert not list(there.rglob(".*convinspect*"))
    if path.is_file():
        assert path.stat().st_mtime_ns == before.st_mtime_ns
    with pytest.raises(NotThere, match="nothing to recover"):
        convinspect.recover(path)


def test_a_folder_with_a_file_to_recover_names_it(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(there / "shards/model-00002-of-00003.safetensors", monkeypatch)
    for folder, named in (("shards", True), ("trainer", False)):
        done = run("recover", there / folder)
        assert done.returncode == 2
        assert (f"give {there / 'shards/model-00002-of-00003.safetensors'}" in done.stderr) == named, done.stderr


def test_the_next_edit_recovers_by_itself(
    there: Path, monkeypatch: pytest.MonkeyPatch, results: dict[Case, Bytes]
) -> None:
    interrupted(there / "conv.pt", monkeypatch)
    done = run(*CASES["a zip"].arguments(there))
    assert done.returncode == 0, done.stderr
    assert contents(there / "conv.pt") == results[CASES["a zip"]]
    interrupted(there / "linear.pt", monkeypatch, to="conv1d")
    done = run("convert", there / "linear.pt", "--in-place", "--to", "conv1d", "--dry-run")
    assert done.returncode == 2
    assert "convinspect recover" in done.stderr


def spoil(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


OTHERS: dict[str, Callable[[Path], object]] = {
    "another file": lambda path: path.write_bytes(os.urandom(path.stat().st_size)),
    "a shorter one": lambda path: os.truncate(path, path.stat().st_size - 100_000),
    "a longer one": lambda path: path.open("ab").write(b"more" * 5000),
    "written to in its header": lambda path: spoil(path, 700, b"\xfe\xff\xfe"),
    "written to at its end": lambda path: spoil(path, path.stat().st_size - 40, b"\xfe\xff\xfe"),
    "saved again": lambda path: torch.save(state(1), path),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("name", ["conv.pt", "linear.pt"])
def test_a_journal_of_another_file_changes_nothing(
    there: Path, monkeypatch: pytest.MonkeyPatch, what: str, name: str
) -> None:
    path = there / name
    interrupted(path, monkeypatch, to="linear" if name == "conv.pt" else "conv2d")
    OTHERS[what](path)
    now = contents(path) if path.exists() else {}
    done = run("recover", path)
    assert done.returncode == 2, done
    assert done.stderr.count("\n") == 1
    assert (contents(path) if path.exists() else {}) == now
    assert journal_of(path).exists()


def test_a_file_that_was_moved_with_its_journal_is_restored(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a backup has it: other inodes, other places on the disk."""
    for name, to in (("conv.pt", "linear"), ("linear.pt", "conv2d")):
        old = interrupted(there / name, monkeypatch, to=to)
        shutil.copytree(there, there.parent / f"backup {name}")
        convinspect.recover(there.parent / f"backup {name}" / name)
        assert contents(there.parent / f"backup {name}" / name) == old
        convinspect.recover(there / name)


@pytest.mark.parametrize("damage", ["cut", "a byte", "empty", "another name", "a name outside"])
def test_a_damaged_or_hostile_journal_is_refused(there: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    from hashlib import sha256

    path = there / "shards" if "name" in damage else there / "conv.pt"
    interrupted(path, monkeypatch)
    journal = journal_of(path)
    data = journal.read_bytes()
    if damage == "cut":
        data = data[:-100]
    elif damage == "empty":
        data = b""
    elif damage == "a byte":
        data = data[:200] + bytes([data[200] ^ 1]) + data[201:]
    else:
        name = b"model-00002-of-00003.safetensors"
        other = b"../conv.safetensors".ljust(len(name), b"x") if "outside" in damage else b"x" * len(name)
        data = data[:-32].replace(name, other)
        data += sha256(data).digest()
    journal.write_bytes(data)
    now = contents(there)
    done = run("recover", path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done
    assert contents(there) == now


def test_what_is_being_edited_is_not_opened(there: Path) -> None:
    """The lease of an edit, before its journal is there."""
    from convinspect.writing.in_place.leases import leased

    handle = os.open(there / "conv.pt", os.O_RDWR)
    try:
        with leased(handle, there) as alone:
            if not alone:
                pytest.skip("this file system has no leases")
            done = run("shapes", there / "conv.pt")
    finally:
        os.close(handle)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done
    assert "as an edit in place does; wait until" in done.stderr


ENTRY: dict[str, Any] = {
    "name": "conv.pt", "size": 10, "new_size": 10, "shift": None, "old": [], "new": [], "samples": [], "modified": 0,
    "inode": 0, "extents": None,
}  # fmt: skip
IMPOSSIBLE: dict[str, tuple[dict[str, Any], ...]] = {
    "a name with NUL": ({"name": "conv.pt\0"},),
    "a name that cannot be": ({"name": "\ud800"},),
    "half a shift": ({"shift": [1]},),
    "an endless shift": ({"shift": [0, float("inf")]},),
    "a shift beyond all files": ({"shift": [0, 10**30]},),
    "a place beyond all files": ({"samples": [[2**63 - 1, 10, "x"]]},),
    "a file twice": ({}, {}),
}


@pytest.mark.parametrize("what", [*IMPOSSIBLE, "a pipe"])
def test_an_impossible_journal_is_refused(there: Path, what: str) -> None:
    """One that was made by hand, with a right checksum."""
    from hashlib import sha256

    journal = journal_of(there / "conv.pt")
    if what == "a pipe":
        os.mkfifo(journal)
    else:
        text = json.dumps({"files": [ENTRY | entry for entry in IMPOSSIBLE[what]]}).encode()
        data = b"convinspect undo 1\n" + len(text).to_bytes(8, "little") + text
        journal.write_bytes(data + sha256(data).digest())
    now = (there / "conv.pt").read_bytes()
    done = run("recover", there / "conv.pt")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done
    assert "damaged" in done.stderr
    assert (there / "conv.pt").read_bytes() == now


def test_times_before_1970(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.utime(there / "conv.pt", (-(10**9), -(10**9)))
    old = interrupted(there / "conv.pt", monkeypatch)
    convinspect.recover(there / "conv.pt")
    assert contents(there / "conv.pt") == old
    assert (there / "conv.pt").stat().st_mtime == -(10**9)
    assert not reason(there / "conv.pt")


def saved_over(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def saved_anew(path: Path, data: bytes) -> None:
    path.with_name("new").write_bytes(data)
    os.replace(path.with_name("new"), path)


@pytest.mark.parametrize("save", [saved_over, saved_anew])
def test_what_another_program_writes_meanwhile_stays(
    there: Path, monkeypatch: pytest.MonkeyPatch, save: Callable[[Path, bytes], None]
) -> None:
    """A training run that saves its next state, in the same file or as a new one, does not lose it."""
    path, later = there / "linear.pt", (there / "conv.pt").read_bytes()

    def meanwhile(*_: object) -> None:
        monkeypatch.undo()
        save(path, later)
        raise RuntimeError("what a check finds then")

    monkeypatch.setattr(in_place, "_check_in_place", meanwhile)
    with pytest.raises(ChangedMeanwhile):
        convinspect.convert(path, to="conv2d", in_place=True)
    assert path.read_bytes() == later
    assert not list(there.glob(".*convinspect*"))


def test_an_edit_that_has_just_ended_is_not_undone(
    there: Path, monkeypatch: pytest.MonkeyPatch, results: dict[Case, Bytes]
) -> None:
    """Its journal was there when `recover` looked, and its file unlocked when `recover` locked it."""
    path = there / "conv.pt"
    interrupted(path, monkeypatch)
    lock = recover.locked

    @contextmanager
    def ended(file: Path) -> Iterator[int]:
        with lock(file) as handle:
            journal_of(path).unlink(missing_ok=True)
            yield handle

    monkeypatch.setattr(recover, "locked", ended)
    with pytest.raises(CannotWrite, match="under way"):
        convinspect.recover(path)
    assert contents(path) == results[CASES["a zip"]]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_a_journal_tells_nobody_more(there: Path, monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    (there / "conv.pt").chmod(mode)
    interrupted(there / "conv.pt", monkeypatch)
    assert journal_of(there / "conv.pt").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("hard", [True, False])
def test_more_files_than_are_usually_open(
    request: pytest.FixtureRequest,
    there: Path,
    monkeypatch: pytest.MonkeyPatch,
    results: dict[Case, Bytes],
    hard: bool,
) -> None:
    """The limit is raised meanwhile, for the edit and for its undoing; where it cannot be, the folder is copied."""
    few_files_open(request)
    monkeypatch.setattr(open_files, "OTHERS", 510)
    if hard:
        monkeypatch.setattr(open_files, "raise_limit", refused)
    old, limit = contents(there / "shards"), resource.getrlimit(resource.RLIMIT_NOFILE)
    assert ("at once" in reason(there / "shards")) == hard
    assert contents(there / "shards") == results[CASES["a folder of shards"]]
    if not hard:
        convinspect.convert(there / "shards", layer="*", to="conv1d", in_place=True)
        assert interrupted(there / "shards", monkeypatch) == old
        convinspect.recover(there / "shards")
        assert contents(there / "shards") == old
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == limit


def few_files_open(request: pytest.FixtureRequest) -> None:
    """A limit of 512 open files until the test ends."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
    request.addfinalizer(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, before))


def refused(*_: object) -> bool:
    return False


def test_two_edits_at_once(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one does not touch it; nor does recover undo an edit that is under way."""
    path = there / "conv.pt"
    said: list[str] = []
    write = recover.write_at

    def meanwhile(*arguments: object) -> None:
        if not said:
            for words in (CASES["a zip"].arguments(there), ("recover", str(path))):
                done = run(*words)
                said.append(done.stderr)
                assert done.returncode == 2
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(in_place, "write_at", meanwhile)
    convinspect.convert(path, to="linear", in_place=True)
    assert all("under way" in line for line in said), said
    assert convinspect.open(path)["layer0.weight"].shape == (16, 16)


@pytest.mark.parametrize("name", ["conv.pt", "linear.pt"])
@pytest.mark.parametrize("signal", [15, 2])
def test_asked_to_end_it_gives_the_old_bytes_back(program: Program, there: Path, name: str, signal: int) -> None:
    path = there / name
    old = contents(path)
    faults = (("before", "convinspect.writing.in_place.edit.write_at", 1, "end", "", str(signal)),)
    to = "linear" if name == "conv.pt" else "conv2d"
    done = program.run("convert", path, "--in-place", "--to", to, faults=faults)
    assert done.code == 128 + signal
    assert contents(path) == old
    assert not list(there.glob(".*convinspect*"))


@pytest.mark.parametrize("call", ["pwrite", "fsync", "mkdir", "ftruncate", "unlink", "replace"])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_disk_that_refuses(program: Program, there: Path, results: dict[Case, Bytes], call: str, after: int) -> None:
    """From some call on for good: the old bytes, the new ones, or a journal that gives the old ones back."""
    case = CASES["a zip that grows"]
    path = there / case.name
    old = contents(path)
    done = program.run(*case.arguments(there), faults=(("refuse", call, "EIO", after),))
    assert done.code in (0, 2), done
    assert done.code == 0 or done.stderr.count("\n") == 1, done.stderr
    if journal_of(path).exists():
        with pytest.raises(BrokenFile, match="recover"):
            convinspect.open(path)
        convinspect.recover(path)
        assert contents(path) == old
    else:
        assert contents(path) == (results[case] if done.code == 0 else old)


def test_a_disk_without_room_for_the_journal(there: Path, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    try:
        with memory_disk(folder, "size=640k"):
            path = Path(shutil.copy(there / "conv.pt", folder))
            old = contents(path)
            (folder / "full").write_bytes(b"\0" * (640 * 1024 - path.stat().st_size // 4096 * 4096 - 16384))
            with pytest.raises(CannotWrite, match="No space left"):
                convinspect.convert(path, to="linear", in_place=True)
            assert contents(path) == old
            assert sorted(entry.name for entry in folder.iterdir()) == ["conv.pt", "full"]
    except PermissionError as error:
        pytest.skip(str(error))


# ------------------------------------------------------------------------------------------------------ kills


def assert_survived(path: Path, old: Bytes, new: Bytes) -> str:
    """After a kill: the old file, the new one, or one with a journal, which gives the old one back."""
    own = journal_of(path)
    # The journal is written beside its place, which for a folder is within it.
    partial = list((path if path.is_dir() else path.parent).glob(".*.partial"))
    assert len(partial) <= 1
    for one in partial:
        shutil.rmtree(one)
    if own.exists():
        with pytest.raises(BrokenFile, match="recover"):
            convinspect.open(path)
        convinspect.recover(path)
        assert contents(path) == old
        return "journal"
    found = {name: data for name, data in contents(path).items() if ".partial" not in name}
    assert found in (old, new)
    return "old" if found == old else "new"


@one_of_each
def test_killed_before_every_step(
    program: Program, disk: tuple[str, Path], sources: Path, results: dict[Case, Bytes], case: Case
) -> None:
    """Old, then with a journal, then new; and while the journal is undone it may be killed, too."""
    kind, folder = disk
    if KILLS < 100 and kind in ("xfs", "btrfs") and case.name not in ("linear.pt", "shards"):
        pytest.skip("with KILLS=400")
    if kind in case.copied:
        pytest.skip("a copy is made, whose kills another module tests")
    path = placed(sources, folder, case)
    old = contents(path)
    steps = program.run(*case.arguments(folder), faults=(("kill at step", -1),)).steps
    assert contents(path) == results[case]
    chosen = range(steps) if KILLS >= 100 else sorted({0, steps - 1, *random.Random(case.name).sample(range(steps), 3)})
    came = []
    for step in chosen:
        path = placed(sources, folder, case)
        done = program.run(*case.arguments(folder), faults=(("kill at step", step),))
        assert done.code == -9
        journal = journal_of(path).exists()
        if journal:
            _kill_its_recovery(program, path, random.Random(step))
        survived = assert_survived(path, old, results[case])
        assert not journal or survived != "new"
        came.append("journal" if journal else survived)
    order = ["old", "journal", "new"]
    print(f"{kind}, {case.name}: {steps} calls")
    assert came == sorted(came, key=order.index)
    assert came[0] == "old"
    assert KILLS < 100 or set(came) == set(order)


def placed(sources: Path, folder: Path, case: Case) -> Path:
    """The case's source anew in a folder."""
    for entry in folder.iterdir():
        if entry.name != "lost+found":
            (shutil.rmtree if entry.is_dir() else os.remove)(entry)
    copy = shutil.copytree if (sources / case.name).is_dir() else shutil.copy
    return Path(copy(sources / case.name, folder / case.name))


def _kill_its_recovery(program: Program, path: Path, chance: random.Random) -> None:
    """Kill `recover` somewhere, or let it end."""
    done = program.run("recover", path, faults=(("kill at step", chance.randrange(24)),))
    assert done.code in (-9, 0), done


@one_of_each
def test_killed_by_the_clock(
    program: Program, disk: tuple[str, Path], sources: Path, results: dict[Case, Bytes], case: Case
) -> None:
    kind, folder = disk
    if KILLS < 100 and (kind != "ext4" or case.name not in ("linear.pt", "conv.safetensors")):
        pytest.skip("with KILLS=400")
    path = placed(sources, folder, case)
    old = contents(path)
    writing = program.run(*case.arguments(folder)).writing
    chance = random.Random(case.name + kind)
    came: Counter[str] = Counter()
    for _ in range(-(-KILLS // len(CASES))):
        path = placed(sources, folder, case)
        done = program.run(*case.arguments(folder), kill_after=chance.uniform(0, 2 * writing))
        assert done.code in (-9, 0), done
        came[assert_survived(path, old, results[case])] += 1
    print(f"{kind}, {case.name}: {dict(came)}")


# ----------------------------------------------------------------------------------------- shifts that stop half way


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("growing", [True, False], ids=["grows", "shrinks"])
def test_a_shift_that_a_power_cut_stopped(
    disk: tuple[str, Path], sources: Path, monkeypatch: pytest.MonkeyPatch, growing: bool, share: float
) -> None:
    """The kernel moves the extents of a file one after another, and a journal of its own keeps each step.

    Making room, it moves the last one first. So what it leaves half way is room at a later place. Taking room, it moves
    the first ones first. So room is left at a later place, which is made here by taking it and making it there.
    """
    kind, folder = disk
    if kind in GROWING:
        pytest.skip("nothing is shifted there")
    case = CASES["a zip that grows" if growing else "a zip that shrinks"]
    path = placed(sources, folder, case)
    old = contents(path)

    class PowerCut(BaseException):
        pass

    def cut(*_: object) -> None:
        raise PowerCut

    def cut_short(handle: int, change: Shift) -> None:
        last = (change.first + int((path.stat().st_size - change.first) * share)) // 4096 * 4096
        if growing:
            shift(handle, Shift(last, change.by))
        else:
            shift(handle, change)
            shift(handle, Shift(last + change.by, -change.by))
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(in_place, "shift", cut_short)
        # Whatever is done after a power cut.
        patch.setattr(in_place, "_undo", cut)
        with pytest.raises(PowerCut):
            convinspect.convert(path, in_place=True, **arguments_of(case))
    convinspect.recover(path)
    assert contents(path) == old
