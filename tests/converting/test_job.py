"""A conversion as a job: decided, shown, applied in memory, written; and `convinspect.convert`, which is all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import convinspect
from convinspect.checkpoint import open_checkpoint
from convinspect.converting.job import prepare
from convinspect.converting.options import Options
from convinspect.errors import CannotConvert, CannotWrite
from convinspect.showing.convert import plan_payload, plan_table
from support.conversions import load
from support.paths import FIXTURES

STATE = {"a.weight": torch.randn(6, 4, 1), "a.bias": torch.randn(6), "b.weight": torch.randn(2, 6, 3)}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    torch.save(STATE, tmp_path / "a.pt")
    return tmp_path / "a.pt"


def test_a_job_is_decided_without_writing_and_reads_the_source_as_converted(source: Path) -> None:
    job = prepare(open_checkpoint(source), Options(to="linear", rename=("a=c",)))
    assert [conversion.layer.name for conversion in job.plan.conversions] == ["a"]
    converted = job.in_memory()
    assert list(converted) == ["c.weight", "c.bias", "b.weight"]
    assert converted["c.weight"].shape == (6, 4)
    assert (converted.read("c.weight") == STATE["a.weight"][..., 0].numpy()).all()
    assert plan_payload(job)["output"] is None
    assert plan_table(job).title == "a.pt: plan, nothing was written"
    job.write()
    assert sorted(source.parent.iterdir()) == [source]


def test_what_is_written_is_what_was_prepared_in_memory(source: Path, tmp_path: Path) -> None:
    job = prepare(open_checkpoint(source), Options(to="linear"), tmp_path / "b.pt")
    written: list[int] = []
    job.write(written.append)
    after = open_checkpoint(tmp_path / "b.pt")
    assert {name: (tensor.shape, tensor.stride) for name, tensor in after.items()} == {
        name: (tensor.shape, tensor.stride) for name, tensor in job.in_memory().items()
    }
    assert sum(written) > 0


def test_fused_weights_are_in_no_checkpoint_in_memory(tmp_path: Path) -> None:
    layer: Any = torch.nn.utils.weight_norm(torch.nn.Conv1d(4, 6, 1))
    torch.save(layer.state_dict(), tmp_path / "a.pt")
    job = prepare(open_checkpoint(tmp_path / "a.pt"), Options(to="linear", fuse=True))
    assert job.fused
    with pytest.raises(CannotConvert, match="other numbers"):
        job.in_memory()


@pytest.mark.parametrize("opened", [False, True])
def test_the_function_converts_paths_and_checkpoints(source: Path, tmp_path: Path, opened: bool) -> None:
    job = convinspect.convert(open_checkpoint(source) if opened else str(source), tmp_path / "b.pt", to="linear")
    assert job.target == tmp_path / "b.pt"
    assert load(tmp_path / "b.pt")["a.weight"].shape == (6, 4)
    assert "_repr_html_" in dir(job)
    plan = convinspect.convert(source, to="linear", layer="b", dry_run=True).plan
    assert [refusal.name for refusal in plan.refusals] == ["b"]
    like = convinspect.convert(source, to=None, like=open_checkpoint(tmp_path / "b.pt"), dry_run=True)
    assert [conversion.layer.name for conversion in like.plan.conversions] == ["a"]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"to": "linear"}, CannotWrite, "give one with target, or use in_place=True or dry_run=True"),
        ({"dry_run": True}, CannotConvert, "give to, like another checkpoint or rename"),
        ({"to": "Linear", "dry_run": True}, CannotConvert, "'Linear'; to is one of linear, conv1d, conv2d, conv3d"),
        ({"to": "linear", "from_": "conv", "dry_run": True}, CannotConvert, "'conv'; from_ is any of linear, conv1d"),
        ({"to": "linear", "groups": "all", "dry_run": True}, CannotConvert, "'all'; give groups='expand'"),
        ({"to": "conv1d", "groups": "expand", "dry_run": True}, CannotConvert, "give to='linear'"),
        (
            {"to": "linear", "drop_optimizer": True, "dry_run": True},
            CannotConvert,
            "no optimizer state; leave out drop_optimizer=True",
        ),
        (
            {"to": "linear", "drop_optimizer": True, "keep_optimizer": True, "dry_run": True},
            CannotConvert,
            "keep_optimizer=True and drop_optimizer=True contradict each other",
        ),
    ],
)
def test_errors_name_options_as_python_spells_them(
    source: Path, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as caught:
        convinspect.convert(source, **options)
    assert text in str(caught.value)
    assert str(source) in str(caught.value)
    assert "--" not in str(caught.value)


def test_errors_name_the_folder_that_was_given() -> None:
    with pytest.raises(CannotConvert) as caught:
        convinspect.convert(FIXTURES / "sharded", to="linear", drop_optimizer=True, dry_run=True)
    assert str(caught.value).startswith(f"{FIXTURES / 'sharded'}: it holds no optimizer state")
