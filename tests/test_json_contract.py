"""What the commands write as JSON is what the contract in `docs/json.schema.json` says, and no more than that."""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.exceptions import best_match

from support.in_process import Ended, build_commands_once, call_main
from support.paths import FIXTURES, ROOT, STNKD
from support.sampling import EVERY_CASE

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")

CONTRACT = json.loads((ROOT / "docs" / "json.schema.json").read_text(encoding="utf-8"))
COMMANDS = [part["$ref"].removeprefix("#/$defs/") for part in CONTRACT["anyOf"]]
FILES = sorted(path for path in FIXTURES.rglob("*") if path.suffix in (".pt", ".pt2", ".safetensors", ".ckpt"))
FOLDERS = [FIXTURES / "sharded", FIXTURES / "sharded_bin", FIXTURES / "distributed"]


RECURSIVE = ("numbers", "module")
"""What holds more of its own kind."""
NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(4, 6, 1)

    def forward(self, x):
        return {"y": self.conv(x), "n": 3, "other": object()}
"""
NEEDS_A_DEVICE = "compare.not_run."
"""What is written only where PyTorch runs one of two operators."""


def closed(schema: Any) -> Any:
    """The same, where objects with keys of their own admit no others."""
    if isinstance(schema, list):
        return list(map(closed, schema))
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    return {**inner, "additionalProperties": False} if "properties" in schema and "type" in schema else inner


@cache
def validator(command: str, strict: bool = True) -> Draft202012Validator:
    """One command's contract."""
    whole = {**CONTRACT, "anyOf": [{"$ref": f"#/$defs/{command}"}]}
    return Draft202012Validator(closed(whole) if strict else whole)


def refused(literal: str) -> Any:
    """Fails for what is no JSON: Python's reader takes NaN and the infinities."""
    raise AssertionError(f"{literal} is no JSON")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files for what no fixture has."""
    folder = tmp_path_factory.mktemp("made")
    tied = torch.zeros(4, 4)
    torch.save({f"tie{i}.weight": tied for i in range(110)}, folder / "ties.pt")
    lazy = torch.nn.parameter.UninitializedParameter()
    nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    torch.save({"lazy.weight": lazy, "nested": nested}, folder / "shapeless.pt")
    torch.save({"a.weight": torch.tensor([[float("nan"), float("inf")], [-float("inf"), 1.0]])}, folder / "nan.pt")
    torch.save({"a.weight": torch.full((2, 2), float("nan"))}, folder / "all_nan.pt")
    torch.save({"a.qweight": torch.zeros(4, 8, dtype=torch.int32)}, folder / "packed.pt")
    torch.save({"conv.weight": torch.zeros(4, 3, 2, 4, 4), "conv.bias": torch.zeros(4)}, folder / "patch.pt")
    torch.save(
        {"sp.weight": torch.arange(4 * 6 * 2.0).reshape(4, 6, 2), "x.weight": torch.zeros(3, 3)}, folder / "a.pt"
    )
    torch.save({"sp.weight": torch.arange(4 * 6 * 2.0).reshape(4, 6, 2).movedim(0, 2).contiguous(),
                "x.weight": torch.ones(3, 3), "epoch": 3}, folder / "b.pt")  # fmt: skip
    kernels: dict[str, Any] = {"conv/kernel": np.zeros((1, 4, 6), np.float32), "conv/bias": np.zeros(6, np.float32)}
    np.savez(folder / "kernels.npz", **kernels)
    torch.save({"w.weight": torch.zeros(2, 2, dtype=torch.complex64) + 1j}, folder / "complex.pt")
    torch.save({"w.weight": torch.zeros(2, 2, device="meta")}, folder / "meta.pt")
    torch.save({"w": torch.arange(8.0)}, folder / "vector.pt")
    torch.save({"w": torch.arange(8.0)[:, None]}, folder / "column.pt")
    run = folder / "run"
    (run / "checkpoint-1").mkdir(parents=True)
    torch.save({"conv.weight": torch.zeros(4, 4, 1)}, run / "pytorch_model.bin")
    (run / "config.json").write_text("{}")
    (folder / "prefixed.txt").write_text(
        "RuntimeError: Error(s) in loading state_dict for Net:\n"
        '\tMissing key(s) in state_dict: "conv.weight", "conv.bias". \n'
        '\tUnexpected key(s) in state_dict: "module.conv.weight", "module.conv.bias". \n'
    )
    torch.save({"module.conv.weight": torch.zeros(4, 4, device="meta"), "module.conv.bias": torch.zeros(4)},
               folder / "prefixed.pt")  # fmt: skip
    (folder / "net.py").write_text(NET)
    torch.save({"conv.weight": torch.randn(6, 4, 1), "conv.bias": torch.randn(6)}, folder / "net.pt")
    return folder


def calls(command: str, made: Path) -> list[Sequence[object]]:
    """Calls of a command, on many files and with the options that change what it writes."""
    every = [*FILES, *FOLDERS, *sorted(made.glob("*.pt")), made / "kernels.npz"]
    linear = made / "linear.pt"
    if command in ("diff", "verify") and not linear.exists():
        call_main("convert", STNKD, "-o", linear, "--to", "linear")
    error = FIXTURES / "pointnet_stnkd_load_error.txt"

    def each(*options: list[str]) -> list[list[object]]:
        """Every file with one of these, in turn; with all of them by hand."""
        if EVERY_CASE:
            return [[path, *more] for path in every for more in options]
        return [[path, *options[number % len(options)]] for number, path in enumerate(every)]

    every_call: dict[str, list[Any]] = {
        "shapes": each(["--limit", "2"], ["--all", "--tree"]),
        "weights": [*([path, "*", "--rows", ":2", "--cols", ":2"] for path in every),
                    [STNKD, "conv*", "--limit", "1"], [made / "complex.pt"]],
        "weights-stats": [*([path, "--stats"] for path in every), [STNKD, "--stats", "--limit", "1"]],
        "convert": [
            *each(["--to", "linear", "--dry-run"], ["--to", "conv2d", "--dry-run"]),
            [STNKD, "--like", FIXTURES / "pointnet_stnkd.safetensors", "--dry-run", "--rename", "conv*=c*"],
            [made / "patch.pt", "--to", "linear", "--patches", "--layer", "conv", "--dry-run"],
            [made / "run", "--to", "linear", "-o", made / "folder", "--force"],
        ],
        "diff": [
            [STNKD, linear], [STNKD, linear, "--values", "--all"], [made / "a.pt", made / "b.pt", "--values"],
            [made / "nan.pt", made / "all_nan.pt", "--values"], [FIXTURES / "tied.pt", FIXTURES / "biases.pt"],
            [FIXTURES / "prefixes_module.pt", FIXTURES / "prefixes_half.pt", "--all"],
            [made / "shapeless.pt", STNKD], [made / "meta.pt", made / "meta.pt"],
        ],
        "diff-error": [[STNKD, "--error", error], [made / "prefixed.pt", "--error", made / "prefixed.txt"]],
        "verify": [
            *([path] for path in (STNKD, FIXTURES / "adamw.pt", FIXTURES / "grouped_module.pt", FIXTURES / "tied.pt")),
            [STNKD, "--grad"], [STNKD, linear, "--bits"], [linear, FIXTURES / "biases.pt"],
            [made / "a.pt", made / "b.pt"], [made / "vector.pt", made / "column.pt"],
            [made / "net.pt", "--model", "net:Net", "-i", "1x4x5"],
        ],
        "check": [*([path, "--values"] for path in every), [error], [*FILES[:9]], [f"file://{STNKD}"]],
        "compare": [
            [STNKD, "--layer", "conv1", "--length", "1", "--batch", "1", "--repeats", "3"],
            [made / "patch.pt", "--layer", "conv", "--patches", "--length", "2", "--batch", "1", "--repeats", "3"],
        ],
        "explain": [[], [STNKD, "conv1"], ["--patches"], [STNKD, "fc1"]],
    }  # fmt: skip
    return every_call[command]


def call_json(command: str, call: Sequence[object]) -> Ended:
    """One call of a command; `explain` only writes JSON to a file."""
    if command != "explain":
        return call_main(command, *call, "--format", "json")
    target = Path("explained.json")
    target.unlink(missing_ok=True)
    ended = call_main(command, *call, "-o", target)
    return ended._replace(out=target.read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=COMMANDS)
def written(request: pytest.FixtureRequest, made: Path) -> tuple[str, list[Any]]:
    """A command's name, and what it writes in these calls, parsed; errors write nothing."""
    command: str = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gc.disable", lambda: None)
        build_commands_once(patch)
        patch.chdir(made)
        patch.syspath_prepend(made)
        ended = [call_json(command.partition("-")[0], call) for call in calls(command, made)]
    assert all(one.out or one.code == 2 for one in ended)
    outputs = [json.loads(one.out, parse_constant=refused) for one in ended if one.out]
    assert outputs
    return command, outputs


def test_what_a_command_writes_is_what_the_contract_says(written: tuple[str, list[Any]]) -> None:
    command, outputs = written
    for output in outputs:
        error = best_match(validator(command).iter_errors(output))
        assert error is None, f"{error.json_path}: {error.message}"


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where each key of each object in the value is; of a list's members, the first alone."""
    if isinstance(value, dict):
        for key, held in value.items():
            yield (*path, key)
            yield from places(held, (*path, key))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*path, 0))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """The value with something else in one place; `...` takes the key away."""
    result = deepcopy(value)
    inner = result
    for key in path[:-1]:
        inner = inner[key]
    if new is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return result


def test_the_contract_refuses_other_types_lost_keys_and_new_keys(written: tuple[str, list[Any]]) -> None:
    command, outputs = written
    output = min(outputs, key=lambda each: abs(len(json.dumps(each)) - 1500))
    strict, may_be_absent = validator(command), set(optional(CONTRACT["$defs"][command]))
    for path in places(output):
        assert not strict.is_valid(changed(output, path, {"of another": "type"})), path
        assert not strict.is_valid(changed(output, (*path[:-1], "undocumented"), 1)) or is_named_by_data(path), path
        lost = strict.is_valid(changed(output, path, ...))
        assert not lost or path[-1] in may_be_absent or is_named_by_data(path), path
    assert validator(command, strict=False).is_valid({**output, "of a later version": 1})


def optional(schema: Any, within: tuple[str, ...] = ()) -> Iterator[str]:
    """The keys that may be absent, of all objects of a schema."""
    name = schema.get("$ref", "").removeprefix("#/$defs/")
    if name and name not in within:
        yield from optional(CONTRACT["$defs"][name], (*within, name))
    yield from set(schema.get("properties", ())) - set(schema.get("required", ()))
    inner = [*schema.get("properties", {}).values(), *schema.get("anyOf", ())]
    inner += [schema[key] for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)]
    for part in inner:
        yield from optional(part, within)


def is_named_by_data(path: tuple[Any, ...]) -> bool:
    """Whether the object there has keys that are no words of the contract: names of gradients, say."""
    return len(path) > 1 and path[-2] in ("gradients", "forward", "forward_backward", "errors", "share_of_bound")


def used(schema: Any, value: Any, path: str) -> Iterator[str]:
    """The keys of the schema that the value has, and whether a list had members, as paths."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        path = name if name in RECURSIVE else path
        schema = CONTRACT["$defs"][name]
    for part in schema.get("anyOf", ()):
        yield from used(part, value, path)
    if isinstance(value, dict):
        for key, held in schema.get("properties", {}).items():
            if key in value:
                yield f"{path}.{key}"
                yield from used(held, value[key], f"{path}.{key}")
        if isinstance(schema.get("additionalProperties"), dict):
            for held in value.values():
                yield from used(schema["additionalProperties"], held, path)
    elif isinstance(value, list) and "items" in schema and not str(schema["items"].get("$ref")).endswith("numbers"):
        for held in value:
            yield from used(schema["items"], held, path)


def documented(schema: Any, path: str) -> Iterator[str]:
    """All keys of the schema, as paths."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        if name in RECURSIVE:
            if path.split(".")[0] == name:
                return
            path = name
        schema = CONTRACT["$defs"][name]
    for key, held in schema.get("properties", {}).items():
        yield f"{path}.{key}"
        yield from documented(held, f"{path}.{key}")
    for part in (*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else ())):
        yield from documented(part, path)
    if isinstance(schema.get("additionalProperties"), dict):
        yield from documented(schema["additionalProperties"], path)


def test_no_key_is_documented_that_nothing_writes(written: tuple[str, list[Any]]) -> None:
    command, outputs = written
    schema = CONTRACT["$defs"][command]
    seen = {path for output in outputs for path in used(schema, output, command)}
    lacking = {path for path in set(documented(schema, command)) - seen if not path.startswith(NEEDS_A_DEVICE)}
    assert lacking == set()


def test_the_schema_is_a_schema_and_each_command_has_its_own() -> None:
    Draft202012Validator.check_schema(CONTRACT)
    with pytest.raises(ValidationError):
        validator("diff").validate({})


def test_errors_are_a_line_and_never_json(tmp_path: Path) -> None:
    ended = call_main("shapes", tmp_path / "none.pt", "--format", "json")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1


def test_schema_and_page_are_those_that_the_script_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["json_contract.py", str(tmp_path / "json.md")])
    runpy.run_path(str(ROOT / "docs" / "json_contract.py"), run_name="__main__")
    for name in ("json.md", "json.schema.json"):
        assert (tmp_path / name).read_text(encoding="utf-8") == (ROOT / "docs" / name).read_text(encoding="utf-8")
