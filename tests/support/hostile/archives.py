"""TorchScript and `.pt2` archives."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from support.hostile.calls import bomb
from support.hostile.containers import zip_of
from support.hostile.opcodes import PAYLOAD, instance, pickled, tensor, tuple_of


def script_of(tmp_path: Path, marker: Path, line: bytes, times: int, records: int = 1, method: int = 8) -> Path:
    """A TorchScript archive with a sound kernel and source texts that repeat a line; deflated, they are small."""
    module = instance("__torch__", "Net", ("training", b"\x88"), ("weight", tensor()))
    path = zip_of(tmp_path / "script.pt", {"data.pkl": pickled(module)})
    with zipfile.ZipFile(path, "a", method) as archive:
        for index in range(records):
            archive.writestr(f"archive/code/__torch__/source{index}.py", b"class Net(Module):\n" + line * times)
    return path


def frozen_of(tmp_path: Path, marker: Path, code: bytes, times: int) -> Path:
    """Frozen TorchScript with one sound constant and code that repeats a text."""
    records = {
        "data.pkl": pickled(instance("__torch__", "Net", ("training", b"\x88"))),
        "constants.pkl": pickled(tuple_of(tensor())),
        "constants/0": PAYLOAD,
    }
    path = zip_of(tmp_path / "frozen.pt", records)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/code/__torch__.py", code * times)
    return path


def torchscript(tmp_path: Path, marker: Path) -> Path:
    """A TorchScript archive with a bomb in each of its pickles, and evil text for code."""
    module = instance("__torch__", "Net", ("training", b"\x88"), ("weight", tensor()), ("evil", bomb(marker)))
    records = {
        "data.pkl": pickled(module),
        "constants.pkl": pickled(tuple_of(bomb(marker))),
        "code/__torch__.py": f"open({str(marker)!r}, 'w')\n\x1b[31m[bold]".encode() + b"(" * 200_000,
        "code/__torch__.py.debug_pkl": pickled(bomb(marker)),
    }
    return zip_of(tmp_path / "script.pt", records)


def exported(tmp_path: Path, marker: Path, config: bytes, model: bytes = b"{}") -> Path:
    """A `.pt2` archive with these two JSON texts, and a bomb where sample inputs are."""
    records = {
        "archive_format": b"pt2",
        "archive_version": b"0",
        "models/model.json": model,
        "data/weights/model_weights_config.json": config,
        "data/weights/weight_0": PAYLOAD,
        "data/sample_inputs/model.pt": pickled(bomb(marker)),
    }
    return zip_of(tmp_path / "exported.pt2", records)


def exported_weight(size: object = 4, path_name: object = "weight_0", dtype: object = 7) -> bytes:
    """The weights' configuration of a `.pt2` archive with one tensor."""
    sizes, strides = [{"as_int": size}, {"as_int": 6}], [{"as_int": 6}, {"as_int": 1}]
    meta = {"dtype": dtype, "sizes": sizes, "strides": strides, "storage_offset": {"as_int": 0}, "layout": 7}
    weight = {"path_name": path_name, "is_param": True, "use_pickle": False, "tensor_meta": meta}
    return json.dumps({"config": {"\x1b[31m[bold]fc.weight": weight}}).encode()


def exported_much_of(
    tmp_path: Path, marker: Path, items: bytes, times: int, before: bytes = b'{"graph_module": [', method: int = 0
) -> Path:
    """A `.pt2` archive with one sound weight, whose graph repeats items; stored as they are, or deflated."""
    path = exported(tmp_path, marker, exported_weight(), model=b"")
    records = {name: data for name, data in _members(path).items() if name != "archive/models/model.json"}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            archive.writestr(name, data)
        archive.writestr("archive/models/model.json", before + items * times + b"0]}", method)
    return path


def _members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def exported_weights(tmp_path: Path, marker: Path, times: int) -> Path:
    """A `.pt2` archive that lists so many tensors over one record."""
    weight = next(iter(json.loads(exported_weight())["config"].values()))
    config = json.dumps({"config": dict.fromkeys(map(str, range(times)), weight)}).encode()
    return exported(tmp_path, marker, config)
