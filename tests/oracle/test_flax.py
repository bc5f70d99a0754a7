"""Files of variables that Flax makes and runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from convinspect.converting.job import convert
from convinspect.converting.options import Options
from support.program import run


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


def test_flax_runs_what_was_converted_from_an_archive_of_numpy(tmp_path: Path) -> None:
    """As many a model of Flax is published: the variables by path, in a `.npz`."""
    nn = pytest.importorskip("flax.linen")
    jax = pytest.importorskip("jax")
    util = pytest.importorskip("flax.traverse_util")

    x = jax.random.normal(jax.random.PRNGKey(1), (2, 5, 5, 6))
    conv, dense = nn.Conv(4, (1, 1)), nn.Dense(4)
    variables = conv.init(jax.random.PRNGKey(0), x)
    arrays = {name: np.asarray(array) for name, array in util.flatten_dict(variables, sep="/").items()}
    for number, save in enumerate((np.savez, np.savez_compressed)):
        path, target = tmp_path / f"{number}.npz", tmp_path / f"{number}.safetensors"
        save(path, **arrays)  # type: ignore[arg-type]
        # Forked from a process without JAX, which has threads: a plain state_dict is written by a child.
        done = run("convert", path, "-o", target, "--to", "linear", "--from", "conv2d")
        assert done.returncode == 0, done.stderr
        loaded = util.unflatten_dict(load_file(target), sep="/")
        assert np.allclose(conv.apply(variables, x), dense.apply(loaded, x), atol=1e-6)
