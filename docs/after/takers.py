"""Quantizers, adapters and exporters: which forms they take, which they leave in float, and where they raise."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from after.forms import Case, Cells, Row, distance, each, features_last, percent

LEFT = "left in float"


def changed(convert: Callable[[Case], Any]) -> Callable[[], Cells]:
    """Whether a quantizer changes what the model computes, and by how much; it works in place or returns a model."""

    def measure(case: Case) -> str:
        before = case.model(case.data)
        after = (convert(case) or case.model)(case.data)
        return LEFT if torch.equal(before, after) else f"quantized, error {percent(distance(after, before))}"

    return lambda: each(measure)


def torchao(name: str, everything: bool = False, **options: Any) -> Callable[[], Cells]:
    """torchao's `quantize_` with this configuration, with its own filter or on every layer."""

    def convert(case: Case) -> None:
        from torchao import quantization

        wanted = {"filter_fn": lambda module, _: hasattr(module, "weight")} if everything else {}
        quantization.quantize_(case.model, getattr(quantization, name)(**options), **wanted)

    return changed(convert)


def quanto(case: Case) -> None:
    from optimum import quanto

    quanto.quantize(case.model, weights=quanto.qint8)
    quanto.freeze(case.model)


def dynamic(case: Case) -> nn.Module:
    from torch.ao.quantization import quantize_dynamic

    quantized: nn.Module = quantize_dynamic(case.model, {nn.Linear, nn.Conv1d, nn.Conv2d}, dtype=torch.qint8)
    return quantized


def inductor(case: Case) -> Any:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(torch.export.export(case.model, (case.data,)).module(), quantizer)
    prepared(case.data)
    return convert_pt2e(prepared)


def hqq(case: Case) -> nn.Module:
    from hqq.core.quantize import BaseQuantizeConfig
    from hqq.models.hf.base import AutoHQQHFModel

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([case.model])

    model, wanted = Model(), BaseQuantizeConfig(nbits=4, group_size=64)
    AutoHQQHFModel.quantize_model(model, quant_config=wanted, compute_dtype=torch.float32, device="cpu")
    return model.layers[0]


def bitsandbytes(case: Case) -> str:
    from transformers import BitsAndBytesConfig
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear

    config = BitsAndBytesConfig(load_in_8bit=True)
    replace_with_bnb_linear(case.model, modules_to_not_convert=[], quantization_config=config)
    replaced = type(case.layer).__name__
    return LEFT if replaced == case.form else f"replaced by {replaced}"


def compressed(case: Case) -> str:
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        apply_quantization_config,
    )

    targets = ["Linear", "Conv1d", "Conv2d"]
    scheme = QuantizationScheme(targets=targets, weights=QuantizationArgs(num_bits=8, strategy="channel"))
    apply_quantization_config(case.model, QuantizationConfig(config_groups={"all": scheme}))
    return "given scales" if hasattr(case.layer, "weight_scale") else LEFT


def static(case: Case) -> Any:
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    prepared = prepare_fx(case.model, get_default_qconfig_mapping("x86"), (case.data,))
    prepared(case.data)
    return convert_fx(prepared)


def training(case: Case) -> str:
    """torchao's quantization-aware training, float8 training and block sparsity, each on a layer of its own."""
    from torchao.float8 import convert_to_float8_training
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_
    from torchao.quantization.qat import QATConfig
    from torchao.sparsity import sparsify_
    from torchao.sparsity.sparse_api import BlockSparseWeightConfig

    base = Int8DynamicActivationIntxWeightConfig(weight_dtype=torch.int4)
    models = [copy.deepcopy(case.model) for _ in range(3)]
    quantize_(models[0], QATConfig(base, step="prepare"))
    convert_to_float8_training(models[1])
    sparsify_(models[2], BlockSparseWeightConfig(blocksize=32))
    found = [type(models[0][0]).__name__, type(models[1][0]).__name__, type(models[2][0].weight).__name__]
    return "left as it is" if found == [case.form, case.form, "Parameter"] else ", ".join(found)


def sparsified(case: Case) -> str:
    from torch.ao.pruning import WeightNormSparsifier

    sparsifier = WeightNormSparsifier(sparsity_level=0.5)
    sparsifier.prepare(case.model, None)
    sparsifier.step()
    share = float((case.layer.weight == 0).float().mean())
    return f"{percent(share)} zeroed" if share else "left as it is"


def parallel(case: Case) -> str:
    """Over one process, which decides it as well as many."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        parallelize_module(case.model, init_device_mesh("cpu", (1,)), {"0": ColwiseParallel()})
        return f"weight is a {type(case.layer.weight).__name__}"
    finally:
        dist.destroy_process_group()


def gguf(kind: str) -> Callable[[], Cells]:
    def measure(case: Case) -> str:
        from gguf import GGMLQuantizationType, quants

        weight = case.layer.weight.detach().numpy()
        packed = quants.quantize(weight, GGMLQuantizationType[kind])
        back = torch.from_numpy(quants.dequantize(packed, GGMLQuantizationType[kind]))
        return f"quantized, error {percent(distance(back, torch.from_numpy(weight)))}"

    return lambda: each(measure, 256, 256)


def exported(case: Case) -> Any:
    """The ONNX model that `torch.onnx.export` writes."""
    import onnx

    file = io.BytesIO()
    torch.onnx.export(case.model, (case.data,), file, dynamo=True, external_data=False, verbose=False)
    return onnx.load_from_string(file.getvalue())


def onnx_form(case: Case) -> str:
    return ", ".join(node.op_type for node in exported(case).graph.node)


def onnx_output(model: Any, case: Case) -> torch.Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: case.data.numpy()})[0])


def matmul_nbits(case: Case) -> str:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(exported(case), block_size=32, is_symmetric=True)
    quantizer.process()
    model = quantizer.model.model
    if not any(node.op_type == "MatMulNBits" for node in model.graph.node):
        return LEFT
    return f"quantized, error {percent(distance(onnx_output(model, case), case.model(case.data)))}"


def per_channel(case: Case) -> str:
    """Rows of very different size, as a folded BatchNorm leaves them: 0.001 to 10 times the default."""
    import tempfile

    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with torch.no_grad():
        sizes = torch.logspace(-3, 1, 128)
        case.layer.weight.mul_(sizes.reshape(-1, *[1] * (case.layer.weight.ndim - 1)))
        case.layer.bias.zero_()
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(exported(case), f"{folder}/float.onnx")
        quantize_dynamic(f"{folder}/float.onnx", f"{folder}/q.onnx", per_channel=True, weight_type=QuantType.QInt8)
        model = onnx.load(f"{folder}/q.onnx")
    scales = max(max(one.dims, default=1) for one in model.graph.initializer if one.name.endswith("_scale"))
    wanted = features_last(case.model(case.data), case.form).flatten(0, 1)
    got = features_last(onnx_output(model, case), case.form).flatten(0, 1)
    worst = ((got - wanted).norm(dim=0) / wanted.norm(dim=0)).max()
    return f"{'1 scale' if scales == 1 else f'{scales} scales'}, {percent(float(worst))}"


def openvino(case: Case) -> str:
    import nncf
    import openvino

    before = case.model(case.data)
    model = openvino.convert_model(case.model, example_input=case.data)
    model = nncf.compress_weights(
        model, mode=nncf.CompressWeightsMode.INT4_SYM, group_size=64, ratio=1.0, all_layers=True
    )
    types = {one.get_output_element_type(0).get_type_name() for one in model.get_ordered_ops()}
    bits = 4 if types & {"i4", "u4"} else 8
    after = torch.from_numpy(openvino.compile_model(model, "CPU")(case.data.numpy())[0])
    return f"{bits} bits, error {percent(distance(after, before))}"


def coreml(case: Case) -> str:
    import coremltools

    traced = torch.jit.trace(case.model, case.data)
    inputs = [coremltools.TensorType(shape=case.data.shape)]
    model = coremltools.convert(traced, inputs=inputs, minimum_deployment_target=coremltools.target.iOS18)
    ops = model._mil_program.functions["main"].operations
    return ", ".join(one.op_type for one in ops if one.op_type != "const")


def adapters(*names: str, shapes: tuple[str, ...] = (), **options: Any) -> Callable[[], Cells]:
    """Whether peft takes the layer as a target of these methods, by the names of their configurations.

    Args:
        names: Of the configurations.
        shapes: The tensors whose shapes are said too.
        **options: For the configurations.
    """

    def outcome(name: str, layer: nn.Module) -> dict[str, tuple[int, ...]] | str:
        import peft

        wanted = {"target_modules": ["0"], **SETTINGS.get(name, {"r": 4}), **options}
        try:
            model = peft.get_peft_model(nn.Sequential(layer), getattr(peft, name)(**wanted))
        except (ValueError, TypeError):
            return "raises"
        state = peft.get_peft_model_state_dict(model)
        return {key.removesuffix(".weight").rpartition(".")[2]: tuple(value.shape) for key, value in state.items()}

    def measure(case: Case) -> str:
        found = {name: outcome(name, case.layer) for name in names}
        words = {name: one if isinstance(one, str) else "taken" for name, one in found.items()}
        if len(set(words.values())) > 1:
            return ", ".join(f"{name} {word}" for name, word in words.items())
        only = found[names[0]]
        said = [f"{key} {only[key]}" for key in shapes if not isinstance(only, str)]
        return words[names[0]] + f": {', '.join(said)}" * bool(said)

    return lambda: each(measure)


SETTINGS: dict[str, dict[str, Any]] = {
    "AdaLoraConfig": {"init_r": 4, "total_step": 10},
    "IA3Config": {"feedforward_modules": []},
    "OFTConfig": {"oft_block_size": 4},
    "BOFTConfig": {"boft_block_size": 4},
    "FourierFTConfig": {"n_frequency": 10},
    "C3AConfig": {"block_size": 4},
    "RoadConfig": {"group_size": 64},
    "VBLoRAConfig": {"r": 4, "num_vectors": 60, "vector_length": 32},
}

_AO, _ONNX, _PEFT = ("torch", "torchao"), ("torch", "onnx", "onnxscript", "onnxruntime"), ("torch", "peft")

WANTS = (
    ("torchao `Int8WeightOnlyConfig`", _AO, torchao("Int8WeightOnlyConfig")),
    ("torchao `Int8WeightOnlyConfig`, `filter_fn` names the layer", _AO,
     torchao("Int8WeightOnlyConfig", everything=True)),
    ("torchao `IntxWeightOnlyConfig`, int4", _AO, torchao("IntxWeightOnlyConfig", weight_dtype=torch.int4)),
    ("torchao `Int8DynamicActivationInt8WeightConfig`", _AO, torchao("Int8DynamicActivationInt8WeightConfig")),
    ("torchao `X86InductorQuantizer` (PT2E)", _AO, changed(inductor)),
    ("optimum-quanto, qint8", ("torch", "optimum-quanto"), changed(quanto)),
    ("transformers `BitsAndBytesConfig(load_in_8bit=True)`", ("torch", "transformers", "bitsandbytes"),
     lambda: each(bitsandbytes)),
    ("hqq, 4 bits", ("torch", "hqq"), changed(hqq)),
    ("compressed-tensors, 8 bits, targets name all three", ("torch", "compressed-tensors"), lambda: each(compressed)),
    ("`torch.ao.quantization.quantize_dynamic`, set of all three", ("torch",), changed(dynamic)),
    ("`torch.ao.quantization.quantize_fx`, static", ("torch",), changed(static)),
    ("gguf, Q8_0", ("torch", "gguf"), gguf("Q8_0")),
    ("gguf, Q4_0", ("torch", "gguf"), gguf("Q4_0")),
    ("`torch.onnx.export(dynamo=True)` writes", _ONNX, lambda: each(onnx_form)),
    ("onnxruntime `MatMulNBitsQuantizer`, 4 bits", _ONNX, lambda: each(matmul_nbits)),
    ("onnxruntime `quantize_dynamic(per_channel=True)`, worst channel", _ONNX, lambda: each(per_channel)),
    ("OpenVINO, nncf `compress_weights` INT4_SYM", ("torch", "openvino", "nncf"),
     lambda: each(openvino, 256, 256)),
    ("coremltools writes", ("torch", "coremltools"), lambda: each(coreml)),
    ("`torch.ao.pruning.WeightNormSparsifier`", ("torch",), lambda: each(sparsified)),
    ("`ColwiseParallel` (tensor parallel)", ("torch",), lambda: each(parallel)),
    ("torchao: QAT, float8 training, block sparsity", _AO, lambda: each(training)),
    ("peft LoRA", _PEFT, adapters("LoraConfig", shapes=("lora_A", "lora_B"))),
    ("peft DoRA", _PEFT, adapters("LoraConfig", shapes=("lora_magnitude_vector",), use_dora=True)),
    ("peft `target_modules=\"all-linear\"`", _PEFT, adapters("LoraConfig", target_modules="all-linear")),
    ("peft LoHa, LoKr", _PEFT, adapters("LoHaConfig", "LoKrConfig")),
    ("peft IA³", _PEFT, adapters("IA3Config", shapes=("ia3_l",))),
    ("peft AdaLoRA, OFT, BOFT, HRA", _PEFT, adapters("AdaLoraConfig", "OFTConfig", "BOFTConfig", "HRAConfig")),
    ("peft VeRA, FourierFT, MiSS, C3A, RoAd, RandLoRA, SHiRA, VB-LoRA", _PEFT,
     adapters("VeraConfig", "FourierFTConfig", "MissConfig", "C3AConfig", "RoadConfig", "RandLoraConfig",
              "ShiraConfig", "VBLoRAConfig")),
)  # fmt: skip

ROWS = tuple(Row("wants", title, packages, measure) for title, packages, measure in WANTS)
