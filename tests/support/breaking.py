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


_PREFIXES: tuple[Callable[[int], str], ...] = (
    lambda line: f"2026-11-29T12:{line * 37 // 6000:02}:{line * 37 // 100 % 60:02}.{line * 37 % 100:02}Z stdout F ",
    lambda line: f"2026-11-29T12:00:{line // 7 % 60:02}.{line:09}+00:00 stderr F ",
    lambda line: f"[E1129 12:00:00.{line:06}    4242 load.py:10] ",
    lambda line: "[E1129 12:00:00 load.py:10 7] ",
    lambda line: "+ ",
    lambda line: "[train.sh] ",
    lambda line: "<14>1 2026-11-29T12:00:00Z node-3 train 4242 - - ",
    lambda line: f"node-3 » train/{line + 100} » ",
    lambda line: f"[2026.11.29 12:00:{line % 60:02}] {{gpu 0}} (train) => ",
    lambda line: f"{line:>5}> ",
)  # fmt: skip
"""What collectors and programs that no list can name write before each line."""


def prefixed(text: str, seed: int) -> str:
    """Each line with a prefix of any kind."""
    prefix = random.Random(seed).choice(_PREFIXES)
    return "\n".join(prefix(place) + line for place, line in enumerate(text.split("\n")))


def prefixed_and_broken(text: str, seed: int) -> str:
    """Each line with a prefix of any kind, then broken by a console."""
    return hard(prefixed(text, seed), seed + 1)


def boxed_and_prefixed(text: str, seed: int) -> str:
    """In a frame, each of whose lines has a prefix."""
    return prefixed(box(text, seed), seed + 1)


def gathered(text: str, seed: int) -> str:
    """A record of JSON for each line, as logs' collectors keep them."""
    stamp = "2026-11-29T12:00:00.{:09}Z"
    records: list[dict[str, object]] = []
    for place, line in enumerate(text.split("\n")):
        time = stamp.format(place)
        forms: tuple[dict[str, object], ...] = (
            {"log": f"{line}\n", "stream": "stderr", "time": time},
            {"ts": time, "level": "error", "msg": line, "caller": "load.py:10"},
            {"insertId": f"a{place}", "jsonPayload": {"message": line, "rank": 0}, "severity": "ERROR", "time": time},
        )
        records.append(forms[seed % 3])
    return "\n".join(map(json.dumps, records))


def progress(text: str, seed: int) -> str:
    """Below a bar of progress, on its line or on the next."""
    bars = [f"Loading weights: {part:>3}%|{'█' * (part // 10):<10}| {part}/100 [00:01<00:01]" for part in (0, 50, 100)]
    return "\r".join(["", *bars]) + ["\n", "\r", ""][seed % 3] + text


def processes(text: str, seed: int) -> str:
    """Several processes at once, line by line, with a prefix that no list can name."""
    draw = random.Random(seed)
    form = draw.choice(["node-{} » ", "(gpu {} of 4) ", "[12:00:00 p{}] "])
    queues = [[form.format(one) + line for line in text.split("\n")] for one in range(draw.randint(2, 4))]
    lines = []
    while any(queues):
        lines.append(draw.choice([queue for queue in queues if queue]).pop(0))
    return "\n".join(lines)


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
CONSOLES: tuple[Breaker, ...] = tuple(
    (how.__name__, how)
    for how in (
        hard, soft, box, logged, logged_and_broken, broken_and_logged, quoted, coloured, escaped, windows, ranks, amid,
        undented, numbered,
    )
)  # fmt: skip
COLLECTORS: tuple[Breaker, ...] = tuple(
    (how.__name__, how) for how in (prefixed, prefixed_and_broken, boxed_and_prefixed, gathered, progress, processes)
)
BREAKERS = (*CONSOLES, *COLLECTORS)
"""All of the text is still there."""
LOSING: tuple[Breaker, ...] = (("cut", cut), ("dropped", dropped))
"""Something is not."""
