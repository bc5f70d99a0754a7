"""An archive written again with its checkpoint converted: its other members as they were, and the way back exact."""

from __future__ import annotations

import io
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as save_safetensors

import convinspect
from convinspect.errors import CannotConvert, CannotWrite
from support.archives import tar_of as packed_tar_of

CONFIG = b"name: model\n"


def saved(old: bool = False) -> bytes:
    out = io.BytesIO()
    torch.save(
        torch.nn.Sequential(torch.nn.Conv1d(3, 6, 1), torch.nn.Linear(6, 2)).state_dict(),
        out,
        _use_new_zipfile_serialization=not old,
    )
    return out.getvalue()


WEIGHTS = {
    "w.ckpt": saved(),
    "old.pt": saved(old=True),
    "w.safetensors": save_safetensors({"0.weight": torch.randn(6, 3, 1), "0.bias": torch.randn(6)}),
}


def tar_of(files: dict[str, bytes], form: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = len(data), 1700000000, 0o640
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def members(path: Path) -> dict[str, bytes]:
    if tarfile.is_tarfile(path):
        with tarfile.open(path, "r:") as archive:
            return {one.name: file.read() for one in archive if (file := archive.extractfile(one)) is not None}
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def there_and_back(source: Path, name: str, tmp_path: Path, folder: str = "") -> None:
    """Convert, look at what an unpacker finds, convert back, and compare every byte."""
    there, back = tmp_path / f"there{source.suffix}", tmp_path / f"back{source.suffix}"
    convinspect.convert(f"{source}!{folder}{name}", there, to="linear", layer="0")
    found, before = members(there), members(source)
    assert list(found) == list(before)
    assert {key for key in found if found[key] != before[key]} == {next(key for key in before if key.endswith(name))}
    alone = tmp_path / name
    convinspect.convert(f"{source}!{folder}{name}", alone, to="linear", layer="0")
    assert found[next(key for key in found if key.endswith(name))] == alone.read_bytes()
    assert convinspect.verify(f"{source}!{folder}{name}", f"{there}!{folder}{name}").equal
    convinspect.convert(f"{there}!{folder}{name}", back, to="conv1d", layer="0")
    assert back.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_tar_archive(tmp_path: Path, name: str, form: int, place: str) -> None:
    others = {"./a.yaml": CONFIG, "./" + "long" * 22 + ".model": CONFIG * 99}
    weights = {f"./{name}": WEIGHTS[name]}
    files = {"first": weights | others, "last": others | weights}.get(place) or {
        "./a.yaml": CONFIG, **weights, "./b": b"",
    }  # fmt: skip
    source = tmp_path / "m.nemo"
    source.write_bytes(tar_of(files, form))
    there_and_back(source, name, tmp_path)


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_zip_archive(tmp_path: Path, name: str, place: str) -> None:
    source = tmp_path / "m.zip"
    with zipfile.ZipFile(source, "w") as archive:
        for part in {"first": "wab", "middle": "awb", "last": "abw"}[place]:
            archive.writestr(*((f"exp/{name}", WEIGHTS[name]) if part == "w" else (f"exp/{part}", CONFIG)))
        archive.comment = b"a comment"
    there_and_back(source, name, tmp_path, "exp/")


def test_unpackers_agree(tmp_path: Path) -> None:
    (tmp_path / "m.nemo").write_bytes(tar_of({"c.yaml": CONFIG, "w.ckpt": WEIGHTS["w.ckpt"]}, tarfile.GNU_FORMAT))
    convinspect.convert(tmp_path / "m.nemo", tmp_path / "new.nemo", to="linear")
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xf", "../new.nemo"], cwd=tmp_path / "out", check=True, capture_output=True)
    assert (tmp_path / "out" / "c.yaml").read_bytes() == CONFIG
    state = torch.load(tmp_path / "out" / "w.ckpt", weights_only=True)
    assert {key: tuple(value.shape) for key, value in state.items()} == {
        "0.weight": (6, 3), "0.bias": (6,), "1.weight": (2, 6), "1.bias": (2,),
    }  # fmt: skip


def test_of_several_the_given_one_is_converted(tmp_path: Path) -> None:
    (tmp_path / "m.tar").write_bytes(tar_of(WEIGHTS, tarfile.GNU_FORMAT))
    for name in WEIGHTS:
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        there_and_back(tmp_path / "m.tar", name, folder)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_without_a_conversion_the_member_is_written_as_it_is(tmp_path: Path, mode: str) -> None:
    module = tmp_path / "module.pt"
    torch.save(torch.nn.Sequential(torch.nn.Conv1d(3, 6, 1)), module)
    script = tmp_path / "script.pt"
    torch.jit.save(torch.jit.script(torch.nn.Conv1d(3, 6, 1)), script)
    files = WEIGHTS | {path.name: path.read_bytes() for path in (module, script)}
    source = tmp_path / "m.tar"
    source.write_bytes(packed_tar_of(files, mode))
    for name, data in files.items():
        job = convinspect.convert(f"{source}!{name}", tmp_path / f"new_{name}")
        assert (tmp_path / f"new_{name}").read_bytes() == data
        assert not job.edits
    with pytest.raises(CannotConvert, match="nothing says what the layers become"):
        convinspect.convert(f"{source}!{module.name}", tmp_path / "again.tar")
    with pytest.raises(CannotConvert, match="nothing says what that becomes"):
        convinspect.convert(f"{source}!{module.name}", tmp_path / "again.pt", layer="0")


def test_what_is_not_written_again_says_what_works(tmp_path: Path) -> None:
    inner = tar_of({"w.ckpt": WEIGHTS["w.ckpt"]}, tarfile.GNU_FORMAT)
    with zipfile.ZipFile(tmp_path / "nested.zip", "w") as archive:
        archive.writestr("m.nemo", inner)
    with zipfile.ZipFile(tmp_path / "m.mar", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.pth", WEIGHTS["w.ckpt"])
    with tarfile.open(tmp_path / "m.tgz", "w:gz") as packed:
        info = tarfile.TarInfo("w.ckpt")
        info.size = len(WEIGHTS["w.ckpt"])
        packed.addfile(info, io.BytesIO(WEIGHTS["w.ckpt"]))
    for name in ("nested.zip", "m.mar", "m.tgz"):
        source = tmp_path / name
        with pytest.raises(CannotWrite, match="not written again here") as caught:
            convinspect.convert(source, source.with_stem("new"), to="linear")
        assert "write the checkpoint alone" in str(caught.value)
        assert not source.with_stem("new").exists()
        convinspect.convert(source, tmp_path / f"{name}.pt", to="linear")
        assert convinspect.verify(source, tmp_path / f"{name}.pt").equal


def test_an_archive_is_not_edited_in_place(tmp_path: Path) -> None:
    source = tmp_path / "m.nemo"
    source.write_bytes(tar_of({"w.ckpt": WEIGHTS["w.ckpt"]}, tarfile.GNU_FORMAT))
    before = source.read_bytes()
    with pytest.raises(CannotWrite, match="the target is the source itself") as itself:
        convinspect.convert(source, source, to="linear")
    assert "in_place" not in str(itself.value)
    for path in (source, f"{source}!w.ckpt"):
        with pytest.raises(CannotWrite, match="cannot be edited in place") as caught:
            convinspect.convert(path, in_place=True, to="linear")
        assert "NEW.nemo" in caught.value.remedy
    assert source.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["m.nemo"]


def test_other_formats_and_state_dicts_come_out_of_archives(tmp_path: Path) -> None:
    (tmp_path / "m.nemo").write_bytes(tar_of({"c": CONFIG, "w.ckpt": WEIGHTS["w.ckpt"]}, tarfile.GNU_FORMAT))
    for name, plain in (("a.safetensors", False), ("b.pt", True)):
        convinspect.convert(tmp_path / "m.nemo", tmp_path / name, to="linear", state_dict=plain)
        assert convinspect.verify(tmp_path / "m.nemo", tmp_path / name).equal
