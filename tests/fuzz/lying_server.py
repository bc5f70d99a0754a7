"""A server of HTTP on the loopback that answers as a plan says, in the thread in which its client asks.

ODD     name → what a server may well do; all of it must be understood
LIES    name → what it may not; none of it may be believed
UNSEEN  the lies that nobody can see: other bytes of the right length, under the same name and version
"""

from __future__ import annotations

import asyncio
import gzip
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

import fsspec
from fsspec.asyn import sync

HOSTS = ("127.0.0.1", "127.0.0.2")
"""Both are this server; a redirect may lead from one to the other."""
_TAG, _TIME = '"0123456789abcdef"', "Sun, 29 Nov 2026 10:00:00 GMT"


class Lie(NamedTuple):
    """One thing that is not as it should be.

    Attributes:
        kind: A name of `ODD` or `LIES`.
        which: Of which of a file's requests, counted from 0; -1: of all.
        seed: Of what is drawn for it.
    """

    kind: str
    which: int
    seed: int


class Plan(NamedTuple):
    """What a server does with a site's files."""

    site: str
    lies: tuple[Lie, ...]


@dataclass(slots=True)
class Answer:
    """What is sent.

    Attributes:
        status: Its number.
        headers: But the length.
        body: Its bytes.
        length: What it says of its length, if not the truth.
        asked: Path, first byte and the one behind the last.
        whole: The file's bytes.
        raw: Sent instead of all that.
        chunked: Sent without a length, in pieces that each say theirs.
        ends: The connection is closed after it.
        waits: Seconds before each piece; None sends nothing at all.
        pieces: Number of pieces it is sent in.
        lower: The headers' names are in lower case.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    asked: tuple[str, int, int]
    whole: bytes
    length: int | str | None = None
    raw: bytes | None = None
    chunked: bool = False
    ends: bool = False
    waits: float | None = 0.0
    pieces: int = 1
    lower: bool = False


@dataclass
class _Current:
    """What is served now; one input at a time.

    Attributes:
        plan: What is done.
        files: Their bytes by name.
        begin: What paths begin with.
        seen: Requests by file.
        watched: Whether what the process does is looked at.
        strayed: What it did beside asking this server.
    """

    plan: Plan = field(default_factory=lambda: Plan("", ()))
    files: dict[str, bytes] = field(default_factory=dict)
    begin: str = ""
    seen: Counter[str] = field(default_factory=Counter)
    watched: bool = False
    strayed: set[str] = field(default_factory=set)


CURRENT = _Current()
_PORT: list[int] = []
_COUNT: list[int] = [0]


def served(files: dict[str, bytes], plan: Plan) -> str:
    """Serve these files from now on, and no others; returns the address of their folder."""
    if not _PORT:
        _PORT.append(_started())
        sys.addaudithook(_watch)
    _COUNT[0] += 1
    CURRENT.plan, CURRENT.files, CURRENT.begin = plan, files, f"/{_COUNT[0]}/"
    CURRENT.seen, CURRENT.strayed = Counter(), set()
    return f"http://{HOSTS[0]}:{_PORT[0]}{CURRENT.begin}"


def _started() -> int:
    loop = fsspec.filesystem("https").loop

    async def start() -> int:
        first = await loop.create_server(_Connection, HOSTS[0], 0, backlog=64)
        port = int(first.sockets[0].getsockname()[1])
        await loop.create_server(_Connection, HOSTS[1], port, backlog=64)
        return port

    port: int = sync(loop, start)
    return port


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    """Note what is opened, run or connected to while a file is looked at."""
    if not CURRENT.watched:
        return
    if event == "socket.connect":
        if arguments[1] not in [(host, _PORT[0]) for host in HOSTS]:
            CURRENT.strayed.add(f"{event} {arguments[1]!r}")
    elif event == "open":
        # What the judge itself asks of the process.
        if not str(arguments[0]).startswith("/proc/self/"):
            CURRENT.strayed.add(f"{event} {arguments[0]!r}")
    elif event in ("exec", "import", "subprocess.Popen", "os.system", "pickle.find_class", "socket.getaddrinfo"):
        CURRENT.strayed.add(f"{event} {arguments[:2]!r}")


class _Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self) -> None:
        self._asked = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._to = transport
        self._gone = False

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone = True

    def data_received(self, data: bytes) -> None:
        self._asked += data
        while (end := self._asked.find(b"\r\n\r\n")) >= 0:
            request = bytes(self._asked[:end]).decode("latin-1")
            del self._asked[: end + 4]
            self._send(_answer_to(request))

    def _send(self, answer: Answer) -> None:
        if answer.waits is None or self._gone:
            return
        data = answer.raw if answer.raw is not None else _written(answer)
        if answer.pieces == 1 and not answer.waits:
            self._to.write(data)
            if answer.ends:
                self._to.close()
            return
        step = max(1, -(-len(data) // answer.pieces))
        parts = [data[at : at + step] for at in range(0, len(data), step)]
        loop = asyncio.get_running_loop()
        for number, part in enumerate(parts):
            loop.call_later(answer.waits * (number + 1), self._write, part)
        if answer.ends:
            loop.call_later(answer.waits * (len(parts) + 1), self._to.close)

    def _write(self, data: bytes) -> None:
        if not self._gone:
            self._to.write(data)


def _answer_to(request: str) -> Answer:
    """The true answer, and what the plan makes of it."""
    line, *rest = request.split("\r\n")
    path = line.split(" ")[1]
    said = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in rest)}
    name = path.partition("?")[0].removeprefix(CURRENT.begin).removeprefix("moved/")
    whole = CURRENT.files.get(name)
    if whole is None or not path.startswith(CURRENT.begin):
        return Answer(404, {}, b"none", (path, 0, 0), b"")
    match = re.fullmatch(r"bytes=(\d+)-(\d+)", said.get("range", ""))
    start, end = (int(match[1]), min(int(match[2]) + 1, len(whole))) if match else (0, len(whole))
    answer = Answer(206, {"ETag": _TAG}, whole[start:end], (path, start, end), whole)
    if match is None:
        answer.status = 200
    elif start >= len(whole):
        answer.status, answer.body = 416, b""
        answer.headers["Content-Range"] = f"bytes */{len(whole)}"
    else:
        answer.headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(whole)}"
    number = CURRENT.seen[name]
    CURRENT.seen[name] += 1
    for lie in CURRENT.plan.lies:
        if lie.which in (-1, number):
            (ODD.get(lie.kind) or LIES[lie.kind])(Random(lie.seed), answer)
    return answer


def _written(answer: Answer) -> bytes:
    named = [(name.lower() if answer.lower else name, value) for name, value in answer.headers.items()]
    head = [f"HTTP/1.1 {answer.status} Whatever", *(f"{name}: {value}" for name, value in named)]
    body = answer.body
    if answer.chunked:
        head.append("Transfer-Encoding: chunked")
        half = len(body) // 2
        parts = [part for part in (body[:half], body[half:]) if part]
        body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    elif answer.length != "":
        head.append(f"Content-Length: {len(body) if answer.length is None else answer.length}")
    return "\r\n".join(head).encode("latin-1", "replace") + b"\r\n\r\n" + body


Change = Callable[[Random, Answer], None]

# --- what a server may well do


def _no_tag(random: Random, answer: Answer) -> None:
    answer.headers.pop("ETag", None)


def _time(random: Random, answer: Answer) -> None:
    answer.headers.pop("ETag", None)
    answer.headers["Last-Modified"] = _TIME


def _weak(random: Random, answer: Answer) -> None:
    if "ETag" in answer.headers:
        answer.headers["ETag"] = f"W/{_TAG}"


def _lower(random: Random, answer: Answer) -> None:
    answer.lower = True


def _chunked(random: Random, answer: Answer) -> None:
    answer.chunked = answer.status in (200, 206)


def _closes(random: Random, answer: Answer) -> None:
    answer.headers["Connection"], answer.ends = "close", True


def _more_headers(random: Random, answer: Answer) -> None:
    answer.headers |= {
        "Accept-Ranges": "bytes",
        "X-Odd": "é\xff",
        "Server": "",
        "Content-Type": "text/html",
        "Vary": "*",
    }


def _in_pieces(random: Random, answer: Answer) -> None:
    answer.pieces, answer.waits = 3, 0.0005


def _moved(random: Random, answer: Answer) -> None:
    """To another path, on this host or the other."""
    path = answer.asked[0]
    if "/moved/" in path:
        return
    there = path.replace(CURRENT.begin, f"{CURRENT.begin}moved/")
    where = (there, f"http://{HOSTS[0]}:{_PORT[0]}{there}", f"http://{HOSTS[1]}:{_PORT[0]}{there}?key=x")[len(path) % 3]
    answer.status, answer.body, answer.headers = (301, 302, 303, 307, 308)[len(path) % 5], b"", {"Location": where}


ODD: dict[str, Change] = {
    "no ETag": _no_tag,
    "a time": _time,
    "a weak ETag": _weak,
    "lower case": _lower,
    "chunked": _chunked,
    "closes": _closes,
    "more headers": _more_headers,
    "in pieces": _in_pieces,
    "moved": _moved,
}

# --- what it may not


def _other_status(random: Random, answer: Answer) -> None:
    statuses = (401, 403, 404, 410, 416, 429, 500, 502, 503, 504, 204, 100, 304, 300, 418, 451, 999, 206, 200)
    answer.status = random.choice(statuses)
    if random.random() < 0.6:
        answer.headers.pop("Content-Range", None)
        answer.body = random.choice((b"", b"<html>no</html>"))
    if random.random() < 0.5:
        waits = ("0", "1", "7", "99999", "-1", "9" * 5000, "Sun, 29 Nov 2026 10:00:00 GMT", "\xb2", "soon", "")
        answer.headers["Retry-After"] = random.choice(waits)


def _other_range(random: Random, answer: Answer) -> None:
    _, start, end = answer.asked
    size = len(answer.whole)
    numbers = (0, 1, -1, start, end, end - 1, size, size - 1, size + 1, 2**63, 2**64)
    a, b, c = (random.choice(numbers) for _ in range(3))
    texts = (
        f"bytes {start}-{end - 1}/{c}", f"bytes {a}-{end - 1}/{size}", f"bytes {start}-{b}/{size}",
        f"bytes {a}-{b}/{c}", "bytes */*",
        f"bytes */{size}", "", "bytes", f"items {start}-{end - 1}/{size}", "bytes " + "9" * 5000 + "-1/2",
        f"bytes {start}-{end - 1}/*", f"bytes 0-{'9' * 4800}/{'9' * 4801}", f"bytes {start}-{end - 1}/{size}, 0-1/2",
    )  # fmt: skip
    answer.headers["Content-Range"] = random.choice(texts)


def _whole(random: Random, answer: Answer) -> None:
    """All of the file, with or without a length."""
    answer.status, answer.body = 200, answer.whole
    answer.headers.pop("Content-Range", None)
    if random.random() < 0.3:
        answer.chunked = True


def _short(random: Random, answer: Answer) -> None:
    answer.body = answer.body[: random.randrange(len(answer.body) + 1)]


def _long(random: Random, answer: Answer) -> None:
    answer.body += random.choice((b"x", bytes(900), b"HTTP/1.1 206 OK\r\nContent-Length: 0\r\n\r\n", bytes(300_000)))


def _cut(random: Random, answer: Answer) -> None:
    """The connection ends within the body."""
    answer.length, answer.ends = len(answer.body), True
    answer.body = answer.body[: random.randrange(len(answer.body) + 1)]


def _length(random: Random, answer: Answer) -> None:
    lengths = (0, 1, len(answer.body) - 1, len(answer.body) + 1, 2**40, 2**70, -1, "many", "1, 2", "", "9" * 5000, "+5")
    answer.length, answer.ends = random.choice(lengths), True


def _other_tag(random: Random, answer: Answer) -> None:
    answer.headers["ETag"] = random.choice(('"other"', "", '"', "x" * 900, 'W/"other"', "\xe9\x80"))


def _to_elsewhere(random: Random, answer: Answer) -> None:
    places = (
        "file:///etc/passwd", "file:relative", "ftp://127.0.0.1/w.pt", "s3://bucket/w.pt", "data:,x", "//", "http://",
        "http://[::1", "http://127.0.0.1:99999/", "javascript:1", "", "\xe9", "memory://x", "hf://a/b", "http:///x",
        "?", answer.asked[0], "https:/x", "local:///etc/passwd", "x" * 3000, "gopher://127.0.0.1/",
    )  # fmt: skip
    answer.status, answer.headers["Location"] = random.choice((301, 302, 303, 307, 308)), random.choice(places)


def _packed(random: Random, answer: Answer) -> None:
    """The body packed although nobody asked, or said to be."""
    answer.headers["Content-Encoding"] = random.choice(("gzip", "deflate", "br", "zstd", "x", "identity, gzip"))
    kind = random.random()
    if kind < 0.4:
        answer.body = gzip.compress(answer.body, 1)
    elif kind < 0.45:
        answer.headers["Content-Encoding"], answer.body = "gzip", bomb()


def bomb() -> bytes:
    if not _BOMB:
        _BOMB.append(gzip.compress(bytes(200_000_000), 9))
    return _BOMB[0]


_BOMB: list[bytes] = []


def _garbage(random: Random, answer: Answer) -> None:
    """No HTTP, or nearly."""
    # A garbled address may be that of another host, which is followed as any.
    answer.headers.pop("Location", None)
    true = _written(answer)
    at = random.randrange(min(len(true), 200))
    answer.ends = True
    answer.raw = random.choice(
        (
            b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 206\r\nContent-Length: many\r\n\r\n", b"HTTP/9.9 206 x\r\n\r\n",
            b"\0" * 50, b"HTTP/1.1 206 OK\r\n" + b"A: b\r\n" * 5_000 + b"\r\n",
            b"HTTP/1.1 206 OK\r\nX: " + b"y" * 90_000 + b"\r\n\r\n",
            true[:at] + random.randbytes(random.choice((1, 2, 9))) + true[at + random.choice((0, 1, 5)) :],
            b"HTTP/1.1 206 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx", true[:at],
            true.replace(b"\r\n", b"\n", 3), b"HTTP/1.1 103 Early\r\n\r\n" * random.choice((1, 300)) + true,
            b"HTTP/1.1 206 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
        )
    )  # fmt: skip


def _silent(random: Random, answer: Answer) -> None:
    answer.waits = None


def _slow(random: Random, answer: Answer) -> None:
    answer.pieces, answer.waits = random.choice(((2, 0.06), (50, 0.01)))


def _another_file(random: Random, answer: Answer) -> None:
    """Other bytes, and what says so."""
    answer.body = random.randbytes(len(answer.body))
    answer.headers["ETag"] = f'"{random.randrange(99)}"'


def _grown(random: Random, answer: Answer) -> None:
    """A file of another size, from now on."""
    said = answer.headers.get("Content-Range", "")
    answer.headers["Content-Range"] = re.sub(r"/\d+$", f"/{len(answer.whole) + random.choice((1, 100, -1))}", said)


def _other_bytes(random: Random, answer: Answer) -> None:
    kind = random.randrange(3)
    size = len(answer.body)
    if kind == 0:
        answer.body = random.randbytes(size)
    elif kind == 1 and size:
        changed = bytearray(answer.body)
        for _ in range(random.randint(1, 9)):
            changed[random.randrange(size)] = random.randrange(256)
        answer.body = bytes(changed)
    else:
        at = random.randrange(len(answer.whole))
        answer.body = (answer.whole[at:] + answer.whole * 2)[:size]


LIES: dict[str, Change] = {
    "another status": _other_status,
    "another range": _other_range,
    "the whole": _whole,
    "a short body": _short,
    "a long body": _long,
    "cut": _cut,
    "another length": _length,
    "another ETag": _other_tag,
    "to elsewhere": _to_elsewhere,
    "packed": _packed,
    "garbage": _garbage,
    "silent": _silent,
    "slow": _slow,
    "another file": _another_file,
    "grown": _grown,
    "other bytes": _other_bytes,
}
UNSEEN = {"other bytes"}
TAKING = ("silent", "slow")
"""Those that take their time, so that few are tried."""
