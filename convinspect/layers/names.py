"""What the name of a matrix without a bias says of it: a Linear (out, in) and an Embedding (N, D) have the same shape.

Modules are called by the same few words everywhere: `q_proj`, `lm_head` and `fc1` are Linear, `wte` and `embed_tokens`
Embedding. Numbers only count blocks, so that nothing here asks which number it is.
"""

from __future__ import annotations

import re

from convinspect.records import Doubt

_SAYS_EMBEDDING = r"(wte|wpe|emb|tok|position)"
_LINEAR_WORDS = frozenset({"dense", "lin", "mlp", "proj", "projection", "projector"})
"""Words that say Linear wherever they stand in the last part; so do those that start with "fc" or "linear"."""
_LAST_WORDS = frozenset({"classifier", "head", "heads"})
"""Words that say it as the last one alone."""
_WEAK_LAST_WORDS = frozenset(
    {"query", "key", "value", "qkv", "wq", "wk", "wv", "wo", "wkv", "wqkv", "wi", "to_q", "to_k", "to_v", "to_kv",
     "to_qkv", "to_out"}
)  # fmt: skip
"""The same, unless the name speaks of an Embedding anywhere."""
_LETTERS = frozenset("qkvo")
"""The same within an attention: T5's `SelfAttention.q`."""
_LORA_HALVES = frozenset({"lora_a", "lora_b", "lora_down", "lora_up"})
_WITHIN = frozenset({"base_layer", "original_module", "modules_to_save", "default"})
"""Parts that peft puts between a layer's own name and its weight."""
_DIGITS = "0123456789"


def doubt_of_name(name: str) -> Doubt:
    """What is left open of a two-dimensional weight without a bias once its name is read.

    Args:
        name: The layer's dotted name.

    Returns:
        `LINEAR_BY_NAME` and `EMBEDDING_OR_LINEAR` where the name tells, `WITHIN_EMBEDDING` and `LINEAR_OR_EMBEDDING`
        where it does not. An Embedding's word wins, unless the last word can only be a Linear's: `embed_proj`.
    """
    parts = [part for part in name.lower().split(".") if part and not part.isdigit() and part not in _WITHIN]
    if not _LORA_HALVES.isdisjoint(parts):
        return Doubt.LINEAR_BY_NAME
    last = parts[-1] if parts else ""
    words = [word for word in re.split(r"[_\W]+", last) if word] or [""]
    if _is_linear(words[-1]) or words[-1].rstrip(_DIGITS) in _LAST_WORDS:
        return Doubt.LINEAR_BY_NAME
    if _says_embedding(last):
        return Doubt.EMBEDDING_OR_LINEAR
    if any(map(_is_linear, words)):
        return Doubt.LINEAR_BY_NAME
    if any(map(_says_embedding, parts)):
        return Doubt.WITHIN_EMBEDDING
    weak = last in _WEAK_LAST_WORDS or words[-1] in _WEAK_LAST_WORDS or _is_numbered_w(last)
    weak = weak or (last in _LETTERS and parts[-2:-1] != [] and parts[-2].endswith(("attention", "attn")))
    return Doubt.LINEAR_BY_NAME if weak else Doubt.LINEAR_OR_EMBEDDING


def _is_linear(word: str) -> bool:
    return word.startswith(("fc", "linear")) or word.rstrip(_DIGITS) in _LINEAR_WORDS


def _says_embedding(part: str) -> bool:
    """Whether a word of it starts as an Embedding's name does."""
    return any(re.match(_SAYS_EMBEDDING, word) for word in re.split(r"[_\W]+", part))


def _is_numbered_w(word: str) -> bool:
    """`w1`, `w2` and `w3` of a gated feed-forward layer; `w` alone may be anything."""
    return word.startswith("w") and word != "w" and not word[1:].strip(_DIGITS)
