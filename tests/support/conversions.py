"""A conversion carried out as the command does it, and what must hold of the result. torch is the oracle."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from convinspect.converting.job import convert
from convinspect.converting.options import Options
from convinspect.converting.plan import Plan
from convinspect.kinds import option_of


def converted(
    source: Path,
    target: Path,
    to: str = "Linear",
    keep_optimizer: bool = False,
    kinds: Sequence[str] = (),
    names: Sequence[str] = (),
    dry_run: bool = False,
) -> Plan:
    """Carry out a conversion as the command does, and give its plan; `to` and `kinds` are named as classes are."""
    options = Options(
        to=option_of(to),
        from_=tuple(map(option_of, kinds)),
        layer=tuple(names),
        keep_optimizer=keep_optimizer,
        force=True,
        dry_run=dry_run,
    )
    return convert(source, target, options).plan


def load(path: Path) -> Any:
    """The oracle."""
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


def names(planned: Plan) -> list[str]:
    return [conversion.layer.name for conversion in planned.conversions]


def reasons(planned: Plan) -> dict[str, str]:
    return {refusal.name: refusal.reason for refusal in planned.refusals}


def assert_only_reshaped(before: Any, after: Any, changed: Iterable[str]) -> None:
    """Same keys in the same order, same bits, dtypes, devices and flags; shapes differ for `changed` alone."""
    assert list(before) == list(after)
    wanted = set(changed)
    for key, old in before.items():
        new = after[key]
        assert (new.dtype, new.device, new.requires_grad) == (old.dtype, old.device, old.requires_grad), key
        assert new.reshape(-1).tolist() == old.reshape(-1).tolist() or old.isnan().any(), key
        assert (new.shape != old.shape) == (key in wanted), key


CONTAINERS: dict[str, Callable[[dict[str, torch.Tensor], Path], None]] = {
    "zip.pt": lambda sd, path: torch.save(sd, path),
    "legacy.pt": lambda sd, path: torch.save(sd, path, _use_new_zipfile_serialization=False),
    "one.safetensors": lambda sd, path: save_file(sd, path, metadata={"format": "pt", "note": "ü [bold]"}),
}
