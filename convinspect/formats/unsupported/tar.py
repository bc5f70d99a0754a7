"""Recognizes a tar archive by its first header."""

from __future__ import annotations

import re


def is_tar(head: bytes) -> bool:
    """True for the header of a tar archive: its magic, or its checksum (octal digits), since old ones have no magic.

    The standard library's `tarfile` is not used: it would decompress the file, and trust sizes in headers.
    """
    if head[257:262] == b"ustar":
        return True
    digits = head[148:156].strip(b" \0")
    if len(head) < 512 or re.fullmatch(rb"[0-7]{1,7}", digits) is None:
        return False
    return sum(head[:148]) + 8 * ord(" ") + sum(head[156:512]) == int(digits, 8)
