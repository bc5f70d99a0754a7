"""`verify`: equal means compared. A converted layer whose numbers could not be compared is not verified."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from convinspect.showing.verify import verdict
from support.in_process import run
from support.paths import FIXTURES
from support.verifying import report_of, report_of_objects

STATE = {"p.weight": torch.randn(4, 6, 1), "p.bias": torch.randn(4), "q.weight": torch.randn(3, 4, 3)}


def within(outer: tuple[int, ...], inner: torch.Tensor) -> torch.Tensor:
    """A wrapper subclass that claims a shape, around a tensor."""
    two_tensor = pytest.importorskip("torch.testing._internal.two_tensor").TwoTensor
    strides = torch.empty(outer).stride()
    rebuild: Callable[..., torch.Tensor] = torch._utils._rebuild_wrapper_subclass
    made: Any = rebuild(two_tensor, torch.float32, outer, strides, 0, torch.strided, torch.device("cpu"), False)
    made.a = made.b = inner
    return made  # type: ignore[no-any-return]


def quarter_bytes(weight: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scales, zeros = torch.full((weight.shape[0],), 0.1), torch.zeros(weight.shape[0])
        return torch.quantize_per_channel(weight, scales, zeros, 0, torch.quint4x2)


UNREAD: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "meta": lambda weight: torch.empty_like(weight, device="meta"),
    "sparse": torch.Tensor.to_sparse,
    "wrapped": lambda weight: within(tuple(weight.shape), weight),
}


@pytest.mark.parametrize("kind", UNREAD)
def test_a_converted_layer_that_was_not_compared_is_not_equal(tmp_path: Path, kind: str) -> None:
    weight = torch.randn(4, 6, 1)
    before, after = UNREAD[kind](weight), UNREAD[kind](weight.squeeze(-1))
    found = report_of_objects(tmp_path, STATE | {"p.weight": before}, STATE | {"p.weight": after}, bits=True)
    assert (found.verdict, found.equal) == ("not verified", False)
    done = run("verify", tmp_path / "before.pt", tmp_path / "after.pt", "--format", "json")
    payload = json.loads(done.stdout)
    assert (done.returncode, payload["verdict"], payload["ok"]) == (1, "not verified", False)
    assert payload["not_verified"] == ["p.weight"]
    assert [(one["name"], one["compared"], one["ok"]) for one in payload["layers"]] == [("p", False, False)]
    shown = run("verify", tmp_path / "before.pt", tmp_path / "after.pt").stdout
    assert "not verified · layer p: its shape changed, and its numbers could not be compared" in shown
    assert "equal" not in shown.partition("not verified ·")[2].partition("\n")[0]


@pytest.mark.parametrize("kind", UNREAD)
def test_one_that_is_unchanged_may_stay(tmp_path: Path, kind: str) -> None:
    before = STATE | {"q.weight": UNREAD[kind](torch.randn(3, 4, 3))}
    found = report_of_objects(tmp_path, before, before | {"p.weight": STATE["p.weight"].squeeze(-1)})
    assert found.equal, verdict(found)
    assert found.unread == (("q.weight",) if kind == "meta" else ())


def test_a_bias_without_numbers_leaves_its_layer_unverified(tmp_path: Path) -> None:
    before = STATE | {"p.bias": torch.empty(4, device="meta")}
    found = report_of_objects(tmp_path, before, before | {"p.weight": STATE["p.weight"].squeeze(-1)})
    assert found.verdict == "not verified"


def test_a_difference_counts_more_than_what_was_not_compared(tmp_path: Path) -> None:
    before = STATE | {"p.weight": torch.empty(4, 6, 1, device="meta")}
    after = before | {"p.weight": torch.empty(4, 6, device="meta"), "q.weight": torch.randn(3, 4, 3)}
    assert report_of_objects(tmp_path, before, after).verdict == "different"


def test_a_wrapper_whose_outer_shape_alone_changed_is_different(tmp_path: Path) -> None:
    """PyTorch loads such a file; no model takes it."""
    weight = torch.randn(4, 6, 1)
    before, after = (STATE | {"p.weight": within(shape, weight)} for shape in ((4, 6, 1), (4, 6)))
    found = report_of_objects(tmp_path, before, after)
    assert found.verdict == "different"
    assert "kept theirs" in verdict(found)


def test_other_numbers_within_a_wrapper_are_found(tmp_path: Path) -> None:
    before, after = (STATE | {"p.weight": within((4, 6, 1), torch.randn(4, 6, 1))} for _ in range(2))
    found = report_of_objects(tmp_path, before, after)
    assert "the tensors within TwoTensor differ" in verdict(found)


def test_numbers_of_half_a_byte_are_compared_as_bytes(tmp_path: Path) -> None:
    before = STATE | {"e.weight": quarter_bytes(torch.randn(4, 8))}
    assert report_of_objects(tmp_path, before, before).unread == ()
    found = report_of_objects(tmp_path, before, STATE | {"e.weight": quarter_bytes(torch.randn(4, 8) + 1)})
    assert found.verdict == "different"
    assert "its stored bytes differ" in verdict(found)


def test_a_copy_and_a_state_that_were_not_compared_count_too(tmp_path: Path) -> None:
    meta = {name: torch.empty_like(one, device="meta") for name, one in STATE.items()}
    after = {"state_dict": STATE | {"p.weight": STATE["p.weight"].squeeze(-1)}, "ema": dict(meta)}
    after["ema"]["p.weight"] = torch.empty(4, 6, device="meta")
    found = report_of_objects(tmp_path, {"state_dict": STATE, "ema": meta}, after)
    assert (found.verdict, found.unproved) == ("not verified", ("ema.p.weight",))


def test_distributed_folders_are_compared_by_their_numbers(tmp_path: Path) -> None:
    from torch.distributed.checkpoint.state_dict_saver import save

    conv, other = nn.Conv1d(6, 4, 1), nn.Linear(6, 4)
    same = nn.Linear(6, 4)
    with torch.no_grad():
        same.weight.copy_(conv.weight.squeeze(-1))
        same.bias.copy_(conv.bias)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, layer in {"a": conv, "same": same, "other": other}.items():
            save(dict(nn.Sequential(layer).state_dict()), checkpoint_id=tmp_path / name)
    assert report_of(tmp_path / "a", tmp_path / "same").verdict == "equal"
    assert report_of(tmp_path / "a", tmp_path / "other").verdict == "different"


# ------------------------------------------------------------------------------------------------ metadata


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"format": "pt", "author": "me"}])
def test_shards_as_one_file_have_their_metadata(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    names = {name: f"model-0000{at + 1}-of-00003.safetensors" for at, name in enumerate(STATE)}
    for name, shard in names.items():
        save_file({name: STATE[name]}, folder / shard, metadata)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    after = STATE | {"p.weight": STATE["p.weight"].squeeze(-1).contiguous()}
    save_file(after, tmp_path / "one.safetensors", (metadata or {}) | {"format": "pt"})
    found = report_of(folder, tmp_path / "one.safetensors")
    assert found.equal, verdict(found)
    if metadata is not None:
        save_file(after, tmp_path / "lost.safetensors")
        lost = verdict(report_of(folder, tmp_path / "lost.safetensors"))
        assert "metadata differs in" in lost
        assert "'format'" in lost
    # MLX's order of axes is another, so that format says something of the numbers.
    save_file(after, tmp_path / "mlx.safetensors", (metadata or {}) | {"format": "mlx"})
    assert not report_of(folder, tmp_path / "mlx.safetensors").equal


@pytest.mark.parametrize(
    ("before", "after", "differing"),
    [
        (None, {"format": "pt"}, ""),
        ({"author": "me"}, {"author": "me", "format": "pt"}, ""),
        ({"author": "me"}, {"format": "pt"}, "'author'"),
        (None, {"author": "me", "format": "pt"}, "'author'"),
        ({"format": "pt"}, None, "'format'"),
        ({"format": "np"}, {"format": "pt"}, "'format'"),
        (None, {"format": "np"}, "'format'"),
        ({"a": "1", "b": "1", "c": "1", "d": "1"}, None, "'a', 'b', 'c' and 1 more"),
    ],
)
def test_one_file_may_gain_the_format_of_pytorch(
    tmp_path: Path, before: dict[str, str] | None, after: dict[str, str] | None, differing: str
) -> None:
    save_file(STATE, tmp_path / "a.safetensors", before)
    save_file(STATE | {"p.weight": STATE["p.weight"].squeeze(-1).contiguous()}, tmp_path / "b.safetensors", after)
    found = report_of(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert found.equal == (not differing)
    assert verdict(found) == (f"__metadata__: the file's metadata differs in {differing}" if differing else "")


def test_shards_that_convert_writes_as_one_are_equal(tmp_path: Path) -> None:
    done = run("convert", FIXTURES / "sharded", "-o", tmp_path / "one.safetensors", "--to", "linear", "--state-dict")
    assert done.returncode == 0, done.stderr
    done = run("verify", FIXTURES / "sharded", tmp_path / "one.safetensors")
    assert done.returncode == 0, done.stdout
