"""state_dict keys as stored → names as shown: without the levels that wrappers of a module add."""

from __future__ import annotations

from convinspect.layouts import KERNEL_PARTS

# Wrappers that add a level to every name below them and change nothing else.
_WRAPPERS_ANYWHERE = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}

_WRAPPERS_IN_FRONT = {"module", *_WRAPPERS_ANYWHERE}


def clean_names(keys: list[str]) -> list[str]:
    """Keys without wrappers' levels; a key stays whole where two would become the same."""
    joined = "\n".join(keys)
    # Looking once through all of them costs a tenth of looking into each; few files have wrappers.
    marked = "module" in joined or "_orig_mod" in joined or "/" in joined
    return apart(keys, [clean_name(key) for key in keys] if marked else keys)


def apart(keys: list[str], names: list[str]) -> list[str]:
    """Shorter names for keys; a key stays whole where two would become the same, or one would become another key."""
    if len(set(names)) == len(keys):
        return names
    taken = set(keys)
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return [
        name if counts[name] == 1 and (name == key or name not in taken) else key
        for key, name in zip(keys, names, strict=True)
    ]


def clean_name(key: str) -> str:
    """A key without wrappers' levels; unchanged where nothing would be left. Keras's paths become dotted names."""
    if "/" in key and is_path(key):
        return key.removesuffix(":0").replace("/", ".")
    if "module" not in key and "_orig_mod" not in key:
        return key
    parts = key.split(".")
    own = parts[_wrappers_in_front(parts) :]
    if not _WRAPPERS_ANYWHERE.isdisjoint(own):
        own = [part for part in own if part not in _WRAPPERS_ANYWHERE]
    return ".".join(own) or key


def is_path(key: str) -> bool:
    """Whether it is a path of Keras or TensorFlow, such as "dense/kernel" or "bert/pooler/dense/bias:0"."""
    last = key.removesuffix(":0").rpartition("/")[2]
    return last in KERNEL_PARTS or key.endswith("/weight:0")


def levels(key: str) -> list[tuple[str, bool]]:
    """A key's parts, each with whether it is a wrapper's level, which clean names leave out."""
    parts = key.split(".")
    front = _wrappers_in_front(parts)
    return [(part, at < front or part in _WRAPPERS_ANYWHERE) for at, part in enumerate(parts)]


def _wrappers_in_front(parts: list[str]) -> int:
    front = 0
    while front < len(parts) - 1 and parts[front] in _WRAPPERS_IN_FRONT:
        front += 1
    return front


def join_key(name: str, leaf: str) -> str:
    """The key of tensor `leaf` of module `name`, which is "" at the root."""
    return f"{name}.{leaf}" if name else leaf
