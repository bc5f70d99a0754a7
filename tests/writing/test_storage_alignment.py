"""Files saved with another `storage_alignment` than 64: PyTorch must find each storage where it calculates it to be."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from convinspect.checking.scan import check
from convinspect.errors import CannotWrite
from convinspect.formats.files import File
from convinspect.formats.zip.archive import Archive
from convinspect.writing import zip as rewrite_zip
from convinspect.writing.pieces import write_pieces
from support.conversions import assert_only_reshaped, converted
from support.in_process import run
from support.sampling import times
from support.storage_offsets import load_by_calculation, same, save_aligned

LARGEST = 1 << 16
"""Beyond it PyTorch writes files that it cannot read: an extra field has no more bytes."""
ALIGNMENTS = st.sampled_from([1, 2, 3, 63, 64, 65, 100, 128, 192, 4096, 5000, 16384, 65000]) | st.integers(1, 20000)
WITH_FILES = [HealthCheck.function_scoped_fixture]


def state(convolutions: int = 2, width: int = 4, empty: bool = True) -> dict[str, torch.Tensor]:
    """Pointwise weights of several sizes, with ties, views and tensors of no bytes between them."""
    torch.manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}
    for number in range(convolutions):
        tensors[f"layer{number}.weight"] = torch.randn(width + number, 2 * width + number, 1)
        tensors[f"layer{number}.bias"] = torch.randn(width + number)
        if empty:
            tensors[f"empty{number}"] = torch.empty(0, 3)
    tensors["tied.weight"] = tensors["layer0.weight"]
    tensors["part"] = tensors["layer0.bias"][1:]
    tensors["step"] = torch.tensor(7)
    return tensors


@settings(max_examples=times(20, 40), deadline=None, suppress_health_check=WITH_FILES)
@given(
    alignment=ALIGNMENTS, convolutions=st.integers(1, 6), width=st.sampled_from([1, 4, 130, 300]), empty=st.booleans()
)
def test_storages_stay_where_torch_calculates_them(
    tmp_path: Path, alignment: int, convolutions: int, width: int, empty: bool
) -> None:
    """The pickle becomes shorter on the way there, and longer on the way back."""
    before = state(convolutions, width, empty)
    source = save_aligned(before, tmp_path / "a.pt", alignment)
    target, back = tmp_path / "b.pt", tmp_path / "c.pt"
    weights = [key for key in before if key.endswith("weight")]
    converted(source, target)
    assert_only_reshaped(before, load_by_calculation(target), weights)
    assert_aligned(target, alignment)
    converted(target, back, "Conv1d", names=[key.removesuffix(".weight") for key in weights])
    assert back.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("alignment", [1, 64, 100, 4096, 65000])
@pytest.mark.parametrize("to", ["Conv2d", "Conv3d", "Linear"])
def test_a_longer_pickle_keeps_the_alignment(tmp_path: Path, alignment: int, to: str) -> None:
    before = state()
    source = save_aligned(before, tmp_path / "a.pt", alignment)
    converted(source, tmp_path / "b.pt", to, kinds=["Conv1d"])
    after = load_by_calculation(tmp_path / "b.pt")
    assert_only_reshaped(before, after, ["layer0.weight", "layer1.weight", "tied.weight"])
    converted(tmp_path / "b.pt", tmp_path / "c.pt", "Conv1d", kinds=[to], names=["layer0", "layer1", "tied"])
    assert (tmp_path / "c.pt").read_bytes() == source.read_bytes()


@settings(max_examples=8, deadline=None, suppress_health_check=WITH_FILES)
@given(alignment=ALIGNMENTS, length=st.integers(1, 400))
def test_new_names_keep_the_alignment(tmp_path: Path, alignment: int, length: int) -> None:
    before = state()
    source = save_aligned(before, tmp_path / "a.pt", alignment)
    name = "n" * length
    there = run("convert", source, "-o", tmp_path / "b.pt", "--rename", f"layer0={name}", "--to", "linear", "--force")
    assert there.returncode == 0, there.stderr
    after = load_by_calculation(tmp_path / "b.pt")
    assert torch.equal(after[f"{name}.weight"], before["layer0.weight"][..., 0])
    assert torch.equal(after["layer1.bias"], before["layer1.bias"])
    assert_aligned(tmp_path / "b.pt", alignment)


def trained(order: str) -> dict[str, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(6, 5, 1), nn.ReLU(), nn.Conv1d(5, 3, 1))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 6, 4)).sum().backward()
    optimizer.step()
    parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "ema": {"a": torch.arange(1000.0)}}
    return {name: parts[name] for name in order.split()}


@pytest.mark.parametrize("alignment", [64, 100, 4096, 65000])
@pytest.mark.parametrize("order", ["model optimizer ema", "optimizer model ema", "ema optimizer model"])
def test_without_the_optimizer_torch_still_finds_the_rest(tmp_path: Path, alignment: int, order: str) -> None:
    """Storages in the middle, or the first one, from which PyTorch calculates all others, are gone."""
    before = trained(order)
    source = save_aligned(before, tmp_path / "a.pt", alignment)
    done = run("convert", source, "-o", tmp_path / "b.pt", "--to", "linear", "--drop-optimizer")
    assert done.returncode == 0, done.stderr
    after = load_by_calculation(tmp_path / "b.pt")
    assert_only_reshaped(before["model"], after["model"], ["0.weight", "2.weight"])
    assert same(before["ema"], after["ema"])
    assert not after["optimizer"]["state"]
    assert check(tmp_path / "b.pt").findings == ()


@pytest.mark.parametrize("alignment", [64, 100, 4096])
def test_the_optimizer_follows_with_its_storages_aligned(tmp_path: Path, alignment: int) -> None:
    source = save_aligned(trained("optimizer model ema"), tmp_path / "a.pt", alignment)
    converted(source, tmp_path / "b.pt")
    load_by_calculation(tmp_path / "b.pt")
    assert_aligned(tmp_path / "b.pt", alignment)
    converted(tmp_path / "b.pt", tmp_path / "c.pt", "Conv1d")
    assert (tmp_path / "c.pt").read_bytes() == source.read_bytes()


def test_layers_that_stay_and_weights_of_other_kernels(tmp_path: Path) -> None:
    before = {**state(), "wide.weight": torch.randn(4, 4, 3)}
    source = save_aligned(before, tmp_path / "a.pt", 4096)
    converted(source, tmp_path / "b.pt", names=["layer1"])
    assert_only_reshaped(before, load_by_calculation(tmp_path / "b.pt"), ["layer1.weight"])


def edited(source: Path, target: Path, new: bytes, gone: tuple[str, ...] = ()) -> None:
    with File(source) as file:
        pieces = rewrite_zip.pieces_with_record(file, Archive(file), "data.pkl", new, gone)
        write_pieces(source, pieces, target, lambda done: None)


@pytest.mark.parametrize("padding", [65530, 65531, 65532, 65535])
def test_padding_that_no_header_can_hold_is_left_to_the_next_record(tmp_path: Path, padding: int) -> None:
    """A header's extra fields have 65,535 bytes at most; PyTorch itself writes broken files there."""
    source = save_aligned(state(), tmp_path / "a.pt", LARGEST)
    with zipfile.ZipFile(source) as archive:
        old, name = archive.read("a/data.pkl"), "a/.format_version"
    bare = LARGEST + 16 + 30 + len(name) + 4
    new = old + b"." * ((-padding - bare - len(old)) % LARGEST)
    edited(source, tmp_path / "b.pt", new)
    assert_aligned(tmp_path / "b.pt", LARGEST)
    assert same(state(), load_by_calculation(tmp_path / "b.pt"))
    edited(tmp_path / "b.pt", tmp_path / "c.pt", old)
    assert (tmp_path / "c.pt").read_bytes() == source.read_bytes()


def test_a_storage_whose_padding_no_header_can_hold_is_refused(tmp_path: Path) -> None:
    """As of a writer that puts storages right behind the pickle, which PyTorch's does not."""
    writer = torch._C.PyTorchFileWriter(str(tmp_path / "a.pt"), True, LARGEST)
    for name, data in {"data.pkl": b"." * 100, "data/0": b"1234", ".storage_alignment": b"65536"}.items():
        writer.write_record(name, data, len(data))
    writer.write_end_of_file()
    new = b"." * (LARGEST - 16 - 30 - len("a/data/0") - 4 + 1)
    with pytest.raises(CannotWrite, match="more padding than a header can hold"):
        edited(tmp_path / "a.pt", tmp_path / "b.pt", new)


@pytest.mark.parametrize("claim", [b"0", b"-1", b"x", b"", b"9" * 30, b"70000", b"6" * 100])
def test_an_alignment_that_is_none_is_taken_for_the_usual_one(tmp_path: Path, claim: bytes) -> None:
    torch.save(state(), tmp_path / "torch.pt")
    source = tmp_path / "a.pt"
    with zipfile.ZipFile(tmp_path / "torch.pt") as old, zipfile.ZipFile(source, "w") as new:
        for name in old.namelist():
            new.writestr(name, claim if name.endswith(".storage_alignment") else old.read(name))
    converted(source, tmp_path / "b.pt")
    with zipfile.ZipFile(tmp_path / "b.pt") as new:
        assert new.testzip() is None
        assert new.read("torch/.storage_alignment") == claim


def test_what_was_not_aligned_as_it_says_keeps_what_it_has(tmp_path: Path) -> None:
    """Such as files that were changed by a tool that moves records without a look at their alignment."""
    source = save_aligned(state(), tmp_path / "a.pt", 64)
    source.write_bytes(claiming(source, b"99"))
    converted(source, tmp_path / "b.pt")
    assert_aligned(tmp_path / "b.pt", 64)
    converted(tmp_path / "b.pt", tmp_path / "c.pt", "Conv1d", names=["layer0", "layer1", "tied"])
    assert (tmp_path / "c.pt").read_bytes() == source.read_bytes()


def claiming(path: Path, claim: bytes) -> bytes:
    """The bytes of a file whose record says something else than 64, as its storages are aligned."""
    sums = [zlib.crc32(text).to_bytes(4, "little") for text in (b"64", claim)]
    data = path.read_bytes()
    assert data.count(sums[0]) == 2
    with File(path) as file:
        payload = Archive(file).payload(".storage_alignment")
    return (data[:payload] + claim + data[payload + len(claim) :]).replace(sums[0], sums[1])


def assert_aligned(path: Path, alignment: int) -> None:
    with File(path) as file:
        archive = Archive(file)
        for name in archive.records:
            if name.startswith("data/"):
                assert archive.payload(name) % alignment == 0, name
