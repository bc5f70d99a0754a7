"""What an optimizer's `param_groups` say: which parameters it has, their names, and of what kind it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from convinspect.formats.torch.nodes import pairs_of
from convinspect.keys.others import Other
from convinspect.records import Tensor


class Groups(NamedTuple):
    """Of one optimizer.

    Attributes:
        ids: The parameters' numbers by group; None where they are no numbers.
        names: The parameters' names in the order of the numbers; None unless each group has `param_names`.
        keyed_by: The parameters' names where they stand in place of numbers; else None.
        keys: All keys of the groups.
        lost: The state's keys are the parameters' numbers as text, under which `load_state_dict` does not look.
    """

    ids: tuple[tuple[int, ...], ...] | None
    names: tuple[str, ...] | None
    keyed_by: tuple[str, ...] | None
    keys: frozenset[str]
    lost: bool = False


def groups_of(groups: Any, state: Any = None) -> Groups:
    """What the value of `param_groups` says: `[{"params": [0, 1, …], "lr": …, …}, …]`.

    `torch.distributed.checkpoint.state_dict.get_optimizer_state_dict` writes names in place of the numbers.

    Args:
        groups: That value.
        state: The value of `state` beside it, whose keys `dcp_to_torch_save` turns into text.
    """
    facts = [{str(key): value for key, value in pairs_of(group) or []} for group in groups] if (
        isinstance(groups, list)
    ) else []  # fmt: skip
    params = [group.get("params") for group in facts]
    listed = [each for each in params if isinstance(each, list)]
    whole = len(listed) == len(params) and isinstance(groups, list)
    flat = [number for each in listed for number in each]
    ids = tuple(tuple(each) for each in listed) if whole and all(type(one) is int for one in flat) else None
    named = whole and flat and all(isinstance(one, str) for one in flat)
    keys = frozenset(key for group in facts for key in group)
    known = set(map(str, flat)) if ids is not None else set()
    lost = any(isinstance(key, str) and key in known for key, _ in pairs_of(state) or () if known)
    return Groups(ids, _names(facts, params), tuple(flat) if named else None, keys, lost)


def _names(facts: Sequence[dict[str, Any]], params: Sequence[Any]) -> tuple[str, ...] | None:
    names: list[str] = []
    for group, numbers in zip(facts, params, strict=True):
        listed = group.get("param_names")
        if not isinstance(numbers, list) or not isinstance(listed, list) or len(numbers) != len(listed):
            return None
        names += (name for name in listed if isinstance(name, str))
    return tuple(names) or None


def flattened(tensors: Sequence[Tensor], others: Sequence[Other]) -> Groups | None:
    """Of an optimizer that was saved with `flatten_optimizer_state_dict`; None for any other dictionary.

    Its keys are `state.layer.weight.exp_avg` and `param_groups.layer.weight.lr`.
    """
    if not tensors or not all(tensor.key.startswith("state.") for tensor in tensors):
        return None
    settings = [other.key for other in others if other.key.startswith("param_groups.")]
    if not settings:
        return None
    names = dict.fromkeys(tensor.key.removeprefix("state.").rpartition(".")[0] for tensor in tensors)
    return Groups(None, None, tuple(names), frozenset(key.rpartition(".")[2] for key in settings))
