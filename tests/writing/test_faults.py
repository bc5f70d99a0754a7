"""`convert` under faults: killed at any moment, full and read-only disks, sources that change or cannot be read.

Every fault ends with one clear line and exit code 2; nothing is lost and nothing is left. Only a killed run (SIGKILL)
may leave its temporary folder. `KILLS=200 pytest -n 0 tests/writing/test_faults.py -k killed` kills more often than CI
does.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from support.conversions import load

if sys.platform != "linux":
    pytest.skip("these faults are made as Linux has them", allow_module_level=True)

from support.disks import memory_disk
from support.faults import NOBODY, Ended, Programs, Run
from support.in_process import run
from support.sampling import some

pytestmark = pytest.mark.unlike_windows
KILLS = int(os.environ.get("KILLS", "24"))
WAS = b"as it was"


@pytest.fixture(scope="module")
def program() -> Iterator[Programs]:
    started = Programs()
    yield started
    started.close()


@dataclass(frozen=True, slots=True)
class Case:
    """A way of writing.

    Attributes:
        source: Its name in `sources`.
        target: The name of what is written; the source's own for `--in-place`.
        options: What else is on the command line.
    """

    source: str
    target: str
    options: tuple[str, ...] = ("--to", "linear")

    @property
    def in_place(self) -> bool:
        """The source is replaced."""
        return self.source == self.target

    def arguments(self, folder: Path) -> tuple[str, ...]:
        """The command line, for a source and a target in `folder`."""
        source = str(folder / self.source)
        if self.in_place:
            return ("convert", source, "--in-place", *self.options)
        force = () if self.target == "out" else ("--force",)
        return ("convert", source, "-o", str(folder / self.target), *force, *self.options)


CASES = {
    "header of a zip": Case("zip.pt", "b.pt"),
    "header of an old file": Case("legacy.pt", "b.pt"),
    "header of a safetensors": Case("one.safetensors", "b.safetensors"),
    "numbers turned over": Case("gpt.safetensors", "b.safetensors", ("--to", "linear", "--from", "transformers")),
    "anew by PyTorch": Case("one.safetensors", "b.pt"),
    "anew by safetensors": Case("zip.pt", "b.safetensors"),
    "a folder of shards": Case("shards", "out"),
    "in place, by a copy": Case("zip.pt", "zip.pt", ("--copy", "--to", "linear")),
}
ANEW = ("anew by PyTorch", "anew by safetensors")
one_of_each = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
with_a_target = pytest.mark.parametrize("case", list(CASES.values())[:-1], ids=list(CASES)[:-1])


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of all cases; some 400 kB each."""
    folder = tmp_path_factory.mktemp("sources")
    torch.manual_seed(0)
    convs = {f"c{i}.weight": torch.randn(100, 150 + i, 1) for i in range(6)} | {"n.bias": torch.randn(7)}
    torch.save(convs, folder / "zip.pt")
    torch.save(convs, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    save_file(convs, folder / "one.safetensors")
    gpt = {"h.0.attn.c_attn.weight": torch.randn(200, 600), "h.0.attn.c_attn.bias": torch.randn(600)}
    save_file(gpt, folder / "gpt.safetensors")
    shards = folder / "shards"
    shards.mkdir()
    _shards(shards, [{key: value} for key, value in convs.items()])
    return folder


def _shards(folder: Path, parts: list[dict[str, torch.Tensor]]) -> None:
    """A sharded checkpoint, with its index."""
    where: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        name = f"model-{number:05}-of-{len(parts):05}.safetensors"
        save_file(part, folder / name)
        where |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


@pytest.fixture
def there(sources: Path, tmp_path: Path) -> Path:
    """A folder of its own with all sources."""
    return shutil.copytree(sources, tmp_path / "there")


Bytes = dict[str, bytes]


def contents(path: Path) -> Bytes | None:
    """All files of a path, by their names below it; None when it is not there."""
    if path.is_dir():
        return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}
    return {"": path.read_bytes()} if path.exists() else None


@pytest.fixture(scope="module")
def results(program: Programs, sources: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Case, Bytes]:
    """What an undisturbed run of each case makes."""
    made = {}
    for number, case in enumerate(CASES.values()):
        folder = shutil.copytree(sources, tmp_path_factory.mktemp("results") / str(number))
        done = program.run(*case.arguments(folder))
        assert done.code == 0, done.stderr
        found = contents(folder / case.target)
        assert found is not None
        made[case] = found
    return made


def assert_one_line(done: Ended, *words: str) -> None:
    """Exit code 2 and one line that holds `words`."""
    assert done.code == 2, (done.code, done.stderr)
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ")
    for word in words:
        assert word in done.stderr, done.stderr


class Watched:
    """A folder with one case's source and target, and what must hold of it after a fault."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.case = case
        self.source, self.target = folder / case.source, folder / case.target
        self.folder = folder
        if case.target != "out" and not case.in_place:
            self.target.write_bytes(WAS)
        self.names = sorted(entry.name for entry in folder.iterdir())
        self.before = contents(self.source)
        self.old = contents(self.target)

    def assert_nothing_happened(self) -> None:
        """The target is absent or as it was, the source is whole, and there is nothing else."""
        assert contents(self.target) == self.old
        self.assert_source_whole()
        assert sorted(entry.name for entry in self.folder.iterdir()) == self.names

    def assert_source_whole(self) -> None:
        """The source is as it was."""
        if not self.case.in_place:
            assert contents(self.source) == self.before

    def left(self) -> list[str]:
        """What a run left beside the target."""
        return sorted({entry.name for entry in self.folder.iterdir()} - {*self.names, self.case.target})

    def assert_survived(self, result: Bytes) -> bool:
        """After a kill: the old target or the whole new one, which is told; at most one temporary folder."""
        found = contents(self.target)
        assert found in (self.old, result)
        self.assert_source_whole()
        left = self.left()
        assert len(left) <= 1
        assert all(name.startswith(f".{self.case.target}.") and name.endswith(".partial") for name in left)
        return found == result

    def restored(self) -> None:
        """As before the run."""
        for name in self.left():
            shutil.rmtree(self.folder / name)
        if self.case.target == "out":
            shutil.rmtree(self.target, ignore_errors=True)
        elif self.old is not None:
            self.target.write_bytes(self.old[""])


# ------------------------------------------------------------------------------------------------------ kills


@one_of_each
def test_killed_before_every_step(program: Programs, there: Path, results: dict[Case, Bytes], case: Case) -> None:
    """The calls of the system are counted from the first that writes. With KILLS=200 every one is the last once, of a
    zip each time.
    """
    watched = Watched(case, there)
    steps = program.run(*case.arguments(there), faults=(("kill at step", -1),)).steps
    assert steps > 8
    watched.restored()
    outcomes = []
    few = sorted({0, steps - 1, *random.Random(case.target).sample(range(steps), 3)})
    chosen = {CASES["header of a zip"]: range(steps), CASES["a folder of shards"]: some(range(steps), 24)}
    for step in range(steps) if KILLS >= 200 else sorted({*few, *chosen.get(case, ())}):
        done = program.run(*case.arguments(there), faults=(("kill at step", step),))
        assert done.code == -9, (step, done)
        outcomes.append(watched.assert_survived(results[case]))
        if step in few[1:3]:
            _assert_the_next_run_copes(program, watched, results[case])
        watched.restored()
    # From one step on the new one is there.
    assert outcomes == sorted(outcomes)
    assert not outcomes[0]
    assert outcomes[-1]


def _assert_the_next_run_copes(program: Programs, watched: Watched, result: Bytes) -> None:
    """It does the whole, and names what is left."""
    left = watched.left()
    if contents(watched.target) != watched.old:
        return
    done = program.run(*watched.case.arguments(watched.folder))
    assert done.code == 0, done.stderr
    assert contents(watched.target) == result
    assert watched.left() == left
    assert all(name in done.stderr and "remove it" in done.stderr for name in left)


@one_of_each
def test_killed_at_random_moments(program: Programs, there: Path, results: dict[Case, Bytes], case: Case) -> None:
    """By the clock, while it writes; where PyTorch or safetensors do, also within their calls, in which no step is
    counted. `-rP` shows what came of it.
    """
    watched = Watched(case, there)
    options = (("child",),) if case in [CASES[name] for name in ANEW] else ()
    writing = []
    for _ in range(1 + KILLS // 100):
        writing.append(program.run(*case.arguments(there), faults=options).writing)
        watched.restored()
    chance = random.Random(case.target + case.source)
    came: Counter[str] = Counter()
    for _ in range(-(-KILLS // len(CASES))):
        moment = chance.uniform(0, 1.05 * max(writing))
        done = program.run(*case.arguments(there), faults=options, kill_after=moment)
        assert done.code in (-9, 0), done
        new = watched.assert_survived(results[case])
        came["over" if done.code == 0 else "new" if new else "as it was"] += 1
        came["with a folder left"] += bool(watched.left())
        watched.restored()
    print(f"killed within {max(writing) * 1000:.0f} ms of writing: {dict(came)}")


@pytest.mark.parametrize("signal", [15, 1, 2])
@pytest.mark.parametrize("name", ["header of a zip", "a folder of shards", *ANEW])
def test_asked_to_end_it_leaves_nothing(program: Programs, there: Path, name: str, signal: int) -> None:
    watched = Watched(CASES[name], there)
    place = (
        "convinspect.writing.state_dict._save_torch"
        if name == ANEW[0]
        else "convinspect.writing.state_dict._save_safetensors"
    )
    place = place if name in ANEW else "convinspect.writing.pieces._copy"
    done = program.run(*watched.case.arguments(there), faults=(("before", place, 0, "end", "", str(signal)),))
    assert done.code == 128 + signal, done
    assert "Traceback" not in done.stderr
    watched.assert_nothing_happened()


@pytest.mark.parametrize("name", ANEW)
def test_the_child_that_reads_mapped_files_is_killed(program: Programs, there: Path, name: str) -> None:
    """As the system does when memory runs out."""
    watched = Watched(CASES[name], there)
    place = (
        "convinspect.writing.state_dict._save_torch"
        if name == ANEW[0]
        else "convinspect.writing.state_dict._save_safetensors"
    )
    faults = (("child",), ("before", place, 0, "kill", ""))
    assert_one_line(program.run(*watched.case.arguments(there), faults=faults), "memory")
    watched.assert_nothing_happened()


# ------------------------------------------------------------------------------------------------------ disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for the sources, a third of a result, and no more."""
    folder = tmp_path / "small"
    folder.mkdir()
    try:
        with memory_disk(folder, "size=256k"):
            yield folder
    except PermissionError as error:
        pytest.skip(str(error))


@with_a_target
@pytest.mark.parametrize("known", [True, False], ids=["told before", "while it is written"])
def test_a_full_disk(program: Programs, there: Path, small_disk: Path, case: Case, known: bool) -> None:
    target = small_disk / case.target
    faults = () if known else (("unknown free space",), ("child",))
    done = program.run("convert", there / case.source, "-o", target, *case.options, faults=faults)
    assert_one_line(done, "room" if known else "disk", str(small_disk))
    assert ".partial" not in done.stderr
    assert not list(small_disk.iterdir())
    assert contents(there / case.source) is not None


@one_of_each
def test_a_file_may_not_grow_further(program: Programs, there: Path, case: Case) -> None:
    """As under a quota or on FAT; also where no file system can be mounted."""
    watched = Watched(case, there)
    done = program.run(*case.arguments(there), largest_file=50_000)
    assert_one_line(done, str(watched.target))
    assert ".partial" not in done.stderr
    watched.assert_nothing_happened()


@pytest.mark.parametrize(
    ("source", "suffix"),
    [
        ("one.safetensors", ".safetensors"), ("one.safetensors", ".pt"), ("zip.pt", ".pt"),
        ("whole.pt", ".safetensors"),
    ],
)  # fmt: skip
def test_a_state_dict_may_not_grow_further(program: Programs, there: Path, source: str, suffix: str) -> None:
    """The remedy is no other kind of file."""
    torch.save(torch.nn.Sequential(torch.nn.Conv1d(128, 128, 1)), there / "whole.pt")
    target = f"new{suffix}"
    watched = Watched(Case(source, target, ("--to", "linear", "--state-dict")), there)
    done = program.run(*watched.case.arguments(there), largest_file=20_000)
    assert_one_line(done, target)
    assert "write a .pt" not in done.stderr
    watched.assert_nothing_happened()


@pytest.mark.parametrize("name", ["header of a zip", *ANEW])
@pytest.mark.parametrize("step", ["fsync", "link", "replace", "mkdir"])
def test_the_disk_fails_at_the_end(program: Programs, there: Path, name: str, step: str) -> None:
    """A network's disk tells only then. Without hard links the file gets its name all the same."""
    watched = Watched(CASES[name], there)
    done = program.run(*watched.case.arguments(there), faults=(("refuse", step, "EIO"),))
    if step == "link":
        assert done.code == 0
        return
    assert_one_line(done, "Input/output error", str(watched.target))
    watched.assert_nothing_happened()


def test_there_need_be_no_hard_links(program: Programs, there: Path, results: dict[Case, Bytes]) -> None:
    case = CASES["header of a zip"]
    faults = (("refuse", "link", "EPERM"),)
    done = program.run("convert", there / case.source, "-o", there / "b.pt", *case.options, faults=faults)
    assert done.code == 0
    assert contents(there / "b.pt") == results[case]


@pytest.mark.parametrize(
    "command",
    [
        ("shapes", "zip.pt", "-o", "table.svg"),
        ("weights", "zip.pt", "-o", "table.html"),
        ("weights", "zip.pt", "c0", "-o", "all.csv"),
        ("explain", "-o", "page.html"),
    ],
    ids=lambda command: command[-1],
)
def test_a_full_disk_under_pictures(program: Programs, there: Path, command: tuple[str, ...]) -> None:
    target = there / command[-1]
    target.write_bytes(WAS)
    names = sorted(there.iterdir())
    arguments = [str(there / one) if one in ("zip.pt", command[-1]) else one for one in command]
    assert_one_line(program.run(*arguments, largest_file=1000), str(target))
    assert target.read_bytes() == WAS
    assert sorted(there.iterdir()) == names


# ------------------------------------------------------------------------------------------------ permissions


@pytest.fixture
def public(sources: Path) -> Iterator[Path]:
    """A folder that everybody may reach, with the sources, which everybody may read."""
    if os.getuid():
        pytest.skip("only root can give its rights away")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(sources, folder, dirs_exist_ok=True)
        folder.chmod(0o755)
        for file in folder.rglob("*.safetensors"):
            # safetensors itself makes private files.
            file.chmod(0o644)
        yield folder


@one_of_each
def test_a_folder_that_may_not_be_written_to(program: Programs, public: Path, case: Case) -> None:
    watched = Watched(case, public)
    done = program.run(*case.arguments(public), user=NOBODY)
    assert_one_line(done, "Permission denied", str(watched.target))
    watched.assert_nothing_happened()


def test_a_source_that_may_not_be_read(program: Programs, public: Path) -> None:
    (public / "zip.pt").chmod(0o600)
    os.chown(public, NOBODY, NOBODY)
    watched = Watched(CASES["header of a zip"], public)
    assert_one_line(program.run(*watched.case.arguments(public), user=NOBODY), "may not be read", "zip.pt")
    watched.assert_nothing_happened()
    for command in ("shapes", "check", "diff", "verify", "weights", "compare"):
        other = [public / "zip.pt"] if command == "diff" else []
        done = program.run(command, public / "zip.pt", *other, user=NOBODY)
        assert (done.code, done.stderr.count("\n")) == (2, 1)
        assert "may not be read" in done.stderr


def test_a_folder_that_may_not_be_looked_into(program: Programs, public: Path) -> None:
    public.chmod(0o700)
    for command in ("shapes", "check", "convert"):
        more = ("-o", public / "b.pt", "--to", "linear") if command == "convert" else ()
        done = program.run(command, public / "zip.pt", *more, user=NOBODY)
        assert_one_line(done, str(public), "Permission denied")


def test_a_shard_that_may_not_be_read(program: Programs, public: Path) -> None:
    next((public / "shards").glob("*3-of*")).chmod(0o600)
    os.chown(public, NOBODY, NOBODY)
    watched = Watched(CASES["a folder of shards"], public)
    assert_one_line(program.run(*watched.case.arguments(public), user=NOBODY), "00003-of", "may not be read")
    watched.assert_nothing_happened()


@pytest.mark.parametrize("name", ["header of a zip", "a folder of shards", "anew by PyTorch"])
def test_a_disk_that_may_not_be_written_to(program: Programs, there: Path, tmp_path: Path, name: str) -> None:
    """As root, who may write everywhere else."""
    folder, case = tmp_path / "fixed", CASES[name]
    folder.mkdir()
    try:
        with memory_disk(folder, "ro"):
            done = program.run("convert", there / case.source, "-o", folder / case.target, *case.options)
    except PermissionError as error:
        pytest.skip(str(error))
    assert_one_line(done, "Read-only file system", case.target)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
@pytest.mark.parametrize("name", ["in place, by a copy", "header of a zip", *ANEW])
def test_what_is_replaced_hands_on_its_mode_and_owner(program: Programs, there: Path, name: str, mode: int) -> None:
    """And nobody can look into what replaces a private file while it is written."""
    watched = Watched(CASES[name], there)
    watched.target.chmod(mode)
    if not os.getuid():
        os.chown(watched.target, NOBODY, NOBODY)
    before = watched.target.stat()
    done = program.run(*watched.case.arguments(there))
    assert done.code == 0, done.stderr
    after = watched.target.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_ino != before.st_ino


@pytest.mark.parametrize("name", ["header of a safetensors", "a folder of shards", *ANEW])
def test_what_is_new_follows_the_umask(program: Programs, there: Path, name: str) -> None:
    case = CASES[name]
    for file in [there / case.source, *there.rglob("*.safetensors")]:
        file.chmod(0o700)
    old = os.umask(0o027)
    os.umask(old)
    target = there / f"new{case.target}"
    assert program.run("convert", there / case.source, "-o", target, *case.options).code == 0
    for path in [target, *target.rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~old, path


# ---------------------------------------------------------------------------------------------------- sources


WRITERS = {
    "anew by PyTorch": "convinspect.writing.state_dict._save_torch",
    "anew by safetensors": "convinspect.writing.state_dict._save_safetensors",
    "numbers turned over": "convinspect.writing.pieces._write_all",
}


@one_of_each
@pytest.mark.parametrize("action", ["vanish", "cut", "empty", "grow", "rewrite", "replace"])
def test_a_source_that_changes_meanwhile(program: Programs, there: Path, case: Case, action: str) -> None:
    """Just before its numbers are copied. A child takes the signal where they are mapped."""
    name = next(name for name, one in CASES.items() if one == case)
    source = there / case.source
    changed = sorted(source.glob("*.safetensors"))[1] if source.is_dir() else source
    other = str(shutil.copy(there / "gpt.safetensors", there / "other"))
    expected = Watched(case, there)
    place = WRITERS.get(name, "convinspect.writing.pieces._copy")
    faults = (("child",), ("before", place, 1 if name == "numbers turned over" else 0, action, str(changed), other))
    done = program.run(*case.arguments(there), faults=faults)
    assert_one_line(done, str(changed), "vanished" if action == "vanish" else "changed while")
    assert not expected.left()
    if not case.in_place:
        assert contents(expected.target) == expected.old


@pytest.mark.parametrize("name", ["header of a zip", "a folder of shards", *ANEW])
@pytest.mark.parametrize("action", ["vanish", "cut", "rewrite", "replace"])
def test_a_source_that_changes_between_listing_and_copying(
    program: Programs, there: Path, name: str, action: str
) -> None:
    case = CASES[name]
    source = there / case.source
    changed = next(source.glob("*1-of*")) if source.is_dir() else source
    other = str(shutil.copy(there / "gpt.safetensors", there / "other"))
    expected = Watched(case, there)
    faults = (("before", "convinspect.converting.selection.find_layers", 0, action, str(changed), other),)
    done = program.run(*case.arguments(there), faults=faults)
    assert_one_line(done, str(changed))
    assert not expected.left()
    assert contents(expected.target) == expected.old


def test_what_is_replaced_in_place_is_what_was_read(program: Programs, there: Path) -> None:
    """A training run that saves its next state at the last moment does not lose it."""
    source = there / "zip.pt"
    faults = (
        ("before", "convinspect.writing.same_format._compare", 0, "replace", str(source), str(there / "legacy.pt")),
    )
    later = (there / "legacy.pt").read_bytes()
    assert_one_line(program.run(*CASES["in place, by a copy"].arguments(there), faults=faults), "changed while")
    assert source.read_bytes() == later


@pytest.mark.parametrize("name", ["header of a zip", "a folder of shards"])
def test_a_target_that_another_makes_meanwhile_stays(program: Programs, there: Path, name: str) -> None:
    case = CASES[name]
    target = there / "new"
    faults = (("before", "convinspect.writing.same_format._compare", 0, "make", str(target), "mine"),)
    done = program.run("convert", there / case.source, "-o", target, *case.options, faults=faults)
    assert_one_line(done, str(target), "meanwhile")
    assert target.read_text() == "mine"
    assert not list(there.glob(".*"))


@one_of_each
def test_a_network_that_gives_little_at_once(
    program: Programs, there: Path, results: dict[Case, Bytes], case: Case
) -> None:
    faults = (("short transfers", 4099), ("refuse", "copy_file_range", "EXDEV", 3))
    done = program.run(*case.arguments(there), faults=faults)
    assert done.code == 0, done.stderr
    assert contents(there / case.target) == results[case]


@pytest.mark.parametrize("code", ["EXDEV", "EOPNOTSUPP", "ENOSYS", "EINVAL", "EINTR", "EPERM", "EBADF", "EIO"])
def test_the_kernel_need_not_copy(program: Programs, there: Path, results: dict[Case, Bytes], code: str) -> None:
    case = CASES["header of a zip"]
    assert program.run(*case.arguments(there), faults=(("refuse", "copy_file_range", code, 0),)).code == 0
    assert contents(there / case.target) == results[case]


@pytest.mark.parametrize(
    "name", ["header of a zip", "header of an old file", "a folder of shards", "in place, by a copy"]
)
@pytest.mark.parametrize("calls", [0, 1, 3, 6, 12])
def test_a_source_whose_disk_fails(program: Programs, there: Path, name: str, calls: int) -> None:
    """Whatever is read at the time, from the first bytes on."""
    watched = Watched(CASES[name], there)
    faults = (("refuse", "copy_file_range", "EIO"), ("refuse", "pread", "EIO", calls))
    done = program.run(*watched.case.arguments(there), faults=faults)
    assert_one_line(done, "cannot be read (Input/output error)", str(watched.source))
    watched.assert_nothing_happened()


# ------------------------------------------------------------------------------------------------------ links


def test_a_link_as_target_stays_and_leads_to_the_new_file(program: Programs, there: Path) -> None:
    real, link = there / "real" / "b.pt", there / "link.pt"
    real.parent.mkdir()
    link.symlink_to(real)
    case = CASES["header of a zip"]
    for force in ((), ("--force",)):
        done = program.run("convert", there / case.source, "-o", link, *case.options, *force)
        assert done.code == 0, done.stderr
        assert link.is_symlink()
        assert load(real)["c0.weight"].dim() == 2
        assert [entry.name for entry in real.parent.iterdir()] == ["b.pt"]
    assert_one_line(program.run("convert", there / case.source, "-o", link, *case.options), "exists", "link.pt")


def test_a_link_that_leads_nowhere(program: Programs, there: Path) -> None:
    (there / "circle.pt").symlink_to("circle.pt")
    (there / "nowhere.pt").symlink_to("none/b.pt")
    names = sorted(there.iterdir())
    for name in ("circle.pt", "nowhere.pt"):
        for case in (CASES["header of a zip"], CASES["anew by PyTorch"]):
            done = program.run("convert", there / case.source, "-o", there / name, *case.options, "--force")
            assert_one_line(done, name)
    assert sorted(there.iterdir()) == names


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("name", ["header of a zip", "anew by safetensors"])
def test_the_source_is_not_overwritten_through_a_link(program: Programs, there: Path, name: str, hard: bool) -> None:
    case = CASES[name]
    link = there / f"link{Path(case.target).suffix}"
    os.link(there / case.source, link) if hard else link.symlink_to(case.source)
    before = contents(there)
    done = program.run("convert", there / case.source, "-o", link, "--force", *case.options)
    assert_one_line(done, "the source itself")
    assert contents(there) == before


@pytest.mark.parametrize("name", ["header of a zip", "in place, by a copy"])
def test_the_other_name_of_what_is_replaced_keeps_its_content(program: Programs, there: Path, name: str) -> None:
    watched = Watched(CASES[name], there)
    os.link(watched.target, there / "backup")
    assert program.run(*watched.case.arguments(there)).code == 0
    assert {"": (there / "backup").read_bytes()} == watched.old
    assert load(watched.target)["c0.weight"].dim() == 2


def test_in_place_through_a_link_replaces_what_it_leads_to(program: Programs, there: Path) -> None:
    (there / "snapshot").mkdir()
    link = there / "snapshot" / "model.pt"
    link.symlink_to("../zip.pt")
    assert program.run("convert", link, "--in-place", "--to", "linear").code == 0
    assert link.is_symlink()
    assert load(there / "zip.pt")["c0.weight"].dim() == 2


def test_shards_that_are_links_become_files(program: Programs, there: Path, results: dict[Case, Bytes]) -> None:
    """As in the Hugging Face cache, whose blobs stay as they are."""
    case = CASES["a folder of shards"]
    (there / "blobs").mkdir()
    for number, file in enumerate(sorted((there / "shards").iterdir())):
        file.rename(there / "blobs" / str(number))
        file.symlink_to(f"../blobs/{number}")
    blobs = contents(there / "blobs")
    assert program.run(*case.arguments(there)).code == 0
    assert contents(there / "out") == results[case]
    assert not any(file.is_symlink() for file in (there / "out").iterdir())
    assert contents(there / "blobs") == blobs


def test_shards_in_folders_of_their_own(program: Programs, there: Path) -> None:
    index = there / "shards" / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model-00002", "deep/er/model-00002"))
    (there / "shards" / "deep" / "er").mkdir(parents=True)
    file = next((there / "shards").glob("model-00002*"))
    file.rename(there / "shards" / "deep" / "er" / file.name)
    done = program.run("convert", index, "-o", there / "out", "--to", "linear")
    assert done.code == 0, done.stderr
    assert load(there / "out" / "deep" / "er" / file.name)["c1.weight"].dim() == 2


# ---------------------------------------------------------------------------------------------- two at a time


@pytest.mark.parametrize("name", ["header of a zip", "a folder of shards", *ANEW, "in place, by a copy"])
@pytest.mark.parametrize("force", [True, False])
def test_two_at_a_time(program: Programs, there: Path, results: dict[Case, Bytes], name: str, force: bool) -> None:
    """The target is one whole result; whoever comes too late says so."""
    case = CASES[name]
    options = ("--force",) if force and name != "a folder of shards" else ()
    target = there / (case.source if case.in_place else f"new{case.target}")
    where = ("--in-place",) if case.in_place else ("-o", str(target), *options)
    source = (there / case.source).read_bytes() if case.in_place else b""
    for _ in range(2 if KILLS < 200 else 20):
        run = Run(("convert", str(there / case.source), *where, *case.options))
        done = program.at_once(run, run, run)
        assert {one.code for one in done} <= {0, 2}
        assert 0 in [one.code for one in done]
        for one in done:
            if one.code:
                assert_one_line(one)
        found = contents(target)
        expected = results[case]
        # PyTorch names the records after the file.
        assert found == expected or (name == "anew by PyTorch" and list(load(target)) == list(load(there / "zip.pt")))
        assert not list(there.glob(".*"))
        if case.in_place:
            target.write_bytes(source)
        elif target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink()


# ------------------------------------------------------------------------------------------------------ names


NAMES = {
    "NFC": "caf\u00e9",
    "NFD": "cafe\u0301",
    "spaces": " a  b ",
    "newline": "a\nb",
    "terminal": "a\x1b[31mb",
    "quotes": "a'b\"c",
    "dash": "-o",
    "globs": "[a]*?",
    "not UTF-8": "\udcff\udcfe",
    "long": "模" * 80,
    "dots": "...",
}


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        *((name, ".pt") for name in NAMES.values()),
        # It is PyTorch that writes the name into the file.
        *((NAMES[name], ".safetensors") for name in ("terminal", "not UTF-8", "long")),
    ],
)
def test_files_of_any_name(program: Programs, there: Path, name: str, suffix: str) -> None:
    """Names are taken as they are, by the byte, and nothing of them reaches the terminal unescaped."""
    folder = there / "names"
    folder.mkdir()
    source, target = folder / f"1{name}.pt", folder / f"{name}{suffix}"
    shutil.copy(there / "zip.pt", source)
    done = program.run("convert", source, "-o", target, "--to", "linear")
    assert done.code == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert {entry.name for entry in folder.iterdir()} == {source.name, target.name}
    # By name, since a Linear without a bias may be an Embedding.
    assert program.run("convert", target, "--in-place", "--to", "conv1d", "--layer", "c0").code == 0
    assert {entry.name for entry in folder.iterdir()} == {source.name, target.name}
    assert_one_line(program.run("shapes", folder / "none" / name), "no such file")
    assert_one_line(program.run("convert", source, "-o", target, "--to", "linear"), "exists")


def test_both_ways_of_writing_an_accent_are_two_files(program: Programs, there: Path) -> None:
    for name in ("NFC", "NFD"):
        assert program.run("convert", there / "zip.pt", "-o", there / NAMES[name], "--to", "linear").code == 0
    assert {NAMES["NFC"], NAMES["NFD"]} <= {entry.name for entry in there.iterdir()}


def test_a_name_that_begins_with_a_dash_can_be_typed(
    program: Programs, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind `--` as a source, and as it is behind an option."""
    arguments = ["convert", "--to", "linear", "-o", "-b.pt", "--", "-a.pt"]
    shutil.copy(there / "zip.pt", there / "-a.pt")
    done = run(*arguments, folder=there)
    assert done.returncode == 0, done.stderr
    assert load(there / "-b.pt")["c0.weight"].dim() == 2


_CUT_WHILE_MAPPED = """
import os, sys
from convinspect.writing import state_dict
from convinspect.cli import main
original = state_dict._save_safetensors
def cut(*arguments):
    os.truncate(sys.argv[2], 5000)
    original(*arguments)
state_dict._save_safetensors = cut
sys.argv = ["convinspect", "convert", sys.argv[2], "-o", sys.argv[1], "--to", "linear"]
main()
"""


def test_the_child_that_reads_mapped_files_is_there_in_a_program_of_its_own(there: Path) -> None:
    """Nothing loads PyTorch before; other tests only say so."""
    command = [sys.executable, "-c", _CUT_WHILE_MAPPED, str(there / "b.safetensors"), str(there / "zip.pt")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert_one_line(Ended(done.returncode, done.stdout, done.stderr, 0), "zip.pt", "changed while")
    assert sorted(entry.suffix for entry in there.iterdir()) == ["", ".pt", ".pt", ".safetensors", ".safetensors"]
