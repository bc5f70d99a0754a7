"""Files of variables that Flax makes and runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from convinspect.converting.job import convert
from convinspect.converting.options import Options


def test_flax_runs_what_was_converted(tmp_path: Path) -> None:
    nn = pytest.importorskip("flax.linen")
    jax = pytest.importorskip("jax")
    util = pytest.importorskip("flax.traverse_util")

    x = jax.random.normal(jax.random.PRNGKey(1), (2, 5, 6))
    for kernel in ((1,), (1, 1)):
        conv, dense = nn.Conv(4, kernel), nn.Dense(4)
        shaped = x.reshape(2, 5, *(1,) * (len(kernel) - 1), 6)
        variables = conv.init(jax.random.PRNGKey(0), shaped)
        arrays = {name: np.asarray(array) for name, array in util.flatten_dict(variables, sep=".").items()}
        kind = f"conv{len(kernel)}d"
        save_file(arrays, tmp_path / f"{kind}.safetensors")
        convert(
            tmp_path / f"{kind}.safetensors", tmp_path / f"l{kind}.safetensors", Options(to="linear", from_=(kind,))
        )
        loaded = util.unflatten_dict(load_file(tmp_path / f"l{kind}.safetensors"), sep=".")
        assert np.allclose(conv.apply(variables, shaped), dense.apply(loaded, shaped), atol=1e-6)
