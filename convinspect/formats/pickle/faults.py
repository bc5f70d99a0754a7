"""What can be wrong with a pickle, as errors that a user can act on."""

from __future__ import annotations

from convinspect.errors import BrokenFile, CutShort, RefusedFile


def broken(position: int, reason: str) -> BrokenFile:
    """The error for an instruction that makes no sense where it stands."""
    return BrokenFile(f"its pickle is malformed at byte {position:,}: {reason}", "get the file again, or save it again")


def too_much() -> RefusedFile:
    """The error for a pickle whose work is out of proportion."""
    return RefusedFile(
        "its pickle builds far more than its tensors need, which may be meant to exhaust whoever opens it",
        "where you trust it, load it with torch and save its state_dict by itself",
    )


def undecodable(position: int, why: str, code: bytes) -> BrokenFile:
    """The error for an instruction that could not be decoded, from what `Undecodable` says of it."""
    if why == "unknown":
        return broken(position, f"0x{code.hex()} is no pickle instruction")
    if why == "short":
        return CutShort(f"its pickle ends in the middle, at byte {position:,}", "download or copy it again")
    return broken(position, "an instruction cannot be decoded")
