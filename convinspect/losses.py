"""What a root that is saved anew, as a plain state_dict, leaves behind."""

from __future__ import annotations

from convinspect.checkpoint import Checkpoint
from convinspect.formats.objects import Objects, beside, read_objects, versions


def losses(checkpoint: Checkpoint, writer: str, renamed: bool) -> list[str]:
    """What a file saved anew does not take over, one line each.

    Args:
        checkpoint: The source.
        writer: "torch" or "safetensors".
        renamed: Keys get other names.

    Raises:
        ConvInspectError: The source cannot be read.
    """
    objects = None if checkpoint.holds_modules else read_objects(checkpoint.path)
    kept = writer == "torch" and not renamed
    return _lost(checkpoint, writer, objects, kept)


def _lost(checkpoint: Checkpoint, writer: str, objects: Objects | None, versions_kept: bool) -> list[str]:
    lines = [f"{checkpoint.root.path} is the whole of it: a plain state_dict"] if checkpoint.root.path else []
    lines += [
        f"root {root.path or '.'} ({len(root.tensors)} tensors) is not in the new file"
        for root in checkpoint.roots
        if root.path != checkpoint.root.path
    ]
    if checkpoint.foreign:
        lines.append(f"objects of {', '.join(checkpoint.foreign[:3])} are not in the new file")
    if objects is not None:
        left = beside(objects, checkpoint.root.path, [root.path for root in checkpoint.roots])
        if left:
            more = f" and {len(left) - 6} more" if len(left) > 6 else ""
            lines.append(f"{', '.join(left[:6])}{more} beside the tensors: not in the new file")
        if not versions_kept and versions(objects, checkpoint.root.path) is not None:
            lines.append("_metadata, PyTorch's record of each module's version, is not in the new file")
    if writer == "torch" and checkpoint.metadata:
        lines.append(f"the metadata {', '.join(checkpoint.metadata)} is not in the new file")
    ties = [name for name in checkpoint.tensors if checkpoint.tied_to(name)]
    if writer == "safetensors" and ties:
        lines.append(f"tied tensors are separate copies in the new file: {', '.join(ties[:4])}")
    return lines
