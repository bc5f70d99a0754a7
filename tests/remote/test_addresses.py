"""Addresses as paths: what they are called, what lies beside them, and what is shown of them."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import convinspect
from convinspect.errors import CannotWrite, ConvInspectError, NotThere
from convinspect.formats import read_contents
from convinspect.formats.sources import member_of, outermost
from convinspect.remote.addresses import Address, path_of
from support.paths import FIXTURES
from support.program import run

STNKD = FIXTURES / "pointnet_stnkd.pt"
ODD = "nowhere://host//a/./b//w.pt"


@pytest.mark.parametrize(
    ("address", "name", "suffix", "parent"),
    [
        ("https://host/a/w.pt", "w.pt", ".pt", "https://host/a"),
        ("https://host/a/w%20x.pt?download=true", "w x.pt", ".pt", "https://host/a"),
        ("https://host/w.pt#top", "w.pt", ".pt", "https://host"),
        ("https://host", "host", "", "https://host"),
        ("hf://owner/model", "model", "", "hf://owner"),
        ("hf://owner/model/unet/w.safetensors", "w.safetensors", ".safetensors", "hf://owner/model/unet"),
        ("s3://bucket/a?b/w.bin", "w.bin", ".bin", "s3://bucket/a?b"),
        ("s3://bucket/folder/", "folder", "", "s3://bucket"),
        ("memory://w.pt", "w.pt", ".pt", "memory://w.pt"),
        (ODD, "w.pt", ".pt", "nowhere://host//a/./b/"),
    ],
)
def test_what_an_address_is_called(address: str, name: str, suffix: str, parent: str) -> None:
    path = path_of(address)
    assert isinstance(path, Address)
    assert (path.name, path.suffix, path.stem + path.suffix, str(path.parent)) == (name, suffix, name, parent)
    assert path_of(path) is path
    for again in (copy.deepcopy(path), pickle.loads(pickle.dumps(path)), path_of(address)):
        assert again == path
        assert hash(again) == hash(path)
        assert isinstance(again, Address)
        assert again.typed == address


@pytest.mark.parametrize(
    ("archive", "member"),
    [
        ("memory://d.zip", "w.pt"), ("memory://d.zip", "a/run@3/w.pt"), ("memory://d.zip", "run@3/w.pt"),
        ("memory://d.zip", "inner.tar!w.pt"), ("nowhere://d.zip", "w@x.pt"), ("nowhere://d.zip", "a/w.pt"),
        ("file:///d.zip", "w.pt"), ("github://org:repo@main/d.zip", "w.pt"), ("https://host/d.zip", "w.pt"),
        ("https://me:pa!ss@host/d.zip", "w.pt"), ("ssh://me!@host/d.zip", "w.pt"), ("s3://bucket/d.zip", "a!b/w.pt"),
        ("simplecache::memory://d.zip", "w.pt"), ("zip://a!b.tar::memory://d.zip", "w.pt"),
        ("zip://a.tar::https://me:pa!ss@host/d.zip", "w.pt"),
    ],
)  # fmt: skip
def test_where_a_path_into_an_archive_begins(archive: str, member: str) -> None:
    """Behind the name of the archive, whether a host stands before that or not; a login may hold the sign too."""
    path = path_of(f"{archive}!{member}")
    assert (os.fspath(outermost(path)), member_of(path)) == (archive, member)
    assert outermost(path_of(archive)) == path_of(archive)


def test_what_lies_beside_an_address() -> None:
    index = path_of("https://host/a/m.index.json?download=true")
    assert str(index.parent / "part 1.safetensors") == "https://host/a/part%201.safetensors"
    assert str(index.with_name("x.pt")) == "https://host/a/x.pt"
    assert (index.parent / "b c" / "x.pt").relative_to(index.parent) == Path("b c/x.pt")
    assert str(path_of("s3://b/a") / "x y") == "s3://b/a/x y"
    assert path_of("s3://b/x") != path_of("s3://b//x")
    assert path_of("s3://b/x") != Path("s3://b/x")


def test_what_pathlib_has_made_of_an_address_is_one() -> None:
    assert path_of(Path("https://host/w.pt")) == path_of("https://host/w.pt")


@pytest.mark.parametrize("text", ["C:/w.pt", "C://w.pt", "no/such.pt", "a:b/w.pt", "./https://host/w.pt", "a::b"])
def test_a_path_is_no_address(text: str) -> None:
    assert not isinstance(path_of(text), Address)
    with pytest.raises(NotThere, match="no such file"):
        read_contents(path_of(text))


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://me:secret@host/w.pt", "https://***@host/w.pt"),
        ("https://secret@host/w.pt", "https://***@host/w.pt"),
        ("https://host/w.pt?X-Sig=secret&b=secret;c=secret&v=2", "https://host/w.pt?X-Sig=***&b=***;c=***&v=2"),
        ("https://host/a@b/w.pt?download=true", "https://host/a@b/w.pt?download=true"),
    ],
)
def test_secrets_are_not_shown(address: str, shown: str) -> None:
    path = path_of(address)
    assert str(path) == path.as_posix() == f"{path}" == shown
    assert repr(path) == f"Address({shown!r})"
    assert str(ConvInspectError("bad", path=path)) == f"{shown}: bad"


@pytest.mark.parametrize(
    "words",
    [["shapes", ODD], ["check", ODD], ["weights", ODD], ["diff", ODD, STNKD], ["diff", STNKD, ODD],
     ["verify", STNKD, ODD], ["convert", ODD, "-o", "x.pt", "--to", "linear"],
     ["convert", STNKD, "-n", "--like", ODD], ["compare", ODD, "--layer", "x"], ["explain", ODD, "x"]],
    ids=str,
)  # fmt: skip
def test_a_scheme_that_nobody_knows(words: list[object]) -> None:
    result = run(*words)
    assert (result.returncode, result.stdout) == (2, "") if words[0] != "check" else result.returncode == 2
    assert result.stderr == f"error: {ODD}: fsspec knows no addresses that begin with nowhere://; fetch it first\n"


def test_an_address_is_given_as_python_has_it() -> None:
    for function in (
        convinspect.open,
        lambda path: convinspect.diff(STNKD, path),
        lambda path: convinspect.verify(STNKD, path),
        lambda path: convinspect.convert(path, to="linear", dry_run=True),
        lambda path: convinspect.convert(STNKD, like=path, dry_run=True),
    ):
        with pytest.raises(NotThere) as raised:
            function(ODD)
        assert str(raised.value).startswith(f"{ODD}: fsspec knows no")


@pytest.mark.parametrize(
    "words",
    [["convert", STNKD, "--to", "linear"], ["shapes", STNKD], ["weights", STNKD, "conv1"], ["check", STNKD],
     ["explain", STNKD, "conv1"], ["compare", STNKD, "--layer", "conv1"]],
    ids=lambda words: words[0],
)  # fmt: skip
def test_nothing_is_written_to_an_address(words: list[object]) -> None:
    address = "https://host//a/w.pt" if words[0] == "convert" else "https://host//a/w.svg"
    result = run(*words, "-o", address)
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {address}: it is an address, and only files on this machine are written;")


def test_an_address_is_not_edited_in_place() -> None:
    with pytest.raises(CannotWrite, match="only read there"):
        convinspect.convert("https://host/w.pt", to="linear", in_place=True)


def test_files_of_this_machine_need_nothing_of_it() -> None:
    script = (
        "import sys; sys.argv = ['convinspect', 'shapes', sys.argv[1]]\n"
        "from convinspect.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, STNKD], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & {"fsspec", "aiohttp", "convinspect.remote.fetching", "convinspect.remote.secrets"}
