"""What addresses may hold that is not for everybody to see."""

from __future__ import annotations

import re

_LOGIN = re.compile(r"(?<=://)[^/@?#\s]*@")
_VALUE = re.compile(r"(?<=[?&;])([^=&;\s]*)=([^&;\s]*)")
_HARMLESS = re.compile(r"true|false|yes|no|\d{1,4}", re.IGNORECASE)


def without_secrets(text: str) -> str:
    """A text, such as an address or what a library says, without logins and without most values of queries."""
    text = _LOGIN.sub("***@", text)
    return _VALUE.sub(lambda match: match[0] if _HARMLESS.fullmatch(match[2]) else f"{match[1]}=***", text)
