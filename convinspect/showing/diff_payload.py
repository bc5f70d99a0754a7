"""The JSON of `diff A B`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convinspect.checkpoint import Checkpoint
from convinspect.converting.relations import Relation
from convinspect.diffing.differences import Difference, DiffReport, Kind
from convinspect.diffing.missing_numbers import Missing
from convinspect.keys.pairing import Prefix
from convinspect.records import Tensor
from convinspect.showing.diff import notes
from convinspect.showing.flags import flagged
from convinspect.showing.verdict import commands, pytorch_lines

if TYPE_CHECKING:
    from convinspect.arrays.distance import Deviation
    from convinspect.keys.others import Other


def difference_payload(report: DiffReport, everything: bool) -> dict[str, Any]:
    """The JSON of `diff A B`; `everything` also lists tensors that are the same."""
    listed = [each for each in report.tensors if everything or each.kind != Kind.SAME or each.maybe_turned]
    typed = commands(report)
    return {
        "a": checkpoint_payload(report.a),
        "b": checkpoint_payload(report.b),
        "same": report.same,
        "verdict": report.verdict,
        "obstacles": list(map(flagged, report.obstacles)),
        "convert": list(report.converted),
        "maybe_transposed": list(report.maybe_turned),
        "rename": None if report.rules is None else list(report.rules),
        "commands": typed,
        "pytorch": pytorch_lines(report, typed),
        "loads_after_pytorch": report.loads_by_hand,
        "numbers_missing": missing_payload(report.missing),
        "counts": dict(report.counts),
        "prefixes": [prefix_payload(prefix) for prefix in report.prefixes],
        "values": report.compared,
        "tensors": [_payload(difference, report.compared) for difference in listed],
        "notes": list(notes(report)),
    }


def checkpoint_payload(checkpoint: Checkpoint) -> dict[str, Any]:
    """The JSON for an opened checkpoint."""
    return {"path": str(checkpoint.path), "format": checkpoint.format, "root": checkpoint.root.path}


def missing_payload(missing: Missing | None) -> dict[str, Any] | None:
    """The JSON for numbers that A does not have, though it may load."""
    return None if missing is None else {"how": missing.lack.value, "tensors": missing.tensors}


def prefix_payload(prefix: Prefix) -> dict[str, Any]:
    """The JSON for a prefix that only one side's keys have."""
    return {"a": prefix.a, "b": prefix.b, "keys": prefix.keys}


def _payload(difference: Difference, compared: bool) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "name": difference.name,
        "difference": difference.kind,
        "a": _tensor_payload(difference.a),
        "b": _tensor_payload(difference.b),
        "other_a": _other_payload(difference.other_a),
        "other_b": _other_payload(difference.other_b),
        "obstacle": flagged(difference.obstacle) or None,
        "layer": difference.layer,
        "square": difference.square,
        "relation": _relation_payload(difference.relation),
        "pytorch": difference.call or None,
    }
    if compared:
        both = difference.a is not None and difference.b is not None
        payload["unnoticed"] = difference.unnoticed
        payload["compared"] = both and difference.kind != Kind.SHAPE_DIFFERS and not difference.unread
        if difference.deviation is not None:
            payload["values"] = _deviation_payload(difference.deviation)
    return payload


def _relation_payload(relation: Relation | None) -> str | dict[str, Any] | None:
    """The JSON for how two shapes are related: its name, and of permutations the order of axes."""
    if relation is None or not relation.orders:
        return None if relation is None else relation.how
    first, *others = map(list, relation.orders)
    return {"permute": first, "others": [] if relation.proved else others, "proved": relation.proved}


def _deviation_payload(deviation: Deviation) -> dict[str, Any]:
    """The JSON for how numbers differ; figures are None if the bytes differ but cannot be read as numbers."""
    numeric = bool(deviation.count)
    return {
        "max_abs_diff": deviation.absolute if numeric else None,
        "max_rel_diff": deviation.relative if numeric else None,
        "differing": deviation.count if numeric else None,
        "numel": deviation.total,
        "nan": deviation.nan if numeric else None,
    }


def _other_payload(other: Other | None) -> dict[str, Any] | None:
    """The JSON for a value that is no tensor."""
    return None if other is None else {"key": other.key, "type": other.what}


def _tensor_payload(tensor: Tensor | None) -> dict[str, Any] | None:
    return None if tensor is None else {"key": tensor.key, "shape": list(tensor.shape), "dtype": tensor.dtype}
