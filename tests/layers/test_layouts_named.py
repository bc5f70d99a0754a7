"""Layers of Flax, Keras, Paddle and spconv by names, classes and shapes, which are their makers'."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from convinspect import verify
from convinspect.checkpoint import open_checkpoint
from convinspect.converting.job import convert
from convinspect.converting.options import Options
from convinspect.errors import CannotConvert
from convinspect.layers.find import find_layers
from convinspect.layouts import KnownFrom, Maker
from convinspect.records import Layer
from support.in_process import run

Shape = tuple[int, ...]

FLAX: dict[str, Shape] = {
    "params.pw.kernel": (1, 6, 4), "params.pw.bias": (4,), "params.c.kernel": (3, 4, 8), "params.c.bias": (8,),
    "params.d.kernel": (8, 5), "params.d.bias": (5,), "params.bn.scale": (5,), "params.bn.bias": (5,),
    "params.att.query.kernel": (5, 2, 5), "params.att.query.bias": (2, 5), "params.att.key.kernel": (5, 2, 5),
    "params.att.key.bias": (2, 5), "params.att.value.kernel": (5, 2, 5), "params.att.value.bias": (2, 5),
    "params.att.out.kernel": (2, 5, 7), "params.att.out.bias": (7,), "params.ct.kernel": (2, 6, 7),
    "params.ct.bias": (6,), "params.dw.kernel": (3, 1, 6), "params.dw.bias": (6,), "params.e.embedding": (9, 6),
    "batch_stats.bn.mean": (5,), "batch_stats.bn.var": (5,),
}  # fmt: skip
"""Of `flax.linen` modules; `ct` is a ConvTranspose with `transpose_kernel`."""

KERAS: dict[str, Shape] = {
    "net/conv2d/kernel": (1, 1, 6, 4), "net/conv2d/bias": (4,), "net/depthwise_conv2d/kernel": (3, 3, 4, 1),
    "net/depthwise_conv2d/bias": (4,), "net/conv2d_transpose/kernel": (2, 2, 5, 4), "net/conv2d_transpose/bias": (5,),
    "net/separable_conv2d/depthwise_kernel": (3, 3, 5, 1), "net/separable_conv2d/pointwise_kernel": (1, 1, 5, 7),
    "net/separable_conv2d/bias": (7,), "net/bn/gamma": (7,), "net/bn/beta": (7,), "net/bn/moving_mean": (7,),
    "net/bn/moving_variance": (7,), "net/dense/kernel": (252, 3), "net/dense/bias": (3,),
    "net/lstm/lstm_cell/kernel": (6, 16), "net/lstm/lstm_cell/recurrent_kernel": (4, 16),
    "net/lstm/lstm_cell/bias": (16,),
}  # fmt: skip
"""`variable.path` of Keras 3 layers."""

PADDLE: dict[str, Shape] = {
    "0.weight": (4, 6, 1), "0.bias": (4,), "1.weight": (4,), "1.bias": (4,), "1._mean": (4,), "1._variance": (4,),
    "2.weight": (6, 4), "2.bias": (4,), "fc.weight": (4, 4), "fc.bias": (4,), "embed.weight": (5, 4),
}  # fmt: skip


def write(path: Path, shapes: dict[str, Shape]) -> Path:
    random = np.random.default_rng(0)
    save_file({name: random.random(shape, np.float32) for name, shape in shapes.items()}, path)
    return path


def layers_of(path: Path) -> dict[str, Layer]:
    return {layer.name: layer for layer in find_layers(open_checkpoint(path))}


def facts(layer: Layer) -> tuple[str, int | None, int | None, Shape]:
    return layer.kind, layer.in_width, layer.out_width, layer.kernel_size


def test_flax(tmp_path: Path) -> None:
    layers = layers_of(write(tmp_path / "m.safetensors", FLAX))
    assert {name.removeprefix("params."): facts(layer) for name, layer in layers.items()} == {
        "pw": ("Conv1d", None, 4, (1,)),
        "c": ("Conv1d", None, 8, (3,)),
        "d": ("Linear", 8, 5, ()),
        "bn": ("Norm", None, None, ()),
        "att.query": ("DenseGeneral", 5, 10, ()),
        "att.key": ("DenseGeneral", 5, 10, ()),
        "att.value": ("DenseGeneral", 5, 10, ()),
        "att.out": ("DenseGeneral", 10, 7, ()),
        "ct": ("ConvTranspose1d", 7, 6, (2,)),
        "dw": ("Conv1d", None, 6, (3,)),
        "e": ("Embedding", None, None, ()),
        "batch_stats.bn": ("BatchNorm", None, None, ()),
    }
    assert layers["params.pw"].pointwise
    assert layers["params.pw"].layout == (Maker.KERNELS, KnownFrom.NAMES)
    assert "depthwise?" in layers["params.dw"].tags


def test_keras(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", KERAS)
    layers = layers_of(path)
    assert {name.removeprefix("net."): facts(layer) for name, layer in layers.items()} == {
        "conv2d": ("Conv2d", None, 4, (1, 1)),
        "depthwise_conv2d": ("DepthwiseConv2d", 4, 4, (3, 3)),
        "conv2d_transpose": ("ConvTranspose2d", 4, 5, (2, 2)),
        "separable_conv2d": ("SeparableConv2d", None, None, ()),
        "bn": ("BatchNorm", None, None, ()),
        "dense": ("Linear", 252, 3, ()),
        "lstm.lstm_cell": ("LSTM", None, None, ()),
    }
    checkpoint = open_checkpoint(path)
    assert checkpoint["net/dense/kernel"] is checkpoint["net.dense.kernel"]
    assert not checkpoint.prefixes
    assert sum(tensor.numel for tensor in checkpoint.parameters()) == sum(
        int(np.prod(shape)) for name, shape in KERAS.items() if "moving" not in name
    )


def test_keras_depthwise_without_its_name_is_ambiguous(tmp_path: Path) -> None:
    layers = layers_of(write(tmp_path / "m.safetensors", {"a/kernel": (3, 3, 4, 1), "a/bias": (4,)}))
    assert layers["a"].evidence == "ambiguous"
    layers = layers_of(write(tmp_path / "n.safetensors", {"a/kernel": (3, 3, 4, 2), "a/bias": (8,)}))
    assert facts(layers["a"]) == ("DepthwiseConv2d", 4, 8, (3, 3))


def test_names_of_tensorflow_are_paths(tmp_path: Path) -> None:
    shapes: dict[str, Shape] = {
        "bert/embeddings/word_embeddings/weight:0": (9, 6), "bert/encoder/layer_._0/dense/kernel:0": (6, 4),
        "bert/encoder/layer_._0/dense/bias:0": (4,),
    }  # fmt: skip
    layers = layers_of(write(tmp_path / "m.safetensors", shapes))
    assert facts(layers["bert.encoder.layer_._0.dense"]) == ("Linear", 6, 4, ())
    assert layers["bert.embeddings.word_embeddings"].kind == "Embedding"


def test_a_kernel_beside_weights_is_a_parameter_of_pytorch(tmp_path: Path) -> None:
    state = {"blur.kernel": torch.zeros(4, 4), "conv.weight": torch.zeros(6, 4, 1), "conv.bias": torch.zeros(6)}
    torch.save(state, tmp_path / "m.pt")
    layers = layers_of(tmp_path / "m.pt")
    assert layers["blur.kernel"].kind == "Parameter"
    assert layers["conv"].layout is None


def test_flax_there_and_back_and_equal(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", FLAX)
    convert(path, tmp_path / "l.safetensors", Options(to="linear"))
    linear = load_file(tmp_path / "l.safetensors")
    assert linear["params.pw.kernel"].shape == (6, 4)
    report = verify(path, tmp_path / "l.safetensors")
    assert report.equal
    assert [layer.outputs is not None and layer.outputs.ok for layer in report.layers] == [True]
    convert(tmp_path / "l.safetensors", tmp_path / "b.safetensors", Options(to="conv1d", layer=("params.pw",)))
    assert (tmp_path / "b.safetensors").read_bytes() == path.read_bytes()


def test_verify_sees_a_flax_kernel_that_was_turned(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", {"a.kernel": (1, 6, 4), "a.bias": (4,)})
    write(tmp_path / "n.safetensors", {"a.kernel": (4, 6), "a.bias": (4,)})
    assert not verify(path, tmp_path / "n.safetensors").equal


def test_paddle(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", PADDLE)
    layers = layers_of(path)
    assert facts(layers["0"]) == ("Conv1d", None, 4, (1,))
    assert facts(layers["2"]) == ("Linear", 6, 4, ())
    assert layers["fc"].evidence == "shape"
    assert layers["fc"].layout == (Maker.PADDLE, KnownFrom.NAMES)
    assert layers["embed"].kind == "Embedding"
    assert "Paddle layout: a Linear is (in, out), as the tensors' names say" in run("shapes", path).stdout
    for to, name in (("linear", "0"), ("conv1d", "2")):
        with pytest.raises(CannotConvert, match=r"a Linear is \(in, out\), a convolution \(out, in"):
            convert(path, tmp_path / "x.safetensors", Options(to=to, layer=(name,)))


def test_paddle_like_pytorch_turns_square_matrices_too(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", PADDLE)
    theirs = {name: shape for name, shape in PADDLE.items() if not name.startswith("1._")}
    other = write(tmp_path / "t.safetensors", {**theirs, "2.weight": (4, 6)})
    convert(path, tmp_path / "o.safetensors", Options(like=other))
    before, after = load_file(path), load_file(tmp_path / "o.safetensors")
    assert np.array_equal(after["2.weight"], before["2.weight"].T)
    assert np.array_equal(after["0.weight"], before["0.weight"])


def test_paddle_like_pytorch_is_verified_layer_by_layer(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", PADDLE)
    other = write(tmp_path / "t.safetensors", {**PADDLE, "2.weight": (4, 6), "0.weight": (4, 6)})
    done = run("convert", path, "-o", tmp_path / "o.safetensors", "--like", other)
    assert done.returncode == 0, done.stderr
    before, after = load_file(path), load_file(tmp_path / "o.safetensors")
    assert np.array_equal(after["0.weight"], before["0.weight"][..., 0])
    # Paddle's Conv1D takes (N, C, L), as PyTorch's does.
    assert "takes (N, C, L) → takes (N, …, C): x.movedim(1, -1)" in done.stdout
    assert "channels are last in both" not in done.stdout
    for pair in ((path, tmp_path / "o.safetensors"), (tmp_path / "o.safetensors", path)):
        report = verify(*pair)
        assert report.equal
        assert {layer.name for layer in report.layers} == {"0", "2", "fc"}
        assert report.unchanged == len(PADDLE) - 3
    for name in ("2.weight", "fc.weight"):
        save_file({**after, name: after[name] + 1}, tmp_path / "w.safetensors")
        assert not verify(path, tmp_path / "w.safetensors").equal


def test_spconv_is_known_by_its_shapes_and_left(tmp_path: Path) -> None:
    shapes = {"a.weight": (16, 3, 3, 3, 4), "b.weight": (32, 3, 3, 3, 16), "c.weight": (32, 3, 1, 1, 32)}
    torch.save({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "2.pt")
    first = {name: torch.zeros(shape).permute(1, 2, 3, 4, 0).contiguous() for name, shape in shapes.items()}
    torch.save({**first, "d.weight": torch.zeros(1, 1, 1, 32, 8)}, tmp_path / "1.pt")
    for file, maker in (("1.pt", Maker.SPCONV_1), ("2.pt", Maker.SPCONV_2)):
        layers = layers_of(tmp_path / file)
        assert {name: layer.kernel_size for name, layer in layers.items() if name < "d"} == {
            "a": (3, 3, 3), "b": (3, 3, 3), "c": (3, 1, 1),
        }  # fmt: skip
        assert {layer.layout for layer in layers.values()} == {(maker, KnownFrom.LIKELY)}
        assert {layer.evidence for layer in layers.values()} == {"ambiguous"}
    with pytest.raises(CannotConvert, match="spconv 1's sparse convolutions"):
        convert(tmp_path / "1.pt", tmp_path / "x.pt", Options(to="linear", from_=("conv3d",), layer=("d",)))


def test_oblong_kernels_of_pytorch_are_not_spconvs(tmp_path: Path) -> None:
    state = {"a.weight": torch.zeros(64, 64, 3, 1, 1), "b.weight": torch.zeros(2, 2, 2, 1, 1),
             "c.weight": torch.zeros(8, 3, 3, 3, 5), "d.weight": torch.zeros(8, 1, 1, 1, 64)}  # fmt: skip
    torch.save(state, tmp_path / "m.pt")
    assert all(layer.layout is None for layer in layers_of(tmp_path / "m.pt").values())


# ----------------------------------------------------------------------------------------- with the makers themselves
