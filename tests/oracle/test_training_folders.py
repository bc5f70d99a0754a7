"""Folders of Trainer, accelerate and save_pretrained: converted whole, and trained on from by their makers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import convinspect

accelerate = pytest.importorskip("accelerate")
transformers = pytest.importorskip("transformers")
PretrainedConfig: Any = transformers.PretrainedConfig
PreTrainedModel: Any = transformers.PreTrainedModel


class Config(PretrainedConfig):  # type: ignore[misc]
    model_type = "pointwise"

    def __init__(self, linear: bool = False, **others: Any) -> None:
        super().__init__(**others)
        self.linear = linear


class Model(PreTrainedModel):  # type: ignore[misc]
    """Two layers of kernel size 1 around a norm, as Conv1d or as Linear."""

    config_class = Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        make: Any = nn.Linear if config.linear else lambda wide_in, wide_out: nn.Conv1d(wide_in, wide_out, 1)
        self.a, self.norm, self.b = make(8, 16), nn.LayerNorm(16), make(16, 4)
        self.post_init()

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.config.linear:
            y = self.b(self.norm(self.a(x)).relu())
        else:
            y = self.norm(self.a(x.transpose(1, 2)).transpose(1, 2)).relu()
            y = self.b(y.transpose(1, 2)).transpose(1, 2)
        return {"loss": (y - labels).square().mean(), "logits": y}


class Data(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    def __len__(self) -> int:
        return 64

    def __getitem__(self, at: int) -> dict[str, torch.Tensor]:
        drawn = torch.Generator().manual_seed(at)
        return {"x": torch.randn(5, 8, generator=drawn), "labels": torch.randn(5, 4, generator=drawn)}


def trained(folder: Path, linear: bool, optim: str, resume: Path | None = None) -> dict[str, torch.Tensor]:
    """The weights after 8 steps, with a checkpoint after 4."""
    torch.manual_seed(0)
    options = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=8, save_steps=4, per_device_train_batch_size=8, learning_rate=0.01,
        weight_decay=0.1, optim=optim, use_cpu=True, report_to=[], disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    model = Model(Config(linear=linear))
    transformers.Trainer(model=model, args=options, train_dataset=Data()).train(
        resume_from_checkpoint=None if resume is None else str(resume)
    )
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused", "sgd", "rmsprop"])
def test_trainer_resumes_from_the_converted_checkpoint(tmp_path: Path, optim: str) -> None:
    wanted = trained(tmp_path / "convs", False, optim)
    source, target = tmp_path / "convs/checkpoint-4", tmp_path / "linears/checkpoint-4"
    target.parent.mkdir()
    job = convinspect.convert(source, target, to="linear")
    assert job.warnings == ()
    assert {path.name for path in target.iterdir()} == {path.name for path in source.iterdir()}
    assert convinspect.verify(source, target).equal
    assert not convinspect.check(target).findings
    found = trained(tmp_path / "linears", True, optim, target)
    for name, weight in wanted.items():
        torch.testing.assert_close(found[name], weight.reshape(found[name].shape), rtol=1e-5, atol=1e-6)


def test_accelerate_loads_the_converted_state(tmp_path: Path) -> None:
    def steps(linear: bool, load: Path | None, save: Path | None) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        runner = accelerate.Accelerator(cpu=True)
        model = Model(Config(linear=linear))
        adam = torch.optim.AdamW(model.parameters(), lr=0.01)
        loader = torch.utils.data.DataLoader(Data(), batch_size=8)
        model, adam, loader = runner.prepare(model, adam, loader)
        if load is not None:
            runner.load_state(str(load))
        for at, batch in enumerate(loader):
            if load is not None and at < 4:
                continue
            if at == 4 and save is not None:
                runner.save_state(str(save))
            adam.zero_grad()
            runner.backward(model(**batch)["loss"])
            adam.step()
        return {name: tensor.detach().clone() for name, tensor in runner.unwrap_model(model).state_dict().items()}

    source, target = tmp_path / "convs", tmp_path / "linears"
    wanted = steps(False, None, source)
    assert (source / "optimizer.bin").exists()
    job = convinspect.convert(source, target, to="linear")
    assert job.followers.roots == ("optimizer.bin",)
    assert {path.name for path in target.iterdir()} == {path.name for path in source.iterdir()}
    found = steps(True, target, None)
    for name, weight in wanted.items():
        torch.testing.assert_close(found[name], weight.reshape(found[name].shape), rtol=1e-5, atol=1e-6)


def test_shards_of_save_pretrained_load_as_linear(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Model(Config())
    model.save_pretrained(tmp_path / "convs", max_shard_size=700)
    assert (tmp_path / "convs/model.safetensors.index.json").exists()
    convinspect.convert(tmp_path / "convs", tmp_path / "linears", to="linear")
    index = "model.safetensors.index.json"
    assert (tmp_path / "linears" / index).read_bytes() == (tmp_path / "convs" / index).read_bytes()
    linears = Model.from_pretrained(tmp_path / "linears", linear=True)
    x, labels = torch.randn(2, 5, 8), torch.zeros(2, 5, 4)
    torch.testing.assert_close(linears(x, labels)["logits"], model(x, labels)["logits"])


def test_hubs_own_split_of_a_state_dict(tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    state = Model(Config()).state_dict()
    (tmp_path / "a").mkdir()
    hub.save_torch_state_dict(state, tmp_path / "a", max_shard_size=700)
    convinspect.convert(tmp_path / "a", tmp_path / "b", to="linear")
    loaded = Model(Config(linear=True))
    hub.load_torch_model(loaded, tmp_path / "b", strict=True)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, state[name].reshape(tensor.shape))


def test_a_snapshot_in_the_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`from_pretrained` reads the new folder as it does the snapshot."""
    model = Model(Config())
    model.save_pretrained(tmp_path / "plain")
    blobs, snapshot = tmp_path / "models--x--y/blobs", tmp_path / "models--x--y/snapshots/0a1b"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate((tmp_path / "plain").iterdir()):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    convinspect.convert(snapshot, tmp_path / "b", to="linear")
    assert Model.from_pretrained(tmp_path / "b", linear=True).a.weight.shape == (16, 8)


def test_pieces_of_a_distributed_save(tmp_path: Path) -> None:
    """`save_distributed` shards of tensors, with other files beside them."""
    source = tmp_path / "a"
    source.mkdir()
    weight = torch.randn(6, 4, 1)
    for number in (0, 1):
        part = weight[3 * number : 3 * number + 3].contiguous()
        info = f'{{"c.weight": {{"saved_offsets": [{3 * number}, 0, 0]}}}}'
        save_file({"c.weight": part}, source / f"shard-0000{number + 1}-model-00001-of-00001.safetensors",
                  {"DCP_SHARDING_INFO": info})  # fmt: skip
    (source / "config.json").write_text("{}")
    convinspect.convert(source, tmp_path / "b", to="linear")
    assert (tmp_path / "b/config.json").read_text() == "{}"
    assert convinspect.open(tmp_path / "b")["c.weight"].shape == (6, 4)
    assert convinspect.verify(source, tmp_path / "b").equal
