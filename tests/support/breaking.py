"""What consoles, loggers, mail and people do to a text on its way: each a function of the text and a seed."""

from __future__ import annotations

import json
import random
import textwrap
from collections.abc import Callable


def _cut(line: str, width: int) -> list[str]:
    return [line[at : at + width] for at in range(0, len(line), width)] or [""]


def hard(text: str, seed: int) -> str:
    """Broken at a width, inside words and numbers."""
    width = random.Random(seed).randint(24, 160)
    return "\n".join(piece for line in text.expandtabs(8).split("\n") for piece in _cut(line, width))


def soft(text: str, seed: int) -> str:
    """Broken between words, longer words inside."""
    width = random.Random(seed).randint(24, 120)
    return "\n".join(
        piece for line in text.expandtabs(4).split("\n")
        for piece in textwrap.wrap(line, width, break_on_hyphens=False) or [""]
    )  # fmt: skip


def box(text: str, seed: int) -> str:
    """In a frame, broken at its width."""
    width = random.Random(seed).randint(30, 120)
    side = random.Random(seed).choice("│┃║")
    lines = [piece for line in text.expandtabs(4).split("\n") for piece in _cut(line, width)]
    inner = [f"{side} {line.ljust(width)} {side}" for line in lines]
    return "\n".join([f"╭{'─' * (width + 2)}╮", *inner, f"╰{'─' * (width + 2)}╯"])


_STAMPS = (
    "2026-03-01 12:00:00,123 ERROR ", "[2026-03-01 12:00:00,123] [ERROR] [engine.py:10:load] ", "ERROR:root:",
    "2026-03-01T12:00:00.123Z ", "[12:00:00] ", "E0301 12:00:00.123456 4242 load.py:10] ",
    "2026/03/01 12:00:00 - mmengine - ERROR - ", "[rank0]: ", "0: ", "(Worker pid=4242) ", "worker-1  | ",
)  # fmt: skip


def logged(text: str, seed: int) -> str:
    """Each line with a logger's or a launcher's prefix."""
    prefix = random.Random(seed).choice(_STAMPS)
    return "\n".join(prefix + line for line in text.split("\n"))


def logged_and_broken(text: str, seed: int) -> str:
    """Each line with a prefix, then broken by a console."""
    return hard(logged(text, seed), seed + 1)


def broken_and_logged(text: str, seed: int) -> str:
    """Broken, then each piece with a prefix."""
    return logged(hard(text, seed), seed + 1)


def quoted(text: str, seed: int) -> str:
    """In a reply, in a comment, in what pytest shows."""
    prefix = random.Random(seed).choice(["> ", ">> ", "> > ", "# ", "E       ", "    ", "// "])
    return "\n".join(prefix + line for line in text.split("\n"))


def coloured(text: str, seed: int) -> str:
    """With colours at words, with or without their escape characters."""
    draw = random.Random(seed)
    escape = draw.choice(["\x1b", "", "^["])
    words = text.split(" ")
    for place in range(len(words)):
        if draw.random() < 0.1 and "\n" not in words[place]:
            words[place] = f"{escape}[1;31m{words[place]}{escape}[0m"
    return " ".join(words)


def escaped(text: str, seed: int) -> str:
    """As a string in JSON, or as Python shows one."""
    return json.dumps({"message": text}) if seed % 2 else f"caught: {RuntimeError(text)!r}"


def windows(text: str, seed: int) -> str:
    """With the line ends of Windows, or tabs as spaces."""
    return text.replace("\n", "\r\n") if seed % 2 else text.expandtabs(8)


def ranks(text: str, seed: int) -> str:
    """Several processes at once, line by line."""
    draw = random.Random(seed)
    count = draw.randint(2, 4)
    queues = [[f"[rank{rank}]: {line}" for line in text.split("\n")] for rank in range(count)]
    lines = []
    while any(queues):
        lines.append(draw.choice([queue for queue in queues if queue]).pop(0))
    return "\n".join(lines)


def amid(text: str, seed: int) -> str:
    """In a log of other things."""
    before = "epoch 3 · loss 0.25\nloading /home/user/a.pt\n"
    return f"{before}{text}\n\nKilled\n" if seed % 2 else f"{before}{text}\n2026-03-01 12:00:00 INFO done\n"


def undented(text: str, seed: int) -> str:
    """Without the indentation."""
    return "\n".join(line.lstrip() for line in text.split("\n"))


def numbered(text: str, seed: int) -> str:
    """With line numbers, as grep and web pages give them."""
    mark = [":", " | ", "  "][seed % 3]
    return "\n".join(f"{at:>4}{mark}{line}" for at, line in enumerate(text.split("\n"), 7))


def cut(text: str, seed: int) -> str:
    """Without its beginning or its end."""
    draw = random.Random(seed)
    at = draw.randrange(len(text) + 1)
    return text[at:] if seed % 2 else text[:at]


def dropped(text: str, seed: int) -> str:
    """Without one of its lines."""
    lines = text.split("\n")
    del lines[random.Random(seed).randrange(len(lines))]
    return "\n".join(lines)


Breaker = tuple[str, Callable[[str, int], str]]
BREAKERS: tuple[Breaker, ...] = tuple(
    (how.__name__, how)
    for how in (
        hard, soft, box, logged, logged_and_broken, broken_and_logged, quoted, coloured, escaped, windows, ranks, amid,
        undented, numbered,
    )
)  # fmt: skip
"""All of the text is still there."""
LOSING: tuple[Breaker, ...] = (("cut", cut), ("dropped", dropped))
"""Something is not."""
