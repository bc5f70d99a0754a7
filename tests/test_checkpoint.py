"""Which root of a file is meant, and under which names its tensors are shown."""

from __future__ import annotations

import copy
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

import convinspect
from convinspect.checkpoint import Checkpoint, open_checkpoint
from convinspect.converting.plan import Request, plan
from convinspect.errors import ChangedMeanwhile, ConvInspectError, NoSuchTensor, NotACheckpoint, NotThere
from convinspect.formats import read_contents
from convinspect.keys.wrappers import clean_name
from convinspect.layers import grouping as groups
from convinspect.layers.find import find_layers
from convinspect.records import Container, Contents, Root, Tensor

SMALL = {"conv.weight": torch.ones(4, 3, 1), "conv.bias": torch.ones(4)}
LARGE = {"fc.weight": torch.ones(9, 9), "fc.bias": torch.ones(9)}


def saved(folder: Path, value: object) -> Path:
    path = folder / "model.pt"
    torch.save(value, path)
    return path


def roots(folder: Path, value: object) -> dict[str, Root]:
    return {root.path: root for root in read_contents(saved(folder, value)).roots}


def opened(folder: Path, value: object, root: str | None = None) -> Checkpoint:
    return open_checkpoint(saved(folder, value), root)


def net() -> nn.Sequential:
    return nn.Sequential(OrderedDict(conv=nn.Conv1d(3, 4, 1), fc=nn.Linear(4, 2)))


# --- roots

ONE, TWO = {"weight": torch.ones(4, 3, 1), "bias": torch.ones(4)}, {"weight": torch.ones(2)}
# name → what is saved, every root with its role, the one that is meant
NESTED: dict[str, tuple[Any, dict[str, str], str]] = {
    "state_dict": (SMALL, {"": "model"}, ""),
    "two networks": ({"G": SMALL, "D": LARGE}, {"G": "model", "D": "model"}, "D"),
    "ema first": ({"ema": LARGE, "model": SMALL}, {"ema": "ema", "model": "model"}, "model"),
    "ema_state_dict": ({"ema_state_dict": LARGE, "net": SMALL}, {"ema_state_dict": "ema", "net": "model"}, "net"),
    "only ema": ({"step": 3, "shadow_params": LARGE}, {"shadow_params": "ema"}, "shadow_params"),
    "named model": ({"other": LARGE, "state_dict": SMALL}, {"other": "model", "state_dict": "model"}, "state_dict"),
    "statistics": ({"stats": {"mean": torch.ones(900)}, "x": SMALL}, {"stats": "other", "x": "model"}, "x"),
    "deep": ({"a": {"b": {"params": SMALL}}}, {"a.b.params": "model"}, "a.b.params"),
    "in a list": ([SMALL, LARGE], {"0": "model", "1": "model"}, "1"),
    "layers": (
        {"encoder": {"conv1": ONE, "conv2": TWO}},
        {"encoder": "model"},
        "encoder",
    ),
    "layers at the top": ({"conv1": ONE, "conv2": TWO}, {"": "model"}, ""),
}


@pytest.mark.parametrize("name", NESTED)
def test_roots_and_the_main_one(tmp_path: Path, name: str) -> None:
    value, expected, main = NESTED[name]
    found = roots(tmp_path, value)
    assert {path: root.role for path, root in found.items()} == expected
    assert open_checkpoint(tmp_path / "model.pt").root.path == main


def test_layers_in_dictionaries_have_dotted_keys(tmp_path: Path) -> None:
    value, _, _ = NESTED["layers"]
    assert list(opened(tmp_path, value).tensors) == ["conv1.weight", "conv1.bias", "conv2.weight"]


@pytest.mark.parametrize("main", NESTED)
def test_every_root_can_be_chosen(tmp_path: Path, main: str) -> None:
    value, expected, _ = NESTED[main]
    path = saved(tmp_path, value)
    for root in expected:
        assert open_checkpoint(path, root).root.path == root


def test_the_whole_file_as_one_root(tmp_path: Path) -> None:
    path = saved(tmp_path, {"G": SMALL, "D": {"net": LARGE}})
    everything = [f"G.{key}" for key in SMALL] + [f"D.net.{key}" for key in LARGE]
    assert list(open_checkpoint(path, ".").tensors) == everything
    assert list(open_checkpoint(path, "D").tensors) == [f"net.{key}" for key in LARGE]


def test_modules_below_a_chosen_root(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, {"nets": {"a": net(), "b": net()}}, "nets")
    assert list(checkpoint.tensors) == [f"{name}.{key}" for name in "ab" for key in net().state_dict()]
    assert checkpoint.modules["b.conv"].kind == "Conv1d"
    assert checkpoint.modules["b"].kind == "Sequential"


def test_unknown_root_names_those_that_exist(tmp_path: Path) -> None:
    path = saved(tmp_path, {"G": SMALL, "D": LARGE})
    with pytest.raises(NotThere) as caught:
        open_checkpoint(path, "E")
    assert str(path) in str(caught.value)
    assert "'E'" in str(caught.value)
    assert "G, D" in str(caught.value)


@pytest.mark.parametrize("value", [{"epoch": 3}, {}, [], None, {"model": {}}, "text"])
def test_nothing_but_plain_values(tmp_path: Path, value: object) -> None:
    with pytest.raises(NotACheckpoint, match="no tensors"):
        opened(tmp_path, value)


OPTIMIZERS: dict[str, Any] = {
    "Adam": lambda parameters: torch.optim.Adam(parameters, amsgrad=True),
    "AdamW": torch.optim.AdamW,
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "RMSprop": lambda parameters: torch.optim.RMSprop(parameters, centered=True),
    "Adagrad": torch.optim.Adagrad,
}


def stepped(name: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = net()
    optimizer = OPTIMIZERS[name](model.parameters())
    conv, fc = model
    fc(conv(torch.ones(1, 3, 2)).mean(2)).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("key", ["optimizer", "optim", "opt_g"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_state(tmp_path: Path, name: str, key: str) -> None:
    model, optimizer = stepped(name)
    state = optimizer.state_dict()
    found = roots(tmp_path, {key: state, "state_dict": model.state_dict()})
    assert {path: root.role for path, root in found.items()} == {key: "optimizer", "state_dict": "model"}
    expected = {
        f"state.{index}.{part}": tuple(value.shape)
        for index, parts in state["state"].items()
        for part, value in parts.items()
        if isinstance(value, torch.Tensor)
    }
    assert {tensor.key: tensor.shape for tensor in found[key].tensors} == expected
    assert open_checkpoint(tmp_path / "model.pt").root.path == "state_dict"


def test_lightning(tmp_path: Path) -> None:
    model, optimizer = stepped("Adam")
    state = {f"net.{key}": tensor for key, tensor in model.state_dict().items()}
    value = {
        "epoch": 3,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": state,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 1}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [{"last_epoch": 3}],
        "hyper_parameters": {"width": 4},
    }
    checkpoint = opened(tmp_path, value)
    assert checkpoint.root.path == "state_dict"
    assert list(checkpoint.tensors) == list(state)
    assert [root.role for root in checkpoint.roots] == ["model", "other", "optimizer"]


def test_averaged_model(tmp_path: Path) -> None:
    model = net()
    averaged = AveragedModel(model)
    state = averaged.state_dict()
    checkpoint = opened(tmp_path, {"ema": state, "model": model.state_dict()})
    assert list(checkpoint.tensors) == list(model.state_dict())
    ema = open_checkpoint(tmp_path / "model.pt", "ema")
    assert list(ema.tensors) == [key.removeprefix("module.") for key in state]


def test_totals_count_ties_once(tmp_path: Path) -> None:
    embedding, linear = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
    model = nn.Sequential(embedding, linear, nn.Linear(5, 2))
    linear.weight = embedding.weight
    state = {
        **model.state_dict(),
        "view": embedding.weight[1:3],
        "empty": torch.ones(0, 3),
        "empty too": torch.ones(0, 3),
    }
    checkpoint = opened(tmp_path, state)
    assert checkpoint.tied_to("0.weight") == ("1.weight",)
    assert checkpoint.tied_to("view") == ()
    assert checkpoint.tied_to("empty") == ()
    assert checkpoint.totals().numel == sum(p.numel() for p in model.parameters()) + 6
    stored = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in state.values()}
    assert checkpoint.totals().storage_nbytes == sum(stored.values())


@settings(deadline=None, max_examples=80)
@given(data=st.data())
def test_ties_are_those_that_comparing_each_with_each_finds(data: st.DataObject) -> None:
    """Weights and biases anywhere in a few storages, of two sizes; torch's own addresses are the oracle."""
    storages = [torch.zeros(24) for _ in range(3)]
    state = {}
    for number in range(data.draw(st.integers(1, 14))):
        for leaf, size in (("weight", 12), ("bias", 4)):
            if leaf == "weight" or data.draw(st.booleans()):
                start = data.draw(st.sampled_from([0, 4, 12]))
                flat = data.draw(st.sampled_from(storages))[start : start + size]
                state[f"{number}.{leaf}"] = flat.view(4, 3, 1) if leaf == "weight" else flat
    most = data.draw(st.sampled_from([2, 100]))
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setattr(groups, "MOST_TIES", most)
        layers = find_layers(checkpoint := opened(Path(folder), state))

    def where(key: str) -> tuple[int, int]:
        return state[key].data_ptr(), state[key].numel()

    def storage(key: str) -> int:
        return state[key].untyped_storage().data_ptr()

    def same_as(key: str) -> list[str]:
        return [other for other in state if other != key and where(other) == where(key)]

    for layer in layers:
        keys = [key for key in state if key.split(".")[0] == layer.name]
        ties = list(dict.fromkeys(other for key in keys for other in same_as(key)))
        assert list(layer.tied_to) == ties[:most]
        assert layer.tied_to_more == max(len(ties) - most, 0)
        beside = [
            other
            for group in dict.fromkeys(map(storage, keys))
            for other in state
            if storage(other) == group and other not in keys and other not in ties
        ]
        told = [note.removeprefix("in one storage with ") for note in layer.notes if "in one storage" in note]
        assert told == ([", ".join(beside[:3]) + " and others" * (len(beside) > 3)] if beside else [])
        for key in keys:
            assert checkpoint.tied_to(key) == tuple(same_as(key))


@settings(deadline=None, max_examples=60)
@given(weights=st.lists(st.integers(0, 4), min_size=1, max_size=9), excluded=st.sets(st.integers(0, 8)))
def test_a_tie_changes_whole_or_not_at_all(weights: list[int], excluded: set[int]) -> None:
    """Layers with one of five weights each, some of them excluded: who may change is plain."""
    tensors = [torch.zeros(4, 3, 1) for _ in range(5)]
    kept = {weights[number] for number in excluded if number < len(weights)}
    with tempfile.TemporaryDirectory() as folder:
        layers = find_layers(
            opened(Path(folder), {f"{number}.weight": tensors[which] for number, which in enumerate(weights)})
        )
        left = tuple(str(number) for number in sorted(excluded) if number < len(weights))
        planned = plan(layers, Request("Linear", exclude=left))
    assert [one.layer.name for one in planned.conversions] == [
        str(number) for number, which in enumerate(weights) if which not in kept
    ]
    assert {one.name for one in planned.refusals} == {
        str(number) for number, which in enumerate(weights) if which in kept and number not in excluded
    }
    for one in planned.refusals:
        first = min(n for n, which in enumerate(weights) if which == weights[int(one.name)] and n in excluded)
        assert f"tied to {first}.weight of {first} (Conv1d), which does not change" in one.reason


# --- wrapped names


def compiled(model: nn.Module) -> nn.Module:
    """As `torch.compile` returns a module, which its type does not tell."""
    wrapped: Any = torch.compile(model)
    assert isinstance(wrapped, nn.Module)
    return wrapped


WRAPPED: dict[str, Callable[[], nn.Module]] = {
    "module.": lambda: nn.DataParallel(net()),
    "module._orig_mod.": lambda: nn.DataParallel(compiled(net())),
    "_orig_mod.module.": lambda: compiled(nn.DataParallel(net())),
    "_orig_mod.": lambda: compiled(net()),
}


@pytest.mark.parametrize("prefix", WRAPPED)
def test_wrappers_in_front(tmp_path: Path, prefix: str) -> None:
    state = WRAPPED[prefix]().state_dict()
    checkpoint = opened(tmp_path, state)
    assert list(checkpoint.tensors) == list(net().state_dict())
    assert [tensor.key for tensor in checkpoint.tensors.values()] == list(state)
    assert checkpoint.prefixes == {prefix: 4}


def test_wrapper_inside(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, nn.ModuleDict({"model": compiled(net())}).state_dict())
    assert list(checkpoint.tensors) == [f"model.{key}" for key in net().state_dict()]
    assert sum(checkpoint.prefixes.values()) == 4


def test_half_of_the_keys(tmp_path: Path) -> None:
    state = {("module." if index % 2 else "") + key: t for index, (key, t) in enumerate(net().state_dict().items())}
    checkpoint = opened(tmp_path, state)
    assert list(checkpoint.tensors) == list(net().state_dict())
    assert checkpoint.prefixes == {"module.": 2}


def test_a_module_of_that_name_stays(tmp_path: Path) -> None:
    state = {"encoder.module.weight": torch.ones(2, 3), "module_list.0.weight": torch.ones(1), "module": torch.ones(2)}
    assert list(opened(tmp_path, state).tensors) == list(state)


def test_both_with_and_without_stay_apart(tmp_path: Path) -> None:
    state = {"fc.weight": torch.ones(2, 3), "module.fc.weight": torch.ones(4, 3), "module.fc.bias": torch.ones(4)}
    checkpoint = opened(tmp_path, state)
    assert len(checkpoint.tensors) == 3
    assert checkpoint.tensors["fc.weight"].shape == (2, 3)
    assert checkpoint.tensors["module.fc.weight"].shape == (4, 3)


def test_names_of_a_whole_wrapped_module(tmp_path: Path) -> None:
    model = nn.DataParallel(net())
    checkpoint = opened(tmp_path, copy.deepcopy(model))
    assert list(checkpoint.tensors) == list(net().state_dict())
    assert checkpoint.modules["conv"].attributes["kernel_size"] == (1,)


def test_keys_that_read_the_same(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, {1: torch.ones(2, 3), "1": torch.ones(4), "x": torch.ones(1)})
    assert sorted(tensor.shape for tensor in checkpoint.tensors.values()) == [(1,), (2, 3), (4,)]


def test_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConvInspectError, match=r"absent\.pt: there is no such file"):
        open_checkpoint(tmp_path / "absent.pt")


@pytest.mark.parametrize(
    "groups",
    ["none", [], [{"params": "all"}], [{"params": [0, "a"]}], [{"params": [torch.zeros(1)]}], [3], {"params": [0]}],
)
def test_groups_that_are_no_optimizers_tell_no_parameters(tmp_path: Path, groups: object) -> None:
    """Of anything else by these two names nothing is concluded, and the model beside it is listed all the same."""
    value = {
        "model": {"c.weight": torch.zeros(4, 6, 1)},
        "extra": {"state": {"a": torch.zeros(2)}, "param_groups": groups},
    }
    found = roots(tmp_path, value)
    assert [tensor.key for tensor in found["model"].tensors] == ["c.weight"]
    assert not any(one.parameters for one in found.values())


# --- a mapping


PARTS = st.sampled_from(["module", "_orig_mod", "a", "b", "weight", "weights"])
KEYS = st.lists(st.lists(PARTS, min_size=1, max_size=4).map(".".join), min_size=1, max_size=8, unique=True)


def of_keys(keys: list[str]) -> Checkpoint:
    tensors = tuple(Tensor(key, "float32", (n + 1,), (1,)) for n, key in enumerate(keys))
    contents = Contents(Path("m.pt"), Container.TORCH_ZIP, (Root("", "model", tensors),), 0)
    return Checkpoint(contents)


@given(keys=KEYS, other=st.lists(PARTS, min_size=1, max_size=4).map(".".join))
@settings(deadline=None, max_examples=100)
def test_a_checkpoint_is_a_mapping_of_its_tensors(keys: list[str], other: str) -> None:
    checkpoint = of_keys(keys)
    assert isinstance(checkpoint, Mapping)
    assert len(checkpoint) == len(list(checkpoint)) == len(keys)
    assert list(checkpoint) == list(checkpoint.keys()) == list(checkpoint.tensors)
    assert list(checkpoint.values()) == [checkpoint[name] for name in checkpoint] == list(checkpoint.root.tensors)
    assert dict(checkpoint.items()) == dict(checkpoint) == checkpoint.tensors
    assert all(name in checkpoint and checkpoint.get(name) is checkpoint[name] for name in checkpoint)
    # As stored, each key means its own tensor, whatever the clean names are.
    assert [checkpoint[key].key for key in keys] == keys
    # `in`, `get` and a lookup agree.
    if other in checkpoint:
        assert checkpoint[other] is checkpoint.get(other)
        assert clean_name(other) in (other, clean_name(checkpoint[other].key))
    else:
        assert checkpoint.get(other) is None
        with pytest.raises(NoSuchTensor):
            checkpoint[other]


def test_a_wrong_name_is_a_key_error_that_names_the_closest(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, net().state_dict())
    for look_up in (checkpoint.__getitem__, checkpoint.read):
        with pytest.raises(KeyError) as caught:
            look_up("conv.wieght")
        assert isinstance(caught.value, ConvInspectError)
        path = tmp_path / "model.pt"
        assert str(caught.value).startswith(f"{path}: there is no tensor 'conv.wieght'; the closest are: conv.weight, ")
    odd: Any = 3
    assert odd not in checkpoint
    with pytest.raises(KeyError):
        checkpoint[odd]


def test_names_are_taken_with_and_without_prefixes(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, WRAPPED["module._orig_mod."]().state_dict())
    for name in ("conv.weight", "module.conv.weight", "module._orig_mod.conv.weight", "_orig_mod.conv.weight"):
        assert checkpoint[name].key == "module._orig_mod.conv.weight"
        assert checkpoint.read(name).shape == (4, 3, 1)
    assert "module.conv.weight" in opened(tmp_path, net().state_dict())


def test_a_checkpoint_is_a_context_and_says_what_it_is(tmp_path: Path) -> None:
    with opened(tmp_path, {"nets": {"a": net().state_dict()}}) as checkpoint:
        assert checkpoint["conv.weight"].shape == (4, 3, 1)
    assert checkpoint.read("conv.bias").shape == (4,)
    assert (
        repr(checkpoint) == f"<Checkpoint {str(tmp_path / 'model.pt')!r}: torch.save (zip), 4 tensors, root 'nets.a'>"
    )
    other = open_checkpoint(tmp_path / "model.pt")
    assert (checkpoint == checkpoint, checkpoint == other, len({checkpoint, other})) == (True, False, 2)
    with pytest.raises(TypeError):
        checkpoint["conv.weight"] = other["conv.weight"]  # type: ignore[index]


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_numbers_of_another_version_of_the_file_are_not_read(tmp_path: Path, suffix: str) -> None:
    """A conversion in place may have moved them."""
    path = tmp_path / f"a.{suffix}"
    state = {"fc.weight": torch.randn(4, 6), "fc.bias": torch.randn(4)}
    (torch.save if suffix == "pt" else save_file)(state, path)
    opened = open_checkpoint(path)
    assert opened.read("fc.bias").shape == (4,)
    convinspect.convert(path, to="conv1d", in_place=True)
    with pytest.raises(ChangedMeanwhile):
        opened.read("fc.bias")
