"""Loads converted files strictly into the model code of the packages that they come from, and compares outputs.

    python own_code.py JOBS.json

A job is {"package", "folder": the unpacked wheel, "file": the original in it, "converted": the same with its "layers",
all of them of kind "to" there, "root": the state_dict's place in it}. What a package imports beyond PyTorch and does
not need to build its model (readers of sound and pictures) has a stand-in. Prints each one's largest output and
difference.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import torch
from safetensors.torch import load_file
from torch import nn

from convinspect.modules import swap_pointwise

RENAMED: dict[str, str] = {}
"""What names in the file begin with → what they begin with in the code."""
Run = Callable[[Any], torch.Tensor]
ABSENT = {
    "audioread", "fire", "librosa", "local_attention", "nptyping", "pandas", "pkg_resources", "pythainlp",
    "python_crfsuite", "scipy", "soundfile", "ssg", "torchaudio", "torchvision", "tqdm", "yaml",
}  # fmt: skip


class StandIns(MetaPathFinder, Loader):
    """Empty modules for what is not installed and no model needs."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        return ModuleSpec(fullname, self, is_package=True) if fullname.partition(".")[0] in ABSENT else None

    def create_module(self, spec: ModuleSpec) -> Any:
        module = MagicMock(name=spec.name)
        module.__path__ = []
        return module

    def exec_module(self, module: ModuleType) -> None:
        pass


def bare(folder: Path, *packages: str) -> None:
    """Packages whose `__init__`, which imports much else, is not run."""
    for name in packages:
        sys.modules[name] = package = ModuleType(name)
        package.__path__ = [str(folder.joinpath(*name.split(".")))]


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def pesto(folder: Path, checkpoint: Any) -> tuple[nn.Module, str, Run]:
    bare(folder, "pesto")
    # The code has had a level more there since this file was made; the package loads it all the same, not strictly.
    RENAMED["prefilt_layers.0."] = "prefilt_layers.0.0."
    encoder = importlib.import_module("pesto.model").Resnet1d(**checkpoint["hparams"]["encoder"])
    return encoder, "encoder.", lambda model: model(noise(3, 1, 264))


def perth(folder: Path, checkpoint: Any) -> tuple[nn.Module, str, Run]:
    bare(folder, "perth", "perth.perth_net", "perth.perth_net.perth_net_implicit")
    at = "perth.perth_net.perth_net_implicit.model"
    default = importlib.import_module("perth.perth_net.perth_net_implicit.config").default_hp
    subband = importlib.import_module(at).compute_subband_freq(default)
    encoder = importlib.import_module(f"{at}.encoder").Encoder(default.hidden_size, subband)
    return encoder, "encoder.", lambda model: model(noise(2, 1025, 9))[0]


class Tinygrad(torch.Tensor):
    """A tensor with the methods that tinygrad's has and PyTorch's lacks."""

    def pad(self, widths: tuple[int, ...], mode: str) -> torch.Tensor:
        return nn.functional.pad(self, widths, mode)

    def stack(self, other: torch.Tensor, dim: int) -> torch.Tensor:
        return torch.stack([self, other], dim)


def silero_vad(folder: Path, checkpoint: Any) -> tuple[nn.Module, str, Run]:
    """Its code for this file is written for tinygrad, whose layers are called as PyTorch's are."""
    bare(folder, "silero_vad")
    sys.modules["tinygrad"] = tinygrad = ModuleType("tinygrad")
    tinygrad.nn = nn  # type: ignore[attr-defined]
    code: Any = importlib.import_module("silero_vad.tinygrad_model").TinySileroVAD

    class Model(code, nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            nn.Module.__init__(self)
            code.__init__(self)

    return Model(), "", lambda model: model(noise(2, 576).as_subclass(Tinygrad))[0]


def lpips(folder: Path, checkpoint: Any) -> tuple[nn.Module, str, Run]:
    code = importlib.import_module("lpips.lpips")
    widths = [weight.shape[1] for weight in checkpoint.values()]
    model = nn.ModuleDict({f"lin{n}": code.NetLinLayer(width, use_dropout=True) for n, width in enumerate(widths)})

    def distance(model: Any) -> torch.Tensor:
        parts = [code.spatial_average(model[f"lin{n}"](noise(2, width, 4, 4))) for n, width in enumerate(widths)]
        return torch.stack(parts).sum(0)

    return model, "", distance


def facenet(folder: Path, checkpoint: Any) -> tuple[nn.Module, str, Run]:
    bare(folder, "facenet_pytorch", "facenet_pytorch.models")
    code = importlib.import_module("facenet_pytorch.models.mtcnn")
    kind, size = ("PNet", 24) if "conv4_1.weight" in checkpoint else ("RNet", 24)
    if "conv4.weight" in checkpoint:
        kind, size = "ONet", 48
    model = getattr(code, kind)(pretrained=False)
    return model, "", lambda model: torch.cat([part.flatten() for part in model(noise(2, 3, size, size))])


def torchfcpe(folder: Path, checkpoint: Any) -> tuple[nn.Module, str, Run]:
    bare(folder, "torchfcpe")
    options = checkpoint["config_dict"]["model"]
    wanted = ("out_dims", "hidden_dims", "n_layers", "n_heads", "f0_max", "f0_min", "use_fa_norm", "conv_only",
              "use_harmonic_emb")  # fmt: skip
    bins = checkpoint["config_dict"]["mel"]["num_mels"]
    model = importlib.import_module("torchfcpe.models").CFNaiveMelPE(
        bins, **{name: options[name] for name in wanted if name in options}
    )
    return model, "", lambda model: model(noise(1, 7, bins))


def batdetect2(folder: Path, checkpoint: Any) -> tuple[nn.Module, str, Run]:
    bare(folder, "batdetect2", "batdetect2.detector")
    params = checkpoint["params"]
    model = importlib.import_module("batdetect2.detector.models").Net2DFast(
        params["num_filters"],
        len(params["class_names"]),
        params["emb_dim"],
        params["ip_height"],
        params["resize_factor"],
    )
    return model, "", lambda model: model(noise(1, 1, params["ip_height"], 64)).pred_class


def cosmic_conn(folder: Path, checkpoint: Any) -> tuple[nn.Module, str, Run]:
    bare(folder, "cosmic_conn", "cosmic_conn.dl_framework")
    norm = "batch" if any(key.endswith("running_mean") for key in checkpoint) else "group"
    weight = next(iter(checkpoint.values()))
    unet = importlib.import_module("cosmic_conn.dl_framework.unet").UNet_module
    first = next(iter(checkpoint))
    model = unet(weight.shape[1], 1, weight.shape[0], norm, [8, 0, False], "unet", "avgpool", "deconv", False)
    return model, first.partition("inc.")[0], lambda model: model(noise(1, 1, 16, 16))


def legere(folder: Path, checkpoint: Any) -> tuple[nn.Module, str, Run]:
    bare(folder, "legere")
    code = importlib.import_module("legere.model")
    model = code.CompactCRNN() if "charset" in checkpoint else code.LineClassifier()
    return model, "", lambda model: model(noise(2, 1, 32, 64))


def attacut(folder: Path, checkpoint: Any) -> tuple[nn.Module, str, Run]:
    bare(folder, "attacut")
    sys.modules["attacut"].logger = importlib.import_module("attacut.logger")  # type: ignore[attr-defined]
    vocabulary, width = checkpoint["embeddings.weight"].shape
    filters, hidden = checkpoint["conv1.conv.weight"].shape[0], checkpoint["linear1.weight"].shape[0]
    model = importlib.import_module("attacut.models.seq_ch_conv").Model(
        {"num_tokens": vocabulary}, f"emb:{width}|conv:{filters}|l1:{hidden}|do:0.0"
    )
    return model, "", lambda model: model((torch.arange(12).reshape(2, 6), torch.tensor([6, 6])))


def rxnmapper(folder: Path, checkpoint: Any) -> tuple[nn.Module, str, Run]:
    transformers = importlib.import_module("transformers")
    where = folder / "rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k"
    config = transformers.AlbertConfig.from_json_file(where / "config.json")
    config._attn_implementation = "eager"
    model = transformers.AlbertModel(config, add_pooling_layer=True)
    return model, "albert.", lambda model: model(torch.arange(8)[None]).last_hidden_state


MODELS: dict[str, Callable[[Path, Any], tuple[nn.Module, str, Run]]] = {
    "pesto-pitch": pesto, "resemble-perth": perth, "silero-vad": silero_vad,
    "lpips": lpips, "facenet-pytorch": facenet, "torchfcpe": torchfcpe,
    "batdetect2": batdetect2, "cosmic-conn": cosmic_conn, "legere": legere, "attacut": attacut, "rxnmapper": rxnmapper,
}  # fmt: skip


def loaded(path: Path) -> Any:
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)


def part(checkpoint: Any, root: str, prefix: str) -> dict[str, torch.Tensor]:
    """The state_dict of the model that was built, without the rest of the file."""
    for key in root.split(".") if root else []:
        checkpoint = checkpoint[key]
    found = {key.removeprefix(prefix): value for key, value in checkpoint.items() if key.startswith(prefix)}
    for old, new in RENAMED.items():
        found = {key.replace(old, new): value for key, value in found.items()}
    return found


def outcome(job: dict[str, Any]) -> dict[str, float]:
    """How many layers the model has that were converted, its largest output, and the largest difference."""
    RENAMED.clear()
    sys.path.insert(0, job["folder"])
    before = loaded(Path(job["folder"], job["file"]))
    model, prefix, run = MODELS[job["package"]](Path(job["folder"]), before)
    model.load_state_dict(part(before, job["root"], prefix), strict=True)
    model.eval()
    expected = run(model)
    names = [name.removeprefix(prefix) for name in job["layers"] if name.startswith(prefix)]
    swaps = swap_pointwise(model, job["to"].lower(), names)
    assert sorted(one.name for one in swaps.swapped) == sorted(names), swaps.left
    # Other numbers first, so that those of the file are seen to be taken.
    for parameter in model.parameters():
        parameter.zero_()
    model.load_state_dict(part(loaded(Path(job["converted"])), job["root"], prefix), strict=True)
    found = run(model)
    assert found.shape == expected.shape
    return {
        "layers": len(names),
        "largest": float(expected.abs().max()),
        "off": float((found - expected).abs().max()),
    }


def main(jobs: str) -> None:
    sys.meta_path.append(StandIns())
    with torch.no_grad():
        print(json.dumps([outcome(job) for job in json.loads(Path(jobs).read_text(encoding="utf-8"))]))


if __name__ == "__main__":
    main(sys.argv[1])
