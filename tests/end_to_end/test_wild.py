"""Trained files that packages ship in their wheels (`wild/packages.json`): listed, checked, converted both ways,
verified, and loaded into the package's own code (`wild/own_code.py`). PyTorch is the oracle; no pickle of theirs runs.

The wheels are kept in the folder that CONVINSPECT_WILD names (a cache; by default one in the system's temporary
folder), and are asked of the package index once. Without an index the tests are skipped and say so; wheels of more
than 30 MB are taken only where CONVINSPECT_WILD_LARGE is set.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from convinspect.checking.scan import check
from convinspect.checkpoint import Checkpoint, open_checkpoint
from convinspect.converting.like import plan_like
from convinspect.converting.plan import Plan, Request, plan
from convinspect.converting.training_state import followers
from convinspect.errors import CannotConvert
from convinspect.kinds import CONVOLUTIONS
from convinspect.layers.find import find_layers
from convinspect.showing.verify import verdict
from convinspect.verifying.options import VerifyOptions
from convinspect.verifying.verify import verify
from convinspect.writing.same_format import save_edits
from support.paths import ROOT
from support.program import run

pytestmark = pytest.mark.wild

CACHE = Path(os.environ.get("CONVINSPECT_WILD") or Path(tempfile.gettempdir()) / "convinspect-wild")
WILD = Path(__file__).resolve().parent / "wild"
PACKAGES: dict[str, dict[str, Any]] = json.loads((WILD / "packages.json").read_text(encoding="utf-8"))
SILENT = 60
"""Seconds after which a registry that says nothing is taken for gone, for all that would be asked of it."""
_gone: list[str] = []


@functools.cache
def fetched(requirement: str) -> Path | str:
    """The package's wheel, from the cache or the index; why there is none, asked only once, otherwise."""
    folder = CACHE / requirement.replace("==", "-")
    if not list(folder.glob("*.whl")):
        if _gone:
            return _gone[0]
        folder.mkdir(parents=True, exist_ok=True)
        # Processes that ask at once each load a copy of their own, and the name appears with all of its bytes.
        with tempfile.TemporaryDirectory(dir=CACHE) as partial:
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--only-binary=:all:",
                requirement,
            ]
            environment = {key: value for key, value in os.environ.items() if key != "PIP_CONSTRAINT"}
            try:
                done = subprocess.run(
                    [*command, "--dest", partial, requirement],
                    capture_output=True,
                    text=True,
                    timeout=SILENT,
                    env=environment,
                )
            except subprocess.TimeoutExpired:
                _gone.append(f"the package index did not answer in time for {requirement}")
                return _gone[0]
            if done.returncode != 0:
                return f"the package index did not give {requirement}: {done.stderr.strip()[-200:]}"
            for wheel in Path(partial).glob("*.whl"):
                os.replace(wheel, folder / wheel.name)
    return next(folder.glob("*.whl"))


def unpacked(requirement: str, folder: Path) -> Path:
    """The package's wheel, unpacked; skips the test, with the reason, where it cannot be had."""
    if PACKAGES[requirement].get("large") and not os.environ.get("CONVINSPECT_WILD_LARGE"):
        pytest.skip("its wheel has more than 30 MB; CONVINSPECT_WILD_LARGE=1 takes it")
    for one in (requirement, *PACKAGES[requirement].get("needs", ())):
        found = fetched(one)
        if isinstance(found, str):
            pytest.skip(found)
        with zipfile.ZipFile(found) as archive:
            archive.extractall(folder)
    return folder


class Foreign:
    """Stands in for every class and function that a pickle asks for and safe loading does not admit."""

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            vars(self).update(state)


def unsafe_names(path: Path) -> set[str]:
    """What PyTorch itself says that loading would call beyond the safe set; it can tell of zips alone."""
    if not zipfile.is_zipfile(path) or path.suffix == ".jit":
        return set()
    return set(torch.serialization.get_unsafe_globals_in_checkpoint(path))


def torch_loads(path: Path) -> Any:
    """The file as its own library loads it, all that is foreign left empty."""
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".jit":
        module = torch.jit.load(path)  # type: ignore[no-untyped-call]
        # Attributes hold tensors too, which are in no state_dict.
        held = {name: getattr(module, name) for name in ("_state", "_context") if hasattr(module, name)}
        return held | dict(module.state_dict())
    with torch.serialization.safe_globals([(Foreign, name) for name in unsafe_names(path)]):
        return torch.load(path, map_location="cpu", weights_only=True)


def tensors_in(node: Any, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of what was loaded, by dotted path."""
    if isinstance(node, torch.Tensor):
        yield path, node
    elif isinstance(node, Foreign):
        state = vars(node)
        parts = [state.get(name) or {} for name in ("_parameters", "_buffers", "_modules")]
        yield from tensors_in({key: value for part in parts for key, value in part.items()}, path)
    elif isinstance(node, (dict, list, tuple)):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from tensors_in(value, f"{path}.{key}" if path else str(key))


def assert_same_tensors(checkpoint: Checkpoint, loaded: Any) -> None:
    """All tensors of all roots are those of PyTorch, to the bit; what is beside a model may be arrays, not tensors."""
    expected, found = dict(tensors_in(loaded)), {}
    for root in checkpoint.roots:
        opened = open_checkpoint(checkpoint.path, root.path or ".")
        for name, tensor in opened.tensors.items():
            key = f"{root.path}.{tensor.key}" if root.path else tensor.key
            if root.role != "other" or key in expected:
                found[key] = (opened, name)
    assert set(found) == set(expected)
    for key, (opened, name) in found.items():
        wanted = expected[key]
        read = torch.from_numpy(opened.read(name))
        assert (read.dtype, read.shape) == (wanted.dtype, wanted.shape), key
        # NaN is no number of its own, but its bits are.
        assert torch.equal(read, wanted) or read.numpy().tobytes() == wanted.contiguous().numpy().tobytes(), key


def assert_check_tells_the_same(path: Path) -> None:
    """Names beyond safe loading, and nothing else, are found: no false alarm."""
    report = check(path)
    named = {one.subject for one in report.findings if one.code.startswith("global-")}
    # PyTorch calls what Python 2 named by its name in Python 3.
    assert {"builtins.int" if one == "builtins.long" else one for one in named} == unsafe_names(path)
    assert {one.code for one in report.findings} <= {"global-library", "global-unknown"}


def saved(checkpoint: Checkpoint, planned: Plan, target: Path) -> Checkpoint:
    """The conversion as the command carries it out."""
    following = followers(checkpoint, planned, keep_optimizer=False)
    save_edits(checkpoint, (*planned.edits, *following.copies, *following.optimizer), target, lambda done: None)
    return open_checkpoint(target)


def assert_converts_both_ways(checkpoint: Checkpoint, to: str, tmp_path: Path) -> int | str:
    """There: only shapes change, and verify agrees. Back: the same bytes. How many layers it were, or that the
    optimizer's state cannot be told apart.
    """
    layers = find_layers(checkpoint)
    planned = plan(layers, Request(to, CONVOLUTIONS if to == "Linear" else ("Linear",)))
    if not planned.conversions:
        return 0
    try:
        there = saved(checkpoint, planned, tmp_path / f"there{checkpoint.path.suffix}")
    except CannotConvert as error:
        if "keeps no names, and of the parameters of shape" not in str(error):
            raise
        return "refused"
    before, after = (dict(tensors_in(torch_loads(one.path))) for one in (checkpoint, there))
    assert list(before) == list(after)
    assert all(torch.equal(after[key].reshape(-1), old.reshape(-1)) for key, old in before.items())
    report = verify(checkpoint, there, VerifyOptions())
    assert report.equal, verdict(report)
    assert (report.strength, len(report.layers)) == ("layer", len(planned.conversions))
    keys = {tensor.key: name for name, tensor in there.tensors.items()}
    ways = [plan_like(find_layers(there), keys, checkpoint.tensors, layers)]
    kinds = {one.layer.kind for one in planned.conversions}
    if len(kinds) == 1:
        names = tuple(one.layer.name for one in planned.conversions)
        ways.append(plan(find_layers(there), Request(kinds.pop(), (to,), names)))
    for way in ways:
        back = saved(there, way, tmp_path / f"back{checkpoint.path.suffix}")
        assert back.path.read_bytes() == checkpoint.path.read_bytes()
    return len(planned.conversions)


@pytest.mark.parametrize("requirement", PACKAGES)
def test_every_file_of_the_package(requirement: str, tmp_path: Path) -> None:
    folder = unpacked(requirement, tmp_path / "package")
    for name, facts in PACKAGES[requirement]["files"].items():
        checkpoint = open_checkpoint(folder / name)
        layers = find_layers(checkpoint)
        counted = {
            "tensors": sum(len(root.tensors) for root in checkpoint.roots),
            "pointwise": dict(Counter(layer.kind for layer in layers if layer.pointwise)),
            "linear": sum(layer.kind == "Linear" for layer in layers),
        }
        assert not checkpoint.problems, name
        assert_same_tensors(checkpoint, torch_loads(checkpoint.path))
        assert_check_tells_the_same(checkpoint.path)
        if not checkpoint.holds_modules:
            counted["to linear"] = assert_converts_both_ways(checkpoint, "Linear", tmp_path)
            counted["to conv1d"] = assert_converts_both_ways(checkpoint, "Conv1d", tmp_path)
        assert counted == facts, name


@pytest.mark.parametrize(
    ("requirement", "name"),
    [
        ("pesto-pitch==2.0.1", "pesto/weights/mir-1k.ckpt"),
        ("silero-vad==6.2.3", "silero_vad/data/silero_vad_16k.safetensors"),
        ("lpips==0.1.4", "lpips/weights/v0.1/squeeze.pth"),
    ],
)
def test_weights_prints_the_numbers_that_torch_prints(requirement: str, name: str, tmp_path: Path) -> None:
    path = unpacked(requirement, tmp_path) / name
    checkpoint = open_checkpoint(path)
    layer = next(layer for layer in find_layers(checkpoint) if layer.pointwise)
    expected = dict(tensors_in(torch_loads(path)))
    key = ".".join(filter(None, (checkpoint.root.path, layer.weight.key)))
    shown = run("weights", path, layer.name, "--format", "json")
    assert json.loads(shown.stdout)["layers"][0]["weight"] == expected[key].tolist()


OWN_CODE = [
    # package, a file of it, the kind that its layers become, how many of them the model has
    ("pesto-pitch==2.0.1", "pesto/weights/mir-1k.ckpt", "Linear", 4),
    ("resemble-perth==1.0.1", "perth/perth_net/pretrained/implicit/perth_net_250000.pth.tar", "Linear", 2),
    ("silero-vad==6.2.3", "silero_vad/data/silero_vad_16k.safetensors", "Linear", 1),
    ("lpips==0.1.4", "lpips/weights/v0.0/alex.pth", "Linear", 5),
    ("lpips==0.1.4", "lpips/weights/v0.1/squeeze.pth", "Linear", 7),
    ("facenet-pytorch==2.6.0", "facenet_pytorch/data/pnet.pt", "Linear", 2),
    ("facenet-pytorch==2.6.0", "facenet_pytorch/data/onet.pt", "Conv1d", 4),
    ("torchfcpe==0.0.4", "torchfcpe/assets/fcpe_c_v001.pt", "Linear", 12),
    ("batdetect2==1.3.1", "batdetect2/models/Net2DFast_UK_same.pth.tar", "Linear", 2),
    ("batdetect2==1.3.1", "batdetect2/models/Net2DFast_UK_same.pth.tar", "Conv1d", 4),
    ("cosmic-conn==0.6.1", "cosmic_conn/trained_models/cosmic-conn_LCO_NRES_v0.2.8.pth", "Linear", 1),
    ("legere==0.11.0", "legere/data/model.pt", "Linear", 6),
    ("legere==0.11.0", "legere/data/lineclf.pt", "Linear", 3),
    ("attacut==1.0.6", "attacut/artifacts/attacut-c/model.pth", "Conv1d", 2),
    ("rxnmapper==0.4.3", "rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k/pytorch_model.bin", "Conv1d", 8),
]


def job_of(requirement: str, name: str, to: str, folder: Path, converted: Path) -> dict[str, Any]:
    """Converts the file, and says what `own_code.py` is to do with it."""
    checkpoint = open_checkpoint(folder / name)
    planned = plan(find_layers(checkpoint), Request(to, CONVOLUTIONS if to == "Linear" else ("Linear",)))
    saved(checkpoint, planned, converted)
    return {
        "package": requirement.partition("==")[0],
        "folder": str(folder),
        "file": name,
        "converted": str(converted),
        "root": checkpoint.root.path,
        "to": to,
        "layers": [one.layer.name for one in planned.conversions],
    }


def test_the_packages_run_on_what_was_converted(tmp_path: Path) -> None:
    jobs, counts, left = [], [], []
    for number, (requirement, name, to, count) in enumerate(OWN_CODE):
        if requirement.startswith("rxnmapper") and not importlib.util.find_spec("transformers"):
            continue
        try:
            folder = unpacked(requirement, tmp_path / requirement)
        except pytest.skip.Exception as reason:
            left.append(str(reason))
            continue
        jobs.append(job_of(requirement, name, to, folder, tmp_path / f"{number}{Path(name).suffix}"))
        counts.append(count)
    (tmp_path / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    # One process for all: loading PyTorch takes longer than any of the models.
    done = subprocess.run(
        [sys.executable, WILD / "own_code.py", tmp_path / "jobs.json"],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert [one["layers"] for one in told] == counts
    for job, one in zip(jobs, told, strict=True):
        assert 0 < one["largest"] < float("inf"), job["file"]
        # Rounding of float32 through a few dozen layers.
        assert one["off"] <= 1e-5 * one["largest"], job["file"]
    if left:
        pytest.skip(left[0])


def test_the_table_in_the_docs_is_of_these_packages() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| ([\w-]+ [\d.]+)(?: †)? \| ([\d,]+ \| [\d,]+) \|", page, re.MULTILINE))
    assert told == {
        package.replace("==", " "): f"{len(one['files'])} | {sum(file['tensors'] for file in one['files'].values()):,}"
        for package, one in PACKAGES.items()
    }
