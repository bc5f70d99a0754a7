"""The files of the conversion tests, verified end to end in their models' real code: outputs and gradients."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from support.in_process import run

pytest.importorskip("transformers", reason="needs transformers, which CI does not install")

CODE = """
import torch, transformers

def vits():
    torch.manual_seed(0)
    return transformers.VitsModel(transformers.VitsConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=24, flow_size=16,
        spectrogram_bins=9, prior_encoder_num_flows=1, posterior_encoder_num_wavenet_layers=1,
        prior_encoder_num_wavenet_layers=1, wavenet_kernel_size=3, upsample_initial_channel=16,
        upsample_rates=[2, 2], upsample_kernel_sizes=[4, 4], resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1]], duration_predictor_num_flows=2, duration_predictor_filter_channels=12,
        depth_separable_num_layers=1))

def conformer():
    torch.manual_seed(0)
    return transformers.Wav2Vec2ConformerModel(transformers.Wav2Vec2ConformerConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, conv_dim=[8, 8],
        conv_kernel=[4, 3], conv_stride=[2, 2], num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
        conv_depthwise_kernel_size=5))

def gpt2():
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=50, n_positions=16, n_embd=8, n_layer=2, n_head=2)
    return transformers.GPT2LMHeadModel(config)
"""


@pytest.mark.parametrize(
    ("name", "origin", "given", "layers"),
    [
        ("vits", [], "1x9:int64:30", 20),
        ("conformer", [], "1x400", 4),
        ("gpt2", ["--from", "transformers"], "1x9:int64:50", 8),
    ],
)
def test_a_converted_model_gives_the_same_outputs_and_gradients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, origin: list[str], given: str, layers: int
) -> None:
    import torch

    (tmp_path / "real_code.py").write_text(CODE)
    namespace: dict[str, object] = {}
    exec(CODE, namespace)
    make = namespace[name]
    assert callable(make)
    torch.save(make().state_dict(), tmp_path / "before.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "real_code", raising=False)
    assert run("convert", "before.pt", "-o", "after.pt", "--to", "linear", *origin).returncode == 0
    words = (
        "verify",
        "before.pt",
        "after.pt",
        "--model",
        f"real_code:{name}",
        "-i",
        given,
        "--grad",
        "--format",
        "json",
    )
    done = run(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert (report["strength"], len(report["layers"])) == ("model", layers)
    assert any(one["name"].startswith("gradient of ") for one in report["model"]["outputs"])

    state = torch.load("after.pt", weights_only=True)
    key = next(f"{one['name']}.weight" for one in report["layers"] if f"{one['name']}.weight" in state)
    state[key][0, 0] = torch.nextafter(state[key][0, 0], torch.tensor(9.0))
    torch.save(state, "wrong.pt")
    done = run(*(word if word != "after.pt" else "wrong.pt" for word in words))
    assert done.returncode == 1
    assert "1 of" in json.loads(done.stdout)["cause"]
