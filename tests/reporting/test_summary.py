"""A checkpoint as a page shows it: what fits, what is read, and what its layers could become."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch
from torch import nn

import convinspect
from convinspect.page.document import document
from convinspect.reporting.room import PAGE, room_for
from convinspect.reporting.summary import summarize
from convinspect.showing.model_data import model_data
from support.memory import peak, reset_peak
from support.paths import FIXTURES
from support.program import run

FILES = [
    "convs.pt", "pointnet_stnkd.safetensors", "pointnet_stnkd_module.pt", "pointnet_stnkd_script.pt", "tied.pt",
    "conv_transpose.pt", "gpt2_names.pt", "qwen2_vl.safetensors", "grouped_module.pt", "weight_norm_old.pt", "ema.pt",
    "lora.safetensors", "vae_attention.safetensors", "sharded", "parallel/fsdp2_1of1.pt",
]  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_every_command_in_a_page_converts_that_layer(name: str, tmp_path: Path) -> None:
    data = model_data(summarize(convinspect.open(FIXTURES / name)))
    names, before = [], ""
    for same, rest in zip(data["names"][::2], data["names"][1::2], strict=True):
        before = before[:same] + rest
        names.append(before)
    commands = [(each["command"], None) for each in data["together"]]
    tried = set()
    for layer, row in zip(names, data["rows"], strict=True):
        for way in row[9]:
            _, head, tail = data["ways"][way]
            # One layer of each kind.
            if (row[0], way) not in tried:
                tried.add((row[0], way))
                commands.append((head + (row[11] or shlex.quote(layer)) + tail, layer))
    assert commands or name in ("parallel/fsdp2_1of1.pt",)
    for command, layer in commands[:12]:
        program, *words = shlex.split(command)
        assert program == "convinspect"
        done = run(*words, "--dry-run", "--format", "json", folder=tmp_path)
        assert done.returncode == 0, (command, done.stderr)
        assert layer is None or f'"{layer}"' in done.stdout


def test_what_is_wrong_with_a_file_is_told_once(tmp_path: Path) -> None:
    """And not again as the reason why it is not converted."""
    torch.save(nn.Conv1d(300, 400, 1).state_dict(), tmp_path / "cut.pt")
    content = (tmp_path / "cut.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[: len(content) // 2])
    data = model_data(summarize(convinspect.open(tmp_path / "cut.pt")))
    assert len(data["problems"]) == 1
    assert "truncated" in data["problems"][0]
    assert not data["refused"]
    assert not any(row[9] for row in data["rows"])


@pytest.mark.filterwarnings("ignore")
def test_what_is_not_converted_has_no_commands(tmp_path: Path) -> None:
    """Of a distributed checkpoint of safetensors, which PyTorch itself does not load, `convert` makes no other."""
    from torch.distributed.checkpoint.filesystem import FileSystemWriter, SerializationFormat
    from torch.distributed.checkpoint.state_dict_saver import save

    writer = FileSystemWriter(tmp_path / "a", serialization_format=SerializationFormat.SAFETENSORS)
    save(nn.Conv1d(4, 6, 1).state_dict(), storage_writer=writer)
    data = model_data(summarize(convinspect.open(tmp_path / "a")))
    assert "safetensors within its files" in data["refused"]
    assert not data["ways"]
    assert not data["together"]


def test_what_does_not_become_a_linear_says_why() -> None:
    summary = summarize(convinspect.open(FIXTURES / "grouped_module.pt"))
    assert any("groups" in reason for reason in summary.possible.reasons.values())
    data = model_data(summary)
    assert any("--groups expand" in text for text in data["texts"]), "in the words of the command line"


@pytest.mark.parametrize("nbytes", [100_000, 400_000, 1_000_000])
def test_a_page_is_never_larger_than_it_may_be(tmp_path: Path, nbytes: int) -> None:
    torch.manual_seed(0)
    state = {f"encoder.layers.{n}.{'x' * 40}.weight": torch.randn(40, 30) for n in range(800)}
    torch.save(state, tmp_path / "many.pt")
    summary = summarize(convinspect.open(tmp_path / "many.pt"), nbytes=nbytes)
    data = model_data(summary)
    size = len(document({"models": [data]}, "many")) - len(document({}, "many"))
    # The tree has its own limit.
    assert size - len(str(data["tree"])) < nbytes
    notes = " ".join(data["notes"])
    assert ("make the page too large" in notes) == (nbytes < 500_000)
    assert (len(summary.numbers) < 800) == (nbytes < 500_000)


def test_names_and_notes_of_any_length_fit(tmp_path: Path) -> None:
    """The worst that a file can do: names that share nothing, and of which each is long in UTF-8."""
    state = {f"{chr(0x4E00 + n)}{'漢' * 290}.weight": torch.ones(8, 6) for n in range(2600)}
    torch.save(state, tmp_path / "long.pt")
    summary = summarize(convinspect.open(tmp_path / "long.pt"))
    assert len(document({"models": [model_data(summary)]}, "long").encode("utf-8")) < 5_000_000
    assert 0 < summary.room.rows < 2600


def test_large_kernels_share_what_room_there_is() -> None:
    layers = convinspect.find_layers(convinspect.open(FIXTURES / "pointnet_stnkd.pt"))
    few = room_for(layers)
    assert (few.rows, len(few.numbers), few.cells) == (len(layers), len(layers), 64 * 96)
    wide = [layer._replace(weight=layer.weight._replace(shape=(4096, 4096))) for layer in layers] * 100
    many = room_for(wide)
    assert 96 <= many.cells < 64 * 96
    assert many.rows == len(wide)
    assert len(many.numbers) * (many.cells * 1.34 + 300) < PAGE
    assert room_for(layers, numbers=False).numbers == frozenset()


def test_a_large_weight_is_read_in_blocks(tmp_path: Path) -> None:
    state = {
        "a.weight": torch.ones(5000, 9000),
        "b.weight": torch.ones(40_000_000),
        "c.weight": torch.ones(3, 5_000_000),
    }
    torch.save(state, tmp_path / "large.pt")
    del state
    checkpoint = convinspect.open(tmp_path / "large.pt")
    summarize(checkpoint, values=False)
    before = reset_peak()
    summary = summarize(checkpoint)
    assert len(summary.numbers) == 3
    if before:
        assert peak() - before < 120e6


def test_without_numbers_no_weight_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = convinspect.open(FIXTURES / "pointnet_stnkd.pt")
    monkeypatch.setattr("convinspect.arrays.read.opened", None)
    data = model_data(summarize(checkpoint, values=False))
    assert not any(data["numbers"])
    assert any("only headers were read" in note for note in data["notes"])


def test_progress_is_told_in_bytes_of_weights() -> None:
    checkpoint = convinspect.open(FIXTURES / "pointnet_stnkd.pt")
    told: list[int] = []
    summarize(checkpoint, progress=told.append)
    assert sum(told) == sum(layer.weight.nbytes for layer in convinspect.find_layers(checkpoint))


def test_the_tree_of_a_deep_model_is_cut_and_not_refused(tmp_path: Path) -> None:
    torch.save(
        {".".join("abc" * 300) + ".weight": torch.ones(2, 2), "x.weight": torch.ones(2, 2)}, tmp_path / "deep.pt"
    )
    data = model_data(summarize(convinspect.open(tmp_path / "deep.pt")))
    assert data["tree"][1] == 8


def test_a_model_of_nothing_has_a_page(tmp_path: Path) -> None:
    torch.save(nn.Conv1d(3, 4, 1).state_dict(), tmp_path / "one.pt")
    assert model_data(summarize(convinspect.open(tmp_path / "one.pt")))["totals"]["layers"] == 1
    torch.save({"step": torch.tensor(3)}, tmp_path / "none.pt")
    data = model_data(summarize(convinspect.open(tmp_path / "none.pt")))
    assert data["totals"]["layers"] == 0
