"""What an interactive session prints of results: one short line, whatever a file calls its tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import convinspect
from convinspect.checking.findings import Report as CheckReport
from convinspect.checkpoint import Checkpoint
from convinspect.converting.job import prepare
from convinspect.converting.options import Options
from convinspect.diffing.checkpoints import diff
from convinspect.diffing.fixes import suggest_fixes
from convinspect.diffing.load_error import read_error
from convinspect.explaining.example import Example
from convinspect.layers.find import find_layers
from convinspect.records import Container, Contents, Layer, Root, Tensor, contiguous
from convinspect.verifying.causes import Why, because
from convinspect.verifying.findings import Report as VerifyReport
from support.paths import FIXTURES, STNKD

LONGEST = 120


def records(folder: Path) -> dict[str, tuple[Any, str]]:
    """One of each record that the functions return, and its line."""
    checkpoint = convinspect.open(STNKD)
    error = "Error(s) in loading state_dict for Stnkd:\n\tsize mismatch for conv1.weight: copying a param with shape "
    error += "torch.Size([16, 8]) from checkpoint, the shape in current model is torch.Size([16, 8, 1])."
    written = convinspect.convert(STNKD, folder / "linear.pt", to="linear")
    by_module = convinspect.find_layers(convinspect.open(FIXTURES / "pointnet_stnkd_module.pt"))
    layers = {layer.name: layer for layer in convinspect.find_layers(convinspect.open(FIXTURES / "convs.pt"))}
    wide = next(layer for layer in layers.values() if len(set(layer.kernel_size)) > 1 or layer.kernel_size[:1] > (1,))
    kernel = "×".join(map(str, wide.kernel_size))
    swaps = convinspect.modules.swap_pointwise(nn.Sequential(nn.Conv1d(3, 4, 1), nn.Linear(4, 2)))
    return {
        "checkpoint": (checkpoint, f"<Checkpoint {str(STNKD)!r}: torch.save (zip), 37 tensors>"),
        "tensor": (checkpoint["conv1.weight"], "Tensor('conv1.weight', float32, (16, 8, 1))"),
        "layer": (by_module[0], "<Layer 'conv1': Conv1d 8→16, pointwise, evidence module>"),
        "layer by shape": (
            convinspect.find_layers(checkpoint)[0],
            "<Layer 'conv1': Conv1d (16, 8, 1), pointwise, evidence shape>",
        ),
        "layer with a kernel": (
            wide,
            f"<Layer {wide.name!r}: {wide.kind} {wide.weight.shape}, kernel {kernel}, evidence shape>",
        ),
        "conversion": (written, "<conversion of 'pointnet_stnkd.pt', to 'linear.pt': 3 layers>"),
        "dry run": (
            convinspect.convert(STNKD, to="conv1d", layer=["fc1", "bn1"], dry_run=True, rename=["conv1.*=c1.*"]),
            "<conversion of 'pointnet_stnkd.pt', dry run: 1 layer, 1 refused, 2 new keys>",
        ),
        "diff": (
            convinspect.diff(STNKD, folder / "linear.pt"),
            "<diff report: loads after converting, 34 of 37 tensors the same, 0 obstacles>",
        ),
        "error": (
            convinspect.diff(STNKD, error=error),
            "<load error report: loads, 1 answer, 0 obstacles>",
        ),
        "verify": (
            convinspect.verify(STNKD, folder / "linear.pt"),
            "<verify report: equal, strength layer, 3 layers converted>",
        ),
        "check": (
            convinspect.check(FIXTURES / "net_gone.pt"),
            "<check report of 'net_gone.pt': 3 findings, exit code 1>",
        ),
        "compare": (
            convinspect.compare(STNKD, layer="conv1", batch=1, length=1, repeats=3, threads=1),
            "<comparison on cpu: 1 measurement, 3 claims>",
        ),
        "explain": (
            convinspect.explain(STNKD, "conv1"),
            "<example of layer 'conv1': Conv1d (16, 8, 1), 4 rows of data>",
        ),
        "explain patches": (
            convinspect.explain(patches=True, samples=1),
            "<example of layer 'patch_embed': Conv2d (3, 2, 2, 2), 1 patch>",
        ),
        "swaps": (swaps, "<swaps: 1 layer replaced, 0 left>"),
    }


def test_each_result_is_a_short_line(tmp_path: Path) -> None:
    for name, (record, line) in records(tmp_path).items():
        assert repr(record) == line, name
        # A checkpoint gives its whole path, so that it can be opened again.
        assert len(line) <= LONGEST or name == "checkpoint", name


NAMES = st.text(st.characters(), min_size=1, max_size=60) | st.sampled_from(
    ["\n", "\x1b[31m", "\u2028.weight", "\x85", "\udcff", "\u202e", "'\"\\", "a\0b", "x" * 5000]
)
SHAPES = st.lists(st.integers(0, 2**62), max_size=80).map(tuple)


def assert_line(record: object) -> None:
    line = repr(record)
    assert line.isprintable()
    assert len(line.splitlines()) == 1
    assert len(line) < 1000


@settings(deadline=None, max_examples=100)
@given(NAMES, NAMES, SHAPES)
def test_names_of_a_file_are_escaped_and_shortened(name: str, kind: str, shape: tuple[int, ...]) -> None:
    tensor = Tensor(name, kind, shape, contiguous(shape))
    path = Path(name.replace("\0", "")[:200] or "x")
    assert_line(tensor)
    for pointwise, kernel, width in ((True, (), None), (False, shape, 7)):
        assert_line(
            Layer(name, kind, "module", {}, tensor, pointwise=pointwise, kernel_size=kernel, in_width=width,
                  out_width=width)
        )  # fmt: skip
    assert_line(CheckReport(path, None, (), (), {}))
    assert_line(VerifyReport(name, kind, changed={name: because(Why.MISSING, name=name)}, kinds={name: kind}))
    assert_line(Example(name, kind, shape, [], [], None, []))
    weight = Tensor(f"{name}.weight", "float32", (4, 3, 1), (3, 1, 1))
    contents = Contents(path, Container.TORCH_ZIP, (Root("", "model", (weight,)),), 48)
    checkpoint = Checkpoint(contents)
    assert_line(checkpoint)
    assert_line(find_layers(checkpoint)[0])
    assert_line(prepare(checkpoint, Options(to="linear", dry_run=True)))
    assert_line(diff(checkpoint, checkpoint, False, lambda done: None))
    text = f'Missing key(s) in state_dict: "x".\n\tMissing key(s) in state_dict: "{name!a}".'
    assert_line(suggest_fixes(checkpoint, read_error(text)))


@pytest.mark.parametrize("length", [39, 40, 41, 10_000])
def test_the_middle_of_a_long_name_is_left_out(length: int) -> None:
    name = "".join(chr(ord("a") + index % 26) for index in range(length))
    line = repr(Tensor(name, "float32", (1,), (1,)))
    assert (name in line) == (length <= 40)
    assert name[:20] in line
    assert name[-20:] in line
