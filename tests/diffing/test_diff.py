"""`diff`: every tensor in one class, the same whichever side comes first, and a verdict that PyTorch agrees with."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from convinspect.arrays.distance import Deviation
from convinspect.checkpoint import Checkpoint, open_checkpoint
from convinspect.diffing.checkpoints import diff
from convinspect.diffing.differences import KINDS, DiffReport
from convinspect.records import Container, Contents, Root, Tensor
from convinspect.showing.commands import quoted
from support.conversions import converted
from support.diffing import SHAPES, Holder, typed, zeros
from support.in_process import command, run
from support.paths import FIXTURES
from support.sampling import times

State = dict[str, Any]
QUICK = settings(max_examples=times(30, 60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def held(folder: Path, a: State, b: State, **wish: Any) -> DiffReport:
    """The report on two objects, saved."""
    torch.save(a, folder / "a.pt")
    torch.save(b, folder / "b.pt")
    return diff(open_checkpoint(folder / "a.pt"), open_checkpoint(folder / "b.pt"), **wish)


def kinds(report: DiffReport) -> dict[str, str]:
    return {one.name: one.kind for one in report.tensors}


# ----------------------------------------------------------------------------------------------- classes by shape


@pytest.mark.parametrize(
    ("a", "b", "kind"),
    [
        ((8, 6), (8, 6), "same"),
        ((8, 6), (8, 6, 1), "rank differs"),
        ((8, 6, 1, 1), (8, 6), "rank differs"),
        ((8, 6, 1), (8, 6, 1, 1, 1), "rank differs"),
        ((8, 8, 1), (8, 8), "rank differs"),
        ((8, 6), (6, 8), "transposed"),
        ((8, 6), (6, 8, 1), "transposed"),
        ((8, 6, 1), (6, 8, 1), "axes permuted"),
        ((8, 6), (8, 7), "shape differs"),
        ((8, 6, 3), (8, 6), "shape differs"),
        ((8, 6), (8, 6, 1, 1, 1, 1), "reshaped"),
        ((8,), (8, 1), "reshaped"),
        ((), (1,), "reshaped"),
        ((48,), (8, 6), "reshaped"),
        ((8, 3, 4, 4), (8, 48), "reshaped"),
        ((8, 1, 6), (8, 6, 1), "reshaped"),
        ((8, 6), (3, 16), "shape differs"),
    ],
)
def test_a_pair_has_one_class_whichever_side_comes_first(
    tmp_path: Path, a: tuple[int, ...], b: tuple[int, ...], kind: str
) -> None:
    assert kinds(held(tmp_path, zeros({"x.weight": a}), zeros({"x.weight": b}))) == {"x.weight": kind}
    assert kinds(held(tmp_path, zeros({"x.weight": b}), zeros({"x.weight": a}))) == {"x.weight": kind}


def test_rank_against_width(tmp_path: Path) -> None:
    torch.save(zeros({"proj_in.weight": (8, 8, 1, 1), "to_k.weight": (8, 6)}), tmp_path / "a.pt")
    torch.save(zeros({"proj_in.weight": (8, 8), "to_k.weight": (8, 10)}), tmp_path / "b.pt")
    result = command(tmp_path, "diff", "a.pt", "b.pt")
    assert result.returncode == 1
    assert "A will still not load: to_k.weight is (8, 6) in A and (8, 10) in B" in result.stdout
    assert "  convinspect convert a.pt -o a_converted.pt --like b.pt\n" in result.stdout
    found = json.loads(command(tmp_path, "diff", "a.pt", "b.pt", "--format", "json").stdout)
    assert {one["name"]: one["difference"] for one in found["tensors"]} == {
        "proj_in.weight": "rank differs",
        "to_k.weight": "shape differs",
    }
    assert found["convert"] == ["proj_in"]
    typed(tmp_path, "a.pt", "b.pt")
    loaded = torch.load(tmp_path / "a_converted.pt", weights_only=True)
    assert {key: tuple(value.shape) for key, value in loaded.items()} == {
        "proj_in.weight": (8, 8),
        "to_k.weight": (8, 6),
    }
    said = command(tmp_path, "convert", "a.pt", "-o", "again.pt", "--like", "b.pt").stdout
    assert "it will still not load there" in said


def test_a_tied_weight_that_must_stay_is_an_obstacle(tmp_path: Path) -> None:
    kernel = torch.rand(8, 6, 1)
    report = held(
        tmp_path,
        {"conv.weight": kernel, "emb.weight": kernel},
        {"conv.weight": torch.rand(8, 6), "emb.weight": torch.rand(8, 6, 1)},
    )
    assert kinds(report) == {"conv.weight": "rank differs", "emb.weight": "same"}
    assert "tied to emb.weight" in report.obstacles[0]
    assert (report.verdict, report.converted) == ("does not load", ())


def test_transformers_conv1d_is_transposed_squares_too(tmp_path: Path) -> None:
    a = {"h.c_attn.weight": torch.rand(8, 24), "h.c_attn.bias": torch.rand(24),
         "h.c_proj.weight": torch.rand(8, 8), "h.c_proj.bias": torch.rand(8)}  # fmt: skip
    b = {key: value.T.contiguous() if value.dim() == 2 else value for key, value in a.items()}
    for values in (False, True):
        for root in ("", "transformer."):
            report = held(tmp_path, a, {root + key: value for key, value in b.items()}, values=values)
            assert [one.name for one in report.tensors if one.kind == "transposed"] == [
                "h.c_attn.weight", "h.c_proj.weight",
            ]  # fmt: skip
            assert report.verdict == "loads after converting"
            assert not any(one.deviation for one in report.tensors)
    typed(tmp_path, "a.pt", "b.pt")
    loaded = torch.load(tmp_path / "a_converted.pt", weights_only=True)
    assert list(loaded) == [f"transformer.{key}" for key in b]
    assert all(torch.equal(loaded[f"transformer.{key}"], value) for key, value in b.items())


# ------------------------------------------------------------------------------------------------------- prefixes

NET = {"enc.0.weight": (4, 6, 1), "enc.0.bias": (4,), "enc.1.weight": (2, 4), "out.weight": (3, 2)}


def renamed(state: State, change: dict[str, str]) -> State:
    """Keys by the first of the prefixes in `change` that fits."""

    def new(key: str) -> str:
        return next((b + key.removeprefix(a) for a, b in change.items() if key.startswith(a)), key)

    return {new(key): value for key, value in state.items()}


PREFIXES: dict[str, tuple[dict[str, str], dict[str, str], list[tuple[str, str, int]]]] = {
    "parallel": ({"": "module."}, {}, [("module.", "", 4)]),
    "the other side": ({}, {"": "module."}, [("", "module.", 4)]),
    "both alike": ({"": "module."}, {"": "module."}, []),
    "compiled": ({"": "_orig_mod."}, {}, [("_orig_mod.", "", 4)]),
    "nested": ({"": "module._orig_mod."}, {"": "_orig_mod."}, [("module.", "", 4)]),
    "other order": ({"": "module._orig_mod."}, {"": "_orig_mod.module."},
                    [("module._orig_mod.", "_orig_mod.module.", 4)]),
    "root": ({"": "model."}, {}, [("model.", "", 4)]),
    "root on the other side": ({}, {"": "encoder."}, [("", "encoder.", 4)]),
    "root and wrapper": ({"": "module.model."}, {}, [("module.model.", "", 4)]),
    "wrapper within root": ({"": "model._orig_mod."}, {}, [("model._orig_mod.", "", 4)]),
    "deep root": ({"": "a.b.c."}, {}, [("a.b.c.", "", 4)]),
    "two roots": ({"": "net.model."}, {"": "gan.model."}, [("net.", "gan.", 4)]),
    "half": ({"enc.0": "module.enc.0"}, {}, [("module.", "", 2)]),
    "half to all": ({"enc.0": "module.enc.0"}, {"": "module."}, [("", "module.", 2)]),
    "mid-name": ({"enc.": "enc._orig_mod."}, {}, [("*._orig_mod.*", "*.*", 3)]),
    "mid-name below a root": ({"": "m.", "enc.": "m.enc._orig_mod."}, {},
                              [("m.", "", 1), ("m.*._orig_mod.*", "*.*", 3)]),
}  # fmt: skip


@pytest.mark.parametrize("case", PREFIXES, ids=str)
def test_prefixes_are_taken_off_and_told_and_the_command_fixes_them(tmp_path: Path, case: str) -> None:
    ours, theirs, expected = PREFIXES[case]
    # The longest prefix first, so that "" means the rest.
    ours, theirs = ({key: one[key] for key in sorted(one, reverse=True)} for one in (ours, theirs))
    a, b = renamed(zeros(NET), ours), renamed(zeros(NET), theirs)
    report = held(tmp_path, a, b)
    assert set(kinds(report).values()) == {"same"}
    assert sorted((one.a, one.b, one.keys) for one in report.prefixes) == sorted(expected)
    assert report.same == (not expected)
    if expected:
        assert report.verdict == "loads after converting"
        typed(tmp_path, "a.pt", "b.pt")
        assert list(torch.load(tmp_path / "a_converted.pt", weights_only=True)) == list(b)


def test_a_root_is_found_beside_other_keys(tmp_path: Path) -> None:
    a = {**renamed(zeros(NET), {"": "model."}), "loss.weight": torch.zeros(3)}
    report = held(tmp_path, a, zeros(NET))
    assert report.counts["same"] == 4
    assert [one.name for one in report.tensors if one.kind == "only in A"] == ["loss.weight"]
    assert report.obstacles == ("loss.weight is not in B",)


def test_names_without_a_level_of_their_own_are_not_forced_together(tmp_path: Path) -> None:
    report = held(tmp_path, zeros({"conv.weight": (4, 6)}), zeros({"fc.weight": (4, 6)}))
    assert kinds(report) == {"conv.weight": "only in A", "fc.weight": "only in B"}


def test_keys_that_no_few_rules_fix_are_said_to_be_so(tmp_path: Path) -> None:
    shapes: dict[str, tuple[int, ...]] = {f"enc.{n}.weight": (n + 2, 3) for n in range(10)}
    some = {("module." if n % 2 else "") + key: shape for n, (key, shape) in enumerate(shapes.items())}
    report = held(tmp_path, zeros(shapes), zeros(some))
    assert (report.rules, report.verdict) == (None, "does not load")


# ----------------------------------------------------------------------------------------------------- properties

NAMES = st.lists(st.sampled_from(["module", "_orig_mod", "model", "enc", "0", "1", "weight"]), min_size=1, max_size=4)
KEYS = NAMES.map(".".join)
DTYPES = st.sampled_from(["float32", "float16", "int64", "qint8", "float8_e4m3fn", "complex64"])
TENSORS = st.dictionaries(KEYS, st.tuples(SHAPES, DTYPES), min_size=1, max_size=8)


def in_memory(tensors: dict[str, tuple[tuple[int, ...], str]]) -> Checkpoint:
    """A checkpoint of shapes alone."""
    listed = tuple(
        Tensor(key, dtype, shape, tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape))))
        for key, (shape, dtype) in tensors.items()
    )
    return Checkpoint(Contents(Path("x.pt"), Container.TORCH_ZIP, (Root("", "model", listed),), 0))


@settings(max_examples=times(40, 100), deadline=None)
@given(TENSORS)
def test_a_checkpoint_is_the_same_as_itself(tensors: dict[str, tuple[tuple[int, ...], str]]) -> None:
    report = diff(in_memory(tensors), in_memory(tensors))
    assert report.same
    assert report.verdict == "loads"
    assert report.counts["same"] == len(tensors)


@settings(max_examples=times(40, 100), deadline=None)
@given(TENSORS, TENSORS)
@example(
    # Where one key is as the prefix of the others, only one direction has a rule for all.
    dict.fromkeys(("module", "module.module", "_orig_mod", "model"), ((8, 6), "float32")),
    dict.fromkeys(("module", "module._orig_mod", "module.model"), ((8, 6), "float32")),
)
def test_every_key_is_in_one_class_and_sides_can_be_swapped(
    a: dict[str, tuple[tuple[int, ...], str]], b: dict[str, tuple[tuple[int, ...], str]]
) -> None:
    there, back = diff(in_memory(a), in_memory(b)), diff(in_memory(b), in_memory(a))
    assert sorted(one.a.key for one in there.tensors if one.a is not None) == sorted(a)
    assert sorted(one.b.key for one in there.tensors if one.b is not None) == sorted(b)
    assert sum(there.counts.values()) == len(there.tensors)
    assert set(there.counts) == set(KINDS)
    swap = {"only in A": "only in B", "only in B": "only in A"}

    def keys(report: DiffReport, turned: bool) -> set[tuple[object, ...]]:
        return {
            (*(it.key if it is not None else None for it in ((one.b, one.a) if turned else (one.a, one.b))),
             swap.get(one.kind, one.kind) if turned else one.kind)
            for one in report.tensors
        }  # fmt: skip

    assert keys(there, turned=False) == keys(back, turned=True)
    assert {(one.a, one.b, one.keys) for one in there.prefixes} == {(one.b, one.a, one.keys) for one in back.prefixes}
    assert there.same == back.same


LEAVES = st.tuples(st.sampled_from(["module", "model", "enc", "0"]), st.sampled_from(["a", "b", "c"])).map(
    lambda parts: ".".join((*parts, "weight"))
)
PLAIN = st.dictionaries(LEAVES, SHAPES, min_size=1, max_size=5)


@settings(max_examples=times(40, 100), deadline=None)
@given(PLAIN, PLAIN, st.booleans())
def test_the_verdict_is_that_of_pytorch(
    a: dict[str, tuple[int, ...]], b: dict[str, tuple[int, ...]], alike: bool
) -> None:
    if alike:
        b = {key: b.get(key, shape) for key, shape in a.items()}
    ours, theirs = (in_memory({key: (shape, "float32") for key, shape in one.items()}) for one in (a, b))
    report = diff(ours, theirs)
    try:
        Holder(b).load_state_dict(zeros(a))
    except RuntimeError:
        assert report.verdict != "loads"
    else:
        assert report.verdict == "loads"


@QUICK
@given(st.data())
def test_a_conversion_is_found_as_what_it_is(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    names = data.draw(st.lists(st.sampled_from(["conv", "enc.0.proj", "m.module.x", "c_proj", "stem"]), unique=True,
                               min_size=1, max_size=4))  # fmt: skip
    state: State = {}
    for name in names:
        wide = [data.draw(st.integers(2, 5)), data.draw(st.integers(2, 5))]
        size = data.draw(st.sampled_from([1, 1, 3])) if state else 1
        state[f"{name}.weight"] = torch.rand(*wide, size)
        state[f"{name}.bias"] = torch.rand(wide[0])
    folder = tmp_path_factory.mktemp("diff")
    torch.save(state, folder / "a.pt")
    planned = converted(folder / "a.pt", folder / "b.pt")
    report = diff(open_checkpoint(folder / "a.pt"), open_checkpoint(folder / "b.pt"), values=True)
    changed = {one.layer.weight.key for one in planned.conversions}
    assert {one.a.key for one in report.tensors if one.kind == "rank differs" and one.a is not None} == changed
    assert report.counts["same"] == len(state) - len(changed)
    assert not any(one.deviation or one.obstacle for one in report.tensors)
    assert set(report.converted) == {one.layer.name for one in planned.conversions}


# --------------------------------------------------------------------------------------------------------- values


def apart(folder: Path, a: torch.Tensor, b: torch.Tensor) -> Deviation | None:
    report = held(folder, {"x": a}, {"x": b}, values=True)
    return report.tensors[0].deviation


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_one_ulp_is_found(tmp_path: Path, dtype: torch.dtype) -> None:
    a = torch.rand(40, 30).to(dtype)
    b = a.clone()
    b[7, 3] = torch.nextafter(b[7, 3], torch.tensor(9.0, dtype=dtype))
    found = apart(tmp_path, a, b)
    assert found is not None
    assert (found.count, found.total, found.nan) == (1, 1200, 0)
    assert found.absolute == float(b[7, 3].double() - a[7, 3].double())
    assert found.relative == found.absolute / float(b[7, 3])
    assert kinds(held(tmp_path, {"x": a}, {"x": b})) == {"x": "same"}
    assert held(tmp_path, {"x": a}, {"x": b}, values=True).verdict == "loads"


def test_one_ulp_is_found_under_another_rank(tmp_path: Path) -> None:
    a = torch.rand(4, 6, 1)
    b = a.squeeze(-1).clone()
    assert held(tmp_path, {"x.weight": a}, {"x.weight": b}, values=True).tensors[0].deviation is None
    b[1, 2] = torch.nextafter(b[1, 2], torch.tensor(9.0))
    (one,) = held(tmp_path, {"x.weight": a}, {"x.weight": b}, values=True).tensors
    assert (one.kind, one.deviation is not None and one.deviation.count) == ("rank differs", 1)
    turned = b.T.contiguous()
    report = held(tmp_path, {"x.weight": a.squeeze(-1)}, {"x.weight": turned}, values=True)
    assert (report.tensors[0].kind, report.tensors[0].deviation) == ("transposed", one.deviation)


def test_what_is_not_a_number_is_told_apart(tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    assert apart(tmp_path, torch.tensor([1.0, nan, inf, 0.0]), torch.tensor([1.0, nan, inf, -0.0])) is None
    found = apart(tmp_path, torch.tensor([nan, 2.0]), torch.tensor([1.0, 2.5]))
    assert found == Deviation(2, 2, 0.5, 0.2, 1)
    found = apart(tmp_path, torch.tensor([inf, 1.0, 4.0]), torch.tensor([1.0, -inf, 4.0]))
    assert found == Deviation(2, 3, inf, inf, 0)
    assert apart(tmp_path, torch.tensor([inf]), torch.tensor([-inf])) == Deviation(1, 1, inf, inf, 0)
    assert apart(tmp_path, torch.tensor([nan]), torch.tensor([1.0])) == Deviation(1, 1, 0.0, 0.0, 1)


@pytest.mark.parametrize(
    ("dtype", "a", "b", "absolute"),
    [
        (torch.int64, 2**62, 2**62 + 1, 1.0),
        (torch.int64, -(2**63), 2**63 - 1, 2.0**64),
        (torch.int8, -128, 127, 255.0),
        (torch.uint8, 0, 255, 255.0),
        (torch.uint64, 2**64 - 1, 2**64 - 2, 1.0),
        (torch.bool, False, True, 1.0),
        (torch.complex64, 1 + 1j, 1 - 2j, 3.0),
        (torch.complex128, complex("inf+nanj"), 1j, float("inf")),
        (torch.float8_e4m3fn, 1.0, 1.25, 0.25),
        (torch.float8_e5m2, 1.0, 2.0, 1.0),
        (torch.float8_e8m0fnu, 1.0, 4.0, 3.0),
    ],
    ids=str,
)
def test_numbers_of_every_kind_are_compared(
    tmp_path: Path, dtype: torch.dtype, a: Any, b: Any, absolute: float
) -> None:
    tensors = [torch.tensor([one, 1], dtype=dtype) if dtype != torch.float8_e8m0fnu else
               torch.tensor([one, 1.0]).to(dtype) for one in (a, b)]  # fmt: skip
    found = apart(tmp_path, *tensors)
    assert found is not None
    assert found.count == 1
    if "nan" not in str(a):
        assert found.absolute == absolute
    assert apart(tmp_path, tensors[0], tensors[0]) is None


@pytest.mark.parametrize("name", ["dtypes.pt", "legacy_dtypes.pt", "odd_tensors.pt", "views.pt", "dtypes.safetensors"])
@pytest.mark.parametrize("values", [False, True])
def test_every_dtype_and_layout_is_held_against_itself_and_others(name: str, values: bool) -> None:
    one = open_checkpoint(FIXTURES / name, "." if name == "odd_tensors.pt" else None)
    assert diff(one, one, values).same
    tensors = list(one.tensors.values())
    for a in tensors:
        for b in tensors:
            pair = [Checkpoint(Contents(one.path, one.container, (Root("", "model", (it,)),), 0)) for it in (a, b)]
            for it, tensor in zip(pair, (a, b), strict=True):
                it.tensors = {"x": tensor}
            diff(pair[0], pair[1], values)


def test_dtypes_that_differ_are_compared_as_numbers(tmp_path: Path) -> None:
    a = torch.tensor([1.0, 0.1, 3.0])
    report = held(tmp_path, {"x": a, "y": a}, {"x": a.half(), "y": a.long()}, values=True)
    assert kinds(report) == {"x": "dtype differs", "y": "dtype differs"}
    first = report.tensors[0].deviation
    assert first is not None
    assert (first.count, first.absolute) == (1, abs(float(a[1].double() - a[1].half().double())))
    assert report.verdict == "loads"
    model = Holder({"x": (3,)})
    model.half().load_state_dict({"x": a})


@pytest.mark.filterwarnings("ignore")
def test_what_pytorch_does_not_copy_is_an_obstacle(tmp_path: Path) -> None:
    plain = torch.rand(3, 2)
    packed = torch.quantize_per_tensor(plain, 0.1, 0, torch.qint8)
    assert held(tmp_path, {"x": packed}, {"x": plain}).verdict == "does not load"
    assert held(tmp_path, {"x": plain}, {"x": packed}).verdict == "loads"
    assert held(tmp_path, {"x": plain.to_sparse()}, {"x": plain}).verdict == "does not load"
    with pytest.raises(RuntimeError):
        plain.clone().copy_(packed)
    packed.copy_(plain)
    other = torch.quantize_per_tensor(plain + 1, 0.1, 0, torch.qint8)
    (one,) = held(tmp_path, {"x": packed}, {"x": other}, values=True).tensors
    assert (one.kind, one.unread) == ("not compared", True)


def test_square_matrices_that_are_transposed_are_seen_in_their_numbers(tmp_path: Path) -> None:
    a, conv = torch.rand(6, 6), torch.rand(6, 6, 1)
    b = {"lin.weight": a.T.contiguous(), "conv.weight": conv.squeeze(-1).T.contiguous()}
    state = {"lin.weight": a, "conv.weight": conv}
    assert kinds(held(tmp_path, state, b)) == {"lin.weight": "same", "conv.weight": "rank differs"}
    report = held(tmp_path, state, b, values=True)
    assert kinds(report) == {"lin.weight": "transposed", "conv.weight": "transposed"}
    assert all(one.unnoticed for one in report.tensors)
    said = command(tmp_path, "diff", "a.pt", "b.pt", "--values").stdout
    assert "but compute something else: 2 square matrices are transposed" in said


def test_values_take_little_memory(tmp_path: Path) -> None:
    big = torch.rand(2000, 2000)
    save_file({"x.weight": big}, tmp_path / "a.safetensors")
    save_file({"x.weight": (big + 1)[..., None]}, tmp_path / "b.safetensors")
    one, other = open_checkpoint(tmp_path / "a.safetensors"), open_checkpoint(tmp_path / "b.safetensors")
    diff(one, one, values=True)
    tracemalloc.start()
    report = diff(one, other, values=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert report.tensors[0].deviation is not None
    assert report.tensors[0].deviation.count == big.numel()
    assert peak < big.numel() * 4


def test_progress_is_told_of_all_bytes(tmp_path: Path) -> None:
    told: list[int] = []
    state = zeros(NET)
    held(tmp_path, state, state, values=True, progress=told.append)
    assert sum(told) == 2 * sum(value.numel() * 4 for value in state.values())


def test_what_a_distributed_checkpoint_pickles_is_said_not_to_be_compared() -> None:
    """Its tensors are compared, and the number of the step, which PyTorch pickles, by its type alone."""
    result = run("diff", FIXTURES / "distributed", FIXTURES / "distributed", "--values")
    assert result.returncode == 1
    assert "pickled value: only its type was compared" in result.stdout
    assert "4 same · 1 not compared" in result.stdout
    assert run("diff", FIXTURES / "distributed", FIXTURES / "distributed").returncode == 0


@pytest.mark.filterwarnings("ignore")
def test_numbers_without_a_reading_are_never_the_same(tmp_path: Path) -> None:
    """Sparse and quantized tensors: of their numbers nothing is known, although shape and dtype agree."""
    x = torch.randn(4, 6)
    quantized: Any = torch.quantize_per_tensor
    state = {"quant": quantized(x, 0.1, 0, torch.qint8), "coo": x.to_sparse(), "csr": x.to_sparse_csr(), "w": x,
             "meta": x.to("meta")}  # fmt: skip
    other = {"quant": quantized(x, 0.2, 0, torch.qint8), "coo": (x + 1).to_sparse(), "csr": (x + 1).to_sparse_csr(),
             "w": x, "meta": x.to("meta")}  # fmt: skip
    paths = tmp_path / "a.pt", tmp_path / "b.pt"
    assert {one.kind for one in held(tmp_path, state, other).tensors} == {"same"}
    result = run("diff", *paths, "--values")
    assert result.returncode == 1
    assert "4 not compared" in result.stdout
    assert "the numbers of 4 tensors were not compared" in result.stdout
    for why in ("quantized: only its shape", "sparse_coo: only its shape", "its numbers are not in the file"):
        assert why in result.stdout
    found = json.loads(run("diff", *paths, "--values", "--all", "--format", "json").stdout)
    assert {one["name"]: (one["difference"], one["compared"]) for one in found["tensors"]} == {
        **dict.fromkeys(("quant", "coo", "csr", "meta"), ("not compared", False)), "w": ("same", True),
    }  # fmt: skip
    assert (found["same"], found["counts"]["not compared"], found["verdict"]) == (False, 4, "loads")


def _all_tensors(sides: tuple[Checkpoint, Checkpoint], _: object) -> set[int]:
    return {id(tensor) for side in sides for tensor in side.tensors.values()}


SIDES = ["gpt2_names.pt", "lora.safetensors", "tied.pt", "pointnet_stnkd.pt", "weight_norm_old.pt", "adamw.pt"]
CHANGES: list[Callable[[torch.Tensor], torch.Tensor]] = [
    lambda one: one[..., None],
    lambda one: one.squeeze(-1),
    lambda one: one.mT.contiguous(),
]


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.parametrize("every", [1, 3])
def test_layers_that_can_say_nothing_need_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, every: int
) -> None:
    """Of alike tensors no layer is read; what is found is the same as if all were."""
    a = open_checkpoint(FIXTURES / name)
    state = {key: torch.from_numpy(np.array(a.read(key), np.float32)) for key in a.tensors}
    for change in CHANGES:
        meant = [key for key, one in state.items() if one.dim() in (2, 3)][::every]
        torch.save({key: change(one) if key in meant else one for key, one in state.items()}, tmp_path / "b.pt")
        sides = [a, open_checkpoint(tmp_path / "b.pt")]
        for one, other in (sides, sides[::-1]):
            found = diff(one, other)
            with monkeypatch.context() as patched:
                patched.setattr("convinspect.diffing.conversion._relevant_tensors", _all_tensors)
                assert diff(one, other) == found


@pytest.mark.parametrize("name", [*SIDES, "vae_attention.safetensors"])
def test_modules_that_are_alike_are_decided_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Of thousands of modules, one of each class is looked at; what is found is the same as if all were."""
    a = open_checkpoint(FIXTURES / name)
    state = {f"{front}.{key}": torch.from_numpy(np.array(a.read(key), np.float32)) for key in a.tensors
             for front in ("0", "1", "12.x")}  # fmt: skip
    torch.save(state, tmp_path / "a.pt")
    sides = [open_checkpoint(tmp_path / "a.pt")]
    for change in CHANGES:
        changed = {key: change(one) if one.dim() in (2, 3) else one for key, one in state.items() if "1.fc" not in key}
        torch.save(changed, tmp_path / "b.pt")
        sides = [sides[0], open_checkpoint(tmp_path / "b.pt")]
        for one, other in (sides, sides[::-1]):
            found = []
            for many in (-1, 10**9):
                monkeypatch.setattr("convinspect.diffing.conversion.MANY", many)
                found.append(diff(one, other))
            assert found[0] == found[1]


# ------------------------------------------------------------------------------------------------- the command line


def test_ends_with_zero_one_or_two(tmp_path: Path) -> None:
    stnkd = FIXTURES / "pointnet_stnkd.pt"
    assert run("diff", stnkd, FIXTURES / "pointnet_stnkd.safetensors", "--values").returncode == 0
    assert run("diff", stnkd, FIXTURES / "pointnet_stnkd_script.pt").returncode == 0
    assert run("diff", stnkd, FIXTURES / "gan.pt").returncode == 1
    assert run("diff", stnkd, FIXTURES / "prefixes_module.pt").returncode == 1
    (tmp_path / "cut.pt").write_bytes(stnkd.read_bytes()[:9000])
    for words in (
        [stnkd, tmp_path / "cut.pt"],
        [tmp_path / "cut.pt", stnkd],
        [stnkd, tmp_path / "none.pt"],
        [stnkd],
        [stnkd, stnkd, "--error", "-"],
        [stnkd, "--error", tmp_path / "none.txt"],
        [stnkd, stnkd, "--output", stnkd],
    ):
        result = run("diff", *words)
        assert result.returncode == 2, words
        assert result.stderr.startswith("error: "), words
        assert "Traceback" not in result.stderr


def probe(*calls: Sequence[object]) -> list[str]:
    """Which of the heavy packages are loaded after each of the calls, in one process."""
    script = (
        "import json, sys\n"
        "from convinspect.cli import main\n"
        "for call in json.loads(sys.argv[1]):\n"
        "    sys.argv = ['convinspect', *call]\n"
        "    try: main()\n"
        "    except SystemExit: pass\n"
        "    print({'torch', 'numpy', 'rich'} & set(sys.modules), file=sys.stderr)"
    )
    words = json.dumps([list(map(str, call)) for call in calls])
    result = subprocess.run([sys.executable, "-c", script, words], capture_output=True, text=True, timeout=60)
    return result.stderr.splitlines()


def test_structure_alone_loads_neither_torch_nor_numpy() -> None:
    stnkd = FIXTURES / "pointnet_stnkd.pt"
    *structure, values = probe(
        ("diff", stnkd, FIXTURES / "pointnet_stnkd.safetensors"),
        ("diff", FIXTURES / "vae_attention.safetensors", FIXTURES / "prefixes_module.pt"),
        ("diff", stnkd, "--error", FIXTURES / "pointnet_stnkd_load_error.txt"),
        ("diff", stnkd, stnkd, "--values"),
    )
    assert structure == ["set()"] * 3
    assert "numpy" in values
    assert "torch" not in values


def test_json_is_as_documented(tmp_path: Path) -> None:
    torch.save(zeros({"a.weight": (4, 6, 1), "b": (3,)}), tmp_path / "a.pt")
    torch.save({"m.a.weight": torch.zeros(4, 6), "m.b": torch.ones(3)}, tmp_path / "b.pt")
    found = json.loads(command(tmp_path, "diff", "a.pt", "b.pt", "--values", "--format", "json").stdout)
    assert list(found) == ["a", "b", "same", "verdict", "obstacles", "convert", "maybe_transposed", "rename",
                           "commands", "pytorch", "loads_after_pytorch", "numbers_missing", "counts",
                           "prefixes", "values", "tensors",
                           "notes"]  # fmt: skip
    assert found["a"] == {"path": "a.pt", "format": "torch.save (zip)", "root": ""}
    assert (found["same"], found["verdict"], found["obstacles"]) == (False, "loads after converting", [])
    assert (found["convert"], found["rename"]) == (["a"], ["*=m.*"])
    assert found["commands"] == ["convinspect convert a.pt -o a_converted.pt --like b.pt --rename '*=m.*'"]
    assert found["counts"] == {**dict.fromkeys(map(str, KINDS), 0), "rank differs": 1, "values differ": 1}
    assert found["prefixes"] == [{"a": "", "b": "m.", "keys": 2}]
    first, second = found["tensors"]
    assert first == {
        "name": "a.weight", "difference": "rank differs",
        "a": {"key": "a.weight", "shape": [4, 6, 1], "dtype": "float32"},
        "b": {"key": "m.a.weight", "shape": [4, 6], "dtype": "float32"}, "other_a": None, "other_b": None,
        "obstacle": None, "layer": "a", "square": None, "relation": "squeeze", "pytorch": None,
        "unnoticed": False, "compared": True,
    }  # fmt: skip
    assert second["values"] == {"max_abs_diff": 1.0, "max_rel_diff": 1.0, "differing": 3, "numel": 3, "nan": 0}
    every = json.loads(command(tmp_path, "diff", "a.pt", "a.pt", "--all", "--format", "json").stdout)
    assert [one["difference"] for one in every["tensors"]] == ["same", "same"]


def test_csv_and_markdown_hold_every_difference(tmp_path: Path) -> None:
    torch.save(zeros({"a.weight": (4, 6, 1), "b": (3,), "c": (1,)}), tmp_path / "a.pt")
    torch.save(zeros({"a.weight": (4, 6), "b": (4,)}), tmp_path / "b.pt")
    lines = command(tmp_path, "diff", "a.pt", "b.pt", "--format", "csv").stdout.splitlines()
    assert lines[0] == "difference,name,shape_a,shape_b,notes,key_a,key_b,dtype_a,dtype_b"
    assert len(lines) == 4
    assert lines[1].startswith('rank differs,a.weight,"(4, 6, 1)","(4, 6)",converting fixes it,a.weight,a.weight,')
    page = command(tmp_path, "diff", "a.pt", "b.pt", "--format", "md").stdout
    assert "--like b.pt" in page
    assert page.count("\n| ") == 5


def test_repeated_blocks_fold(tmp_path: Path) -> None:
    torch.save(zeros({f"h.{i}.conv.weight": (4, 6, 1) for i in range(12)}), tmp_path / "a.pt")
    torch.save(zeros({f"h.{i}.conv.weight": (4, 6) for i in range(12)}), tmp_path / "b.pt")
    said = command(tmp_path, "diff", "a.pt", "b.pt", "--fold").stdout
    assert "h.{0–11}.conv.weight" in said
    assert "×12, converting fixes it" in said
    assert "A will load after converting 12 layers" in said


def test_fits_eighty_columns_and_keeps_commands_whole(tmp_path: Path) -> None:
    shape: tuple[int, ...] = (512, 512, 1, 1)
    names = {f"a_rather_long_module_name.{i}.another_long_name.weight": shape for i in range(3)}
    torch.save(zeros(names), tmp_path / "a_long_file_name_of_a_model.pt")
    torch.save(zeros(dict.fromkeys(names, (512, 512))), tmp_path / "another_long_file_name.pt")
    words = ["a_long_file_name_of_a_model.pt", "another_long_file_name.pt", "--width", "80"]
    for more in ([], ["--values"]):
        lines = command(tmp_path, "diff", *words, *more).stdout.splitlines()
        assert all(len(line) <= 80 for line in lines if not line.startswith("  convinspect"))
        assert lines[-1].startswith("  convinspect convert")
        assert lines[-1].endswith("--like another_long_file_name.pt")


def test_commands_are_quoted_for_the_shell(tmp_path: Path) -> None:
    names = ["it's $(touch pwned) a.pt", "b *;`touch pwned`.pt"]
    torch.save(zeros({"x y.weight": (4, 6, 1)}), tmp_path / names[0])
    torch.save(zeros({"m q.x y.weight": (4, 6)}), tmp_path / names[1])
    typed(tmp_path, *names)
    assert not (tmp_path / "pwned").exists()
    (made,) = tmp_path.glob("*_converted.pt")
    assert list(torch.load(made, weights_only=True)) == ["m q.x y.weight"]


@pytest.mark.parametrize("word", ["a", "it's", "a b", "\x1b[31m\n'\\", "\u202e.pt", "\udcff.pt", "é", "$x", ""])
def test_quoting_is_undone_by_a_shell(word: str) -> None:
    assert quoted(word).isprintable()
    result = subprocess.run(["bash", "-c", f"printf %s {quoted(word)}"], capture_output=True, check=True)
    assert result.stdout == word.encode("utf-8", "surrogateescape")


def test_text_of_a_file_is_shown_escaped(tmp_path: Path) -> None:
    torch.save(zeros({"\x1b[31m[bold].weight": (4, 6, 1)}), tmp_path / "a.pt")
    torch.save(zeros({"\x1b[31m[bold].weight": (4, 6), "\x1bx": (1,)}), tmp_path / "b.pt")
    for fmt in ("table", "csv", "md", "json"):
        assert "\x1b" not in command(tmp_path, "diff", "a.pt", "b.pt", "--format", fmt).stdout


def test_whole_models_nested_roots_and_shards_get_commands_that_work(tmp_path: Path) -> None:
    torch.manual_seed(0)
    wanted = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))
    conv = nn.Sequential(nn.Conv1d(4, 6, 1), nn.Conv1d(6, 2, 1))
    torch.save(wanted.state_dict(), tmp_path / "b.pt")
    torch.save(conv, tmp_path / "whole.pt")
    torch.jit.save(torch.jit.script(conv), tmp_path / "script.pt")
    torch.save({"model": {"other.weight": torch.rand(90, 90)}, "ema": conv.state_dict()}, tmp_path / "two.pt")
    for name, more in (("whole", []), ("script", []), ("two", ["--root", "ema"])):
        typed(tmp_path, f"{name}.pt", "b.pt", *more)
        loaded = torch.load(tmp_path / f"{name}_converted.pt", weights_only=True)
        wanted.load_state_dict(loaded["ema"] if name == "two" else loaded)
    torch.save({"model": {"other.weight": torch.rand(90, 90)}, "ema": wanted.state_dict()}, tmp_path / "root.pt")
    torch.save({"model": {"other.weight": torch.rand(9, 9)}, "ema": conv.state_dict()}, tmp_path / "both.pt")
    (one,) = typed(tmp_path, "both.pt", "root.pt", "--root", "ema")
    assert "root.pt --root ema" in one
    wanted.load_state_dict(torch.load(tmp_path / "both_converted.pt", weights_only=True)["ema"])


def test_a_scalar_of_pytorch_0_3_loads_as_it_is(tmp_path: Path) -> None:
    report = held(tmp_path, zeros({"x": (1,)}), zeros({"x": ()}))
    assert (kinds(report), report.verdict) == ({"x": "reshaped"}, "loads")
    Holder({"x": ()}).load_state_dict(zeros({"x": (1,)}))
    assert not loads(Holder({"x": (1,)}), zeros({"x": ()}))
    assert held(tmp_path, zeros({"x": ()}), zeros({"x": (1,)})).verdict == "loads after converting"
    typed(tmp_path, "a.pt", "b.pt")
    Holder({"x": (1,)}).load_state_dict(torch.load(tmp_path / "a_converted.pt"))


# ------------------------------------------------------------------------------------ what PyTorch does when it loads


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv1d(6, 4, 1), nn.BatchNorm1d(4)


def loads(model: nn.Module, state: State) -> bool:
    try:
        model.load_state_dict(state)
    except (RuntimeError, NotImplementedError):
        return False
    return True


PLAIN_DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.int8,
    torch.uint8, torch.bool, torch.complex64,
]  # fmt: skip


@pytest.mark.parametrize("one", PLAIN_DTYPES, ids=str)
@pytest.mark.parametrize("other", PLAIN_DTYPES, ids=str)
def test_dtypes_that_pytorch_casts_are_no_obstacle(tmp_path: Path, one: torch.dtype, other: torch.dtype) -> None:
    a, b = zeros({"x": (2, 3)}, one), zeros({"x": (2, 3)}, other)
    torch.empty(2, 3, dtype=other).copy_(a["x"])
    report = held(tmp_path, a, b)
    assert (report.verdict, report.obstacles) == ("loads", ())
    assert kinds(report) == {"x": "same" if one == other else "dtype differs"}


@pytest.mark.parametrize("version", [None, 1, 2])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_missing_count_of_batches_is_an_obstacle_where_pytorch_says_so(
    tmp_path: Path, version: int | None, prefix: str
) -> None:
    state = Small().state_dict()
    old: Any = type(state)((prefix + key, value) for key, value in state.items() if "num_batches" not in key)
    if version is not None:
        old._metadata = {"": {"version": 1}, f"{prefix}bn": {"version": version}}
    report = held(tmp_path, old, dict(state))
    found = {one.name: one for one in report.tensors}["bn.num_batches_tracked"]
    assert found.kind == "only in B"
    renamed: Any = type(state)((key.removeprefix(prefix), value) for key, value in old.items())
    if version is not None:
        renamed._metadata = {"": {"version": 1}, "bn": {"version": version}}
    assert (report.verdict != "does not load") == loads(Small(), renamed) == (version != 2)
    assert bool(found.obstacle) == (version == 2)
    said = command(tmp_path, "diff", "a.pt", "b.pt").stdout
    assert ("PyTorch supplies it" in said) == (version != 2)


def test_a_count_of_batches_that_safetensors_lacks_is_supplied(tmp_path: Path) -> None:
    state = Small().state_dict()
    save_file({key: value for key, value in state.items() if "num_batches" not in key}, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pt")
    report = diff(open_checkpoint(tmp_path / "a.safetensors"), open_checkpoint(tmp_path / "b.pt"))
    assert (report.verdict, report.same) == ("loads", False)


def test_the_old_weight_norm_loads_into_the_new_one_and_back_after_renaming(tmp_path: Path) -> None:
    old = nn.Sequential(nn.utils.weight_norm(nn.Conv1d(6, 4, 1)))
    new = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv1d(6, 4, 1)))
    assert loads(new, old.state_dict())
    report = held(tmp_path, old.state_dict(), new.state_dict())
    assert (report.verdict, report.same) == ("loads", False)
    assert "PyTorch loads it as" in command(tmp_path, "diff", "a.pt", "b.pt").stdout
    assert not loads(old, new.state_dict())
    assert held(tmp_path, new.state_dict(), old.state_dict()).verdict == "loads after converting"
    wider = nn.Sequential(nn.utils.weight_norm(nn.Conv1d(6, 5, 1)))
    assert not loads(new, wider.state_dict())
    assert held(tmp_path, wider.state_dict(), new.state_dict()).verdict == "does not load"


@pytest.mark.parametrize(("a", "b"), [("meta", "cpu"), ("cpu", "meta"), ("meta", "meta")])
def test_shapes_without_numbers_do_not_load(tmp_path: Path, a: str, b: str) -> None:
    states = [nn.Linear(3, 2, device=device).state_dict() for device in (a, b)]
    with warnings.catch_warnings():
        # Numbers that are loaded into none are told of.
        warnings.simplefilter("ignore")
        loaded = loads(nn.Linear(3, 2, device=b), states[0])
    assert (held(tmp_path, states[0], states[1]).verdict == "loads") == loaded


def test_one_number_for_none_is_told_as_what_it_is(tmp_path: Path) -> None:
    held(tmp_path, zeros({"x": (1,)}), zeros({"x": ()}))
    said = command(tmp_path, "diff", "a.pt", "b.pt").stdout
    assert "no reshaping" not in said
    assert "would load strictly" in said


def test_a_tensor_without_a_name_has_one_in_the_verdict(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "a.pt")
    torch.save([torch.zeros(3)], tmp_path / "b.pt")
    assert "(root) is not in B" in command(tmp_path, "diff", "a.pt", "b.pt").stdout


def test_a_few_keys_are_renamed_one_by_one(tmp_path: Path) -> None:
    shapes: dict[str, tuple[int, ...]] = {f"l{n}.weight": (n + 2, 3) for n in range(5)}
    wrapped = {("module." if key == "l3.weight" else "") + key: shape for key, shape in shapes.items()}
    torch.save(zeros(shapes), tmp_path / "a.pt")
    torch.save(zeros(wrapped), tmp_path / "b.pt")
    typed(tmp_path, "a.pt", "b.pt")
    assert list(torch.load(tmp_path / "a_converted.pt", weights_only=True)) == list(wrapped)


def test_figures_that_were_asked_for_are_not_hidden_at_80_columns(tmp_path: Path) -> None:
    state = {
        "encoder.layers.10.conv1.weight": torch.randn(64, 64, 1),
        "encoder.layers.10.fc.weight": torch.randn(10, 64),
    }
    held(tmp_path, state, {key: value.half() for key, value in state.items()})
    said = command(tmp_path, "diff", "a.pt", "b.pt", "--values", "--width", "80").stdout
    assert "max |A−B|" in said
    assert "relative" in said.splitlines()[5]
    assert max(map(len, said.splitlines()[2:8])) <= 80


@pytest.mark.parametrize("width", [50, 60, 80, 120])
@pytest.mark.parametrize("values", [(), ("--values",)])
def test_shapes_and_notes_are_shown_at_every_width(tmp_path: Path, width: int, values: tuple[str, ...]) -> None:
    name = "a.very.long.module.name.that.fits.nowhere.weight"
    a = {name: torch.randn(8, 8, 3, 3), "sp.weight": torch.randn(3, 3, 3, 4, 8), "short": torch.randn(2, 6)}
    b = {
        name: a[name].permute(1, 0, 2, 3).contiguous(),
        "sp.weight": torch.randn(8, 3, 3, 3, 4),
        "short": torch.randn(3, 4),
    }
    held(tmp_path, a, b)
    shown = command(tmp_path, "diff", "a.pt", "b.pt", "--width", str(width), *values).stdout
    rows, _, hidden = (
        shown.partition("columns hidden") if "columns hidden" in shown else shown.partition("column hidden")
    )
    assert "notes" not in hidden.partition("--width")[0]
    for text in ("(3, 3, 3, 4, 8)", "(8, 3, 3, 3, 4)", "permute(4, 0,", "as many"):
        assert text in rows
    text = "size mismatch for {}: copying a param with shape {} from checkpoint, the shape in current model is {}."
    lines = [text.format(key, a[key].shape, b[key].shape) for key in ("sp.weight", "short")]
    (tmp_path / "error.txt").write_text("Error(s) in loading state_dict for Net:\n\t" + "\n\t".join(lines))
    shown = command(tmp_path, "diff", "a.pt", "--error", "error.txt", "--width", str(width)).stdout
    for text in ("(3, 3, 3, 4, 8)", "(8, 3, 3, 3, 4)", "permute(4, 0,", "as many"):
        assert text in shown


def test_numbers_that_show_another_order_are_in_the_verdict_beside_lines_of_pytorch(tmp_path: Path) -> None:
    a = {"conv.weight": torch.randn(8, 8, 3, 3), "sp.weight": torch.randn(3, 3, 3, 4, 8)}
    b = {"conv.weight": a["conv.weight"].transpose(0, 1).contiguous(), "sp.weight": a["sp.weight"].movedim(4, 0)}
    held(tmp_path, a, {key: value.contiguous() for key, value in b.items()})
    shown = command(tmp_path, "diff", "a.pt", "b.pt", "--values").stdout
    assert "after the PyTorch below, but compute something else: the axes of 1 tensor" in shown


def test_what_was_not_compared_is_said(tmp_path: Path) -> None:
    held(tmp_path, zeros({"x": (2, 2)}), zeros({"x": (2, 2)}))
    assert "--values compares the numbers too" in command(tmp_path, "diff", "a.pt", "b.pt").stdout
    assert "--values compares" not in command(tmp_path, "diff", "a.pt", "b.pt", "--values").stdout


def test_columns_of_csv_do_not_depend_on_what_was_found(tmp_path: Path) -> None:
    held(tmp_path, zeros({"x": (2, 2)}), zeros({"x": (2, 2)}))
    same = command(tmp_path, "diff", "a.pt", "b.pt", "--format", "csv").stdout
    held(tmp_path, zeros({"x": (2, 2)}), zeros({"x": (2, 3)}))
    other = command(tmp_path, "diff", "a.pt", "b.pt", "--format", "csv").stdout
    assert same.splitlines() == other.splitlines()[:1]


def test_commands_in_markdown_can_be_copied(tmp_path: Path) -> None:
    held(tmp_path, zeros({"module.x_y.weight": (2, 2)}), zeros({"x_y.weight": (2, 2)}))
    said = command(tmp_path, "diff", "a.pt", "b.pt", "--format", "md").stdout
    assert "\n  convinspect convert a.pt -o a_converted.pt --rename 'module.*=*'\n```" in said
