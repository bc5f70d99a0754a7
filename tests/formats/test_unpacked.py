"""Unpacked files of `torch.save`: folders that the zip's own tools make."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

from convinspect.arrays.read import read_tensor
from convinspect.checking.scan import check
from convinspect.checkpoint import open_checkpoint
from convinspect.errors import CannotConvert, NotThere, RefusedFile
from convinspect.formats import read_contents
from convinspect.records import Container
from support.hostile import bomb
from support.in_process import call_main
from support.paths import FIXTURES

KINDS = {Container.TORCH_ZIP: Container.TORCH_UNPACKED, Container.TORCH_SCRIPT: Container.SCRIPT_UNPACKED}


def unpacked(archive: Path, folder: Path) -> Path:
    """The folder that `unzip` makes of an archive."""
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    return next(one for one in folder.iterdir() if one.is_dir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return unpacked(FIXTURES / "pointnet_stnkd.pt", tmp_path / "out")


ARCHIVES = sorted(
    path
    for path in FIXTURES.glob("*.pt")
    if zipfile.is_zipfile(path) and any(name.endswith("/data.pkl") for name in zipfile.ZipFile(path).namelist())
)


@pytest.mark.parametrize("path", ARCHIVES, ids=lambda path: str(path.name))
def test_a_folder_holds_what_the_file_held(tmp_path: Path, path: Path) -> None:
    folder = unpacked(path, tmp_path / "out")
    before = read_contents(path)
    for opened in (folder, folder / "data.pkl"):
        after = read_contents(opened)
        assert after.container is KINDS[before.container]
        assert [root.path for root in after.roots] == [root.path for root in before.roots]
        for one, other in zip(before.roots, after.roots, strict=True):
            assert one.modules == other.modules
            for first, second in zip(one.tensors, other.tensors, strict=True):
                assert first[:5] == second[:5]
                if first.layout == "strided" and first.dtype in ("float32", "float16", "int64", "float64"):
                    assert first.storage is None or (read_tensor(first) == read_tensor(second)).all()
    said = {found.code for found in check(path).findings} - {"no-crc", "not-written"}
    assert {found.code for found in check(folder).findings} == said


def test_converted_to_a_plain_state_dict(folder: Path, tmp_path: Path) -> None:
    wanted = torch.load(FIXTURES / "pointnet_stnkd.pt", weights_only=True)
    for suffix, options in ((".pt", ()), (".safetensors", ("--to", "linear"))):
        target = tmp_path / f"model{suffix}"
        code, _, err = call_main("convert", folder, "-o", target, *options)
        assert code == 0, err
        assert call_main("verify", folder, target)[0] == 0
        new = open_checkpoint(target)
        assert all(torch.equal(torch.from_numpy(new.read(name)).reshape(t.shape), t) for name, t in wanted.items())
    for place in (["--in-place"], ["-o", str(tmp_path / "new")]):
        code, _, err = call_main("convert", folder, "--to", "linear", *place)
        assert (code, err.count("\n")) == (2, 1)
        assert ".safetensors or .pt" in err


def test_no_folder_is_written(folder: Path, tmp_path: Path) -> None:
    from convinspect.converting.job import convert
    from convinspect.converting.options import Options

    with pytest.raises(CannotConvert):
        convert(folder, tmp_path / "new", Options(to="linear"))
    assert not (tmp_path / "new").exists()


def test_the_folder_above_is_answered_with_the_way(folder: Path) -> None:
    with pytest.raises(NotThere, match=r"its folder 'pointnet_stnkd'; give .*/out/pointnet_stnkd$"):
        read_contents(folder.parent)
    shutil.copytree(folder, folder.parent / "another")
    with pytest.raises(NotThere, match=r"its folders another, pointnet_stnkd; give one of them$"):
        read_contents(folder.parent)


def test_files_that_are_short_or_missing_are_named(folder: Path) -> None:
    (folder / "data" / "3").unlink()
    os.truncate(folder / "data" / "4", 10)
    (folder / "data" / "99").write_bytes(b"1234")
    assert open_checkpoint(folder).problems
    found = [(one.code, one.path.name) for one in check(folder).findings]
    assert sorted(found) == [("storage-short", "4"), ("storage-short", "data.pkl"), ("unnamed-record", "99")]


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="has no links")
def test_links_stay_in_the_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "data" / "3").rename(folder / "data" / "three")
    (folder / "data" / "3").symlink_to("three")
    assert not open_checkpoint(folder).problems
    (tmp_path / "secret").write_bytes(bytes(96))
    (folder / "data" / "3").unlink()
    (folder / "data" / "3").symlink_to(tmp_path / "secret")
    with pytest.raises(RefusedFile, match="outside of its folder"):
        open_checkpoint(folder)
    code, _, err = call_main("check", folder)
    assert code == 2
    assert "outside of its folder" in err


def test_a_key_that_leads_elsewhere_finds_nothing(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "x").write_bytes(bytes(4096))
    content = (folder / "data.pkl").read_bytes()
    key = b"X\x01\x00\x00\x003"
    assert key in content
    (folder / "data.pkl").write_bytes(content.replace(key, b"X\x07\x00\x00\x00../../x", 1))
    assert open_checkpoint(folder).problems
    assert "storage-short" in [found.code for found in check(folder).findings]


def test_a_pickle_that_would_do_harm_is_found(folder: Path, tmp_path: Path) -> None:
    (folder / "data.pkl").write_bytes(bomb(tmp_path / "marker"))
    assert "global-executes" in [found.code for found in check(folder).findings]
    call_main("shapes", folder)
    assert not (tmp_path / "marker").exists()
