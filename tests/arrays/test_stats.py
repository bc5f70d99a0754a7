"""Statistics against float64 arithmetic on the whole tensor."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from convinspect.arrays import stats
from convinspect.arrays.read import Array
from convinspect.arrays.stats import Stats, of, of_layers
from convinspect.errors import BrokenFile
from convinspect.records import Layer, Storage, Tensor
from support.sampling import times

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")

SMALL = ["float16", ml_dtypes.bfloat16, "int8", "uint8", "int16", "uint16", "bool"]
SMALL += [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.float8_e8m0fnu, ml_dtypes.float8_e5m2fnuz]
LARGE = ["float32", "float64", "int32", "int64", "uint32", "uint64", "complex64", "complex128"]


def bits(dtype: Any, count: int, seed: int = 0) -> Array:
    """Any bit pattern of the dtype."""
    kind: np.dtype[Any] = np.dtype(dtype)
    random = np.random.default_rng(seed)
    most = 2 if kind == np.bool_ else 256
    values: Array = random.integers(0, most, count * kind.itemsize, dtype=np.uint8).view(kind)
    return values


def on_file(file: Path, values: Array, **changes: Any) -> Tensor:
    file.write_bytes(np.ascontiguousarray(values).tobytes())
    size = values.nbytes
    strides = tuple(s // values.itemsize for s in np.ascontiguousarray(values).strides)
    storage = Storage(file, "0", size, size, 0, **changes)
    return Tensor("w", values.dtype.name, values.shape, strides, 0, storage)


def finite_part(values: Array) -> Array:
    wide = values.reshape(-1)
    wide = np.abs(wide.astype(np.complex128)) if wide.dtype.kind == "c" else wide.astype(np.float64)
    return wide[np.isfinite(wide)]


def check(found: Stats, values: Array) -> None:
    """Counts exactly, the rest as numpy has it in float64 (whose magnitudes must be moderate for this)."""
    flat, finite = values.reshape(-1), finite_part(values)
    assert found.numel == flat.size
    assert found.zeros == np.count_nonzero(flat == 0)
    assert found.nan + found.inf == flat.size - finite.size
    assert found.nan == np.count_nonzero(np.isnan(flat))
    if not finite.size:
        assert (found.minimum, found.maximum, found.mean, found.std, found.l2) == (None,) * 5
        assert found.histogram == ()
        return
    assert (found.minimum, found.maximum) == (finite.min(), finite.max())
    scale = float(np.abs(finite).max())
    assert found.mean == pytest.approx(finite.mean(), rel=1e-12, abs=1e-13 * scale)
    assert found.l2 == pytest.approx(np.linalg.norm(finite), rel=1e-12)
    if finite.size == 1:
        assert found.std is None
    else:
        assert found.std == pytest.approx(finite.std(ddof=1), rel=1e-9, abs=1e-13 * scale)
    check_histogram(found.histogram, finite)


def check_histogram(histogram: tuple[int, ...], finite: Array) -> None:
    """Each element in its bin; the next one is right, too, for one that is at an edge but for rounding."""
    assert len(histogram) == stats.BINS
    assert sum(histogram) == finite.size
    width = np.ptp(finite) / stats.BINS
    if width:
        for index in range(1, stats.BINS):
            edge, below = finite.min() + index * width, sum(histogram[:index])
            assert np.count_nonzero(finite < edge - 1e-9 * width) <= below
            assert np.count_nonzero(finite < edge + 1e-9 * width) >= below


def moderate(values: Array) -> Array:
    """As many numbers of the same type, whose squares fit float64."""
    return np.random.default_rng(1).standard_normal(values.shape).astype(np.float32).astype(values.dtype)


@pytest.mark.parametrize("dtype", SMALL, ids=str)
def test_small_types_by_their_bit_patterns(dtype: Any) -> None:
    for count in (0, 1, 2, 1000):
        values = bits(dtype, count)
        check(of(values), values)


@pytest.mark.parametrize("dtype", LARGE)
def test_large_types(dtype: str) -> None:
    for count in (0, 1, 2, 1001):
        values = bits(dtype, count) if dtype[0] in "iu" else moderate(np.empty(count, dtype))
        found = of(values)
        if dtype.endswith("int64"):
            assert found.zeros == 0
            if count > 1:
                exact = [int(v) for v in values]
                assert (found.minimum, found.maximum) == (min(exact), max(exact))
                assert found.mean == pytest.approx(float(Fraction(sum(exact), count)), rel=1e-9)
                assert found.std == pytest.approx(values.astype(np.float64).std(ddof=1), rel=1e-12)
            continue
        check(found, values)


floats = st.floats(-1e6, 1e6, width=32) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0])


@settings(max_examples=times(40, 100), deadline=None)
@given(values=hnp.arrays(np.float32, st.integers(0, 60), elements=floats), run=st.integers(1, 20))
def test_any_floats_in_runs_of_any_length(values: Array, run: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stats, "RUN", run)
        found = of(values)
    check(found, values)


def test_std_is_torchs_default() -> None:
    values = torch.randn(1000, dtype=torch.float64)
    assert of(values.numpy()).std == pytest.approx(values.std().item(), rel=1e-12)
    assert of(values.numpy()).l2 == pytest.approx(torch.linalg.vector_norm(values).item(), rel=1e-12)


def test_constants() -> None:
    for value in (0.1, -3.0, 0.0, 1e300):
        found = of(np.full(300_000, value))
        assert (found.minimum, found.maximum, found.std) == (value, value, 0)
        assert found.mean == pytest.approx(value, rel=1e-14)
        assert found.histogram[8] == 300_000
        assert found.zeros == (300_000 if value == 0 else 0)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_nothing_finite(dtype: str) -> None:
    values = np.array([math.nan, math.inf, -math.inf, math.nan], dtype)
    assert of(values) == Stats(4, None, None, None, None, None, 0, 2, 2, ())
    assert of(values[:0]) == Stats(0, None, None, None, None, None, 0, 0, 0, ())
    assert of([]) == of(values[:0])


def test_types_of_the_range() -> None:
    assert isinstance(of(np.arange(5, dtype=np.int64)).minimum, int)
    assert isinstance(of(np.arange(5, dtype=np.int8)).maximum, int)
    assert of(np.array([True, False, True])).maximum == 1
    assert type(of(np.ones(3, np.float16)).minimum) is float
    assert type(of(np.ones(3, np.float32)).minimum) is float


@pytest.mark.parametrize("scale", [1e200, 1e-200, 1e308, 5e-324, 2.0**-1060])
def test_no_square_leaves_float64(scale: float) -> None:
    found = of(np.array([3.0, -4.0, 0.0, 1.0]) * (scale / 4 if scale > 1 else scale))
    unit = scale / 4 if scale > 1 else scale
    assert found.l2 == pytest.approx(math.sqrt(26) * unit, rel=1e-12, abs=5e-324)
    assert found.mean == pytest.approx(0, abs=1e-15 * unit)
    assert found.std == pytest.approx(math.sqrt(26 / 3) * unit, rel=1e-12, abs=5e-324)
    assert found.histogram == exact_tuple([0, 16 * 4 // 7, 16 * 5 // 7, 15])


def exact_tuple(bins: list[int]) -> tuple[int, ...]:
    return tuple(bins.count(index) for index in range(stats.BINS))


def test_the_widest_range_and_subnormals() -> None:
    most = float(np.finfo(np.float64).max)
    found = of(np.array([most, -most]))
    assert (found.mean, found.histogram) == (0, exact_tuple([0, 15]))
    tiny = np.array([1, 2, 3, 0], np.uint32).view(np.float32)
    check(of(tiny), tiny)
    huge = np.array([1e38, -3e38, 2e38], np.float32)
    check(of(huge), huge)


def test_a_far_mean_does_not_eat_the_deviation() -> None:
    values = 1e9 + np.random.default_rng(0).standard_normal(400_000)
    assert of(values).std == pytest.approx(values.std(ddof=1), rel=1e-9)
    integers = np.array([2**62, 2**62 + 1] * 1000, np.int64)
    found = of(integers)
    assert found.std == pytest.approx(math.sqrt(0.25 * 2000 / 1999), rel=1e-12)
    assert found.mean == float(Fraction(2**63 + 1, 2))
    assert found.histogram == exact_tuple([0] * 1000 + [15] * 1000)


def test_means_of_integers_are_exact() -> None:
    for dtype in ("int64", "int32", "int16"):
        assert of(np.arange(-100, 30_000, dtype=dtype)).mean == 14_949.5
    assert of(np.arange(1_000_000, dtype=np.int64)).mean == 499_999.5


def test_edges_of_the_bins_are_exact() -> None:
    for values in (np.arange(0, 17.0) * 3, np.arange(0, 17.0) / 49, np.arange(-8, 9, dtype=np.int64) * 7):
        assert of(np.asarray(values)).histogram == (*[1] * 15, 2)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "complex64", "float64"])
def test_many_runs_of_a_file(tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = (np.random.default_rng(0).standard_normal((700, 501)) * 50).astype(dtype)
    values[::50, 3] = 0
    if dtype.startswith("float"):
        values[5, 7], values[6, 8], values[699, 500] = math.nan, math.inf, -math.inf
    tensor = on_file(tmp_path / "a", values)
    check(of(tensor), values)
    monkeypatch.setattr(stats, "AT_ONCE", 0)
    check(of(tensor), values)
    check(of(np.array_split(values.reshape(-1), 7)), values)


def test_views_of_a_file_count_each_element(tmp_path: Path) -> None:
    base = np.random.default_rng(0).standard_normal((40, 30)).astype(np.float32)
    tensor = on_file(tmp_path / "a", base)
    for shape, stride, view in (
        ((20, 10), (60, 3), base[::2, ::3]),
        ((30, 40), (1, 30), base.T),
        ((5, 30), (0, 1), np.broadcast_to(base[0], (5, 30))),
    ):
        strided = Tensor("w", "float32", shape, stride, 0, tensor.storage)
        check(of(strided), np.ascontiguousarray(view))


def test_layers_in_order_with_their_errors(tmp_path: Path) -> None:
    layers = []
    for index in range(9):
        tensor = on_file(tmp_path / str(index), np.full((3, 2), index, np.float32))
        layers.append(Layer(f"l{index}", "Linear", "shape", {"weight": tensor}, tensor))
    (tmp_path / "4").write_bytes(b"")
    mask = on_file(tmp_path / "mask", np.zeros((3, 2), np.float32))
    parts = {"weight_orig": layers[5].weight, "weight_mask": mask}
    layers[5] = Layer("l5", "Linear", "shape", parts, layers[5].weight, norm="pruned")
    found = list(of_layers(iter(layers)))
    assert isinstance(found[4], BrokenFile)
    assert [f.mean for f in found if isinstance(f, Stats)] == [0, 1, 2, 3, 0, 6, 7, 8]
    assert next(of_layers(layers)) == found[0]
