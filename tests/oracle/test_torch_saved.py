"""Files of every option that `torch.save` has, of compiled modules and of graphs, and what PyTorch takes back."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.serialization import config

from convinspect import verify
from support.in_process import run
from support.makers import assert_same_numbers, linear_in_place, numbers, said, true
from support.processes import model

OPTIONS = list(itertools.product((True, False), (1, 64, 256, 4096, 65536), (False, True)))


@pytest.mark.parametrize(("crc", "alignment", "pinned"), OPTIONS)
def test_every_option_of_saving(tmp_path: Path, crc: bool, alignment: int, pinned: bool) -> None:
    source, target, back = (tmp_path / f"{name}.pt" for name in "abc")
    patch: Any = config.patch  # type: ignore[attr-defined]
    with patch({"save.compute_crc32": crc, "save.storage_alignment": alignment,
                "save.use_pinned_memory_for_d2h": pinned}):  # fmt: skip
        torch.save(model().state_dict(), source)
    assert said(source) == true(model())
    assert_same_numbers(numbers(source), model().state_dict())
    done = run("convert", source, "-o", target, "--to", "linear")
    assert done.returncode == 0, done.stderr
    other = linear_in_place(model())
    with patch({"load.calculate_storage_offsets": True}):
        other.load_state_dict(torch.load(target, mmap=True, weights_only=True), strict=True)
    x = torch.randn(2, 6, 5)
    rows = other[:3](x.movedim(1, -1)).movedim(-1, 1)
    assert torch.allclose(other[3:](rows), model()(x), atol=1e-6)
    assert verify(source, target).equal
    assert run("convert", target, "-o", back, "--to", "conv1d", "--layer", "0", "--layer", "2").returncode == 0
    assert back.read_bytes() == source.read_bytes()
    assert_same_numbers(numbers(back), model().state_dict())


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_module(tmp_path: Path, inner: bool) -> None:
    """Keys begin with, or have within them, `_orig_mod`, and so has the module that the new file loads into."""

    def compiled(net: nn.Sequential) -> Any:
        if not inner:
            return torch.compile(net, backend="eager")
        net[2] = torch.compile(net[2], backend="eager")  # type: ignore[assignment]
        return net

    torch.save(compiled(model()).state_dict(), tmp_path / "a.pt")
    assert said(tmp_path / "a.pt") == true(model())
    assert run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear").returncode == 0
    compiled(linear_in_place(model())).load_state_dict(torch.load(tmp_path / "b.pt"), strict=True)
    assert verify(tmp_path / "a.pt", tmp_path / "b.pt").equal


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["exported", "scripted", "traced", "frozen"])
def test_graphs(tmp_path: Path, how: str) -> None:
    net, x = model().eval(), torch.randn(2, 6, 5)
    path = tmp_path / ("a.pt2" if how == "exported" else "a.pt")
    if how == "exported":
        torch.export.save(torch.export.export(net, (x,)), path)
    else:
        jit: Any = torch.jit
        graph = jit.trace(net, x) if how == "traced" else jit.script(net)
        jit.save(jit.freeze(graph) if how == "frozen" else graph, path)
    assert sorted(said(path).values()) == sorted(true(net).values())
    found = sorted(numbers(path).values(), key=lambda one: (tuple(one.shape), one.flatten().tolist()))
    wanted = sorted(net.state_dict().values(), key=lambda one: (tuple(one.shape), one.flatten().tolist()))
    if how != "frozen":
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
