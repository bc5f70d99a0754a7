"""What the name of a matrix without a bias says, and what a conversion makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from convinspect.checkpoint import open_checkpoint
from convinspect.converting.plan import Request, plan
from convinspect.layers.find import find_layers
from convinspect.records import Doubt, Layer
from support.conversions import converted, names, reasons
from support.in_process import run
from support.saving import layers_in

LINEAR = (
    "q_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "kv_a_proj_with_mqa", "c.proj", "projection", "lm_head",
    "head", "cls_head", "classifier", "query", "attn.key", "self.value", "query_key_value", "dense", "dense_h_to_4h",
    "fc", "fc1", "fc_in", "linear", "linear_2", "linear1", "lin", "mlp", "mlp.0", "to_q", "to_out.0", "wqkv", "wo",
    "feed_forward.w1", "embed_proj", "token_embedding.proj", "pos_embed.fc1", "q_proj.base_layer",
    "lm_head.modules_to_save.default", "q_proj.lora_A.default", "up_proj.lora_B", "lora_unet_to_q.lora_down",
    "LM_Head", "block.0.SelfAttention.q", "layer.1.EncDecAttention.o", "attn.k",
)  # fmt: skip
EMBEDDING = (
    "wte", "wpe", "emb", "embd", "embed", "embeddings.0", "embed_tokens", "tok_embeddings", "token_type", "tok",
    "positions", "position_table", "word_embeddings", "value_embeds", "key_embed", "proj_embedding", "linear_emb",
    "embed_key", "embed_tokens.base_layer", "token_value",
)  # fmt: skip
SILENT = (
    "shared", "SelfAttention.relative_attention_bias", "relative_attention_bias", "q", "block.k", "a", "0", "codebook",
    "query_feat", "head_index", "keys", "w", "up",
)  # fmt: skip
WITHIN = ("embeddings.table", "token_embedding.key", "embed_tokens.inner.0")


def matrices(*called: str) -> dict[str, Tensor]:
    return {f"{name}.weight": torch.randn(5, 3) for name in called}


def layers_called(folder: Path, *called: str) -> dict[str, Layer]:
    # One file each: what a name says must not depend on the others of the file.
    return {name: layers_in(folder, matrices(name))[name] for name in called}


def test_names_that_say_linear_are_evidence_and_the_note_says_so(tmp_path: Path) -> None:
    for name, layer in layers_called(tmp_path, *LINEAR).items():
        assert (layer.kind, layer.evidence, layer.doubts) == ("Linear", "shape", (Doubt.LINEAR_BY_NAME,)), name
        assert Doubt.LINEAR_BY_NAME.value in layer.notes, name
        assert {"by name", "ambiguous"} & set(layer.tags) == {"by name"}, name


@pytest.mark.parametrize(
    ("called", "kind", "doubt"),
    [
        (EMBEDDING, "Embedding", Doubt.EMBEDDING_OR_LINEAR),
        (SILENT, "Linear", Doubt.LINEAR_OR_EMBEDDING),
        (WITHIN, "Linear", Doubt.WITHIN_EMBEDDING),
    ],
)
def test_other_names_are_none(tmp_path: Path, called: tuple[str, ...], kind: str, doubt: Doubt) -> None:
    for name, layer in layers_called(tmp_path, *called).items():
        assert (layer.kind, layer.evidence, layer.doubts) == (kind, "ambiguous", (doubt,)), name


def test_all_names_in_one_file_are_read_as_each_by_itself(tmp_path: Path) -> None:
    every = (*LINEAR, *EMBEDDING, *SILENT, *WITHIN)
    together = layers_in(tmp_path, matrices(*every))
    for name, layer in layers_called(tmp_path, *every).items():
        assert (together[name].kind, together[name].doubts) == (layer.kind, layer.doubts), name


def test_a_name_does_not_say_how_a_square_matrix_lies(tmp_path: Path) -> None:
    """In a file with matrices stored as (in, out), the square ones may lie so too."""
    state = {"a.weight": torch.zeros(3, 5), "a.bias": torch.zeros(5), **matrices("k_proj")}
    layers = layers_in(tmp_path, state | {"q_proj.weight": torch.zeros(4, 4)})
    assert (layers["q_proj"].evidence, layers["q_proj"].doubts) == ("ambiguous", (Doubt.MAY_BE_TRANSPOSED,))
    assert layers["k_proj"].doubts == (Doubt.LINEAR_BY_NAME,)


def test_a_glob_that_names_a_layer_takes_it_but_no_embedding(tmp_path: Path) -> None:
    torch.save(matrices("a.shared", "a.gate", "a.wte", "a.embed.table", "b.gate"), tmp_path / "a.pt")
    layers = find_layers(open_checkpoint(tmp_path / "a.pt"))
    globbed = plan(layers, Request("Conv1d", names=("a.*",)))
    assert names(globbed) == ["a.shared", "a.gate"]
    assert set(reasons(globbed)) == {"a.wte", "a.embed.table"}
    # A glob that fits every name says nothing of any.
    for everything in ((), ("*",), ("*", "**")):
        assert names(plan(layers, Request("Conv1d", names=everything))) == []
    assert names(plan(layers, Request("Conv1d", names=("*", "b.*")))) == ["b.gate"]


def test_a_glob_does_not_answer_other_doubts(tmp_path: Path) -> None:
    state = {"a.x.weight": torch.zeros(3, 5), "a.x.bias": torch.zeros(5)}
    square = {"a.y.weight": torch.zeros(4, 4), "a.y.bias": torch.zeros(4), "a.q_proj.weight": torch.zeros(4, 4)}
    torch.save(state | square, tmp_path / "a.pt")
    layers = find_layers(open_checkpoint(tmp_path / "a.pt"))
    planned = plan(layers, Request("Conv1d", names=("a.*",)))
    assert names(planned) == []
    assert {"a.y", "a.q_proj"} <= set(reasons(planned))


# ------------------------------------------------------------------------------------------------- language models


def llama(width: int = 8, inner: int = 12, layers: int = 2, vocabulary: int = 20) -> dict[str, Tensor]:
    """What `LlamaForCausalLM` saves, with two heads for each of keys and values."""
    state = {"model.embed_tokens.weight": torch.randn(vocabulary, width)}
    for number in range(layers):
        start = f"model.layers.{number}"
        for name, shape in (
            ("self_attn.q_proj", (width, width)),
            ("self_attn.k_proj", (width // 2, width)),
            ("self_attn.v_proj", (width // 2, width)),
            ("self_attn.o_proj", (width, width)),
            ("mlp.gate_proj", (inner, width)),
            ("mlp.up_proj", (inner, width)),
            ("mlp.down_proj", (width, inner)),
            ("input_layernorm", (width,)),
            ("post_attention_layernorm", (width,)),
        ):
            state[f"{start}.{name}.weight"] = torch.randn(*shape).to(torch.bfloat16)
    return state | {"model.norm.weight": torch.randn(width), "lm_head.weight": torch.randn(vocabulary, width)}


def save_shards(folder: Path, state: dict[str, Tensor], number: int = 3) -> None:
    folder.mkdir()
    weight_map: dict[str, str] = {}
    for index in range(number):
        shard = f"model-{index + 1:05}-of-{number:05}.safetensors"
        part = dict(list(state.items())[index::number])
        save_file(part, folder / shard, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, shard)
    size = sum(tensor.nbytes for tensor in state.values())
    written = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(written, indent=2))


@pytest.mark.parametrize("options", [(), ("--from", "linear"), ("--layer", "*_proj", "--layer", "lm_head")])
def test_a_llama_s_projections_are_converted_and_back_to_the_same_bytes(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    save_shards(tmp_path / "a", llama())
    there = run("convert", tmp_path / "a", "-o", tmp_path / "b", "--to", "conv1d", "--format", "json", *options)
    assert there.returncode == 0, there.stderr
    after = open_checkpoint(tmp_path / "b").tensors
    for key, tensor in open_checkpoint(tmp_path / "a").tensors.items():
        linear = "proj" in key or "lm_head" in key
        assert after[key].shape == ((*tensor.shape, 1) if linear else tensor.shape), key
    assert len(json.loads(there.stdout)["converted"]) == 15
    back = run("convert", tmp_path / "b", "-o", tmp_path / "c", "--to", "linear")
    assert back.returncode == 0, back.stderr
    shards = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert shards == sorted(path.name for path in (tmp_path / "c").iterdir())
    for shard in shards:
        if shard.endswith(".safetensors"):
            assert (tmp_path / "a" / shard).read_bytes() == (tmp_path / "c" / shard).read_bytes(), shard


def test_a_head_tied_to_an_embedding_stays_with_it(tmp_path: Path) -> None:
    state = llama()
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    torch.save(state, tmp_path / "a.pt")
    for chosen in ((), ("*lm_head",), ("lm_head",)):
        planned = plan(find_layers(open_checkpoint(tmp_path / "a.pt")), Request("Conv1d", names=chosen))
        assert not {"lm_head", "model.embed_tokens"} & set(names(planned))
        assert "tied to model.embed_tokens.weight" in reasons(planned)["lm_head"]
    both = converted(tmp_path / "a.pt", tmp_path / "b.pt", "Conv1d", names=("lm_head", "model.embed_tokens"))
    assert len(names(both)) == 2
