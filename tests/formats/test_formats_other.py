"""Safetensors, shards, distributed checkpoints, TorchScript and `.pt2`, each against the library that writes it."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from convinspect.checkpoint import open_checkpoint
from convinspect.errors import BrokenFile, ConvInspectError, NotACheckpoint, NotThere, RefusedFile
from convinspect.formats import read_contents, sources
from convinspect.records import Module, Tensor
from support.in_process import run
from support.sampling import times

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

SOME = settings(deadline=None, max_examples=times(40, 80), suppress_health_check=[HealthCheck.function_scoped_fixture])
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16]
DTYPES += [torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.complex64]
DTYPES += [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu]


def zeros(shape: list[int], dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.uint8).to(torch.bool if dtype == torch.bool else torch.float32).to(dtype)


def facts(tensor: torch.Tensor) -> tuple[object, ...]:
    return str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), tensor.stride()


def listed(path: Path) -> dict[str, tuple[object, ...]]:
    return {tensor.key: (tensor.dtype, tensor.shape, tensor.stride) for tensor in only_root(path)}


def only_root(path: Path) -> tuple[Tensor, ...]:
    (root,) = read_contents(path).roots
    return root.tensors


# --- safetensors

STATES = st.dictionaries(
    st.text(max_size=12).filter(lambda name: name != "__metadata__"),
    st.builds(zeros, st.lists(st.integers(0, 4), max_size=4), st.sampled_from(DTYPES)),
    min_size=1,
    max_size=6,
)


@given(state=STATES, metadata=st.none() | st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
@SOME
def test_safetensors(tmp_path: Path, state: dict[str, torch.Tensor], metadata: dict[str, str] | None) -> None:
    path = tmp_path / "x.safetensors"
    save_file(state, path, metadata)
    contents = read_contents(path)
    assert contents.format == "safetensors"
    assert (contents.problems, contents.notes) == ((), ())
    with safe_open(path, "pt") as opened:
        assert listed(path) == {key: facts(opened.get_tensor(key)) for key in opened.keys()}  # noqa: SIM118
        assert contents.metadata == (opened.metadata() or {})
    assert sum(tensor.nbytes for tensor in only_root(path)) == sum(tensor.nbytes for tensor in state.values())


def with_header(path: Path, header: object, payload: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + payload)
    return path


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


MALFORMED: dict[str, tuple[object, int | None]] = {
    "no JSON": (b"{nonsense", None),
    "a list": (b"{}[]", None),
    "length beyond the file": ({"a": entry()}, 10_000),
    "length beyond the format": ({"a": entry()}, 2**63),
    "no tensors": ({}, None),
    "only metadata": ({"__metadata__": {"a": "b"}}, None),
    "metadata is a list": ({"__metadata__": [], "a": entry()}, None),
    "entry is a number": ({"a": 3}, None),
    "entry is empty": ({"a": {}}, None),
    "unknown dtype": ({"a": entry(dtype="F99")}, None),
    "dtype is a list": ({"a": entry(dtype=["F32"])}, None),
    "shape is text": ({"a": entry(shape="2")}, None),
    "negative size": ({"a": entry(shape=[-2])}, None),
    "size is a truth value": ({"a": entry(shape=[True], offsets=[0, 4])}, None),
    "size is a fraction": ({"a": entry(shape=[2.0])}, None),
    "enormous sizes": ({"a": entry(shape=[2**62, 2**62])}, None),
    "too many dimensions": ({"a": entry(shape=[1] * 65, offsets=[0, 4])}, None),
    "one offset": ({"a": entry(offsets=[0])}, None),
    "offsets turned over": ({"a": entry(offsets=[8, 0])}, None),
    "negative offset": ({"a": entry(offsets=[-8, 0])}, None),
    "too few bytes": ({"a": entry(offsets=[0, 4])}, None),
    "overlap": ({"a": entry(), "b": entry(offsets=[4, 12])}, None),
    "the same bytes": ({"a": entry(), "b": entry()}, None),
    "a name twice": (b'{"a":%b,"a":%b}' % ((json.dumps(entry()).encode(),) * 2), None),
    "deep nesting": (b'{"a":' * 100_000, None),
    "long number": (b'{"a":' + b"9" * 10_000 + b"}", None),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_safetensors_header(tmp_path: Path, name: str) -> None:
    header, length = MALFORMED[name]
    path = with_header(tmp_path / "x.safetensors", header, bytes(12), length)
    with pytest.raises(Exception, match=r"(?i)error|invalid|header"), safe_open(path, "pt") as opened:
        # What the library itself lists without tensors is refused here, with that reason.
        raise ValueError("no tensors, invalid" if not list(opened.keys()) else "")
    with pytest.raises(ConvInspectError, match=str(path)):
        read_contents(path)


@given(
    cut=st.integers(0, 400),
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
    text=st.sampled_from([b"", b"{", b'"F32"', b"-1", b"null", b"[[", b"1e9"]),
)
@settings(SOME, max_examples=times(40, 100))
def test_changed_safetensors_header(tmp_path: Path, cut: int, changes: list[tuple[int, int]], text: bytes) -> None:
    header = bytearray(json.dumps({"a.weight": entry(), "b": entry(dtype="I64", shape=[], offsets=[8, 16])}).encode())
    for place, value in changes:
        header[place % len(header)] = value
    place = cut % len(header)
    path = with_header(tmp_path / "x.safetensors", bytes(header[:place]) + text + bytes(header[place:]), bytes(16))
    with suppress(ConvInspectError):
        read_contents(path)


def test_bytes_behind_the_last_tensor_are_noted(tmp_path: Path) -> None:
    path = with_header(tmp_path / "x.safetensors", {"a": entry()}, bytes(13))
    assert "5 bytes follow" in read_contents(path).notes[0]


# --- shards

A, B = {"conv.weight": torch.ones(4, 3, 1)}, {"conv.bias": torch.ones(4), "fc.weight": torch.ones(2, 4)}
SAVE: dict[str, Callable[[dict[str, torch.Tensor], Path], None]] = {"safetensors": save_file, "bin": torch.save}
SHARDS = pytest.mark.parametrize("suffix", SAVE)


def sharded(folder: Path, suffix: str, **changes: Any) -> Path:
    """A folder of two shards and their index, with changes to its weight_map."""
    shards = [(A, f"model-00001-of-00002.{suffix}"), (B, f"model-00002-of-00002.{suffix}")]
    for state, name in shards:
        SAVE[suffix](state, folder / name)
    weight_map = {key: name for state, name in shards for key in state} | changes
    total = sum(tensor.nbytes for tensor in (A | B).values())
    index = folder / ("model.safetensors.index.json" if suffix == "safetensors" else "pytorch_model.bin.index.json")
    index.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
    return index


@SHARDS
def test_folder_and_index_of_shards(tmp_path: Path, suffix: str) -> None:
    index = sharded(tmp_path, suffix)
    expected = {key: facts(tensor) for key, tensor in (A | B).items()}
    for path in (tmp_path, index):
        contents = read_contents(path)
        assert listed(path) == expected
        assert (contents.problems, contents.notes) == ((), ())
        assert "2 shards" in contents.format
    index.unlink()
    assert listed(tmp_path) == expected
    assert "no index" in read_contents(tmp_path).notes[0]
    next(tmp_path.glob("*-00001-*")).unlink()
    assert "1 of 2 shards" in read_contents(tmp_path).problems[0]


@SHARDS
def test_each_defect_of_a_shard_is_a_line_of_its_own(tmp_path: Path, suffix: str) -> None:
    first, second = f"model-00001-of-00002.{suffix}", f"model-00002-of-00002.{suffix}"
    index = sharded(tmp_path, suffix, **{"ghost.weight": first, "x": "nowhere.bin", "y": "broken.bin", "z": ""})
    (tmp_path / "broken.bin").write_text("<html></html>")
    SAVE[suffix](B | {"extra": torch.ones(1), "conv.weight": torch.ones(1)}, tmp_path / second)
    problems = "\n".join(read_contents(index).problems)
    for expected in (
        "lacks 'ghost.weight'",
        "nowhere.bin is not there",
        "broken.bin",
        "HTML",
        "'extra'",
        "conv.weight",
    ):
        assert expected in problems, expected
    assert {"conv.weight", "conv.bias", "fc.weight"} <= set(listed(index))


@SHARDS
def test_the_index_is_held_against_the_shards_that_hold_a_tensor(tmp_path: Path, suffix: str) -> None:
    first, second = f"model-00001-of-00002.{suffix}", f"model-00002-of-00002.{suffix}"
    one = {"one": torch.ones(1)}

    def problems(named: str, *holders: str) -> tuple[str, ...]:
        index = sharded(tmp_path, suffix, one=named, a=first, b=second)
        for state, name, key in ((A, first, "a"), (B, second, "b")):
            SAVE[suffix](state | {key: torch.ones(1)} | (one if name in holders else {}), tmp_path / name)
        return read_contents(index).problems

    assert problems(first, first) == problems(second, second) == ()
    for named, true in ((first, second), (second, first)):
        (line,) = problems(named, true)
        assert line.startswith(f"the index says that 'one' is in shard {named}, and it is in {true}; correct the index")
        assert problems(named, first, second) == (f"shard {second} holds 'one', which another shard holds too",)
        assert problems(named) == (f"shard {named} lacks 'one', which the index names; download both again",)


def test_a_shard_without_tensors_is_a_problem_of_that_shard(tmp_path: Path) -> None:
    index = sharded(tmp_path, "bin")
    torch.save({}, tmp_path / "model-00001-of-00002.bin")
    contents = read_contents(index)
    assert "model-00001-of-00002.bin" in contents.problems[0]
    assert set(listed(index)) == set(B)


@pytest.mark.parametrize("shard", ["../a.bin", "/etc/passwd", "a/../../b.bin", "C:\\a.bin", "~/a.bin", "..\\a", "a\0b"])
def test_a_shard_outside_its_folder_is_refused(tmp_path: Path, shard: str) -> None:
    with pytest.raises(RefusedFile, match="outside its folder"):
        read_contents(sharded(tmp_path, "bin", x=shard))


def test_a_wrong_total_is_noted(tmp_path: Path) -> None:
    index = sharded(tmp_path, "bin")
    index.write_text(index.read_text().replace('"total_size": ', '"total_size": 9'))
    assert "the index says" in read_contents(index).notes[0]


BAD_INDEXES = ['{"weight_map": {"a": 3}}', '{"weight_map": {}}', '{"weight_map": 3}', "{", '{"a": 1}', '{"a":' * 99_999]


@pytest.mark.parametrize("text", BAD_INDEXES)
def test_bad_index(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.bin.index.json").write_text(text)
    with pytest.raises((BrokenFile, NotACheckpoint)):
        read_contents(tmp_path)


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(NotACheckpoint, match="no checkpoint"):
        read_contents(tmp_path)
    (tmp_path / "unet").mkdir()
    save_file(A, tmp_path / "unet" / "x.safetensors")
    with pytest.raises(NotThere, match="unet"):
        read_contents(tmp_path)
    torch.save(A, tmp_path / "one.pt")
    assert listed(tmp_path) == {key: facts(tensor) for key, tensor in A.items()}
    torch.save(B, tmp_path / "two.pt")
    with pytest.raises(NotThere, match=r"one\.pt, two\.pt"):
        read_contents(tmp_path)
    save_file(B, tmp_path / "x.safetensors")
    assert set(listed(tmp_path)) == set(B)


@pytest.mark.unlike_windows
@pytest.mark.parametrize("depth", ["", "sub"])
def test_a_pipe_is_no_file(tmp_path: Path, depth: str) -> None:
    pipe = tmp_path / depth / "pipe.pt"
    pipe.parent.mkdir(exist_ok=True)
    os.mkfifo(pipe)
    with pytest.raises(NotThere, match="pipe"):
        read_contents(pipe)


# --- distributed checkpoints


def test_distributed_checkpoint(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv1d(3, 4, 1), nn.Linear(4, 2).to(torch.bfloat16))
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    save_distributed(state, checkpoint_id=tmp_path / "saved", no_dist=True)
    reader = FileSystemReader(tmp_path / "saved").read_metadata()
    sizes = {k: tuple(v.size) for k, v in reader.state_dict_metadata.items() if hasattr(v, "size")}
    for path in (tmp_path / "saved", tmp_path / "saved" / ".metadata"):
        contents = read_contents(path)
        model_root, optimizer_root = contents.roots
        assert {tensor.key: tensor.shape for root in contents.roots for tensor in root.tensors} == sizes
        assert {(t.key.removeprefix("model."), t.dtype) for t in model_root.tensors} == {
            (key, str(tensor.dtype).removeprefix("torch.")) for key, tensor in model.state_dict().items()
        }
        assert optimizer_root.role == "optimizer"
        assert contents.foreign == ()
        assert not contents.notes


class WithState(nn.Linear):
    def get_extra_state(self) -> Any:
        return {"a": 1, "b": [2, 3]}

    def set_extra_state(self, state: Any) -> None:
        pass


def test_keys_without_tensors_of_a_distributed_checkpoint(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv1d(3, 4, 1), WithState(4, 2))
    state = {
        "model": model.state_dict(),
        "epoch": 3,
        "sched": {"last_epoch": 1},
        "optim": {"param_groups": [{"lr": 1}]},
    }
    save_distributed(state, checkpoint_id=tmp_path / "a", no_dist=True)
    assert list(open_checkpoint(tmp_path / "a").others) == ["model.1._extra_state", "epoch"]
    checkpoint = open_checkpoint(tmp_path / "a", root="model")
    assert (set(checkpoint.tensors) | set(checkpoint.others)) == set(model.state_dict())
    torch.save(model.state_dict(), tmp_path / "a.pt")
    save_distributed(model.state_dict(), checkpoint_id=tmp_path / "b", no_dist=True)
    assert list(open_checkpoint(tmp_path / "b").others) == ["1._extra_state"]
    done = run("diff", tmp_path / "a.pt", tmp_path / "b")
    assert (done.returncode, "_extra_state" in done.stdout) == (0, False), done.stdout + done.stderr


@pytest.mark.parametrize("content", [b"", b"\x80\x04}.", b"text", b"\x80\x02ctorch\nSize\n."])
def test_a_metadata_file_of_something_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".metadata").write_bytes(content)
    with pytest.raises((BrokenFile, NotACheckpoint)):
        read_contents(tmp_path)


@pytest.mark.parametrize("places", [slice(0, 1), slice(1, None), slice(None)])
def test_metadata_that_names_tensors_by_lists(tmp_path: Path, places: slice) -> None:
    save_distributed({"KEY": torch.zeros(2)}, checkpoint_id=tmp_path, no_dist=True)
    parts = pickle.dumps(FileSystemReader(tmp_path).read_metadata(), 2).split(b"X\3\0\0\0KEY")
    names = [b"X\3\0\0\0KEY"] * (len(parts) - 1)
    names[places] = [b"]"] * len(names[places])
    (tmp_path / ".metadata").write_bytes(b"".join(part + name for part, name in zip(parts, [*names, b""], strict=True)))
    with suppress(ConvInspectError):
        read_contents(tmp_path)


# --- TorchScript and .pt2


class Net(nn.Module):
    """Every hyperparameter that an archive may store."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 1, stride=2, padding=1, groups=2)
        self.same = nn.Conv2d(8, 4, (1, 3), dilation=(1, 2), padding="same", bias=False)
        self.turned = nn.ConvTranspose1d(8, 4, 3, stride=2, dilation=2)
        self.fc = nn.Sequential(nn.Linear(4, 2), nn.LayerNorm(2))
        self.norm = nn.BatchNorm1d(8)
        self.deep = nn.Conv3d(1, 2, 1, padding=(0, 1, 0))
        self.table = nn.Embedding(3, 2)

    def forward(self, x: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x))
        deep = self.deep(x[:, None, :, :, None]).sum() + self.table(which).sum()
        total: torch.Tensor = self.same(y[:, :, None]).sum() + self.turned(y).sum() + deep
        total += self.fc(x.transpose(1, 2)).sum()
        return total


INPUTS = (torch.ones(2, 4, 9), torch.tensor([1, 2]))
STORED = ("stride", "padding", "dilation", "groups")


def write_exported(path: Path, net: nn.Module) -> None:
    torch.export.save(torch.export.export(net, INPUTS), path)


def write_old_exported(path: Path, net: nn.Module) -> None:
    """The layout before PyTorch 2.8: the graph's JSON, and a torch.save file inside the zip."""
    buffer, weights = io.BytesIO(), io.BytesIO()
    torch.export.save(torch.export.export(net, INPUTS), buffer)
    torch.save(net.state_dict(), weights)
    with zipfile.ZipFile(buffer) as new, zipfile.ZipFile(path, "w") as old:
        graph = next(name for name in new.namelist() if "/models/" in name)
        old.writestr("version", "8.6")
        old.writestr("serialized_exported_program.json", new.read(graph))
        old.writestr("serialized_state_dict.pt", weights.getvalue())


def write_script(path: Path, net: nn.Module) -> None:
    torch.jit.script(net).save(str(path))  # type: ignore[no-untyped-call]


def write_trace(path: Path, net: nn.Module) -> None:
    torch.jit.trace(net, INPUTS).save(path)  # type: ignore[no-untyped-call]


WRITERS: dict[str, tuple[Callable[[Path, nn.Module], None], str]] = {
    "script": (write_script, "TorchScript"),
    "trace": (write_trace, "TorchScript"),
    "pt2": (write_exported, "torch.export (.pt2)"),
    "old pt2": (write_old_exported, "torch.export (.pt2)"),
}


@pytest.mark.parametrize("how", WRITERS)
def test_archives_of_a_program(tmp_path: Path, how: str) -> None:
    write, expected = WRITERS[how]
    net = Net().eval()
    write(tmp_path / "x.pt", net)
    contents = read_contents(tmp_path / "x.pt")
    (root,) = contents.roots
    state = net.state_dict()
    assert contents.format == expected
    assert contents.problems == ()
    assert {t.key: (t.dtype, t.shape, t.stride) for t in root.tensors} == {k: facts(t) for k, t in state.items()}
    for name in ("conv", "same", "turned", "deep", "fc.0", "norm", "fc.1", "table"):
        check_hyperparameters(root.modules[name], net.get_submodule(name))
    checkpoint = open_checkpoint(tmp_path / "x.pt")
    for key, tensor in state.items():
        assert checkpoint.read(key).tolist() == tensor.tolist()


def check_hyperparameters(found: Module, module: nn.Module) -> None:
    assert found.kind == type(module).__name__
    for name in STORED:
        expected = getattr(module, name, None)
        assert found.attributes.get(name) == expected, (found.name, name)


# --- cut and large files


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_cut_zip_is_cut_short_whether_or_not_its_size_is_known(tmp_path: Path, part: float) -> None:
    torch.save({"a.weight": torch.ones(200, 100)}, tmp_path / "x.pt")
    size = int((tmp_path / "x.pt").stat().st_size * part)
    os.truncate(tmp_path / "x.pt", size)
    (problem,) = read_contents(tmp_path / "x.pt").problems
    assert f"truncated: {size:,} bytes" in problem


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
def test_gigabytes_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool) -> None:
    path = tmp_path / "x.pt"
    numel = 2**29 + 1
    if zipped:
        with torch.serialization.skip_data(), path.open("wb") as file:
            torch.save({"a.weight": torch.empty(numel, 1), "b.weight": torch.empty(3, 2)}, file)
    else:
        small, large = (n.to_bytes(4, "little") for n in (70_001, numel))
        torch.save({"a.weight": torch.empty(70_001, 1)}, path, _use_new_zipfile_serialization=False)
        head = path.read_bytes()[: -70_001 * 4]
        path.write_bytes(head.replace(b"J" + small, b"J" + large)[:-8] + numel.to_bytes(8, "little"))
        os.truncate(path, len(head) + numel * 4)
    counted = 0
    original = sources.read_at

    def counting(handle: int, size: int, offset: int) -> bytes:
        nonlocal counted
        counted += size
        return original(handle, size, offset)

    monkeypatch.setattr(sources, "read_at", counting)
    contents = read_contents(path)
    assert contents.roots[0].tensors[0].nbytes == numel * 4
    assert contents.problems == ()
    # Each of the old stream's five pickles is read in windows of a megabyte.
    assert 0 < counted < 8_000_000
