"""`check` finds a storage that does not lie where PyTorch calculates it to be, and nothing in what PyTorch writes."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from convinspect.checking.scan import check
from convinspect.formats.files import File
from convinspect.formats.zip.archive import Archive
from support.in_process import run
from support.paths import FIXTURES
from support.sampling import times
from support.storage_offsets import aligned_by, load_by_calculation, same, save_aligned

SIZES = st.lists(st.sampled_from([0, 1, 3, 16, 63, 64, 65, 1000, 4096]) | st.integers(0, 5000), min_size=1, max_size=12)
ALIGNMENTS = st.sampled_from([1, 2, 63, 64, 65, 100, 128, 4096, 16384, 65000]) | st.integers(1, 20000)


def codes(path: Path) -> set[str]:
    return {found.code for found in check(path).findings}


def tensors(sizes: list[int]) -> dict[str, torch.Tensor]:
    made = {str(at): torch.arange(size, dtype=torch.int64).to(torch.uint8) for at, size in enumerate(sizes)}
    made["tied"] = made["0"]
    return made


@settings(max_examples=times(40, 80), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(alignment=ALIGNMENTS, sizes=SIZES)
def test_what_torch_writes_is_as_torch_calculates(tmp_path: Path, alignment: int, sizes: list[int]) -> None:
    before = tensors(sizes)
    path = save_aligned(before, tmp_path / "a.pt", alignment)
    assert same(before, load_by_calculation(path))
    assert codes(path) == set()


def skipped(path: Path) -> None:
    with torch.serialization.skip_data():
        torch.save({"a": torch.ones(300), "b": torch.ones(7)}, path)


def unsummed(path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(300), "e": torch.empty(0), "b": torch.ones(7)}, path)
    finally:
        torch.serialization.set_crc32_options(True)


def buffered(path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(300), "b": torch.ones(7)}, buffer)
    path.write_bytes(buffer.getvalue())


def module(path: Path) -> None:
    torch.save(nn.Sequential(nn.Conv1d(3, 4, 1), nn.BatchNorm1d(4)), path)


def kinds(path: Path) -> None:
    sparse = torch.eye(20).to_sparse()
    quantized = torch.quantize_per_tensor(torch.ones(30), 0.1, 0, torch.qint8)
    torch.save(
        [sparse, sparse.to_sparse_csr(), quantized, torch.empty(3, device="meta"), torch.ones(5, dtype=torch.cfloat)],
        path,
    )


def optimizer(path: Path) -> None:
    model = nn.Linear(30, 40)
    adam = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 30)).sum().backward()
    adam.step()
    torch.save({"optimizer": adam.state_dict(), "model": model.state_dict(), "rng": torch.get_rng_state()}, path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("alignment", [1, 64, 100, 4096])
@pytest.mark.parametrize("write", [skipped, unsummed, buffered, module, kinds, optimizer])
def test_nothing_that_torch_writes_is_found(tmp_path: Path, write: Any, alignment: int) -> None:
    with aligned_by(alignment):
        write(tmp_path / "a.pt")
    assert "storage-misplaced" not in codes(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "path",
    sorted({*FIXTURES.rglob("*.pt"), *FIXTURES.rglob("*.pt2"), *FIXTURES.rglob("*.ckpt"), *FIXTURES.rglob("*.bin")}),
)
def test_nothing_of_old_files_is_found(path: Path) -> None:
    assert "storage-misplaced" not in codes(path)


def claiming(path: Path, alignment: bytes) -> Path:
    """The same records, aligned by 64 as PyTorch writes them, with another claim."""
    with zipfile.ZipFile(path) as old:
        records = {name.partition("/")[2]: old.read(name) for name in old.namelist()}
    records[".storage_alignment"] = alignment
    target = path.with_name("claims.pt")
    writer = torch._C.PyTorchFileWriter(str(target), True, 64)
    for name, data in records.items():
        if name not in ("version", ".data/serialization_id"):
            writer.write_record(name, data, len(data))
    writer.write_end_of_file()
    return target


@settings(max_examples=times(30, 60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(claim=ALIGNMENTS, sizes=SIZES)
def test_a_claim_is_found_where_torch_would_read_other_bytes(tmp_path: Path, claim: int, sizes: list[int]) -> None:
    """The oracle: PyTorch's own comparison of what it calculates with what the headers say."""
    torch.save(tensors(sizes), tmp_path / "a.pt")
    path = claiming(tmp_path / "a.pt", str(claim).encode())
    right = torch_calculates_rightly(path)
    assert codes(path) == (set() if right else {"storage-misplaced"})


def torch_calculates_rightly(path: Path) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_SERIALIZATION_DEBUG", "1")
        try:
            torch.load(path, weights_only=True)
        except RuntimeError as raised:
            error = str(raised)
        else:
            return True
    assert "Incorrect offset" in error
    return False


@pytest.mark.parametrize("alignment", [64, 4096])
def test_what_another_tool_repacked_is_found(tmp_path: Path, alignment: int) -> None:
    """Its bytes are whole, and PyTorch calculates other offsets than the headers give."""
    before = {"a": torch.ones(300), "b": torch.arange(100.0)}
    save_aligned(before, tmp_path / "a.pt", alignment)
    path = tmp_path / "b.pt"
    with zipfile.ZipFile(tmp_path / "a.pt") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert same(before, torch.load(path))
    assert not torch_calculates_rightly(path)
    report = check(path)
    if alignment == 64:
        # An archiver's, which is whole to everybody who reads headers.
        assert report.findings == ()
        return
    (found,) = report.findings
    assert (found.code, found.level, report.exit_code) == ("storage-misplaced", "warning", 1)
    with File(path) as file:
        payload = Archive(file).payload("data/1")
    assert found.place.record == "a/data/1"
    assert found.place.in_file == payload
    assert f"begins at byte {payload:,}" in found.message
    sarif = json.loads(run("check", path, "--format", "sarif").stdout)
    assert [rule["id"] for rule in sarif["runs"][0]["tool"]["driver"]["rules"]] == ["storage-misplaced"]


@pytest.mark.parametrize("claim", [b"", b"x", b"0", b"-64", b"6 4"])
def test_an_alignment_that_is_no_number_is_bad_metadata(tmp_path: Path, claim: bytes) -> None:
    torch.save({"a": torch.ones(300), "b": torch.ones(7)}, tmp_path / "a.pt")
    assert codes(claiming(tmp_path / "a.pt", claim)) == {"bad-metadata"}
