"""Archives of speech toolkits: what NeMo's and ESPnet's own packers write, and what their unpackers read of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import convinspect
from support.in_process import call_main


def agrees(path: Path, state: dict[str, Any]) -> None:
    """Hold an archive's checkpoint against what its maker reads, and convert it into an archive of the same kind."""
    checkpoint = convinspect.open(path)
    assert [*checkpoint] == [*state]
    for name, theirs in state.items():
        np.testing.assert_array_equal(checkpoint.read(name), theirs.numpy())
    assert call_main("check", path).code == 0
    target = path.with_name(f"new{path.suffix}")
    ended = call_main("convert", path, "--to", "linear", "-o", target)
    assert ended.code == 0, ended.err
    assert call_main("verify", path, target).code == 0


def linear_of(state: dict[str, Any]) -> dict[str, Any]:
    """The same with the kernels of size 1 as matrices."""
    return {name: value.squeeze(-1) if value.ndim == 3 else value for name, value in state.items()}


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_espnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """`espnet_model_zoo` ships such zips."""
    packer: Any = pytest.importorskip("espnet2.main_funcs.pack_funcs")
    monkeypatch.chdir(tmp_path)
    Path("exp").mkdir()
    torch.save(nn.Sequential(nn.Conv1d(4, 6, 1), nn.Linear(6, 3)).state_dict(), "exp/valid.acc.ave.pth")
    Path("exp/config.yaml").write_text("normalize_conf:\n  stats_file: exp/stats.npz\n")
    np.savez("exp/stats.npz", count=3, sum=np.arange(5.0))
    packer.pack(
        files={"asr_model_file": "exp/valid.acc.ave.pth"}, yaml_files={"asr_train_config": "exp/config.yaml"},
        outpath=f"pack{suffix}", option=["exp/stats.npz"],
    )  # fmt: skip
    state = torch.load(packer.unpack(f"pack{suffix}", "before")["asr_model_file"])
    agrees(tmp_path / f"pack{suffix}", state)
    converted = torch.load(packer.unpack(f"new{suffix}", "after")["asr_model_file"])
    nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)).load_state_dict(converted)
    torch.testing.assert_close(dict(converted), linear_of(state), rtol=0, atol=0)
    assert Path("after/exp/stats.npz").read_bytes() == Path("exp/stats.npz").read_bytes()


def test_nemo(tmp_path: Path) -> None:
    nemo: Any = pytest.importorskip("nemo.core")
    config = pytest.importorskip("omegaconf").DictConfig({"width": 4})

    class Small(nemo.ModelPT):  # type: ignore[misc]
        def __init__(self, cfg: Any, trainer: Any = None) -> None:
            super().__init__(cfg, trainer)
            self.encoder, self.decoder = nn.Conv1d(cfg.width, 6, 1), nn.Linear(6, 3)

        def setup_training_data(self, train_data_config: Any) -> None: ...
        def setup_validation_data(self, val_data_config: Any) -> None: ...
        @classmethod
        def list_available_models(cls) -> None: ...

    connector: Any = pytest.importorskip("nemo.core.connectors.save_restore_connector").SaveRestoreConnector

    def read(path: Path, into: str) -> dict[str, Any]:
        connector._unpack_nemo_file(str(path), str(tmp_path / into))
        loaded: dict[str, Any] = connector._load_state_dict_from_disk(tmp_path / into / "model_weights.ckpt", "cpu")
        return loaded

    path = tmp_path / "m.nemo"
    Small(config).save_to(str(path))
    (tmp_path / "before").mkdir()
    state = read(path, "before")
    agrees(path, state)
    (tmp_path / "after").mkdir()
    torch.testing.assert_close(dict(read(tmp_path / "new.nemo", "after")), linear_of(state), rtol=0, atol=0)
    assert (tmp_path / "after/model_config.yaml").read_bytes() == (tmp_path / "before/model_config.yaml").read_bytes()
