"""Files that are not whole: what is there is listed, what is missing is said, and nothing else ever happens."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from convinspect.checking.scan import check
from convinspect.checkpoint import open_checkpoint
from convinspect.errors import ConvInspectError, CutShort, NotThere, RefusedFile
from convinspect.formats import read_contents
from support.paths import FIXTURES
from support.sampling import some, times

CONTAINERS = [
    "pointnet_stnkd.pt", "pointnet_stnkd_module.pt", "pointnet_stnkd_legacy.pt", "pointnet_stnkd_legacy_module.pt",
    "pointnet_stnkd_script.pt", "pointnet_stnkd_trace.pt", "pointnet_stnkd.pt2", "pointnet_stnkd.safetensors",
]  # fmt: skip


def outcome(path: Path) -> str:
    """The error's text, or the problems of a listing; "" for a file that seems whole."""
    try:
        return " ".join(read_contents(path).problems)
    except ConvInspectError as error:
        return str(error)


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_cut_file_is_never_listed_as_whole(tmp_path: Path, name: str) -> None:
    whole = (FIXTURES / name).read_bytes()
    path = tmp_path / name
    lengths = {*range(1, 40), *range(40, len(whole), len(whole) // 97), *range(len(whole) - 90, len(whole))}
    for length in some(sorted(lengths), 70):
        path.write_bytes(whole[:length])
        said = outcome(path)
        assert said, f"{name} cut to {length} of {len(whole)} bytes"
        if length > 200:
            assert f"{length:,} bytes" in said, said


@pytest.mark.parametrize("name", CONTAINERS)
def test_half_a_file_says_how_much_is_there_and_how_much_is_missing(tmp_path: Path, name: str) -> None:
    whole = (FIXTURES / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    said = outcome(tmp_path / name)
    assert "truncated" in said
    assert f"{len(whole) // 2:,} bytes" in said
    # TorchScript and .pt2 describe their tensors at the end, and an old module is mostly its classes' sources: there
    # no one can tell what is gone.
    if not any(word in name for word in ("script", "trace", "pt2", "legacy_module")):
        assert "are missing)" in said


@pytest.mark.parametrize("name", CONTAINERS)
@settings(max_examples=times(20, 40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_bytes_end_as_a_listing_or_an_error(tmp_path: Path, name: str, data: st.DataObject) -> None:
    changed = bytearray((FIXTURES / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / name).write_bytes(changed)
    outcome(tmp_path / name)


def test_a_cut_safetensors_lists_its_header_and_marks_what_is_gone(tmp_path: Path) -> None:
    save_file({"a.weight": torch.ones(4, 6, 1), "b.weight": torch.ones(4, 6, 1)}, tmp_path / "x.safetensors")
    whole = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(whole[:-10])
    checkpoint = open_checkpoint(tmp_path / "x.safetensors")
    assert [tensor.whole for tensor in checkpoint.tensors.values()] == [True, False]
    assert checkpoint.read("a.weight").shape == (4, 6, 1)
    with pytest.raises(ConvInspectError):
        checkpoint.read("b.weight")


def test_shards_report_each_defect_by_itself(tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / "sharded", tmp_path / "sharded")
    whole = open_checkpoint(folder)
    assert not whole.problems
    first, second = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    text = json.loads(index.read_text())
    index.write_text(json.dumps({**text, "weight_map": {**text["weight_map"], "ghost.weight": first.name}}))
    (problem,) = open_checkpoint(folder).problems
    assert "ghost.weight" in problem
    assert first.name in problem
    index.write_text(json.dumps(text))
    first.unlink()
    missing = open_checkpoint(index)
    assert first.name in missing.problems[0]
    assert 0 < len(missing.tensors) < len(whole.tensors)
    second.unlink()
    with pytest.raises(NotThere):
        open_checkpoint(folder)
    for outside in ("../a.safetensors", "/etc/passwd", "sub/../../a.safetensors", "C:\\a.safetensors"):
        index.write_text(json.dumps({"weight_map": {"a.weight": outside}}))
        with pytest.raises(RefusedFile, match="outside"):
            open_checkpoint(folder)


def test_numbered_shards_without_an_index(tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / "sharded", tmp_path / "sharded")
    expected = list(open_checkpoint(folder).tensors)
    (folder / "model.safetensors.index.json").unlink()
    checkpoint = open_checkpoint(folder)
    assert sorted(checkpoint.tensors) == sorted(expected)
    next(iter(sorted(folder.glob("*.safetensors")))).unlink()
    assert "1 of 2 shards" in open_checkpoint(folder).problems[-1]


def test_an_archive_stored_inside_does_not_stand_in_for_the_one_that_is_cut(tmp_path: Path) -> None:
    """A .pt2 holds a whole torch.save file; with its own end cut off, that one's end record is the last."""
    whole = (FIXTURES / "pointnet_stnkd.pt2").read_bytes()
    (tmp_path / "x.pt2").write_bytes(whole[:-20])
    with pytest.raises(CutShort):
        read_contents(tmp_path / "x.pt2")


def test_huge_sparse_files_are_listed_from_their_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from convinspect.formats import sources

    taken = 0
    original = sources.read_at

    def counting(handle: int, size: int, offset: int) -> bytes:
        nonlocal taken
        found = original(handle, size, offset)
        taken += len(found)
        return found

    monkeypatch.setattr(sources, "read_at", counting)
    header = json.dumps(
        {"c.weight": {"dtype": "F32", "shape": [5_000_000, 1000, 1], "data_offsets": [0, 20_000_000_000]}}
    )
    text = header.encode() + b" " * (-len(header) % 8)
    with (tmp_path / "x.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + 20_000_000_000)
    checkpoint = open_checkpoint(tmp_path / "x.safetensors")
    assert not checkpoint.problems
    assert checkpoint.tensors["c.weight"].nbytes == 20_000_000_000
    assert taken < 10_000


def test_a_zip_without_its_end_is_listed_as_far_as_it_goes(tmp_path: Path) -> None:
    """A download that stopped: the pickle stands first, so all shapes are known, and the first kernels whole."""
    torch.manual_seed(0)
    state = {f"l{index}.weight": torch.randn(64, 32, 1) for index in range(12)}
    whole, half = tmp_path / "whole.pt", tmp_path / "half.pt"
    torch.save(state, whole)
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    checkpoint = open_checkpoint(half)
    assert {name: tensor.shape for name, tensor in checkpoint.tensors.items()} == {
        name: tuple(tensor.shape) for name, tensor in state.items()
    }
    (problem,) = checkpoint.problems
    assert "truncated" in problem
    assert "missing" in problem
    there = [name for name, tensor in checkpoint.tensors.items() if tensor.whole]
    assert there == [f"l{index}.weight" for index in range(len(there))]
    assert 4 <= len(there) <= 6
    for name in there:
        assert (checkpoint.read(name) == state[name].numpy()).all()


def test_an_interrupted_save_is_called_cut_short(tmp_path: Path) -> None:
    """All payload is there and the directory is not: it lists, and nobody is told to unpack it."""
    whole, cut = tmp_path / "whole.pt", tmp_path / "cut.pt"
    torch.save({"conv.weight": torch.ones(8, 6, 1)}, whole)
    content = whole.read_bytes()
    cut.write_bytes(content[: content.index(b"PK\x01\x02")])
    checkpoint = open_checkpoint(cut)
    assert (checkpoint.read("conv.weight") == 1).all()
    assert "directory" in checkpoint.problems[0]
    assert "unpack" not in checkpoint.problems[0]


def repacked(path: Path, leave_out: str = "", second: str = "") -> Path:
    """The records of a small checkpoint, but for one, with the pickle a second time under the name `second`."""
    with zipfile.ZipFile(FIXTURES / "pointnet_stnkd.pt") as source, zipfile.ZipFile(path, "w") as target:
        for info in source.infolist():
            if not (leave_out and info.filename.endswith(leave_out)):
                target.writestr(info.filename, source.read(info))
            if second and info.filename.endswith("/data.pkl"):
                target.writestr(second, source.read(info))
    return path


def test_numbers_without_a_pickle_are_called_so(tmp_path: Path) -> None:
    said = outcome(repacked(tmp_path / "a.pt", leave_out="/data.pkl"))
    assert "records of numbers, and no data.pkl, which says what they are; download or save it again" in said


DATA = b"\0" * 64


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["data/0"], "it holds 1 record of numbers, and no data.pkl, which says what they are; download or save"),
        (["a/data/0", "a/data/1", "a/byteorder"], "it holds 2 records of numbers, and no data.pkl"),
        (["a/byteorder", "a/version"], "it is half of a torch.save file: no data.pkl, which says what is in it"),
        ([], "it is a zip archive with nothing in it; download or save it again"),
        (["out/a/data.pkl", "out/a/data/0"], "its records lie in the folder 'out/a/', and PyTorch looks for them one "
         "folder deep; unpack it, and pack 'a' alone"),
        (["a/data.pkl", "b/data/0"], "its records lie in several folders, and only 'a/data.pkl' in its place"),
        (["w.npy", "b.npy"], "array 'w': it does not begin as an array of NumPy does"),
        (["[Content_Types].xml", "word/document.xml"], "it is a Microsoft Office document; give the file that holds"),
        (["[Content_Types].xml", "xl/printerSettings1.bin"], "it is a Microsoft Office document"),
        (["mimetype", "META-INF/container.xml"], "it is a document (OpenDocument or EPUB); give the file that holds"),
        (["META-INF/MANIFEST.MF", "com/A.class"], "it is a Java archive; give the file that holds the weights"),
        (["META-INF/MANIFEST.MF", "AndroidManifest.xml"], "it is an Android app; give the file that holds the weights"),
        (["p/__init__.py", "p-1.0.dist-info/METADATA"], "it is a Python package; give the file that holds the weights"),
        (["p/w.pt", "p-1.0.dist-info/METADATA"], "it is a zip archive that holds 'p/w.pt'; give that file"),
        (["m/config.json", "m/model.safetensors"], "it is a zip archive that holds 'm/model.safetensors'; give that"),
        (["metadata.json", "config.json", "model.weights.h5"], "it is a Keras archive; open it with Keras"),
        (["a/b.txt", "c"], "it holds 'a/b.txt' and 1 more; unpack it if the weights are among them, or give the file"),
    ],
)  # fmt: skip
def test_a_zip_that_is_no_checkpoint_is_named(tmp_path: Path, names: list[str], said: str) -> None:
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, DATA)
    assert said in outcome(path)
    report = check(path)
    assert report.exit_code == 2
    # Where there is a pickle, it says what is wrong with that.
    if not any(name.endswith((".pkl", ".pt")) for name in names):
        assert any(said in f"{one.message}; {one.remedy}" for one in report.findings)


def test_a_cut_zip_is_told_by_what_is_gone(tmp_path: Path) -> None:
    """Its end, what lies before its directory, or what a full disk left zero; a cut zip of another kind is named."""
    whole = tmp_path / "whole.pt"
    torch.save({"conv.weight": torch.ones(80, 60, 1)}, whole)
    content = whole.read_bytes()
    with zipfile.ZipFile(whole) as archive:
        numbers = archive.getinfo("whole/data/0").header_offset
        directory = archive.start_dir
    with zipfile.ZipFile(tmp_path / "a.docx", "w") as archive:
        archive.writestr("[Content_Types].xml", DATA)
    size = len(content)
    for changed, said in (
        (content[numbers:], f"truncated: {size - numbers:,} bytes of {size:,} expected ({numbers:,} are missing)"),
        (content[: numbers + 99] + content[numbers + 199 :], "(100 are missing) before its zip directory"),
        (content[numbers:directory], "and the zip directory at its end is gone; download or copy it again"),
        (content[: directory - 5000] + bytes(6000), "its end was never written: the last 1,024 of its"),
        (content[:100], "it is truncated: 100 bytes, and the zip directory at its end is gone"),
        ((tmp_path / "a.docx").read_bytes()[:-30], "it is a Microsoft Office document, and truncated; give the file"),
    ):  # fmt: skip
        (tmp_path / "a.pt").write_bytes(changed)
        assert said in outcome(tmp_path / "a.pt")
        # Numbers at the beginning are no instructions of a pickle.
        assert {one.code for one in check(tmp_path / "a.pt").findings} == {"unreadable"}


def test_of_two_pickles_none_is_taken(tmp_path: Path) -> None:
    said = outcome(repacked(tmp_path / "a.pt", second="other/data.pkl"))
    assert "it holds 2 checkpoints (pointnet_stnkd/data.pkl, other/data.pkl), and which is meant cannot be told" in said


def test_a_pickle_beside_the_folder_is_none_of_it(tmp_path: Path) -> None:
    """A name is never cut at the length of a folder that it does not lie in."""
    path = repacked(tmp_path / "a.pt", leave_out="/data.pkl", second="x" * len("pointnet_stnkd/") + "data.pkl")
    assert "no data.pkl" in outcome(path)


@pytest.mark.parametrize("part", ["data/weights/weight_3", "data/weights/model_weights_config.json"])
def test_an_exported_model_without_a_part_is_never_listed_as_whole(tmp_path: Path, part: str) -> None:
    with (
        zipfile.ZipFile(FIXTURES / "pointnet_stnkd.pt2") as archive,
        zipfile.ZipFile(tmp_path / "x.pt2", "w") as less,
    ):
        for name in archive.namelist():
            if not name.endswith(part):
                less.writestr(name, archive.read(name))
    assert "download or copy it again" in outcome(tmp_path / "x.pt2")
