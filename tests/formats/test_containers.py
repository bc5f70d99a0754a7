"""Checkpoints in archives and compressed files: found, chosen, read where they lie; `OUTER!MEMBER` names one."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save as save_safetensors

import convinspect
from convinspect.errors import BrokenFile, ConvInspectError, NotACheckpoint, NotThere, RefusedFile
from convinspect.formats.containers import members, packed
from convinspect.formats.files import File, check_unchanged
from convinspect.formats.sources import Source
from support.archives import tar_of, zip_of
from support.in_process import call_main

MODEL = torch.nn.Sequential(torch.nn.Conv1d(3, 6, 1), torch.nn.Linear(6, 2))
STATE = {key: value.detach().clone() for key, value in MODEL.state_dict().items()}
CONFIG = b"name: model\n"


def zip_of_torch(old: bool = False) -> bytes:
    out = io.BytesIO()
    torch.save(STATE, out, _use_new_zipfile_serialization=not old)
    return out.getvalue()


TORCH, OLD, SAFETENSORS = zip_of_torch(), zip_of_torch(old=True), save_safetensors(STATE)


HOLDERS: dict[str, tuple[str, Callable[[dict[str, bytes]], bytes], str]] = {
    "NeMo": ("m.nemo", tar_of, "a tar archive"),
    "tar.gz": ("m.tar.gz", lambda files: tar_of(files, "w:gz"), "a gzip-compressed tar archive"),
    "tar.xz": ("m.tar.xz", lambda files: tar_of(files, "w:xz"), "an xz-compressed tar archive"),
    "tar.bz2": ("m.tbz", lambda files: tar_of(files, "w:bz2"), "a bzip2-compressed tar archive"),
    "ESPnet": ("m.zip", zip_of, "a zip archive"),
    "TorchServe": ("m.mar", lambda files: zip_of(files, zipfile.ZIP_DEFLATED), "a zip archive"),
}  # fmt: skip


def check_numbers(checkpoint: convinspect.Checkpoint) -> None:
    assert sorted(checkpoint) == sorted(STATE)
    for name, tensor in STATE.items():
        assert np.array_equal(checkpoint.read(name), tensor.numpy())


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("inner", ["w.ckpt", "w.pth", "exp/w.safetensors"])
def test_the_one_checkpoint_in_an_archive_is_opened(tmp_path: Path, holder: str, inner: str) -> None:
    name, make, kind = HOLDERS[holder]
    data = {"w.ckpt": TORCH, "w.pth": OLD}.get(inner, SAFETENSORS)
    (tmp_path / name).write_bytes(make({"model_config.yaml": CONFIG, inner: data}))
    checkpoint = convinspect.open(tmp_path / name)
    check_numbers(checkpoint)
    assert checkpoint.format.endswith(f", in {kind}")
    assert str(checkpoint.path) == f"{tmp_path / name}!{inner}"
    named = convinspect.open(checkpoint.path)
    check_numbers(named)
    assert named.format == checkpoint.format


@pytest.mark.parametrize(
    ("suffix", "pack", "word"),
    [
        (".gz", gzip.compress, "a gzip"),
        (".bz2", bz2.compress, "a bzip2"),
        (".xz", lzma.compress, "an xz"),
        (".z", zlib.compress, "a zlib"),
    ],
)
@pytest.mark.parametrize("data", [TORCH, OLD, SAFETENSORS], ids=["zip", "legacy", "safetensors"])
def test_a_compressed_checkpoint(
    tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes], word: str, data: bytes
) -> None:
    path = tmp_path / f"w.bin{suffix}"
    path.write_bytes(pack(data))
    checkpoint = convinspect.open(path)
    check_numbers(checkpoint)
    assert str(checkpoint.path) == f"{path}!w.bin"
    assert checkpoint.format.endswith(f"in {word}-compressed file")


@pytest.mark.parametrize("folder", ["", "in.tar!"])
def test_what_a_compressed_file_holds_goes_by_its_name(tmp_path: Path, folder: str) -> None:
    """A joblib file that is compressed is called as one that is not, and is one file to who saved it."""
    (tmp_path / "m.joblib").write_bytes(zlib.compress(OLD))
    (tmp_path / "in.tar").write_bytes(tar_of({"m.joblib": zlib.compress(OLD)}))
    name, new = f"{folder}m.joblib", tmp_path / "new.pt"
    given = f"{tmp_path}/{name}"
    for words in (
        ("shapes", given), ("weights", given, "--stats"), ("check", given),
        ("diff", given, given), ("verify", given, given),
        ("convert", given, "-o", new, "--to", "linear"),
    ):  # fmt: skip
        ended = call_main(*words)
        assert ended.code == 0, ended.err
        assert ended.out.startswith((f"{name} · ", f"{name} → ", f"A: {name}")), words
        assert ".unpacked" not in ended.out + ended.err, words
    # What names it exactly is where the bytes are, and can be given.
    path = convinspect.open(given).path
    assert str(path) == f"{given}!m.joblib.unpacked"
    check_numbers(convinspect.open(path))


def test_streams_one_after_the_other_and_padding(tmp_path: Path) -> None:
    half = len(SAFETENSORS) // 2
    for name, pack in (("a.gz", gzip.compress), ("a.bz2", bz2.compress), ("a.xz", lzma.compress)):
        (tmp_path / name).write_bytes(pack(SAFETENSORS[:half]) + pack(SAFETENSORS[half:]) + bytes(512))
        check_numbers(convinspect.open(tmp_path / name))


def test_several_are_listed_and_one_is_given(tmp_path: Path) -> None:
    path = tmp_path / "all.tar"
    files = {"./a.pt": TORCH, "b/c.safetensors": SAFETENSORS, "readme.txt": CONFIG, "d.npz": b""}
    path.write_bytes(tar_of(files))
    with pytest.raises(NotACheckpoint, match="holds 3 checkpoints") as caught:
        convinspect.open(path)
    assert f"{path}!a.pt" in caught.value.remedy
    assert f"{path}!b/c.safetensors" in caught.value.remedy
    assert f"{path}!d.npz" in caught.value.remedy
    for name in ("a.pt", "./a.pt", "b/c.safetensors"):
        check_numbers(convinspect.open(f"{path}!{name}"))
    with pytest.raises(NotThere, match=r"holds no 'c\.safetensors'") as missing:
        convinspect.open(f"{path}!c.safetensors")
    assert "b/c.safetensors" in missing.value.remedy


def test_what_lies_beside_the_weights_is_not_taken_for_them(tmp_path: Path) -> None:
    files = {"optimizer.pt": TORCH, "__MACOSX/._model.pt": b"x", "stats.npz": b"x", "model.pt": SAFETENSORS}
    (tmp_path / "a.zip").write_bytes(zip_of(files))
    checkpoint = convinspect.open(tmp_path / "a.zip")
    assert checkpoint.path.name == "a.zip!model.pt"
    report = convinspect.check(tmp_path / "a.zip")
    assert any("optimizer.pt" in note for note in report.notes)


def test_shards_in_an_archive_are_read_as_one(tmp_path: Path) -> None:
    first = {key: value for key, value in STATE.items() if key.startswith("0")}
    second = {key: value for key, value in STATE.items() if key.startswith("1")}
    names = ["m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"]
    index = {"metadata": {}, "weight_map": {**dict.fromkeys(first, names[0]), **dict.fromkeys(second, names[1])}}
    for folder in ("", "deep/er/"):
        files = {
            f"{folder}m.safetensors.index.json": json_of(index),
            f"{folder}{names[0]}": save_safetensors(first),
            f"{folder}{names[1]}": save_safetensors(second),
        }
        for name, data in (("s.tar", tar_of(files)), ("s.zip", zip_of(files, zipfile.ZIP_DEFLATED))):
            (tmp_path / name).write_bytes(data)
            checkpoint = convinspect.open(tmp_path / name)
            assert checkpoint.shards == 2
            check_numbers(checkpoint)
            report = convinspect.check(tmp_path / name)
            assert (report.exit_code, report.format) == (0, checkpoint.format)
            assert convinspect.check(checkpoint.path).exit_code == 0


def json_of(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize("folder", ["", "deep/er/"])
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_shards_in_an_archive_are_converted(tmp_path: Path, suffix: str, folder: str) -> None:
    """To a folder of shards, or to one file; the archive is not written again with several files changed."""
    parts = [{key: value for key, value in STATE.items() if key[0] == number} for number in "01"]
    names = [f"m-0000{number}-of-00002{suffix}" for number in (1, 2)]
    index = {"metadata": {}, "weight_map": {key: names[int(key[0])] for key in STATE}}
    buffers = [io.BytesIO(), io.BytesIO()]
    for part, buffer in zip(parts, buffers, strict=True):
        torch.save(part, buffer)
    data = [save_safetensors(part) if suffix == ".safetensors" else buffer.getvalue()
            for part, buffer in zip(parts, buffers, strict=True)]  # fmt: skip
    files = {f"{folder}{name}": one for name, one in zip(names, data, strict=True)}
    path = tmp_path / "m.nemo"
    path.write_bytes(tar_of({"model_config.yaml": CONFIG, f"{folder}m{suffix}.index.json": json_of(index), **files}))
    for target in (tmp_path / "new", tmp_path / "new.pt", tmp_path / "new.safetensors"):
        assert call_main("convert", path, "-o", target, "--to", "linear").code == 0
        assert call_main("verify", path, target).code == 0
        assert convinspect.open(target)["0.weight"].shape == (6, 3)
    assert {one.name for one in (tmp_path / "new").iterdir()} == {*names, f"m{suffix}.index.json"}
    ended = call_main("convert", path, "-o", tmp_path / "new.nemo", "--to", "linear")
    assert (ended.code, (tmp_path / "new.nemo").exists()) == (2, False)
    assert ended.err == (
        f"error: {path}: its shards lie in an archive, which is not written with several files changed;"
        " end -o in .safetensors or .pt for one file, or give the name of a new folder\n"
    )
    assert not [note for note in convinspect.check(path).notes if "not looked at" in note]


def test_archives_within_archives_up_to_a_depth(tmp_path: Path) -> None:
    data, name = TORCH, "w.ckpt"
    for depth in range(members.DEEPEST + 1):
        path = tmp_path / f"{depth}.zip"
        data = zip_of({name: data}) if depth % 2 else tar_of({name: data})
        name = f"{depth}.zip" if depth % 2 else f"{depth}.tar"
        path.write_bytes(data)
        if depth < members.DEEPEST:
            check_numbers(convinspect.open(path))
        else:
            with pytest.raises(RefusedFile, match=f"more than {members.DEEPEST} deep"):
                convinspect.open(path)


def test_a_file_whose_name_has_the_mark_is_that_file(tmp_path: Path) -> None:
    folder = tmp_path / "run!3"
    folder.mkdir()
    (folder / "w!1.pt").write_bytes(TORCH)
    check_numbers(convinspect.open(folder / "w!1.pt"))
    (folder / "m!.nemo").write_bytes(tar_of({"w!2.ckpt": TORCH}))
    checkpoint = convinspect.open(folder / "m!.nemo")
    check_numbers(checkpoint)
    check_numbers(convinspect.open(checkpoint.path))
    with pytest.raises(NotThere, match="no such file"):
        convinspect.open(tmp_path / "none!w.pt")
    (tmp_path / "a.txt").write_bytes(CONFIG)
    with pytest.raises(NotACheckpoint, match="no archive"):
        convinspect.open(tmp_path / "a.txt!w.pt")


def test_an_archive_that_changes_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "m.nemo"
    path.write_bytes(tar_of({"w.ckpt": TORCH}))
    checkpoint = convinspect.open(path)
    check_unchanged(checkpoint.versions)
    path.write_bytes(tar_of({"w.ckpt": TORCH, "more": b"x" * 5000}))
    with pytest.raises(ConvInspectError, match="changed while it was read"):
        checkpoint.read("0.weight")
    check_numbers(convinspect.open(path))


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.85])
@pytest.mark.parametrize("holder", HOLDERS)
def test_an_archive_that_was_cut_short_says_so(tmp_path: Path, holder: str, keep: float) -> None:
    name, make, _ = HOLDERS[holder]
    noise = np.random.default_rng(0)
    whole = make({"w.ckpt": noise.bytes(9000), "model.pt": TORCH + noise.bytes(40_000), "z": CONFIG})
    (tmp_path / name).write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(ConvInspectError) as caught:
        convinspect.open(f"{tmp_path / name}!model.pt").read("0.weight")
    assert str(caught.value).startswith(str(tmp_path))


def test_a_damaged_member_is_noticed(tmp_path: Path) -> None:
    data = bytearray(zip_of({"model.pt": TORCH}, zipfile.ZIP_DEFLATED))
    at = data.index(b"model.pt") + 400
    data[at] ^= 0x55
    (tmp_path / "m.mar").write_bytes(data)
    with pytest.raises(BrokenFile, match=r"model\.pt (cannot be unpacked|is damaged|unpacks to)"):
        convinspect.open(tmp_path / "m.mar")


# --- limits


def test_bombs_are_refused_with_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "IN_MEMORY", 1 << 20)
    bomb = SAFETENSORS[:8] + b'{"' + bytes(8 << 20)
    for name, data in (
        ("a.gz", gzip.compress(bomb)),
        ("a.xz", lzma.compress(bomb)),
        ("a.bz2", bz2.compress(bomb)),
        ("a.tgz", tar_of({"w.pt": bomb}, "w:gz")),
        ("a.mar", zip_of({"w.pt": bomb}, zipfile.ZIP_DEFLATED)),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(RefusedFile, match=r"unpacks to more than [\d,]+ bytes") as caught:
            convinspect.open(tmp_path / name)
        assert name in caught.value.remedy


def test_a_large_one_goes_to_a_temporary_file_and_is_unpacked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "IN_MEMORY", 1000)
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    calls = []
    original = packed.unpacked

    def counting(*args: Any) -> Source:
        calls.append(args)
        return original(*args)

    monkeypatch.setattr(packed, "unpacked", counting)
    (tmp_path / "m.mar").write_bytes(zip_of({"model.pt": TORCH}, zipfile.ZIP_DEFLATED))
    checkpoint = convinspect.open(tmp_path / "m.mar")
    check_numbers(checkpoint)
    with File(checkpoint.path) as file:
        assert file.range_of() is not None
    assert len(calls) == 1
    assert list(folder.iterdir()) == []


def test_what_is_no_checkpoint_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "unpacked", lambda *args: pytest.fail("unpacked"))
    (tmp_path / "table.csv.gz").write_bytes(gzip.compress(b"1,2,3\n" * 1000))
    with pytest.raises(NotACheckpoint, match="gzip-compressed") as caught:
        convinspect.open(tmp_path / "table.csv.gz")
    assert "gzip -dc" in caught.value.remedy


def test_encrypted_and_unknown_methods_are_named(tmp_path: Path) -> None:
    data = bytearray(zip_of({"model.pt": TORCH, "b.pt": TORCH}))
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 8] |= 1
    (tmp_path / "m.zip").write_bytes(data)
    check_numbers(convinspect.open(tmp_path / "m.zip"))
    with pytest.raises(NotACheckpoint, match="encrypted"):
        convinspect.open(tmp_path / "m.zip!b.pt")
    (tmp_path / "x.zip").write_bytes(zip_of({"model.pt": TORCH}, zipfile.ZIP_LZMA))
    with pytest.raises(NotACheckpoint, match=r"whose 'model\.pt' cannot be read") as caught:
        convinspect.open(tmp_path / "x.zip")
    command = caught.value.remedy.removeprefix("unpack it first: ").replace("python", sys.executable, 1)
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    check_numbers(convinspect.open(tmp_path / "model.pt"))
    with pytest.raises(NotACheckpoint, match="method 14"):
        convinspect.open(tmp_path / "x.zip!model.pt")


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_link_in_an_archive_is_named_and_the_archive_closed_once(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "m.tar"
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        link = tarfile.TarInfo("latest.pt")
        link.type, link.linkname = tarfile.SYMTYPE, "w.pt"
        archive.addfile(link)
    for given in (path, f"{path}!latest.pt"):
        with pytest.raises(NotACheckpoint, match="it is a link"):
            convinspect.open(given)


def test_a_hard_link_is_read_and_neither_name_is_rewritten(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(TORCH)
    (tmp_path / "last.pt").hardlink_to(tmp_path / "w.pt")
    subprocess.run(["tar", "-cf", "m.tar", "w.pt", "last.pt"], cwd=tmp_path, check=True)
    for name in ("w.pt", "last.pt"):
        given = f"{tmp_path}/m.tar!{name}"
        check_numbers(convinspect.open(given))
        assert call_main("check", given).code == 0
        ended = call_main("convert", given, "-o", tmp_path / "new.tar", "--to", "linear")
        assert (ended.code, (tmp_path / "new.tar").exists()) == (2, False)
        assert "the checkpoint has another name in its archive" in ended.err
    # Both are one checkpoint, and it is said so where there are others.
    check_numbers(convinspect.open(tmp_path / "m.tar"))
    assert "not looked at" not in call_main("check", tmp_path / "m.tar").out
    (tmp_path / "other.pt").write_bytes(TORCH)
    subprocess.run(["tar", "-rf", "m.tar", "other.pt"], cwd=tmp_path, check=True)
    said = call_main("shapes", tmp_path / "m.tar").err
    assert "a tar archive that holds 2 checkpoints ('last.pt' is 'w.pt' again); give one of them: " in said
    assert said.count(".tar!") == 2


@pytest.mark.parametrize("given", ["", "!w.pt", "!./w.pt", "!ck/data.pkl", "!ck", "!", "!inner.tar!w.pt", "!once.pt"])
def test_names_that_are_there_twice_are_found(tmp_path: Path, given: str) -> None:
    """Of all that is asked for, and of no other: the archive's own, a member's, a folder's, an inner archive's."""
    path, members = tmp_path / "m.tar", {"w.pt": [b"old", TORCH]}
    if "ck" in given or given == "!":
        with zipfile.ZipFile(io.BytesIO(TORCH)) as archive:
            unpacked = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
        members = {f"{'ck/' * (given != '!')}{name}": [b"old", data] for name, data in unpacked.items()}
    if "inner" in given:
        members = {"inner.tar": [tar_of_all(members)]}
    if "once" in given:
        members["once.pt"] = [TORCH]
    path.write_bytes(tar_of_all(members))
    check_numbers(convinspect.open(f"{path}{given}"))
    ended = call_main("check", f"{path}{given}")
    said = " ".join(ended.out.split())
    assert ("more than once; the last one is read" in said, ended.code) == (
        (False, 0) if "once" in given else (True, 1)
    )
    assert "'w.pt' more than once" in said or "w.pt" not in given


def tar_of_all(members: dict[str, list[bytes]]) -> bytes:
    """A tar in which a name may have several members."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, every in members.items():
            for data in every:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize("name", ["../w.pt", "/etc/w.pt", "a/../../w.pt"])
def test_names_that_lead_elsewhere_are_only_names(tmp_path: Path, name: str) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "m.tar").write_bytes(tar_of({name: TORCH}))
    checkpoint = convinspect.open(tmp_path / "inner" / "m.tar")
    check_numbers(checkpoint)
    assert sorted(one.name for one in tmp_path.rglob("*")) == ["inner", "m.tar"]


@pytest.mark.parametrize("inner", ["w.pt", "m.tar", "w.joblib"])
def test_lz4_is_read_where_its_package_is_installed(
    tmp_path: Path, inner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = pytest.importorskip("lz4.frame")
    path = tmp_path / inner
    path.write_bytes({"w.pt": TORCH}.get(inner, tar_of({"w.pt": TORCH})))
    if inner == "w.joblib":
        joblib = pytest.importorskip("joblib")
        joblib.dump({key: value.numpy() for key, value in STATE.items()}, path, compress="lz4")
        assert path.read_bytes()[:4] == b"\x04\x22\x4d\x18"
    else:
        path.write_bytes(frame.compress(path.read_bytes()))
    check_numbers(convinspect.open(path))
    assert call_main("check", path).code == 0
    data = path.read_bytes()
    large = io.BytesIO()
    torch.save({"w": torch.rand(1_600_000)}, large)
    packed_large = frame.compress(large.getvalue(), block_size=frame.BLOCKSIZE_MAX4MB)
    (tmp_path / "large").write_bytes(packed_large)
    assert [*convinspect.open(tmp_path / "large")] == ["w"]
    (tmp_path / "cut").write_bytes(packed_large[: len(packed_large) * 9 // 10])
    with pytest.raises(BrokenFile):
        convinspect.open(tmp_path / "cut")
    bomb = io.BytesIO()
    torch.save({"w": torch.zeros(40 << 20)}, bomb)
    (tmp_path / "bomb").write_bytes(frame.compress(bomb.getvalue()))
    monkeypatch.setattr(packed, "IN_MEMORY", 1 << 20)
    monkeypatch.setattr(packed, "LARGEST_RATIO", 4)
    with pytest.raises(RefusedFile, match="unpacks to more than"):
        convinspect.open(tmp_path / "bomb")
    monkeypatch.setitem(sys.modules, "lz4.frame", None)
    monkeypatch.setattr("convinspect.formats.unsupported.compressed.find_spec", lambda name: None)
    (tmp_path / "new").write_bytes(data)
    ended = call_main("shapes", tmp_path / "new")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert inner == "m.tar" or "python -m pip install lz4" in ended.err
