"""Errors that the packages themselves raise: `diff A --error` gives the rows that the real mismatch has."""

from __future__ import annotations

import io
import json
import logging
import traceback
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from support.in_process import run

Row = tuple[str, str, tuple[int, ...] | None, tuple[int, ...] | None]
State = dict[str, torch.Tensor]


def raised(call: Callable[[], object]) -> str:
    """What a call writes and raises, as a console shows it."""
    said = io.StringIO()
    kept = logging.StreamHandler(said)
    loggers = [logging.getLogger(name) for name in ("accelerate", "diffusers", "transformers", "peft")]
    for logger in loggers:
        logger.addHandler(kept)
    with redirect_stdout(said), redirect_stderr(said), warnings.catch_warnings():
        warnings.simplefilter("always")
        try:
            call()
        except Exception:
            said.write(traceback.format_exc())
    for logger in loggers:
        logger.removeHandler(kept)
    return said.getvalue()


def read(path: Path, text: str) -> tuple[set[Row], dict[str, Any]]:
    """The rows that the program gives, and all that it says."""
    ended = run("diff", path, "--error", "-", "--format", "json", stdin=text)
    assert ended.returncode in (0, 1), ended.stderr
    said = json.loads(ended.stdout)

    def dims(shape: list[int] | None) -> tuple[int, ...] | None:
        return None if shape is None else tuple(shape)

    rows = {
        (line["error"], line["name"], dims(line["shape_checkpoint"]), dims(line["shape_model"]))
        for line in said["lines"]
    }
    return rows, said


def real(model: nn.Module, state: State, strict: bool = True) -> set[Row]:
    """What is wrong, from the shapes alone."""
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    found: set[Row] = {
        ("size mismatch", key, tuple(state[key].shape), shape)
        for key, shape in wanted.items()
        if key in state and tuple(state[key].shape) != shape
    }
    if strict:
        found |= {("missing", key, None, None) for key in wanted if key not in state}
        found |= {("unexpected", key, None, None) for key in state if key not in wanted}
    return found


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj, self.out, self.gone = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(2, 3)


def stored() -> State:
    state = {key: torch.zeros(value.shape) for key, value in Model().state_dict().items() if "gone" not in key}
    state["proj.weight"], state["extra.weight"] = torch.zeros(8, 6, 1), torch.zeros(1)
    return state


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", ["a.safetensors", "a.bin"])
def test_accelerate_loads_by_pytorch(tmp_path: Path, name: str, strict: bool) -> None:
    modeling = pytest.importorskip("accelerate.utils.modeling")
    state = stored()
    (save_file if name.endswith("s") else torch.save)(state, tmp_path / name)
    text = raised(lambda: modeling.load_checkpoint_in_model(Model(), str(tmp_path / name), strict=strict))
    rows, said = read(tmp_path / name, text)
    expected = real(Model(), state)
    # accelerate looks for missing keys itself, and says nothing of them here.
    kinds = {"size mismatch", "unexpected"} if strict else {"size mismatch"}
    assert rows == {row for row in expected if row[0] in kinds}
    assert not said["not_understood"]


def test_accelerate_gives_the_last_part_of_a_name_where_it_places_tensors(tmp_path: Path) -> None:
    modeling = pytest.importorskip("accelerate.utils.modeling")
    torch.save(stored(), tmp_path / "a.bin")
    text = raised(lambda: modeling.load_checkpoint_in_model(Model(), str(tmp_path / "a.bin"), device_map={"": "cpu"}))
    rows, said = read(tmp_path / "a.bin", text)
    assert {row[2:] for row in rows} == {((8, 6, 1), (8, 6))}
    assert all(row[1].endswith("weight") for row in rows)
    assert (said["stops_at_first"], said["same"]) == ("accelerate", False)


@pytest.mark.parametrize("strict", [False, True])
def test_accelerate_says_which_weights_are_not_used(tmp_path: Path, strict: bool) -> None:
    modeling = pytest.importorskip("accelerate.utils.modeling")
    state = {**stored(), "proj.weight": torch.zeros(8, 6)}
    torch.save(state, tmp_path / "a.bin")
    load = modeling.load_checkpoint_in_model
    text = raised(lambda: load(Model(), str(tmp_path / "a.bin"), device_map={"": "cpu"}, strict=strict))
    if strict:
        # An attribute of the module is missing, and nothing is said of a key.
        ended = run("diff", tmp_path / "a.bin", "--error", "-", stdin=text)
        assert (ended.returncode, "was not understood" in ended.stderr) == (2, True)
    else:
        assert read(tmp_path / "a.bin", text)[0] == {("unexpected", "extra.weight", None, None)}


@pytest.mark.parametrize("adapter", ["default", "another"])
@pytest.mark.parametrize("linear", [False, True])
def test_peft_puts_the_adapters_name_into_keys(tmp_path: Path, adapter: str, linear: bool) -> None:
    peft = pytest.importorskip("peft")
    base = nn.Sequential(nn.Linear(6, 8) if linear else nn.Conv1d(6, 8, 1))
    model = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=["0"]), adapter_name=adapter)
    state = dict(peft.get_peft_model_state_dict(model, adapter_name=adapter))
    right = {key: tuple(value.shape) for key, value in state.items()}
    for key, value in state.items():
        state[key] = value.unsqueeze(-1).contiguous() if linear else value.squeeze(-1).contiguous()
    save_file(state, tmp_path / "adapter_model.safetensors")
    text = raised(lambda: peft.set_peft_model_state_dict(model, dict(state), adapter_name=adapter))
    rows, said = read(tmp_path / "adapter_model.safetensors", text)
    assert rows == {
        ("size mismatch", key.replace(".weight", f".{adapter}.weight"), tuple(state[key].shape), shape)
        for key, shape in right.items()
    }
    assert {tuple(line["shape_a"]) for line in said["lines"]} == {tuple(value.shape) for value in state.values()}
    assert not said["not_understood"]


def net(linear: bool) -> Any:
    diffusers = pytest.importorskip("diffusers")
    register = pytest.importorskip("diffusers.configuration_utils").register_to_config

    class Net(diffusers.ModelMixin, diffusers.ConfigMixin):  # type: ignore[misc, name-defined]
        @register  # type: ignore[untyped-decorator]
        def __init__(self) -> None:
            super().__init__()
            self.proj_in = nn.Linear(6, 8) if linear else nn.Conv2d(6, 8, 1)
            self.proj_out = nn.Linear(8, 6) if linear else nn.Conv2d(8, 6, 1)

    return Net


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("ignore", [False, True])
def test_diffusers_says_one_mismatch_or_all(tmp_path: Path, linear: bool, ignore: bool) -> None:
    """It raises at the first, and warns of all that it was told to ignore."""
    saved = net(not linear)()
    saved.save_pretrained(tmp_path)
    options = {"ignore_mismatched_sizes": True, "low_cpu_mem_usage": False} if ignore else {}
    text = raised(lambda: net(linear).from_pretrained(tmp_path, **options))
    path = next(tmp_path.glob("*.safetensors"))
    rows, said = read(path, text)
    expected = real(net(linear)(), saved.state_dict())
    assert rows == expected if ignore else (len(rows) == 1 and rows < expected)
    assert said["stops_at_first"] == (None if ignore else "diffusers")
    assert not said["not_understood"]


@pytest.mark.parametrize("ignore", [False, True])
def test_transformers_reports_what_it_could_not_load(tmp_path: Path, ignore: bool) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 64}
    saved = transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=50, **sizes))
    state = dict(saved.state_dict())
    state["classifier.weight"], state["bert.old.weight"] = torch.zeros(7, 32), torch.zeros(3)
    del state["bert.pooler.dense.bias"]
    saved.save_pretrained(tmp_path, state_dict=dict(state))
    text = raised(lambda: type(saved).from_pretrained(tmp_path, ignore_mismatched_sizes=ignore))
    rows, said = read(tmp_path / "model.safetensors", text)
    assert rows == {row for row in real(saved, state) if "position_ids" not in row[1]}
    assert not said["not_understood"]
