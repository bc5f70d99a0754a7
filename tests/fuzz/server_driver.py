"""Driver of servers: a sound checkpoint behind HTTP, asked of a server that tells the truth in odd ways, or lies.

What is opened ends as the listing that the same file has here, or as an error. Where a server sends other bytes under
the same name and version, as none can tell, a listing may be another one.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
from lying_server import LIES, ODD, TAKING, UNSEEN, Lie, Plan, bomb, served
from outcomes import Ended, judged

from convinspect.checkpoint import Checkpoint, open_checkpoint
from convinspect.formats.pickle import machine as pickle_walk
from convinspect.remote import fetching, http
from convinspect.remote.addresses import path_of
from support.imports import import_all_modules
from support.paths import FIXTURES

_KINDS = sorted(LIES.keys() - TAKING)
_PATIENCE, _SHORT, _SHORTEST = 20.0, 0.15, 0.04
"""Seconds that a silent server is waited for: where it tells the truth, where it lies, and where it is silent."""
_TIMES = 3
"""How many times as long a request may take in all."""


class Site(NamedTuple):
    """A checkpoint on a server.

    Attributes:
        files: Their bytes by their paths.
        opened: What is asked for; it may go on within an archive.
    """

    files: dict[str, bytes]
    opened: str


@lru_cache(maxsize=1)
def sites() -> dict[str, Site]:
    """Checkpoints of every kind that is read in another order: in one request, in several, from several files."""
    found = {
        name: Site({name: (FIXTURES / name).read_bytes()}, name)
        for name in (
            "pointnet_stnkd.pt", "pointnet_stnkd.safetensors", "pointnet_stnkd_legacy.pt", "pointnet_stnkd_script.pt",
            "pointnet_stnkd.pt2", "views.pt",
        )
    }  # fmt: skip
    for folder, opened in (
        ("sharded", "model.safetensors.index.json"), ("sharded_bin", "pytorch_model.bin.index.json"),
        ("distributed", ".metadata"),
    ):  # fmt: skip
        files = {path.name: path.read_bytes() for path in sorted((FIXTURES / folder).iterdir())}
        found[folder] = Site(files, opened)
    found |= _large()
    # So that nothing is loaded while what is opened is watched.
    import_all_modules()
    b"a".decode("cp437")
    return found


def _large() -> dict[str, Site]:
    """Files whose headers lie further apart than what one request brings, and archives of some."""
    import io
    import pickle
    import tarfile
    import zipfile

    import torch
    from safetensors.torch import save

    state = {f"blocks.{at}.conv.weight": torch.arange(3072.0).reshape(64, 48, 1) + at for at in range(24)}
    state |= {f"blocks.{at}.norm.weight": torch.arange(64.0) - at for at in range(24)}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    zipped, plain = buffer.getvalue(), pickle.dumps({key: value.numpy() for key, value in state.items()}, 4)
    tarred, packed, arrays = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=tarred, mode="w") as tar:
        for name, data in (("model_config.yaml", b"name: x\n"), ("model_weights.ckpt", zipped)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with zipfile.ZipFile(packed, "w") as pack:
        pack.writestr(zipfile.ZipInfo("exp/model.pth"), zipped)
        pack.writestr(zipfile.ZipInfo("other/model.pth"), (FIXTURES / "pointnet_stnkd.pt").read_bytes())
    named: dict[str, Any] = {key.replace(".", "_"): value.numpy() for key, value in state.items()}
    np.savez(arrays, **named)
    return {
        "large.pt": Site({"large.pt": zipped}, "large.pt"),
        "large.safetensors": Site({"large.safetensors": save(state)}, "large.safetensors"),
        "large.pkl": Site({"large.pkl": plain}, "large.pkl"),
        "large.npz": Site({"large.npz": arrays.getvalue()}, "large.npz"),
        "m.nemo": Site({"m.nemo": tarred.getvalue()}, "m.nemo"),
        "pack.zip": Site({"pack.zip": packed.getvalue()}, "pack.zip!exp/model.pth"),
    }


class Truth(NamedTuple):
    """What a site's files are here.

    Attributes:
        tensors: By name, without where they lie.
        said: Problems and notes.
        numbers: Of some tensors, as bytes.
    """

    tensors: dict[str, Any]
    said: tuple[Any, Any]
    numbers: dict[str, bytes]


@lru_cache(maxsize=32)
def truth_of(name: str) -> Truth:
    """What opening the files on this machine gives."""
    folder = Path(tempfile.mkdtemp())
    site = sites()[name]
    for one, data in site.files.items():
        (folder / one).write_bytes(data)
    checkpoint = open_checkpoint(Path(f"{folder}/{site.opened}"))
    numbers = {}
    for key in sorted(checkpoint.tensors)[:: max(1, len(checkpoint.tensors) // 6)]:
        read = _numbers(checkpoint, key)
        if read is not None:
            numbers[key] = read
    found = Truth(_listed(checkpoint), _said(checkpoint), numbers)
    shutil.rmtree(folder)
    return found


def _listed(checkpoint: Checkpoint) -> dict[str, Any]:
    return {key: one._replace(storage=None) for key, one in checkpoint.tensors.items()}


def _said(checkpoint: Checkpoint) -> tuple[Any, Any]:
    return [str(one) for one in checkpoint.problems], [str(one) for one in checkpoint.notes]


def _numbers(checkpoint: Checkpoint, key: str) -> bytes | None:
    tensor = checkpoint.tensors[key]
    return np.ascontiguousarray(checkpoint.read(key)).tobytes() if tensor.whole else None


@lru_cache(maxsize=1)
def _warm_up() -> None:
    """Do what is done once, by the first request and by the server: no input is to answer for its time."""
    bomb()
    name = "pointnet_stnkd.pt"
    open_checkpoint(path_of(served(sites()[name].files, Plan(name, ())) + name))


def servers(random: Random, folder: Path) -> Path:
    """Draw a site and what its server does; both are written down, and the address is returned."""
    name = random.choice(sorted(sites()))
    lies = []
    for _ in range(random.choice((0, 1, 1, 1, 1, 2, 3))):
        kind = random.choice(_KINDS if random.random() < 0.985 else TAKING)
        lies.append(Lie(kind, random.choice((-1, -1, 0, 0, 1, 1, 2, 3)), random.randrange(1 << 30)))
    odd = [Lie(kind, -1, 0) for kind in random.sample(sorted(ODD), random.choice((0, 0, 1, 2, 3)))]
    plan = Plan(name, (*odd, *lies))
    (folder / "plan.json").write_text(json.dumps(plan))
    # Other drivers choose small windows, at whose ends what is memoized is pushed anew.
    pickle_walk._WINDOW = 1 << 20
    truth_of(name)
    _warm_up()
    return path_of(served(sites()[name].files, plan) + sites()[name].opened)


def fault_of_server(path: Path, random: Random) -> Ended:
    """As `outcomes.fault_of`, of what `servers` returned; a listing that is not the true one is a fault."""
    from lying_server import CURRENT

    plan, size = CURRENT.plan, sum(map(len, CURRENT.files.values()))
    kinds = {lie.kind for lie in plan.lies}
    patience = _SHORTEST if kinds & {*TAKING} else _SHORT if kinds & LIES.keys() else _PATIENCE
    http.PATIENCE, http._LONGEST, http._PAUSE = patience, _TIMES * patience, 0.001
    http.MOST_WAIT = 0.005
    CURRENT.watched = True
    try:
        ended, fault = judged(lambda: _compared(path, plan, random), size)
    finally:
        CURRENT.watched = False
        for name in CURRENT.files:
            fetching._FILES.forget(path.parent / name)  # type: ignore[arg-type]
    if not fault and CURRENT.strayed:
        fault = f"it did more than ask the server: {sorted(CURRENT.strayed)}"
    if not fault and ended != "listed" and not kinds & LIES.keys():
        fault = f"a server that tells the truth ended as {ended}"
    return ended, fault and f"{plan}\n{fault}"


def _compared(path: Path, plan: Plan, random: Random) -> str:
    truth = truth_of(plan.site)
    checkpoint = open_checkpoint(path)
    wrong = _listed(checkpoint) != truth.tensors or _said(checkpoint) != truth.said
    unseen = any(lie.kind in UNSEEN for lie in plan.lies)
    told = checkpoint.problems or {*checkpoint.notes} - {*truth.said[1]}
    if wrong and not unseen and not told:
        raise AssertionError(f"another listing than the true one: {_said(checkpoint)} for {truth.said}")
    if random.random() < 0.5 and not wrong and truth.numbers:
        key = random.choice(sorted(truth.numbers))
        if _numbers(checkpoint, key) != truth.numbers[key] and not unseen:
            raise AssertionError(f"other numbers than the true ones: {key}")
    return "listed otherwise" if wrong else "listed"
