"""Files whose parts contradict each other: layouts, packings, sharding records, wrappers, graphs.

CLAIMS    name → builder
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from support.hostile.archives import exported, exported_weight
from support.hostile.containers import safetensors_file, zip_file, zip_of
from support.hostile.opcodes import (
    PAYLOAD,
    Builder,
    beside_a_layer,
    call,
    dict_of,
    get,
    instance,
    integers,
    named,
    pickled,
    put,
    tensor,
    text,
    tuple_of,
)

Shapes = Mapping[str, tuple[str, tuple[int, ...]]]
"""Name → dtype and shape."""

_BYTES = {"F32": 4, "I32": 4, "I64": 8, "U8": 1, "F16": 2}


def _written(folder: Path, shapes: Shapes, metadata: object = None, payload: Mapping[str, bytes] | None = None) -> Path:
    """A sound safetensors file of these tensors, of zeros where no bytes are given."""
    entries: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    data = b""
    for name, (dtype, shape) in shapes.items():
        size = _BYTES[dtype]
        for length in shape:
            size *= length
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + size]}
        data += (payload or {}).get(name, b"").ljust(size, b"\0")
    return safetensors_file(folder, json.dumps(entries).encode(), data)


def written(
    tmp_path: Path, marker: Path, shapes: Shapes, metadata: object = None, payload: Mapping[str, bytes] | None = None
) -> Path:
    """The same, as a builder."""
    return _written(tmp_path, shapes, metadata, payload)


_MLX = {"format": "mlx"}
LAYOUTS: dict[str, Builder] = {
    # PyTorch's own square kernels under MLX's name, and kernels that are square in no order.
    "mlx_of_torch": partial(
        written, shapes={"c.weight": ("F32", (8, 4, 3, 3)), "c.bias": ("F32", (8,))}, metadata=_MLX
    ),
    "mlx_of_neither": partial(
        written, shapes={"c.weight": ("F32", (2, 3, 5, 7)), "c.bias": ("F32", (9,))}, metadata=_MLX
    ),
    "mlx_of_20_dims": partial(written, shapes={"c.weight": ("F32", (1,) * 20)}, metadata=_MLX),
    "mlx_of_nothing": partial(written, shapes={"c.weight": ("F32", (4, 0, 6))}, metadata=_MLX),
    "format_escapes": partial(written, shapes={"c.weight": ("F32", (4, 1, 6))}, metadata={"format": "\x1b[31mmlx"}),
    "format_of_a_megabyte": partial(written, shapes={"c.weight": ("F32", (4, 6))}, metadata={"format": "m" * 10**6}),
    "kernels_and_weights": partial(
        written, shapes={"a.kernel": ("F32", (1, 6, 4)), "b.weight": ("F32", (4, 6, 1)), "a.bias": ("F32", (7,))}
    ),
    "kernel_of_0_dims": partial(written, shapes={"a.kernel": ("F32", ()), "a.bias": ("F32", ())}),
    "kernel_of_20_dims": partial(written, shapes={"a.kernel": ("F32", (1,) * 20)}),
    "recurrent_of_nothing": partial(
        written, shapes={"a.kernel": ("F32", (0, 4)), "a.recurrent_kernel": ("F32", (0, 4)), "a.bias": ("F32", (4,))}
    ),
    "paddle_and_mlx": partial(
        written,
        shapes={"b.weight": ("F32", (4,)), "b._mean": ("F32", (4,)), "b._variance": ("F32", (4,)),
                "l.weight": ("F32", (6, 4)), "l.bias": ("F32", (9,))},
        metadata=_MLX,
    ),
}  # fmt: skip

_HUGE = struct.pack("<2q", 2**62, 2**62)
_STATE = "a.weight.quant_state.bitsandbytes__nf4"


def _state(content: bytes) -> Builder:
    shapes: Shapes = {"a.weight": ("U8", (12, 1)), "a.weight.absmax": ("F32", (1,)), _STATE: ("U8", (len(content),))}
    return partial(written, shapes=shapes, payload={_STATE: content})


def _packed(recorded: bytes, scales: tuple[int, ...] = (4, 1)) -> Builder:
    shapes: Shapes = {
        "a.weight_packed": ("I32", (4, 1)), "a.weight_scale": ("F32", scales), "a.weight_shape": ("I64", (2,))
    }  # fmt: skip
    return partial(written, shapes=shapes, payload={"a.weight_shape": recorded})


PACKINGS: dict[str, Builder] = {
    "packed_shape_huge": _packed(_HUGE),
    "packed_shape_negative": _packed(struct.pack("<2q", -4, -6)),
    "packed_shape_larger_than_packed": _packed(struct.pack("<2q", 2**30, 2**30)),
    "packed_scales_of_nothing": _packed(struct.pack("<2q", 4, 8), scales=(0, 1)),
    "packed_shape_of_a_million": partial(
        written, shapes={"a.weight_packed": ("I32", (4, 1)), "a.weight_shape": ("I64", (10**6,))}
    ),
    "nf4_shape_huge": _state(b'{"shape": [9223372036854775807, 9223372036854775807]}'),
    "nf4_shape_text": _state(b'{"shape": ["\\u001b[31m", 4]}'),
    "nf4_shape_larger_than_packed": _state(b'{"shape": [2147483647, 2147483647]}'),
    "nf4_not_json": _state(b"\xff\xfe{"),
    "nf4_nested": _state(b"[" * 1_000),
    "nf4_digits": _state(b'{"shape": [' + b"9" * 5_000 + b"]}"),
    "gptq_of_nothing": partial(
        written,
        shapes={"a.qweight": ("I32", (0, 8)), "a.qzeros": ("I32", (0, 0)), "a.scales": ("F16", (0, 8)),
                "a.g_idx": ("I32", (0,))},
    ),
    "gptq_that_contradict": partial(
        written,
        shapes={"a.qweight": ("I32", (3, 5)), "a.qzeros": ("I32", (7, 11)), "a.scales": ("F16", (13,)),
                "a.g_idx": ("I32", (1, 1, 1))},
    ),
    "mlx_scales_that_contradict": partial(
        written, shapes={"a.weight": ("I32", (3, 5)), "a.scales": ("F16", (7, 0)), "a.biases": ("F16", (2,))}
    ),
    "mxfp4_of_nothing": partial(written, shapes={"a_blocks": ("U8", (0, 0, 0, 16)), "a_scales": ("U8", (5,))}),
}  # fmt: skip


def shards(tmp_path: Path, marker: Path, places: tuple[tuple[object, tuple[int, ...]], ...]) -> Path:
    """A folder of two or more shards of one tensor, with where each begins and its shape."""
    folder = tmp_path / "pieces"
    folder.mkdir()
    for number, (begin, shape) in enumerate(places, 1):
        info = json.dumps({"p.weight": {"saved_offsets": begin}})
        metadata = {"DCP_SHARDING_INFO": info, "DCP_VERSION": "1.0", "format": "pt"}
        path = _written(folder, {"p.weight": ("F32", shape)}, metadata)
        path.rename(folder / f"shard-{number:05}-model-00001-of-00001.safetensors")
    return folder


_EDGE = 2**63 - 1
PIECES: dict[str, tuple[tuple[object, tuple[int, ...]], ...]] = {
    "negative": (([0, 0, 0], (2, 6, 1)), ([-2, 0, 0], (2, 6, 1))),
    "overlapping": (([0, 0, 0], (3, 6, 1)), ([2, 0, 0], (2, 6, 1))),
    "the_same_twice": (([0, 0, 0], (2, 6, 1)), ([0, 0, 0], (2, 6, 1))),
    "with_a_gap": (([0, 0, 0], (2, 6, 1)), ([9, 0, 0], (2, 6, 1))),
    "far_apart": (([0, 0, 0], (1, 1, 1)), ([2**40, 2**20, 0], (1, 1, 1))),
    "at_the_edge": (([0, 0, 0], (1, 1, 1)), ([_EDGE, _EDGE, _EDGE], (1, 1, 1))),
    "of_several_ranks": (([0, 0, 0], (2, 6, 1)), ([2, 0], (2, 6))),
    "of_nothing": (([0, 0, 0], (0, 6, 1)), ([0, 0, 0], (0, 6, 1))),
    "nothing_far_away": (([0, 0, 0], (2, 6, 1)), ([2**62, 0, 0], (0, 6, 1))),
    "mixed_types": (([0, 0, 0], (2, 6, 1)), (["2", None, 0.5], (2, 6, 1))),
    "nested": (([0, 0, 0], (2, 6, 1)), ([[2], [0], [0]], (2, 6, 1))),
    "many": tuple(([2 * at, 0, 0], (2, 6, 1)) for at in range(200)),
    "many_that_overlap": tuple(([at, 0, 0], (200, 1, 1)) for at in range(200)),
}

_WRAPPER = named("torch._utils", "_rebuild_wrapper_subclass")
_DTENSOR = named("torch.distributed.tensor", "DTensor")


def wrapped(inner: bytes, size: bytes = integers(4, 6, 1)) -> bytes:
    """A subclass around another tensor, as PyTorch pickles it."""
    state = dict_of((text("_local_tensor"), inner), (text("_spec"), b"N"))
    arguments = (
        _DTENSOR, named("torch", "float32"), size, integers(6, 1, 1), b"K\0", named("torch", "strided"),
        text("cpu"), b"\x89",
    )  # fmt: skip
    return call(named("torch._tensor", "_rebuild_from_type_v2"), _WRAPPER, _DTENSOR, tuple_of(*arguments), state)


def nested_wrappers(tmp_path: Path, marker: Path, depth: int) -> Path:
    """Subclasses one around the other."""
    before, after = wrapped(b"@").split(b"@")
    return zip_file(tmp_path, beside_a_layer(before * depth + tensor() + after * depth))


def wrapper_of(tmp_path: Path, marker: Path, inner: bytes) -> Path:
    """A subclass around a value that is no tensor, or none of its own shape."""
    return zip_file(tmp_path, beside_a_layer(wrapped(inner)))


WRAPPERS: dict[str, Builder] = {
    "wrappers_10_000_deep": partial(nested_wrappers, depth=10_000),
    "wrappers_100_deep": partial(nested_wrappers, depth=100),
    "wrapper_of_itself": partial(wrapper_of, inner=b"}" + put(8) + text("a") + get(8) + b"s"),
    "wrapper_of_none": partial(wrapper_of, inner=b"N"),
    "wrapper_of_other_shape": partial(wrapper_of, inner=tensor(size=integers(1, 1, 1), stride=integers(1, 1, 1))),
    "wrapper_of_doubled": partial(wrapper_of, inner=b"N" + b"2\x86" * 60),
}


def frozen_code(tmp_path: Path, marker: Path, code: bytes) -> Path:
    """Frozen TorchScript with one constant and this code."""
    records = {
        "data.pkl": pickled(instance("__torch__", "Net", ("training", b"\x88"))),
        "constants.pkl": pickled(tuple_of(tensor())),
        "constants/0": PAYLOAD,
        "code/__torch__.py": b"class Net(Module):\n  def forward(self, x):\n" + code,
    }
    return zip_of(tmp_path / "frozen.pt", records)


CODES: dict[str, bytes] = {
    "cycle_of_one": b"    x = torch.pad(x, [1, 1])\n" * 3 + b"    x = torch.conv1d(x, CONSTANTS.c0, None, [1], [0])\n",
    "cycle_of_two": b"    a = torch.pad(b, [1, 1])\n    b = torch.pad(a, [1, 1])\n"
    b"    c = torch.conv1d(b, CONSTANTS.c0)\n",
    "weight_of_itself": b"    w = torch.t(w)\n    y = torch.matmul(x, w)\n    y = torch.linear(x, CONSTANTS.c0, y)\n",
    "turned_in_a_cycle": b"    a = torch.t(b)\n    b = torch.t(a)\n    y = torch.matmul(x, a)\n",
    "chain_of_20_000": b"    x0 = torch.t(CONSTANTS.c0)\n"
    + b"".join(b"    x%d = torch.t(x%d)\n" % (at + 1, at) for at in range(20_000))
    + b"    y = torch.matmul(x, x20000)\n",
}


def graph(tmp_path: Path, marker: Path, nodes: list[object]) -> Path:
    """A `.pt2` whose graph has these nodes."""
    inputs = [{"as_tensor": {"name": name}} for name in ("p_fc_weight", "x")]
    signature = {
        "input_specs": [
            {"parameter": {"arg": {"name": "p_fc_weight"}, "parameter_name": "\x1b[31m[bold]fc.weight"}},
            {"user_input": {"arg": {"as_tensor": {"name": "x"}}}},
        ],
        "output_specs": [],
    }
    module = {"graph": {"inputs": inputs, "outputs": [], "nodes": nodes, "tensor_values": {}}, "signature": signature}
    config = json.loads(exported_weight())
    if any(isinstance(one, dict) and "conv1d" in str(one.get("target")) for one in nodes):
        (weight,) = config["config"].values()
        weight["tensor_meta"]["sizes"].append({"as_int": 1})
        weight["tensor_meta"]["strides"].append({"as_int": 1})
    return exported(tmp_path, marker, json.dumps(config).encode(), json.dumps({"graph_module": module}).encode())


def node(target: str, output: str, *inputs: str) -> dict[str, object]:
    """A call in the graph of a `.pt2`."""
    called = {"conv1d": ("input", "weight"), "pad": ("self",), "t": ("self",)}.get(target, ("self", "other"))
    arguments: list[dict[str, object]] = [
        {"name": name, "arg": {"as_tensor": {"name": value}}, "kind": 1}
        for name, value in zip(called, inputs, strict=False)
    ]
    if target == "pad":
        arguments.append({"name": "pad", "arg": {"as_ints": [1, 1]}, "kind": 1})
    return {
        "target": f"torch.ops.aten.{target}.default", "inputs": arguments, "metadata": {},
        "outputs": [{"as_tensor": {"name": output}}],
    }  # fmt: skip


GRAPHS: dict[str, list[object]] = {
    "cycle_of_one": [node("pad", "x", "x"), node("conv1d", "y", "x", "p_fc_weight")],
    "cycle_of_two": [node("pad", "a", "b"), node("pad", "b", "a"), node("conv1d", "y", "b", "p_fc_weight")],
    "weight_of_itself": [node("t", "p_fc_weight", "p_fc_weight"), node("matmul", "y", "x", "p_fc_weight")],
    "chain_of_5_000": [
        node("t", "x0", "p_fc_weight"),
        *(node("t", f"x{at + 1}", f"x{at}") for at in range(5_000)),
        node("matmul", "y", "x", "x5000"),
    ],
    "twice_each": [*(node("add", f"x{at + 1}", f"x{at}", f"x{at}") for at in range(100)),
                   node("conv1d", "y", "x100", "p_fc_weight")],
    "of_nulls": [None, {"target": None, "inputs": None, "outputs": [None]}, {"target": 7}],
}  # fmt: skip

CLAIMS: dict[str, Builder] = {
    **{f"layout_{name}": build for name, build in LAYOUTS.items()},
    **{f"packing_{name}": build for name, build in PACKINGS.items()},
    **{f"pieces_{name}": partial(shards, places=places) for name, places in PIECES.items()},
    **WRAPPERS,
    **{f"frozen_{name}": partial(frozen_code, code=code) for name, code in CODES.items()},
    **{f"graph_{name}": partial(graph, nodes=nodes) for name, nodes in GRAPHS.items()},
}
