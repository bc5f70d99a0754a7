"""Selection of a root among those of a file."""

from __future__ import annotations

from collections.abc import Collection

from convinspect.errors import NotACheckpoint, NotThere
from convinspect.records import Module, Root, Tensor


def main_root(roots: tuple[Root, ...], names: Collection[str] = ()) -> Root:
    """The default root: those named like a model come first, then the largest.

    Args:
        roots: Those of a file.
        names: What its pickle mentions beyond a plain state_dict, to say what is there instead of tensors.

    Raises:
        NotACheckpoint: The file holds no tensors.
    """
    if not any(root.tensors or root.others for root in roots):
        raise without_tensors(names)
    candidates = [root for root in roots if root.tensors] or list(roots)
    if len(candidates) == 1:
        return candidates[0]
    return min(candidates, key=lambda root: (_rank(root), -sum(t.numel for t in root.tensors)))


_RANKED = (
    "state_dict",
    "model_state_dict",
    "model",
    "model_state",
    "net",
    "network",
    "module",
    "generator",
    "params",
)


def without_tensors(names: Collection[str]) -> NotACheckpoint:
    """The error for a file without tensors whose pickle mentions these names."""
    if any(name.startswith("numpy.") and name.endswith("._reconstruct") for name in names):
        from convinspect.formats.unsupported.kinds import PICKLED_ARRAYS_SAVED

        return NotACheckpoint(f"it is {PICKLED_ARRAYS_SAVED.what}", PICKLED_ARRAYS_SAVED.remedy)
    return NotACheckpoint("it holds no tensors", "give the file that holds the weights")


def _rank(root: Root) -> int:
    last = root.path.rpartition(".")[2].lower()
    if root.role in ("optimizer", "other"):
        return 400
    if root.role == "ema":
        return 300
    return _RANKED.index(last) if last in _RANKED else 100


def root_at(roots: tuple[Root, ...], path: str, flat: bool = False) -> Root:
    """The root at `path`, or all roots below it merged if it is not a root itself. "." is the whole file.

    Args:
        roots: All of the file.
        path: Dotted keys.
        flat: A root's keys are whole paths, as those of distributed checkpoints, so that a path may be their beginning.

    Raises:
        NotThere: There are no tensors below `path`. The message names the existing roots.
    """
    for root in roots:
        if root.path == path:
            return root
    below = "" if path == "." else f"{path}."
    inside = [root for root in roots if root.path.startswith(below)]
    if not inside and flat:
        inside = [_beginning(root, below) for root in roots if any(t.key.startswith(below) for t in root.tensors)]
        if len(inside) == 1:
            return inside[0]
    if not inside:
        names = ", ".join(root.path or "." for root in roots[:8])
        raise NotThere(f"no tensors lie at root {path!r}", f"the roots are: {names}")
    tensors: list[Tensor] = []
    modules: dict[str, Module] = {}
    for root in inside:
        prefix = root.path[len(below) :] + "." if root.path[len(below) :] else ""
        tensors += [tensor._replace(key=prefix + tensor.key) for tensor in root.tensors]
        modules |= {
            (prefix + name).rstrip("."): module._replace(name=(prefix + name).rstrip("."))
            for name, module in root.modules.items()
        }
    return Root("" if path == "." else path, inside[0].role, tuple(tensors), modules)


def _beginning(root: Root, below: str) -> Root:
    """The tensors of a root whose keys begin so, as a root of its own without that beginning."""
    tensors = [tensor for tensor in root.tensors if tensor.key.startswith(below)]
    cut = tuple(tensor._replace(key=tensor.key.removeprefix(below)) for tensor in tensors)
    others = [other for other in root.others if other.key.startswith(below)]
    kept = tuple(other._replace(key=other.key.removeprefix(below)) for other in others)
    return Root(below.removesuffix("."), root.role, cut, others=kept)
