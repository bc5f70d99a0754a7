"""Distributed checkpoints become others with new shapes, which `torch.distributed.checkpoint.load` takes."""

from __future__ import annotations

import pickle
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed.checkpoint._extension import StreamTransformExtension
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.utils.serialization import config as serialization

from convinspect import convert, verify
from convinspect.errors import ConvInspectError
from support.in_process import run
from support.program import assert_one_line

pytestmark = pytest.mark.filterwarnings("ignore")


def model(kind: str = "conv") -> nn.Sequential:
    """Two layers that can be either kind, and one that is a convolution."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.Conv2d(5, 6, 1), nn.Conv2d(6, 4, 3))
    if kind == "conv":
        return made
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 6), nn.Conv2d(6, 4, 3))


def _trained(kind: str, steps: int = 1) -> tuple[nn.Sequential, torch.optim.Optimizer]:
    made = model(kind)
    optimizer = torch.optim.AdamW(made.parameters(), lr=0.1)
    for _ in range(steps):
        _step(kind, made, optimizer)
    return made, optimizer


def _step(kind: str, made: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    torch.manual_seed(1)
    loss: Any = _forward(kind, made, torch.randn(2, 3, 6, 6)).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def _forward(kind: str, made: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = made(x) if kind == "conv" else made[3](made[:3](x.movedim(1, -1)).movedim(-1, 1))
    return out


def state(flat: bool = False, steps: int = 1) -> dict[str, Any]:
    made, optimizer = _trained("conv", steps)
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    weights, of_optimizer = get_state_dict(made, optimizer, options=options)
    return {"model": weights, "optim": of_optimizer, "epoch": 3}


def _channels_last() -> dict[str, Any]:
    made: Any = model()
    return dict(made.to(memory_format=torch.channels_last).state_dict())


TO_LINEAR: dict[str, Any] = {"to": "linear", "from_": ["any"]}

LAYOUTS: dict[str, Callable[[str], None]] = {
    "plain": lambda path: save(model().state_dict(), checkpoint_id=path, no_dist=True),
    "nested": lambda path: save({"model": {"net": model().state_dict()}}, checkpoint_id=path, no_dist=True),
    "a file for each tensor": lambda path: save(
        {"model": model().state_dict()}, storage_writer=FileSystemWriter(path, single_file_per_rank=False), no_dist=True
    ),
    "with an optimizer": lambda path: save(state(), checkpoint_id=path, no_dist=True),
    "with a flat optimizer": lambda path: save(state(flat=True), checkpoint_id=path, no_dist=True),
    "within an application": lambda path: save({"app": state()}, checkpoint_id=path, no_dist=True),
    "channels-last": lambda path: save(_channels_last(), checkpoint_id=path, no_dist=True),
    "beside an average": lambda path: save(
        {"model": model().state_dict(), "ema": model().state_dict()}, checkpoint_id=path, no_dist=True
    ),
}


def metadata(folder: Path) -> Any:
    """The `Metadata` that PyTorch reads of a folder first."""
    return FileSystemReader(str(folder)).read_metadata()


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor, as `load` gives it for its own listed shape."""
    listed = metadata(folder).state_dict_metadata
    found = {
        key: torch.zeros(one.size, dtype=one.properties.dtype) for key, one in listed.items() if hasattr(one, "size")
    }
    load(found, storage_reader=FileSystemReader(str(folder)), no_dist=True)
    return found


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("name", LAYOUTS)
def test_there_and_back(tmp_path: Path, name: str) -> None:
    source, there, back = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    LAYOUTS[name](str(source))
    job = convert(source, there, **TO_LINEAR)
    before, after = loaded(source), loaded(there)
    assert before.keys() == after.keys()
    changed = {key for key in before if before[key].shape != after[key].shape}
    assert all(torch.equal(before[key].flatten(), after[key].flatten()) for key in before)
    assert all(after[key].shape == before[key].shape[:2] for key in changed)
    pointwise = {key for key, one in before.items() if one.shape[2:] == (1, 1)}
    assert changed == pointwise
    assert len(job.plan.conversions) == (4 if "average" in name else 2)
    convert(there, back, like=source)
    assert files(back) == files(source)


@pytest.mark.parametrize("flat", [False, True])
def test_training_goes_on_with_the_converted_optimizer(tmp_path: Path, flat: bool) -> None:
    save(state(flat), checkpoint_id=str(tmp_path / "a"), no_dist=True)
    convert(tmp_path / "a", tmp_path / "b", **TO_LINEAR)
    _resume(tmp_path / "b", model("linear"), flat)


@pytest.mark.parametrize("flat", [False, True])
def test_training_goes_on_under_new_names(tmp_path: Path, flat: bool) -> None:
    source, there, back = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    save(state(flat), checkpoint_id=str(source), no_dist=True)
    convert(source, there, rename=["model.0.*=model.first.*", "model.3.*=model.3.inner.*"], **TO_LINEAR)
    parts = dict(model("linear").named_children())
    last = nn.Sequential(OrderedDict(inner=parts["3"]))
    _resume(there, nn.Sequential(OrderedDict({"first": parts["0"], "1": parts["1"], "2": parts["2"], "3": last})), flat)
    convert(there, back, rename=["model.first.*=model.0.*", "model.3.inner.*=model.3.*"], like=source)
    assert files(back) == files(source)
    # Another name of the dictionary changes no parameter's.
    convert(source, tmp_path / "d", rename=["model.*=net.*"])
    assert "net.0.weight" in loaded(tmp_path / "d")
    assert "optim.state.0.weight.exp_avg" in loaded(tmp_path / "d")
    with pytest.raises(ConvInspectError, match="which part is a name"):
        convert(source, tmp_path / "e", rename=["model.0.*=net.first.*"])
    assert not (tmp_path / "e").exists()


def _resume(folder: Path, made: nn.Sequential, flat: bool) -> None:
    """Step once with what a folder holds, in another process's place, and compare with a training without a break."""
    optimizer = torch.optim.AdamW(made.parameters(), lr=0.1)
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    weights, of_optimizer = get_state_dict(made, optimizer, options=options)
    wanted: dict[str, Any] = {"model": weights, "optim": of_optimizer}
    load(wanted, checkpoint_id=str(folder), no_dist=True)
    set_state_dict(made, optimizer, model_state_dict=wanted["model"], optim_state_dict=wanted["optim"], options=options)
    _step("linear", made, optimizer)
    straight, _ = _trained("conv", 2)
    x = torch.randn(2, 3, 6, 6)
    assert torch.allclose(_forward("linear", made, x), _forward("conv", straight, x), atol=1e-5)


def test_what_no_longer_fits_its_room_moves_what_is_behind_it(tmp_path: Path) -> None:
    """A longer pickle than the padding behind it has room for; the bytes behind it move by whole blocks."""
    weights = {f"{count}.weight": torch.randn(count, 2).to(dtype) for dtype, count in SIZES}
    with serialization.patch("save.storage_alignment", 16):  # type: ignore[attr-defined]
        save(weights, checkpoint_id=str(tmp_path / "a"), no_dist=True)
    convert(tmp_path / "a", tmp_path / "b", to="conv3d", layer=[str(count) for _, count in SIZES])
    before, after = loaded(tmp_path / "a"), loaded(tmp_path / "b")
    assert all(after[key].shape == (*one.shape, 1, 1, 1) for key, one in before.items())
    assert all(torch.equal(before[key].flatten(), after[key].flatten()) for key in before)
    lengths = [
        {index.fqn: info.length for index, info in metadata(tmp_path / name).storage_data.items()} for name in "ab"
    ]
    assert {lengths[1][key] - lengths[0][key] for key in lengths[0]} == {0, 4096}
    convert(tmp_path / "b", tmp_path / "c", **TO_LINEAR)
    assert files(tmp_path / "c") == files(tmp_path / "a")


SIZES = [(torch.float32, 6), (torch.bfloat16, 7), (torch.float16, 300), (torch.float64, 301), (torch.int8, 8)]
"""Their pickles differ in length."""


def _shared(folder: Path, change: Callable[[Any], None]) -> None:
    """Save, and pickle the metadata again with some objects in common."""
    LAYOUTS["plain"](str(folder))
    read = metadata(folder)
    read.storage_meta = None
    change(read)
    (folder / ".metadata").write_bytes(pickle.dumps(read))


def test_one_size_may_stand_for_chunks_and_their_places(tmp_path: Path) -> None:
    """As in what one process saves of DTensors."""

    def join(read: Any) -> None:
        for index, info in list(read.storage_data.items()):
            tensor = read.state_dict_metadata[index.fqn]
            object.__setattr__(index, "offset", tensor.chunks[0].offsets)
            tensor.chunks[0].sizes = tensor.size
            assert info is not None

    _shared(tmp_path / "a", join)
    convert(tmp_path / "a", tmp_path / "b", **TO_LINEAR)
    assert loaded(tmp_path / "b")["0.weight"].shape == (5, 3)
    convert(tmp_path / "b", tmp_path / "c", like=tmp_path / "a")
    assert files(tmp_path / "c") == files(tmp_path / "a")


@pytest.mark.parametrize("first", [True, False], ids=["the first changes", "another changes"])
def test_one_size_may_stand_for_tensors_of_which_one_changes(tmp_path: Path, first: bool) -> None:
    weights = {"a.weight": torch.randn(4, 4, 1, 1), "b.weight": torch.randn(4, 4, 1, 1), "b.bias": torch.randn(4)}
    save(weights, checkpoint_id=str(tmp_path / "a"), no_dist=True)
    read = metadata(tmp_path / "a")
    size = read.state_dict_metadata["a.weight"].size
    zeros = read.state_dict_metadata["a.weight"].chunks[0].offsets
    for key in ("a.weight", "b.weight"):
        tensor = read.state_dict_metadata[key]
        tensor.size = tensor.chunks[0].sizes = size
        tensor.chunks[0].offsets = zeros
    for index in read.storage_data:
        if index.fqn.endswith("weight"):
            object.__setattr__(index, "offset", zeros)
    (tmp_path / "a" / ".metadata").write_bytes(pickle.dumps(read))
    changing = "a" if first else "b"
    convert(tmp_path / "a", tmp_path / "b", **TO_LINEAR, layer=[changing])
    after = loaded(tmp_path / "b")
    staying = "b" if first else "a"
    assert after[f"{changing}.weight"].shape == (4, 4)
    assert after[f"{staying}.weight"].shape == (4, 4, 1, 1)
    assert all(torch.equal(after[key].flatten(), weights[key].flatten()) for key in weights)


def test_new_names_are_those_that_pytorch_looks_for(tmp_path: Path) -> None:
    source, there, back = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    LAYOUTS["nested"](str(source))
    convert(source, there, rename=["model.net.0.*=model.net.first.*"], **TO_LINEAR)
    read = metadata(there)
    assert read.planner_data["model.net.first.weight"] == ("model", "net", "first.weight")
    after = loaded(there)
    assert torch.equal(after["model.net.first.weight"], model().state_dict()["0.weight"].flatten(1))
    convert(there, back, rename=["model.net.first.*=model.net.0.*"], like=source)
    assert files(back) == files(source)
    convert(source, tmp_path / "d", rename=["model.*=module.*"])
    assert set(loaded(tmp_path / "d")) == {key.replace("model", "module") for key in loaded(source)}
    assert metadata(tmp_path / "d").planner_data["module.net.0.bias"] == ("module", "net", "0.bias")


def test_a_root_that_is_the_beginning_of_keys(tmp_path: Path) -> None:
    LAYOUTS["with an optimizer"](str(tmp_path / "a"))
    convert(tmp_path / "a", tmp_path / "b", **TO_LINEAR, root="model")
    after = loaded(tmp_path / "b")
    assert after["model.0.weight"].shape == after["optim.state.0.weight.exp_avg"].shape == (5, 3)


def test_patches(tmp_path: Path) -> None:
    made = nn.Conv2d(3, 4, 2, stride=2)
    save({"patch.weight": made.weight, "patch.bias": made.bias}, checkpoint_id=str(tmp_path / "a"), no_dist=True)
    convert(tmp_path / "a", tmp_path / "b", **TO_LINEAR, patches=True, layer=["patch"])
    assert torch.equal(loaded(tmp_path / "b")["patch.weight"], made.weight.flatten(1))
    convert(tmp_path / "b", tmp_path / "c", to="conv2d", patch=(2, 2), layer=["patch"])
    assert files(tmp_path / "c") == files(tmp_path / "a")


def test_a_transpose_is_told_by_strides(tmp_path: Path) -> None:
    """GPT-2's Conv1D keeps (in, out)."""
    weights = {"h.0.attn.c_attn.weight": torch.randn(4, 12), "h.0.attn.c_attn.bias": torch.randn(12)}
    save(weights, checkpoint_id=str(tmp_path / "a"), no_dist=True)
    convert(tmp_path / "a", tmp_path / "b", **TO_LINEAR, layer=["h.0.attn.c_attn"])
    after = loaded(tmp_path / "b")["h.0.attn.c_attn.weight"]
    assert torch.equal(after, weights["h.0.attn.c_attn.weight"].T)
    convert(tmp_path / "b", tmp_path / "c", like=tmp_path / "a")
    assert files(tmp_path / "c") == files(tmp_path / "a")


def test_other_files_go_along(tmp_path: Path) -> None:
    LAYOUTS["nested"](str(tmp_path / "a"))
    (tmp_path / "a" / "config.json").write_text("{}")
    convert(tmp_path / "a" / ".metadata", tmp_path / "b", **TO_LINEAR)
    assert (tmp_path / "b" / "config.json").read_text() == "{}"
    assert loaded(tmp_path / "b")["model.net.0.weight"].shape == (5, 3)
    assert run("check", tmp_path / "b").returncode == 0


Boxes: TypeAlias = dict[tuple[int, ...], tuple[int, ...]]
"""Shapes of chunks, by where they begin."""


def _cut(folder: Path, shape: tuple[int, ...], boxes: Boxes) -> torch.Tensor:
    """Save a tensor "patch.weight" in chunks, by where each begins, as processes save a DTensor; its numbers."""
    whole = torch.randn(shape)
    parts = {
        f"part {at}": whole[tuple(slice(first, first + size) for first, size in zip(begin, sizes, strict=True))].clone()
        for at, (begin, sizes) in enumerate(boxes.items())
    }
    save({**parts, "patch.bias": torch.randn(shape[0])}, checkpoint_id=str(folder), no_dist=True)
    read = metadata(folder)
    tensor = read.state_dict_metadata["part 0"]
    tensor.size, tensor.chunks = torch.Size(shape), []
    places = {index.fqn: info for index, info in read.storage_data.items()}
    for at, (begin, sizes) in enumerate(boxes.items()):
        del read.state_dict_metadata[f"part {at}"], read.storage_data[MetadataIndex(f"part {at}", [0] * len(shape))]
        tensor.chunks.append(ChunkStorageMetadata(torch.Size(begin), torch.Size(sizes)))
        read.storage_data[MetadataIndex("patch.weight", begin, at)] = places[f"part {at}"]
    read.state_dict_metadata["patch.weight"] = tensor
    read.planner_data = {key: (key,) for key in read.state_dict_metadata}
    (folder / ".metadata").write_bytes(pickle.dumps(read))
    return whole


ROWS: Boxes = {(0, 0, 0, 0): (1, 6, 2, 2), (1, 0, 0, 0): (3, 6, 2, 2)}
COLUMNS: Boxes = {(0, 0, 0, 0): (4, 2, 2, 2), (0, 2, 0, 0): (4, 4, 2, 2)}
BOTH: Boxes = {(0, 0, 0, 0): (2, 3, 2, 2), (0, 3, 0, 0): (2, 3, 2, 2), (2, 0, 0, 0): (2, 6, 2, 2)}
KERNELS: Boxes = {(0, 0, 0, 0): (4, 6, 1, 2), (0, 0, 1, 0): (4, 6, 1, 2)}


@pytest.mark.parametrize("boxes", [ROWS, COLUMNS, BOTH], ids=["rows", "columns", "both"])
def test_patches_in_chunks(tmp_path: Path, boxes: Boxes) -> None:
    whole = _cut(tmp_path / "a", (4, 6, 2, 2), boxes)
    assert torch.equal(loaded(tmp_path / "a")["patch.weight"], whole)
    convert(tmp_path / "a", tmp_path / "b", **TO_LINEAR, patches=True, layer=["patch"])
    assert torch.equal(loaded(tmp_path / "b")["patch.weight"], whole.flatten(1))
    convert(tmp_path / "b", tmp_path / "c", to="conv2d", patch=(2, 2), layer=["patch"])
    assert files(tmp_path / "c") == files(tmp_path / "a")


def test_chunks_that_cut_a_kernel_cannot_be_flattened(tmp_path: Path) -> None:
    _cut(tmp_path / "a", (4, 6, 2, 2), KERNELS)
    with pytest.raises(ConvInspectError, match=r"chunks.*at \[0, 0, 0, 0\] of shape \(4, 6, 1, 2\)"):
        convert(tmp_path / "a", tmp_path / "b", **TO_LINEAR, patches=True, layer=["patch"])
    assert not (tmp_path / "b").exists()


def test_chunks_that_cut_a_patch_do_not_become_a_kernel(tmp_path: Path) -> None:
    boxes: Boxes = {(0, 0): (4, 10), (0, 10): (4, 14)}
    _cut(tmp_path / "a", (4, 24), boxes)
    with pytest.raises(ConvInspectError, match=r"chunks.*at \[0, 0\] of shape \(4, 10\)"):
        convert(tmp_path / "a", tmp_path / "b", to="conv2d", patch=(2, 2), layer=["patch"])
    assert not (tmp_path / "b").exists()


class Reversed(StreamTransformExtension):
    """Bytes as they are, which a reader cannot know."""

    @staticmethod
    def from_descriptor(version: str) -> Reversed:
        return Reversed()

    @staticmethod
    def registry_name() -> str:
        return "stream.reversed"

    def get_descriptor(self) -> str:
        return f"{self.registry_name()}/1"

    def transform_to(self, output: Any) -> Any:
        return output

    def transform_from(self, input: Any) -> Any:
        return input


# --- what is wrong


def test_optimizer_state_is_not_left_out(tmp_path: Path) -> None:
    LAYOUTS["with an optimizer"](str(tmp_path / "a"))
    with pytest.raises(ConvInspectError, match="cannot be left out"):
        convert(tmp_path / "a", tmp_path / "b", **TO_LINEAR, drop_optimizer=True)
    convert(tmp_path / "a", tmp_path / "b", **TO_LINEAR, keep_optimizer=True)
    assert loaded(tmp_path / "b")["model.0.weight"].shape == (5, 3)
    assert loaded(tmp_path / "b")["optim.state.0.weight.exp_avg"].shape == (5, 3, 1, 1)


def test_bytes_that_went_through_an_extension(tmp_path: Path) -> None:
    writer = FileSystemWriter(str(tmp_path / "a"), _extensions=[Reversed()])
    save(model().state_dict(), storage_writer=writer, no_dist=True)
    _refused(tmp_path / "a", "stream.reversed/1")


def _refused(folder: Path, *words: str, target: str = "b") -> None:
    new = folder.parent / target
    assert_one_line(run("convert", folder, "-o", new, "--to", "linear", "--from", "any"), *words)
    assert not new.exists()
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    LAYOUTS["a file for each tensor"](str(tmp_path / "a"))
    (tmp_path / "a" / "__0_3.distcp").unlink()
    _refused(tmp_path / "a", "__0_3.distcp", "not there")


def test_a_file_that_is_cut(tmp_path: Path) -> None:
    LAYOUTS["plain"](str(tmp_path / "a"))
    path = tmp_path / "a" / "__0_0.distcp"
    path.write_bytes(path.read_bytes()[:-100])
    _refused(tmp_path / "a", "__0_0.distcp", "bytes")


def test_a_file_of_another_checkpoint(tmp_path: Path) -> None:
    LAYOUTS["plain"](str(tmp_path / "a"))
    other = nn.Sequential(nn.Conv2d(5, 3, 1), nn.ReLU(), nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 3)).state_dict()
    save(other, checkpoint_id=str(tmp_path / "other"), no_dist=True)
    shutil.move(tmp_path / "other" / "__0_0.distcp", tmp_path / "a" / "__0_0.distcp")
    shutil.rmtree(tmp_path / "other")
    _refused(tmp_path / "a", "0.weight", "(3, 5, 1, 1)", "(5, 3, 1, 1)")


def test_one_rank_has_metadata_of_its_own(tmp_path: Path) -> None:
    LAYOUTS["plain"](str(tmp_path / "a"))
    shutil.copy(tmp_path / "a" / ".metadata", tmp_path / "a" / "__0.metadata")
    _refused(tmp_path / "a", "__0.metadata", "use_collectives")


def test_two_chunks_in_the_same_bytes(tmp_path: Path) -> None:
    LAYOUTS["plain"](str(tmp_path / "a"))
    read = metadata(tmp_path / "a")
    places = {index.fqn: info for index, info in read.storage_data.items()}
    places["0.bias"].offset = places["0.weight"].offset + 10
    (tmp_path / "a" / ".metadata").write_bytes(pickle.dumps(read))
    _refused(tmp_path / "a", "'0.weight'", "same bytes")


def test_numbers_that_would_have_to_move(tmp_path: Path) -> None:
    """A kernel that is channels-last does not lie in the order of its flattened patches."""
    kernel = torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    save({"patch.weight": kernel, "patch.bias": torch.randn(4)}, checkpoint_id=str(tmp_path / "a"), no_dist=True)
    with pytest.raises(ConvInspectError, match="would have to move"):
        convert(tmp_path / "a", tmp_path / "b", **TO_LINEAR, patches=True, layer=["patch"])
    assert not (tmp_path / "b").exists()


def test_one_file_in_place_of_a_folder(tmp_path: Path) -> None:
    LAYOUTS["plain"](str(tmp_path / "a"))
    before = loaded(tmp_path / "a")
    for name in ("b.pt", "b.safetensors"):
        done = run("convert", tmp_path / "a", "-o", tmp_path / name, "--to", "linear", "--from", "any")
        assert done.returncode == 0, done.stderr
        after = torch.load(tmp_path / name) if name == "b.pt" else load_file(tmp_path / name)
        assert after.keys() == before.keys()
        assert all(torch.equal(after[key], one.reshape(after[key].shape)) for key, one in before.items())
        assert after["0.weight"].shape == (5, 3)
        assert verify(tmp_path / "a", tmp_path / name).strength == "layer"
