"""`.metadata` in the forms of other versions of PyTorch: 2.6 writes fewer fields than 2.13, and 2.2 another class.

What this PyTorch wrote is pickled again with the fields and classes of the version, as its `metadata.py` and
`filesystem.py` have them. The versions' own code, run beside these tests when they were written, gave the same fields.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed._shard.sharded_tensor.metadata import TensorProperties as ShardedProperties
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from convinspect import convert, verify
from convinspect.checkpoint import open_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")


def model(kind: str = "conv") -> nn.Sequential:
    torch.manual_seed(0)
    if kind == "conv":
        return nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.Conv2d(5, 6, 1))
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 6))


class _Whole(pickle.Pickler):
    """Pickles a place with every field that it has, as a dataclass without `__getstate__` is pickled."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, _StorageInfo):
            return (*value.__reduce_ex__(2)[:2], vars(value))
        return NotImplemented


def without_version(stored: Metadata) -> None:
    del stored.version


def without_modules(stored: Metadata) -> None:
    without_version(stored)
    vars(stored.storage_meta).pop("modules")
    for info in stored.storage_data.values():
        vars(info).pop("transform_descriptors", None)


def without_storage_meta(stored: Metadata) -> None:
    without_version(stored)
    del stored.storage_meta


def with_sharded_properties(stored: Metadata) -> None:
    without_storage_meta(stored)
    for one in stored.state_dict_metadata.values():
        if isinstance(one, TensorStorageMetadata):
            one.properties = ShardedProperties(one.properties.dtype)  # type: ignore[assignment]


def as_it_is(stored: Metadata) -> None:
    assert stored.version
    assert all(info.transform_descriptors is None for info in stored.storage_data.values())


FORMS: dict[str, tuple[Callable[[Metadata], None], type[pickle.Pickler]]] = {
    "2.10 to 2.13": (as_it_is, pickle.Pickler),
    "2.7 to 2.9": (without_version, pickle.Pickler),
    "2.6": (without_modules, pickle.Pickler),
    "2.3": (without_storage_meta, pickle.Pickler),
    "2.2": (with_sharded_properties, pickle.Pickler),
    "every field, None too": (as_it_is, _Whole),
}


@pytest.mark.parametrize("form", FORMS)
def test_other_versions_metadata(tmp_path: Path, form: str) -> None:
    source, there, back = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    save({"model": model().state_dict(), "epoch": 3}, checkpoint_id=str(source), no_dist=True)
    listed = [tensor._replace(storage=None) for tensor in open_checkpoint(source).tensors.values()]
    _rewrite(source, *FORMS[form])
    now = open_checkpoint(source)
    assert not now.problems
    assert [tensor._replace(storage=None) for tensor in now.tensors.values()] == listed
    for name, value in model().state_dict().items():
        assert torch.equal(torch.from_numpy(now.read(f"model.{name}")), value)
    convert(source, there, to="linear", from_=["any"])
    assert verify(source, there).strength == "layer"
    converted = {name: torch.zeros_like(value) for name, value in model("linear").state_dict().items()}
    load({"model": converted, "epoch": 0}, storage_reader=FileSystemReader(str(there)), no_dist=True)
    for name, value in model().state_dict().items():
        assert torch.equal(converted[name].flatten(), value.flatten())
    convert(there, back, like=source)
    assert {path.name: path.read_bytes() for path in back.iterdir()} == {
        path.name: path.read_bytes() for path in source.iterdir()
    }


def _rewrite(folder: Path, change: Callable[[Metadata], None], pickler: type[pickle.Pickler]) -> None:
    stored = FileSystemReader(str(folder)).read_metadata()
    change(stored)
    buffer = io.BytesIO()
    pickler(buffer).dump(stored)
    (folder / ".metadata").write_bytes(buffer.getvalue())
