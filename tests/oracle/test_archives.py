"""Archives of checkpoints as their own tools make them: TorchServe's archiver, diffusers' DDUF."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import convinspect


def test_a_model_archive_of_torchserve(tmp_path: Path) -> None:
    pytest.importorskip("model_archiver")
    model = torch.nn.Sequential(torch.nn.Conv1d(3, 6, 1), torch.nn.Linear(6, 2))
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    (tmp_path / "handler.py").write_text("def handle(data, context): return data\n")
    for form in ("default", "tgz"):
        command = [
            sys.executable, "-m", "model_archiver.model_packaging", "--model-name", f"m_{form}", "--version", "1",
            "--serialized-file", "weights.pth", "--handler", "handler.py", "--archive-format", form,
            "--export-path", ".",
        ]  # fmt: skip
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    for name, kind in (("m_default.mar", "a zip archive"), ("m_tgz.tar.gz", "a gzip-compressed tar archive")):
        checkpoint = convinspect.open(tmp_path / name)
        assert checkpoint.format == f"torch.save (zip), in {kind}"
        for key, value in model.state_dict().items():
            assert np.array_equal(checkpoint.read(key), value.numpy())
        convinspect.convert(tmp_path / name, tmp_path / f"{name}.pt", to="linear")
        assert convinspect.verify(tmp_path / name, tmp_path / f"{name}.pt").equal


def test_dduf(tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    folder = tmp_path / "pipeline"
    state = {"proj.weight": torch.randn(8, 4, 1, 1), "proj.bias": torch.randn(8)}
    for part in ("unet", "vae"):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text("{}")
        save_file(state, folder / part / "diffusion_pytorch_model.safetensors")
    (folder / "model_index.json").write_text('{"unet": ["diffusers", "UNet"], "vae": ["diffusers", "VAE"]}')
    hub.export_folder_as_dduf(tmp_path / "p.dduf", folder_path=folder)
    with pytest.raises(convinspect.ConvInspectError, match="holds 2 checkpoints") as caught:
        convinspect.open(tmp_path / "p.dduf")
    assert "p.dduf!unet/diffusion_pytorch_model.safetensors" in str(caught.value)
    name = f"{tmp_path / 'p.dduf'}!vae/diffusion_pytorch_model.safetensors"
    for key, value in state.items():
        assert np.array_equal(convinspect.open(name).read(key), value.numpy())
    convinspect.convert(name, tmp_path / "new.dduf", to="linear", from_="conv2d")
    entries = hub.read_dduf_file(tmp_path / "new.dduf")
    with entries["vae/diffusion_pytorch_model.safetensors"].as_mmap() as data:
        from safetensors.torch import load

        assert load(bytes(data))["proj.weight"].shape == (8, 4)
    with entries["unet/diffusion_pytorch_model.safetensors"].as_mmap() as data:
        assert load(bytes(data))["proj.weight"].shape == (8, 4, 1, 1)
