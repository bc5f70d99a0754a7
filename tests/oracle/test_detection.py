"""Files of detection's makers: fvcore's Checkpointer, and Detectron2's, which reads `.pkl` files of arrays as well."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from convinspect.checkpoint import open_checkpoint
from support.in_process import call_main
from support.makers import assert_same_numbers, linear_in_place, numbers, said, true


def model() -> nn.Sequential:
    """A model with what is trained about it in use."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1))


def trained(net: nn.Module) -> torch.optim.Optimizer:
    """An optimizer after one step."""
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    net(torch.randn(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    return optimizer


WRITERS = [("fvcore.common.checkpoint", "Checkpointer"), ("detectron2.checkpoint", "DetectionCheckpointer")]


@pytest.mark.parametrize(("module", "name"), WRITERS, ids=[name for _, name in WRITERS])
def test_a_checkpointer_takes_back_what_it_wrote_converted(tmp_path: Path, module: str, name: str) -> None:
    checkpointer: Any = getattr(pytest.importorskip(module), name)
    net = model()
    optimizer = trained(net)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    checkpointer(net, str(tmp_path), optimizer=optimizer, scheduler=scheduler).save("model_final", iteration=3)
    path, target = tmp_path / "model_final.pth", tmp_path / "linear.pth"
    assert open_checkpoint(path).root.path == "model"
    assert said(path) == true(net)
    assert_same_numbers(numbers(path), net.state_dict())
    assert call_main("check", path)[0] == 0
    code, _, err = call_main("convert", path, "-o", target, "--to", "linear", "--from", "conv2d")
    assert code == 0, err
    other = linear_in_place(model())
    again = torch.optim.SGD(other.parameters(), 0.1, momentum=0.9)
    steps = torch.optim.lr_scheduler.StepLR(again, 1)
    extra = checkpointer(other, str(tmp_path), optimizer=again, scheduler=steps).load(str(target))
    assert extra == {"iteration": 3}
    for ours, truth in zip(other.parameters(), net.parameters(), strict=True):
        assert torch.equal(ours.flatten(), truth.flatten())
        momentum = optimizer.state[truth]["momentum_buffer"]
        assert torch.equal(again.state[ours]["momentum_buffer"], momentum.reshape(ours.shape))


@pytest.mark.parametrize("protocol", [2, pickle.DEFAULT_PROTOCOL, 5])
@pytest.mark.parametrize("author", ["torchvision", "MSRA", None])
def test_arrays_of_the_zoo(tmp_path: Path, protocol: int, author: str | None) -> None:
    """`tools/convert-torchvision-to-d2.py` dumps such a dictionary; without an author it is Caffe2's, with `blobs`."""
    checkpointer: Any = pytest.importorskip("detectron2.checkpoint").DetectionCheckpointer
    net = model()
    state = {key: value.numpy() for key, value in net.state_dict().items()}
    zoo = {"model": state, "__author__": author, "matching_heuristics": True} if author else {"blobs": state}
    path, target = tmp_path / "R-50.pkl", tmp_path / "linear.pth"
    with path.open("wb") as file:
        pickle.dump(zoo, file, protocol=protocol)
    theirs = checkpointer(net)._load_file(str(path))["model"]
    assert_same_numbers(numbers(path), {key: torch.as_tensor(array) for key, array in theirs.items()})
    assert said(path) == true(net)
    assert call_main("check", path)[0] == 0
    for options in ((), ("--to", "linear", "--from", "conv2d")):
        target = tmp_path / f"new{len(options)}.pth"
        code, _, err = call_main("convert", path, "-o", target, *options)
        assert code == 0, err
        other = linear_in_place(model()) if options else model()
        for part in other.parameters():
            nn.init.zeros_(part)
        checkpointer(other).load(str(target))
        for ours, truth in zip(other.parameters(), net.parameters(), strict=True):
            assert torch.equal(ours.flatten(), truth.flatten())
