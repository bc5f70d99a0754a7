"""Writes the texts beside it: `python tests/error_texts/write_texts.py [NAME …]`, with the packages that are installed.

A text that a package writes is made by running it; of those that do not install any more, or need a cluster, the form of
the message is written down here. What is right to read is known from the shapes, not from a reader of texts. Texts of
packages that are not installed stay as they are.
"""
# Messages stand in one line, as they are printed.
# ruff: noqa: E501

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent))

from support.breaking import COLLECTORS, CONSOLES, Breaker  # noqa: E402
from support.diffing import Holder, zeros  # noqa: E402

Shapes = dict[str, tuple[int, ...]]
Row = list[Any]

MODEL: Shapes = {
    "stem.conv.weight": (64, 3, 7, 7), "stem.conv.bias": (64,), "blocks.0.proj.weight": (128, 64),
    "blocks.0.proj.bias": (128,), "blocks.1.proj.weight": (128, 64), "blocks.10.norm.weight": (128,),
    "head.fc1.weight": (256, 128), "head.out.weight": (10, 256), "head.out.bias": (10,), "scale": (),
}  # fmt: skip
STATE: Shapes = {
    "stem.conv.weight": (64, 3, 7, 7), "stem.conv.bias": (64,), "blocks.0.proj.weight": (128, 64, 1),
    "blocks.0.proj.bias": (128,), "blocks.1.proj.weight": (128, 64, 1, 1), "blocks.10.norm.weight": (128,),
    "head.fc1.weight": (256, 128), "head.out.weight": (1000, 256), "head.out.bias": (1000,),
    "ema.decay": (1,), "head.extra_long_name_of_a_layer.weight": (3, 3),
}  # fmt: skip
WIDE_MODEL: Shapes = {f"encoder.layers.{n}.self_attn.in_proj_weight": (768, 256) for n in range(14)}
WIDE_STATE: Shapes = {f"module.encoder.layers.{n}.self_attn.in_proj_weight": (768, 256) for n in range(14)}


def rows(model: Shapes, state: Shapes) -> list[Row]:
    """What is right to read."""
    found: list[Row] = [["missing", key, None, None] for key in model if key not in state]
    found += [["unexpected", key, None, None] for key in state if key not in model]
    for key, shape in model.items():
        if key in state and state[key] != shape:
            found.append(["size mismatch", key, list(state[key]), list(shape)])
    return found


def only(trouble: str, found: Iterable[Row]) -> list[Row]:
    return [row for row in found if row[0] == trouble]


class Text:
    """One text with what is right to read of it."""

    def __init__(self, text: str, found: list[Row], made: str, stops: str = "", **more: Any) -> None:
        self.text, self.head = text, {"made": made, "rows": found, "stops": stops, **more}


def raised(call: Callable[[], object]) -> str:
    """The traceback of a call, as a console shows it, without the paths of this machine."""
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            call()
    except BaseException:  # torch.distributed.checkpoint's are no Exceptions.
        return public(traceback.format_exc())
    raise AssertionError("it loaded")


def public(text: str) -> str:
    """A text without the paths of this machine."""
    for path in (*sys.path, str(HERE.parent.parent), sys.prefix):
        text = text.replace(path, "/home/user/lib") if len(path) > 4 else text
    return text


# ------------------------------------------------------------------------------------------------- packages that run


def torch_strict() -> Text:
    text = raised(lambda: Holder(MODEL).load_state_dict(zeros(STATE)))
    return Text(text, rows(MODEL, STATE), f"torch {torch.__version__}")


def torch_prefix() -> Text:
    text = raised(lambda: Holder(WIDE_MODEL).load_state_dict(zeros(WIDE_STATE)))
    return Text(text, rows(WIDE_MODEL, WIDE_STATE), f"torch {torch.__version__}")


def torch_not_strict() -> Text:
    model = {key: shape for key, shape in MODEL.items() if STATE.get(key, shape) == shape}
    state = {key: shape for key, shape in STATE.items() if MODEL.get(key, shape) == shape}
    text = f"{Holder(model).load_state_dict(zeros(state), strict=False)!r}\n"
    return Text(f"loading pretrained weights\n{text}done\n", rows(model, state), f"torch {torch.__version__}")


def torch_not_copied() -> Text:
    state: dict[str, Any] = {"x": torch.rand(3, 2).to_sparse(), "y": 3, "z": torch.zeros(2, 3)}
    text = raised(lambda: Holder({"x": (3, 2), "y": (2,), "z": (2, 4)}).load_state_dict(state))
    found: list[Row] = [["not copied", "x", [3, 2], [3, 2]], ["not copied", "y", None, None]]
    return Text(text, [*found, ["size mismatch", "z", [2, 3], [2, 4]]], f"torch {torch.__version__}")


def torch_optimizer() -> Text:
    """Nothing of a key is said, and the model's own complaint stands before it."""
    text = raised(lambda: Holder(MODEL).load_state_dict(zeros(STATE)))
    one, two = (torch.optim.SGD([nn.Parameter(torch.zeros(1))] * 1, lr=1) for _ in range(2))
    two.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    more = raised(lambda: one.load_state_dict(two.state_dict()))
    return Text(text + more, rows(MODEL, STATE), f"torch {torch.__version__}", unread=1)


def torch_dcp_size() -> Text:
    return Text(*_dcp({"a.weight": (4, 6)}, {"a.weight": (4, 6, 1)}), stops="torch.distributed.checkpoint")


def torch_dcp_missing() -> Text:
    return Text(*_dcp({"layers.0.norm.weight": (4,)}, {"a": (4,)}), stops="torch.distributed.checkpoint")


def _dcp(model: Shapes, state: Shapes) -> tuple[str, list[Row], str]:
    checkpoint = import_module("torch.distributed.checkpoint")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checkpoint.save(zeros(state), checkpoint_id=folder, no_dist=True)
        text = raised(lambda: checkpoint.load(zeros(model), checkpoint_id=folder, no_dist=True))
    found = [row for row in rows(model, state) if row[0] != "unexpected"]
    return text, found, f"torch {torch.__version__}"


def safetensors_model() -> Text:
    module = import_module("safetensors.torch")
    model = {key: shape for key, shape in MODEL.items() if STATE.get(key, shape) == shape}
    state = {key: shape for key, shape in STATE.items() if MODEL.get(key, shape) == shape}
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.safetensors"
        module.save_file(zeros(state), path)
        text = raised(lambda: module.load_model(Holder(model), path))
    return Text(text, rows(model, state), f"safetensors {version('safetensors')}")


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(self.format(record))


def _bert(colours: bool = False, ignore: bool = True) -> tuple[str, list[Row]]:
    transformers = import_module("transformers")
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 12, "intermediate_size": 64}
    config = transformers.BertConfig(vocab_size=50, **sizes)
    kept = _Kept()
    transformers.utils.logging.get_logger("transformers").addHandler(kept)
    with tempfile.TemporaryDirectory() as folder:
        saved = transformers.BertForSequenceClassification(config)
        state = saved.state_dict()
        state["classifier.weight"] = torch.zeros(7, 32)
        state["classifier.bias"] = torch.zeros(7)
        for n in range(12):
            key = f"bert.encoder.layer.{n}.intermediate.dense.weight"
            state[key] = state[key].unsqueeze(-1)
        del state["bert.pooler.dense.bias"]
        state["bert.old.weight"] = torch.zeros(3)
        saved.save_pretrained(folder, state_dict=dict(state))
        with redirect_stderr(io.StringIO()), redirect_stdout(_Terminal() if colours else io.StringIO()):
            try:
                loaded = type(saved).from_pretrained(folder, ignore_mismatched_sizes=ignore)
                ended = ""
            except Exception:
                loaded, ended = saved, traceback.format_exc()
    text = "\n".join([*kept.said, ended]).replace(folder, "/home/user/model")
    text = public(text)
    model = {key: tuple(value.shape) for key, value in loaded.state_dict().items()}
    found = rows(model, {key: tuple(value.shape) for key, value in state.items()})
    transformers.utils.logging.get_logger("transformers").removeHandler(kept)
    return text, [row for row in found if "position_ids" not in row[1]]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _transformers(major: int) -> str:
    if int(version("transformers").split(".")[0]) != major:
        raise ImportError(f"transformers {major} is not installed")
    return f"transformers {version('transformers')}"


def transformers5_report() -> Text:
    return Text(*_bert(), made=_transformers(5), folded=True)


def transformers5_report_in_colours() -> Text:
    return Text(*_bert(colours=True), made=_transformers(5), folded=True)


def transformers5_error() -> Text:
    return Text(*_bert(ignore=False), made=_transformers(5), folded=True)


def transformers4_warnings() -> Text:
    made = _transformers(4)
    text, found = _bert()
    return Text(text, found, made)


def transformers4_error() -> Text:
    made = _transformers(4)
    text, _ = _bert(ignore=False)
    # It loads module by module, so that PyTorch knows the last part of the key alone.
    return Text(text, [["size mismatch", "weight", [64, 32, 1], [64, 32]]], made)


def accelerate_modeling() -> Text:
    modeling = import_module("accelerate.utils.modeling")
    model = Holder({"proj.weight": (8, 6)})
    text = raised(lambda: modeling.set_module_tensor_to_device(model, "proj.weight", "cpu", torch.zeros(8, 6, 1)))
    row: Row = ["size mismatch", "weight", [8, 6, 1], [8, 6]]
    return Text(text, [row], f"accelerate {version('accelerate')}", "accelerate", partial=True)


def _diffusers_net(linear: bool) -> Any:
    diffusers = import_module("diffusers")
    register = import_module("diffusers.configuration_utils").register_to_config

    class Net(diffusers.ModelMixin, diffusers.ConfigMixin):  # type: ignore[misc, name-defined]
        @register  # type: ignore[untyped-decorator]
        def __init__(self) -> None:
            super().__init__()
            self.proj_in = nn.Linear(6, 8) if linear else nn.Conv2d(6, 8, 1)

    return Net


def diffusers_expected() -> Text:
    with tempfile.TemporaryDirectory() as folder:
        _diffusers_net(linear=False)().save_pretrained(folder)
        text = raised(lambda: _diffusers_net(linear=True).from_pretrained(folder)).replace(folder, "/home/user/model")
    row: Row = ["size mismatch", "proj_in.weight", [8, 6, 1, 1], [8, 6]]
    return Text(text, [row], f"diffusers {version('diffusers')}", "diffusers")


def diffusers_ignored() -> Text:
    kept = _Kept()
    logger = logging.getLogger("diffusers")
    logger.addHandler(kept)
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(io.StringIO()):
        _diffusers_net(linear=False)().save_pretrained(folder)
        _diffusers_net(linear=True).from_pretrained(folder, ignore_mismatched_sizes=True, low_cpu_mem_usage=False)
    logger.removeHandler(kept)
    row: Row = ["size mismatch", "proj_in.weight", [8, 6, 1, 1], [8, 6]]
    text = "\n".join(kept.said).replace(folder, "/home/user/model")
    return Text(text, [row], f"diffusers {version('diffusers')}")


def _peft(ignore: bool) -> tuple[str, list[Row], str]:
    peft = import_module("peft")
    base = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4))
    model = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=["0", "1"]))
    state = peft.get_peft_model_state_dict(model)
    state["base_model.model.0.lora_A.weight"] = torch.zeros(4, 6, 1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        text = "" if ignore else raised(lambda: peft.set_peft_model_state_dict(model, state))
        if ignore:
            peft.set_peft_model_state_dict(model, state, ignore_mismatched_sizes=True)
            text = "\n".join(f"/home/user/lib/peft/utils.py:10: UserWarning: {one.message}" for one in said)
    row: Row = ["size mismatch", "base_model.model.0.lora_A.default.weight", [4, 6, 1], [4, 6]]
    return text, [row], f"peft {version('peft')}"


def peft_error() -> Text:
    return Text(*_peft(ignore=False))


def peft_ignored() -> Text:
    return Text(*_peft(ignore=True))


def _mlx(weights: dict[str, tuple[int, ...]]) -> tuple[str, str]:
    mx, mlx = import_module("mlx.core"), import_module("mlx.nn")
    model = mlx.Sequential(mlx.Linear(6, 8), mlx.Linear(8, 4))
    text = raised(lambda: model.load_weights([(key, mx.zeros(shape)) for key, shape in weights.items()]))
    return text, f"mlx {version('mlx')}"


_MLX: Shapes = {
    "layers.0.weight": (8, 6), "layers.0.bias": (8,), "layers.1.weight": (4, 8), "layers.1.bias": (4,),
}  # fmt: skip


def mlx_size() -> Text:
    state = {**_MLX, "layers.0.weight": (8, 6, 1)}
    text, made = _mlx(state)
    return Text(text, rows(_MLX, state), made, "MLX")


def mlx_missing() -> Text:
    state = {key: _MLX[key] for key in ("layers.0.weight", "layers.1.bias")}
    text, made = _mlx(state)
    return Text(text, rows(_MLX, state), made, "MLX")


def mlx_unexpected() -> Text:
    state = {**_MLX, "layers.2.weight": (1,), "layers.2.biases": (1,), "rope.freqs": (2,)}
    text, made = _mlx(state)
    return Text(text, rows(_MLX, state), made, "MLX")


def _tinygrad(state: Shapes) -> tuple[str, str]:
    tinygrad, module = import_module("tinygrad"), import_module("tinygrad.nn")

    class Net:
        def __init__(self) -> None:
            self.fc = module.Linear(6, 8)

    given = {key: tinygrad.Tensor.zeros(*shape) for key, shape in state.items()}
    text = raised(
        lambda: import_module("tinygrad.nn.state").load_state_dict(Net(), given, verbose=False, realize=False)
    )
    return text, f"tinygrad {version('tinygrad')}"


def tinygrad_size() -> Text:
    text, made = _tinygrad({"fc.weight": (8, 6, 1), "fc.bias": (8,)})
    return Text(text, [["size mismatch", "fc.weight", [8, 6, 1], [8, 6]]], made, "tinygrad")


def tinygrad_missing() -> Text:
    text, made = _tinygrad({"fc.weight": (8, 6)})
    return Text(text, [["missing", "fc.bias", None, None]], made, "tinygrad")


def mmengine_strict() -> Text:
    load = import_module("mmengine.runner.checkpoint").load_state_dict
    text = raised(lambda: load(Holder(MODEL), zeros(STATE), strict=True))
    return Text(text, rows(MODEL, STATE), f"mmengine {version('mmengine')}")


def mmengine_not_strict() -> Text:
    load = import_module("mmengine.runner.checkpoint").load_state_dict
    said = io.StringIO()
    with redirect_stdout(said):
        load(Holder(MODEL), zeros(STATE), strict=False, logger="current")
        kept = _Kept()
        logger = import_module("mmengine.logging").MMLogger.get_instance("texts")
        logger.addHandler(kept)
        load(Holder(MODEL), zeros(STATE), strict=False, logger="texts")
    stamp = "2026/03/01 12:00:00 - mmengine - "
    text = f"{stamp}INFO - Load checkpoint from /home/user/a.pth\n{stamp}WARNING - {kept.said[0]}\n{stamp}INFO - done\n"
    return Text(text, rows(MODEL, STATE), f"mmengine {version('mmengine')}")


def lightning_error() -> Text:
    lightning = import_module("lightning.pytorch")

    class Net(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = Holder(MODEL)

    state = {f"net.{key}": value for key, value in zeros(STATE).items()}
    checkpoint = {"state_dict": state, "pytorch-lightning_version": lightning.__version__}
    with tempfile.TemporaryDirectory() as folder:
        torch.save(checkpoint, f"{folder}/last.ckpt")
        text = raised(lambda: Net.load_from_checkpoint(f"{folder}/last.ckpt")).replace(folder, "/home/user")
    found = [[row[0], f"net.{row[1]}", *row[2:]] for row in rows(MODEL, STATE)]
    return Text(text, found, f"lightning {version('lightning')}")


def lightning_not_strict() -> Text:
    lightning = import_module("lightning.pytorch")
    model = {key: shape for key, shape in MODEL.items() if STATE.get(key, shape) == shape}
    state = {key: shape for key, shape in STATE.items() if MODEL.get(key, shape) == shape}

    class Net(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = Holder(model)

    given = {f"net.{key}": value for key, value in zeros(state).items()}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.save({"state_dict": given, "pytorch-lightning_version": lightning.__version__}, f"{folder}/last.ckpt")
        Net.load_from_checkpoint(f"{folder}/last.ckpt", strict=False)
    text = "\n".join(f"/home/user/lib/saving.py:10: {one.message}" for one in said if "Found keys" in str(one.message))
    found = [[row[0], f"net.{row[1]}", *row[2:]] for row in rows(model, state)]
    return Text(text, found, f"lightning {version('lightning')}")


def rich_traceback() -> Text:
    console = import_module("rich.console").Console(width=88, file=io.StringIO(), force_terminal=True)
    try:
        Holder(MODEL).load_state_dict(zeros(STATE))
    except RuntimeError:
        console.print_exception()
    text = public(console.file.getvalue())
    return Text(text, rows(MODEL, STATE), f"torch {torch.__version__}, rich {version('rich')}")


def rich_log() -> Text:
    console = import_module("rich.console").Console(width=100, file=io.StringIO(), force_terminal=True)
    handler = import_module("rich.logging").RichHandler(console=console)
    try:
        Holder(MODEL).load_state_dict(zeros(STATE))
    except RuntimeError as error:
        handler.emit(logging.LogRecord("train", logging.ERROR, "trainer.py", 33, str(error), None, None))
    text = console.file.getvalue()
    return Text(text, rows(MODEL, STATE), f"torch {torch.__version__}, rich {version('rich')}")


def python_log() -> Text:
    kept = _Kept()
    kept.setFormatter(logging.Formatter("%(asctime)s - %(name)s - %(levelname)s - %(message)s"))
    try:
        Holder(MODEL).load_state_dict(zeros(STATE))
    except RuntimeError:
        record = logging.LogRecord("train", logging.ERROR, "trainer.py", 33, "it failed", None, sys.exc_info())
        kept.emit(record)
    text = public(kept.said[0])
    return Text(text, rows(MODEL, STATE), f"torch {torch.__version__}")


def json_log() -> Text:
    try:
        Holder(MODEL).load_state_dict(zeros(STATE))
    except RuntimeError as error:
        text = json.dumps({"level": "error", "message": repr(error), "rank": 0})
    return Text(text, rows(MODEL, STATE), f"torch {torch.__version__}")


def accelerate_unused() -> Text:
    modeling = import_module("accelerate.utils.modeling")
    kept = _Kept()
    kept.setFormatter(logging.Formatter(logging.BASIC_FORMAT))
    logging.getLogger("accelerate").addHandler(kept)
    state = {"proj.weight": (8, 6), "ema.decay": (1,), "old.weight": (2,)}
    with tempfile.TemporaryDirectory() as folder:
        torch.save(zeros(state), f"{folder}/a.bin")
        model = Holder({"proj.weight": (8, 6)})
        modeling.load_checkpoint_in_model(model, f"{folder}/a.bin", device_map={"": "cpu"})
        text = "\n".join(kept.said).replace(folder, "/home/user") + "\n"
    logging.getLogger("accelerate").removeHandler(kept)
    return Text(text, rows({"proj.weight": (8, 6)}, state), f"accelerate {version('accelerate')}")


def timm() -> Text:
    # torchvision's operators need a build that fits PyTorch's; nothing here calls them.
    operators = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        form = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        operators.define(form)  # type: ignore[no-untyped-call]
    module = import_module("timm")
    kept = _Kept()
    kept.setFormatter(logging.Formatter(logging.BASIC_FORMAT))
    logger = logging.getLogger("timm")
    logger.addHandler(kept)
    logger.setLevel(logging.INFO)
    # Of a classifier of another width it drops what the file has, and says that it is missing.
    model = module.create_model("resnet10t", num_classes=10)
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    state = {
        key: torch.zeros(shape) for key, shape in wanted.items() if key not in ("bn1.weight", "fc.weight", "fc.bias")
    }
    state["ema.decay"] = state["head.old.weight"] = torch.zeros(1)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, f"{folder}/a.pth")
        source = {"file": f"{folder}/a.pth"}
        module.create_model("resnet10t", num_classes=10, pretrained=True, pretrained_cfg_overlay=source)
        text = "\n".join(kept.said).replace(folder, "/home/user") + "\n"
    logger.removeHandler(kept)
    found = rows(wanted, {key: tuple(value.shape) for key, value in state.items()})
    return Text(text, found, f"timm {version('timm')}")


_RANKS = """
import warnings
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, StateDictType, fully_shard

warnings.simplefilter("ignore")
dist.init_process_group("gloo")


def net(out):
    model = nn.Module()
    model.proj, model.head = nn.Linear(6, out), nn.Linear(8, 4)
    return model


def whole():
    model = FullyShardedDataParallel(net(8), device_id=torch.device("cpu"))
    with FullyShardedDataParallel.state_dict_type(model, StateDictType.FULL_STATE_DICT):
        state = {key: value for key, value in model.state_dict().items() if key != "head.bias"}
        state["proj.weight"], state["ema.decay"] = torch.zeros(8, 6, 1), torch.zeros(1)
        model.load_state_dict(state)


def pieces():
    saved, loaded = (fully_shard(net(out), mesh=init_device_mesh("cpu", (2,))) for out in (8, 9))
    dcp.save({"model": saved.state_dict()}, checkpoint_id="FOLDER/dcp")
    dcp.load({"model": loaded.state_dict()}, checkpoint_id="FOLDER/dcp")


CALL()
"""


def _ranks(call: str) -> str:
    """What two processes print."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "train.py")
        script.write_text(_RANKS.replace("CALL", call).replace("FOLDER", folder))
        started = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", str(script)]
        ended = subprocess.run(started, capture_output=True, text=True, timeout=300)
        return public(ended.stderr.replace(folder, "/home/user"))


def fsdp_ranks() -> Text:
    """Only the sizes carry the wrapper's prefix."""
    sizes: Row = ["size mismatch", "_fsdp_wrapped_module.proj.weight", [8, 6, 1], [8, 6]]
    keys: list[Row] = [["missing", "head.bias", None, None], ["unexpected", "ema.decay", None, None]]
    return Text(_ranks("whole"), [*keys, sizes], f"torch {torch.__version__}, FSDP, two processes")


def torch_dcp_ranks() -> Text:
    row: Row = ["size mismatch", "model.proj.weight", [8, 6], [9, 6]]
    made = f"torch {torch.__version__}, fully_shard, two processes"
    return Text(_ranks("pieces"), [row], made, "torch.distributed.checkpoint")


RUN = (
    torch_strict, torch_prefix, torch_not_strict, torch_not_copied, torch_optimizer, torch_dcp_size, torch_dcp_missing,
    safetensors_model, transformers5_report, transformers5_report_in_colours, transformers5_error,
    transformers4_warnings, transformers4_error, accelerate_modeling, diffusers_expected, diffusers_ignored, peft_error,
    peft_ignored, mlx_size, mlx_missing, mlx_unexpected, tinygrad_size, tinygrad_missing, mmengine_strict,
    mmengine_not_strict, lightning_error, lightning_not_strict, rich_traceback, rich_log, python_log, json_log,
    accelerate_unused, timm, fsdp_ranks, torch_dcp_ranks,
)  # fmt: skip


# -------------------------------------------------------------------------------- forms that are written down here


def _size(shape: Iterable[int]) -> str:
    return f"torch.Size({list(shape)})"


def written() -> dict[str, Text]:
    """Texts whose makers do not install beside today's PyTorch, or need a cluster."""
    found = rows(MODEL, STATE)
    sizes = only("size mismatch", found)
    missing = [row[1] for row in only("missing", found)]
    unexpected = [row[1] for row in only("unexpected", found)]
    first = sizes[:1]
    _, key, have, want = first[0]
    texts: dict[str, Text] = {}

    def add(name: str, text: str, right: list[Row], made: str, stops: str = "", **more: Any) -> None:
        texts[name] = Text(text, right, f"the form of {made}", stops, **more)

    lines = [f"\tsize mismatch for {k}: copying a param of {_size(w)} from checkpoint, where the shape is {_size(h)} in "
             "current model." for _, k, h, w in sizes]  # fmt: skip
    names = f"\tMissing key(s) in state_dict: {_quoted(missing)}. \n\tUnexpected key(s) in state_dict: "
    names += f"{_quoted(unexpected)}. \n"
    add("torch_0_4", f"RuntimeError: Error(s) in loading state_dict for Net:\n{names}" + "\n".join(lines) + "\n", found,
        "torch 0.4.1")  # fmt: skip
    lines = [f"\tWhile copying the parameter named {k}, whose dimensions in the model are {_size(w)} and whose "
             f"dimensions in the checkpoint are {_size(h)}." for _, k, h, w in sizes]  # fmt: skip
    add("torch_0_4_0", f"RuntimeError: Error(s) in loading state_dict for Net:\n{names}" + "\n".join(lines) + "\n",
        found, "torch 0.4.0")  # fmt: skip
    add("torch_0_3_unexpected", f"KeyError: 'unexpected key \"{unexpected[0]}\" in state_dict'\n",
        [["unexpected", unexpected[0], None, None]], "torch 0.3", "PyTorch 0.3")  # fmt: skip
    add("torch_0_3_missing", f"KeyError: 'missing keys in state_dict: \"{set(missing)!r}\"'\n".replace("'scale'", "\\'scale\\'"),
        only("missing", found), "torch 0.3", "PyTorch 0.3")  # fmt: skip
    modern = "".join(
        f"\tsize mismatch for {k}: copying a param with shape {_size(h)} from checkpoint, the shape in current model is "
        f"{_size(w)}.\n" for _, k, h, w in sizes
    )  # fmt: skip
    add("fairseq", f"RuntimeError: Error(s) in loading state_dict for TransformerModel:\n{names}{modern}\nDuring handling "
        "of the above exception, another exception occurred:\n\nException: Cannot load model parameters from checkpoint "
        "/home/user/a.pt; please ensure that the architectures match.\n", found, "fairseq 0.12")  # fmt: skip
    zero = [["size mismatch", k, [0], w] for _, k, _, w in sizes]
    emptied = "".join(
        f"\tsize mismatch for {k}: copying a param with shape torch.Size([0]) from checkpoint, the shape in current model "
        f"is {_size(w)}.\n" for _, k, _, w in sizes
    )  # fmt: skip
    add("deepspeed_zero3", f"[2026-03-01 12:00:00,000] [INFO] [engine.py:10:load] loading\nRuntimeError: Error(s) in "
        f"loading state_dict for LlamaForCausalLM:\n{emptied}", zero, "DeepSpeed's ZeRO-3")  # fmt: skip
    table = "+-----+\n| key | expected shape | loaded shape |\n+-----+-----+----+\n" + "".join(
        f"| {k} | {_size(w)} | {_size(h)} |\n+----+-----+---+\n" for _, k, h, w in sizes
    )
    add("mmcv_0_2", "The model and loaded state dict do not match exactly\n\nunexpected key in source state_dict: "
        f"{', '.join(unexpected)}\n\nmissing keys in source state_dict: {', '.join(missing)}\n\n"
        f"these keys have mismatched shape:\n{table}", found, "mmcv 0.2")  # fmt: skip
    add("diffusers_0_20", f"ValueError: Cannot load /home/user/unet because {key} expected shape {_size(want)}, but got "
        f"{_size(have)}. If you want to instead overwrite randomly initialized weights, please make sure to pass both "
        "`low_cpu_mem_usage=False` and `ignore_mismatched_sizes=True`.\n", first, "diffusers 0.20", "diffusers")  # fmt: skip
    add("diffusers_sharded", f"ValueError: Cannot load {key} because it has shape {tuple(have)} in the checkpoint but shape "
        f"{tuple(want)} in UNet2DConditionModel. Pass `ignore_mismatched_sizes=True` to skip it and keep the randomly "
        "initialized weight.\n", first, "diffusers with tensor parallelism", "diffusers")  # fmt: skip
    add("transformers_4_30", f"Some weights of the model checkpoint at bert-base were not used when initializing BertModel: "
        f"{unexpected!r}\n- This IS expected if you are initializing BertModel from the checkpoint of a model trained on "
        f"another task or with another architecture.\nSome weights of BertModel were not initialized from the model "
        f"checkpoint at bert-base and are newly initialized: {missing!r}\nYou should probably TRAIN this model on a "
        "down-stream task to be able to use it for predictions and inference.\n",
        [*only("missing", found), *only("unexpected", found)], "transformers 4.30")  # fmt: skip
    add("speechbrain", "During parameter transfer to Encoder loading from /home/user/a.ckpt, the transferred parameters did "
        f"not have parameters for the key: {missing[0]}\n", [["missing", missing[0], None, None]], "SpeechBrain")  # fmt: skip
    add("detectron2", "".join(
        f"WARNING [03/01 12:00:00 fvcore.common.checkpoint]: Skip loading parameter '{k}' to the model due to incompatible "
        f"shapes: {tuple(h)} in the checkpoint but {tuple(w)} in the model! You might want to double check if this is "
        "expected.\n" for _, k, h, w in sizes), sizes, "detectron2")  # fmt: skip
    add("flax", f"RuntimeError: Error(s) in loading state_dict for Net:\n{modern}\nflax.errors.ScopeParamShapeError: "
        'Initializer expected to generate shape (8, 6) but got shape (6, 8) instead for parameter "kernel" in "/Dense_0".\n',
        sizes, "flax beside PyTorch", unread=1)  # fmt: skip
    add("keras", f"RuntimeError: Error(s) in loading state_dict for Net:\n{modern}\nValueError: Layer 'dense' expected 2 "
        "variables, but received 1 variables during loading. Expected: ['kernel', 'bias']; shape mismatch.\n", sizes,
        "Keras beside PyTorch", unread=1)  # fmt: skip
    return texts


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


# --------------------------------------------------------------------------------------------------------- writing


def _nth(breakers: Sequence[Breaker], place: int) -> Breaker:
    return breakers[place % len(breakers)]


def main() -> None:
    named = sys.argv[1:]
    made: dict[str, Text] = {} if named else written()
    for make in RUN:
        if named and make.__name__ not in named:
            continue
        try:
            made[make.__name__] = make()
        except Exception as error:
            print(f"{make.__name__}: left as it is ({error!r:.300})")
    for name, text in sorted(made.items()):
        head = json.dumps(text.head, ensure_ascii=False)
        (HERE / f"{name}.txt").write_text(f"{head}\n{text.text}", encoding="utf-8", newline="")
    known = {name for name, _ in (*CONSOLES, *COLLECTORS)}
    for path in HERE.glob("*__*.txt"):
        if path.stem.partition("__")[2] in known:
            path.unlink()
    for place, path in enumerate(sorted(path for path in HERE.glob("*.txt") if "__" not in path.stem)):
        head, _, body = path.read_bytes().decode().partition("\n")
        for name, how in (_nth(CONSOLES, place), _nth(CONSOLES, place + 5), _nth(COLLECTORS, place)):
            broken = json.dumps({**json.loads(head), "broken": name}, ensure_ascii=False)
            (HERE / f"{path.stem}__{name}.txt").write_text(
                f"{broken}\n{how(body, place)}", encoding="utf-8", newline=""
            )


if __name__ == "__main__":
    main()
