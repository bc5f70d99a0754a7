"""Files as PyTorch wrote them from its first version to the present one: the same small model, saved by each.

Those of 1.0 to 2.13 were written by these versions themselves, those of 0.3 and 0.4 by 1.0 with the older way to pickle
(`fixtures/old_files.py`); what no version of today writes is built here from its description, with PyTorch's own reader
as the oracle.
"""

from __future__ import annotations

import io
import pickle
import re
import struct
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.package.package_exporter import PackageExporter

from convinspect.checking.scan import check
from convinspect.checkpoint import Checkpoint, open_checkpoint
from convinspect.errors import NotACheckpoint
from convinspect.layers.find import find_layers
from support.conversions import converted, load, names
from support.paths import FIXTURES

OLD = FIXTURES / "old"
VERSIONS = ["0.3", "0.4", "1.0_python2", "1.0", "1.5", "1.6", "2.0", "2.6", "2.13"]
STATE_DICTS = [*(f"torch_{version}_state_dict.pt" for version in VERSIONS), "torch_1.5_zip.pt", "torch_1.6_legacy.pt"]
MAGIC = 0x1950A86A20F9469CFC6C


def assert_equal(checkpoint: Checkpoint, expected: dict[str, torch.Tensor]) -> None:
    """The same keys in order, dtypes, shapes and numbers."""
    assert [tensor.key for tensor in checkpoint.root.tensors] == list(expected)
    for name, wanted in zip(checkpoint.tensors, expected.values(), strict=True):
        found = checkpoint.tensors[name]
        assert (found.dtype, found.shape) == (str(wanted.dtype).removeprefix("torch."), tuple(wanted.shape)), name
        read = checkpoint.read(name)
        assert read.astype("float64").tolist() == wanted.double().tolist(), name


@pytest.mark.parametrize("name", STATE_DICTS)
def test_state_dicts(name: str) -> None:
    checkpoint = open_checkpoint(OLD / name)
    assert_equal(checkpoint, load(OLD / name))
    kinds = [(layer.kind, layer.pointwise) for layer in find_layers(checkpoint)]
    assert kinds == [
        ("Conv1d", True), ("Conv1d", True), ("Conv1d", True), ("Conv1d", False), ("BatchNorm", False),
        ("ConvTranspose1d", True), ("Linear", False), ("Conv2d", True), ("Embedding", False), ("LSTM", False),
    ]  # fmt: skip
    assert not check(OLD / name).findings


@pytest.mark.parametrize("version", VERSIONS)
def test_views_ties_dtypes_and_parameters(version: str) -> None:
    path = OLD / f"torch_{version}_tensors.pt"
    checkpoint, expected = open_checkpoint(path), load(path)
    assert_equal(checkpoint, expected)
    for name, tensor in checkpoint.tensors.items():
        assert tensor.stride == expected[name].stride() or not tensor.numel, name
        # Before 0.4 only parameters had the flag, and PyTorch of today sets it on nothing that it loads from then.
        assert version == "0.3" or bool(tensor.requires_grad) == expected[name].requires_grad, name
    assert checkpoint.tied_to("base") == ("tie", "turned")
    assert not check(path).findings


@pytest.mark.parametrize("version", VERSIONS)
def test_whole_modules_whatever_attributes_they_lack(version: str) -> None:
    checkpoint = open_checkpoint(OLD / f"torch_{version}_module.pt")
    # torch.load of today fails on LSTM as 1.0 saved it; the state_dict has the same numbers.
    assert_equal(checkpoint, load(OLD / f"torch_{version}_state_dict.pt"))
    layers = {layer.name: layer for layer in find_layers(checkpoint)}
    assert {layer.evidence for layer in layers.values()} == {"module"}
    facts = {name: (layer.stride, layer.padding, layer.groups) for name, layer in layers.items() if layer.stride}
    assert facts == {
        "conv": ((1,), (0,), 1), "grouped": ((1,), (0,), 2), "strided": ((2,), (0,), 1), "wide": ((1,), (1,), 1),
        "up": ((1,), (0,), 1), "conv2d": ((1, 1), (0, 0), 1),
    }  # fmt: skip
    # Python 2 wrote the classes' source text, which this format keeps, as a string of its own.
    text = {"refused-instruction"} if version == "1.0_python2" else set()
    assert {one.code for one in check(checkpoint.path).findings} == {"global-library"} | text


@pytest.mark.parametrize("version", VERSIONS)
def test_a_training_converts_both_ways(tmp_path: Path, version: str) -> None:
    source = OLD / f"torch_{version}_training.pt"
    before = torch.load(source, weights_only=False)
    there, back = tmp_path / "linear.pt", tmp_path / "back.pt"
    assert names(converted(source, there)) == ["0", "1"]
    after = torch.load(there, weights_only=False)
    for key, old in before["state_dict"].items():
        new = after["state_dict"][key]
        assert torch.equal(new, old.squeeze(-1) if key.endswith("weight") else old), key
    for old, new in zip(before["optimizer"]["state"].values(), after["optimizer"]["state"].values(), strict=True):
        for key, value in old.items():
            assert torch.equal(torch.as_tensor(new[key]), torch.as_tensor(value).squeeze(-1)) or value.ndim < 3, key
            assert getattr(new[key], "ndim", 0) <= 2
    assert torch.equal(after["rng"], before["rng"])
    assert after["epoch"] == 3
    converted(there, back, "Conv1d")
    assert back.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("name", STATE_DICTS)
def test_state_dicts_convert_both_ways(tmp_path: Path, name: str) -> None:
    there, back = tmp_path / "linear.pt", tmp_path / "back.pt"
    converted(OLD / name, there, kinds=("Conv1d", "Conv2d"), names=("conv", "conv2d"))
    before, after = load(OLD / name), load(there)
    assert list(after) == list(before)
    assert {key for key in before if after[key].shape != before[key].shape} == {"conv.weight", "conv2d.weight"}
    assert all(torch.equal(after[key].reshape(-1), before[key].reshape(-1)) for key in before)
    assert vars(after).get("_metadata") == vars(before).get("_metadata")
    converted(there, back, "Conv1d", names=("conv",))
    converted(back, tmp_path / "both.pt", "Conv2d", names=("conv2d",))
    assert (tmp_path / "both.pt").read_bytes() == (OLD / name).read_bytes()


def test_the_zip_of_each_version_has_the_records_of_its_time() -> None:
    """What the tests above pass on: without these they would all be of one kind."""
    later = {"byteorder", ".data/serialization_id"}
    held = {}
    for version in ("1.6", "2.0", "2.6", "2.13"):
        records = zipfile.ZipFile(OLD / f"torch_{version}_state_dict.pt").namelist()
        held[version] = later & {name.partition("/")[2] for name in records}
    assert held == {"1.6": set(), "2.0": set(), "2.6": later, "2.13": later}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("what", ["state_dict", "training", "tensors"])
def test_check_tells_what_safe_loading_refuses(version: str, what: str) -> None:
    path = OLD / f"torch_{version}_{what}.pt"
    refused = None
    try:
        torch.load(path, weights_only=True)
    except pickle.UnpicklingError as error:
        refused = str(error)
    assert bool(check(path).findings) == (refused is not None)
    if refused is not None:
        # Python 2 wrote the optimizer's ids, which are addresses, as text.
        assert (version, what) == ("1.0_python2", "training")
        assert "Unsupported operand 73" in refused
        assert [one.code for one in check(path).findings] == ["refused-instruction"]


@pytest.mark.parametrize("version", ["1.5", "1.6", "2.0", "2.6", "2.13"])
def test_torchscript(version: str) -> None:
    path = OLD / f"torch_{version}_script.pt"
    checkpoint = open_checkpoint(path)
    assert_equal(checkpoint, dict(torch.jit.load(path).state_dict()))  # type: ignore[no-untyped-call]
    assert [layer.kind for layer in find_layers(checkpoint)] == ["Conv1d", "Linear"]
    assert not check(path).findings


@pytest.mark.parametrize("version", ["1.0", "1.0_python2"])
def test_the_first_torchscript_is_named(version: str) -> None:
    with pytest.raises(NotACheckpoint, match=r"TorchScript archive of PyTorch 1\.3 or older; load and save it once"):
        open_checkpoint(OLD / f"torch_{version}_script.pt")


# ------------------------------------------------------------------------------- built from their description


class Pickler(pickle.Pickler):
    """Gives marked objects a persistent id."""

    def persistent_id(self, obj: Any) -> Any:
        return getattr(obj, "persistent", None)


class Marked:
    def __init__(self, persistent: Any) -> None:
        self.persistent = persistent


class Rebuilt:
    """A tensor as before 0.4: without the flag and the hooks."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_tensor, self.arguments


def dumped(obj: object) -> bytes:
    stream = io.BytesIO()
    Pickler(stream, 2).dump(obj)
    return stream.getvalue()


def test_views_of_storages(tmp_path: Path) -> None:
    """Until 0.3 a slice of a storage was a storage of its own, saved as a window (key, offset, size) on its root."""

    def storage(window: Any) -> Marked:
        return Marked(("storage", torch.FloatStorage, "94000", "cpu", 24, window))

    state = OrderedDict(
        whole=Rebuilt(storage(None), 0, (4, 6), (6, 1)),
        window=Rebuilt(storage(("94001", 6, 12)), 0, (4, 3, 1), (3, 1, 1)),
        within=Rebuilt(storage(("94001", 6, 12)), 2, (2, 2), (2, 1)),
    )
    numbers = torch.arange(24, dtype=torch.float32)
    parts = [dumped(one) for one in (MAGIC, 1001, {"little_endian": True}, state, ["94000"])]
    path = tmp_path / "views.pt"
    path.write_bytes(b"".join(parts) + struct.pack("<q", 24) + numbers.numpy().tobytes())
    expected = torch.load(path, weights_only=True)
    assert expected["window"][0].tolist() == [[6], [7], [8]]
    assert_equal(open_checkpoint(path), expected)


def tar_checkpoint(path: Path) -> None:
    """The format until 0.1.9: four records in a tar, the tensors' sizes and strides as raw integers."""
    numbers = torch.arange(24, dtype=torch.float32)
    storages = dumped(1) + dumped(("1", "cpu", torch.FloatStorage)) + struct.pack("<q", 24) + numbers.numpy().tobytes()
    sizes = struct.pack("<ii3q3qq", 3, 0, 4, 6, 1, 6, 1, 1, 0)
    records = {
        "sys_info": dumped({"protocol_version": 1000, "little_endian": True}),
        "pickle": dumped(OrderedDict(weight=Marked("2"))),
        "tensors": dumped(1) + dumped((2, "1", torch.FloatTensor)) + sizes,
        "storages": storages + dumped([]),
    }
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as tar:
        for name, data in records.items():
            record = tarfile.TarInfo(name)
            record.size = len(data)
            tar.addfile(record, io.BytesIO(data))


def test_the_tar_of_the_first_versions_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.pth.tar"
    tar_checkpoint(path)
    loaded = torch.load(path, weights_only=False)
    assert loaded["weight"].flatten().tolist() == list(range(24))
    line = "a checkpoint of PyTorch 0.1.9 or older, in the tar format of that time; where you trust it, torch.load it"
    with pytest.raises(NotACheckpoint, match=re.escape(line)):
        open_checkpoint(path)
    torch.save(loaded, tmp_path / "again.pt")
    assert open_checkpoint(tmp_path / "again.pt").tensors["weight"].shape == (4, 6, 1)


def test_a_torch_package_is_named(tmp_path: Path) -> None:
    path = tmp_path / "package.pt"
    with PackageExporter(path) as exporter:
        exporter.save_pickle("model", "weights.pkl", {"weight": torch.zeros(3)})
    with pytest.raises(NotACheckpoint, match=r"torch\.package archive.*PackageImporter"):
        open_checkpoint(path)
    assert [one.code for one in check(path).findings if one.level == "error"] == ["unreadable"]
