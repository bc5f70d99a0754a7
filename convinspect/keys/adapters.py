"""Keys of a model that peft wrapped → keys as peft saves them, without the adapter's name, or as the model had them.

peft keeps each adapter under its name, "default" unless the user gave another, and leaves that out where it saves
(`get_peft_model_state_dict` of peft/utils/save_and_load.py). The layer that it wraps becomes `base_layer`, and a copy
of a module that is trained whole lies under `modules_to_save`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from convinspect.keys.wrappers import apart

_WORDS = (
    r"lora_(?:A|B|embedding_A|embedding_B|bias)|ia3_l|hada_[wt]\w*|lokr_[wt]\w*|oft_\w+|boft_\w+|vera_(?:A|B|lambda_[bd])"
    r"|randlora_\w+|ada(?:lora|ption)_\w+|ln_\w*tuning_layers|prompt_encoder|trainable_tokens_delta"
)
_NAMED = re.compile(
    rf"(?:^|(?<=\.))(?P<word>{_WORDS})\.(?!(?:weight|bias)(?:\.|$))[^.]+(?=\.|$)"
    r"|(?:^|(?<=\.))(?P<vector>lora_magnitude_vector)\.[^.]+(?:\.weight)?$"
    r"|(?<=[^.])\.(?:modules_to_save\.[^.]+|base_layer)(?=\.)"
)
"""The name of an adapter behind the word that it belongs to, or what stands between a layer's name and its weight."""


def bare_key(key: str) -> str:
    """A key as it is without peft: no name of an adapter, and no level for a layer that it wrapped."""
    if "_" not in key:
        return key
    return _NAMED.sub(lambda found: found["word"] or found["vector"] or "", key)


def bare_names(names: Sequence[str]) -> list[str]:
    """Names without what peft puts into them; a name stays whole where two would become the same."""
    return apart(list(names), [bare_key(name) for name in names])


def tails(key: str, partner: str) -> tuple[str, str] | None:
    """Where peft makes two keys of one tensor differ, with the word before it; None where it does not.

    `a.lora_A.weight` and `a.lora_A.default.weight` give `lora_A.weight` and `lora_A.default.weight`.
    """
    own = [bare_key(text) for each in (key, partner) if (text := _from_first(each))]
    if not own:
        return None
    longest = max(own, key=len)
    found = [_end_that_is(each, longest) for each in (key, partner)]
    return (found[0], found[1]) if all(found) else None


def _from_first(key: str) -> str:
    """A key from the part on at or before which peft first put something into it; "" where it did not."""
    found = _NAMED.search(key)
    if found is None:
        return ""
    begin = found.start() if found["word"] or found["vector"] else key.rfind(".", 0, found.start()) + 1
    return key[begin:]


def _end_that_is(key: str, bare: str) -> str:
    """The longest end of a key, by whole parts, that without peft's parts is `bare`."""
    ends = (key[at:] for at in [0, *(dot.end() for dot in re.finditer(r"\.", key))])
    return next((end for end in ends if bare_key(end) == bare), "")
