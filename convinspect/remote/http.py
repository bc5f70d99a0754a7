"""A file on a server of HTTP, in ranges, each checked to be what was asked for.

fsspec's own reader takes whatever the server sends: all of the file where the server knows no ranges, bytes of another
version where the file changed. So its connection is used, and the requests are made here.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import fsspec
from fsspec.asyn import sync

from convinspect.errors import ConvInspectError
from convinspect.remote import failures, waiting
from convinspect.remote.facts import Facts, version_from

if TYPE_CHECKING:
    from convinspect.remote.addresses import Address

PATIENCE = 30.0
"""Seconds without a byte after which a server counts as silent."""
_LONGEST = 600.0
"""Seconds for one request in all."""
_TRIES = 3
_PAUSE = 0.3
MOST_WAIT = 30.0
"""Seconds that are waited in all for one file where its server asks for it (`Retry-After`)."""
_PASSING = (500, 502, 503, 504)
"""Answers after which the same request may well succeed."""
_SMALL = 1 << 20
"""Bytes of a whole file that is taken from a server without ranges."""
_MOST_REDIRECTS = 10
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_COMMIT = re.compile("[0-9a-f]{40}")
_EMPTY = re.compile(r"bytes \*/(\d+)")


class _Answer(NamedTuple):
    """What a server sent.

    Attributes:
        data: The bytes from where they were asked for.
        facts: Of the whole file.
    """

    data: bytes
    facts: Facts


class _Passing(Exception):
    """What may pass when the request is made again.

    Args:
        error: What to raise when it does not.
        wait: Seconds that the server asks for; None where it asks for none.
    """

    def __init__(self, error: ConvInspectError, wait: float | None = None) -> None:
        super().__init__()
        self.error, self.wait = error, wait


class HttpFile:
    """A file on a server.

    Args:
        path: The address, for messages.
        url: Where it is asked for.
        headers: What else is said to the server, such as who asks.
        heard: Called with the commit that a server of the Hub says the file is of.
    """

    def __init__(
        self, path: Address, url: str, headers: Mapping[str, str], heard: Callable[[str], None] | None = None
    ) -> None:
        self._path, self._url, self._headers, self._heard = path, url, dict(headers), heard
        self._waited = 0.0
        self._fs = fsspec.filesystem("https")
        self._facts: Facts | None = None
        self._tag = ""
        self._from: Any = None

    def first(self, size: int) -> tuple[Facts, bytes]:
        """What is known of the file, and up to `size` of its first bytes, from one request."""
        self._facts, self._tag, self._from = None, "", None
        answer: _Answer = self._run(lambda: self._asked(0, size))
        self._facts = answer.facts
        return answer.facts, answer.data

    def fetch(self, start: int, size: int) -> bytes:
        """The bytes from `start`, all of which the file has.

        Raises:
            ConvInspectError: The server does not send them, or sends something else.
        """
        answer: _Answer = self._run(lambda: self._asked(start, size))
        if answer.facts != self._facts:
            raise failures.changed(self._path)
        return answer.data

    def fetch_all(self, ranges: list[tuple[int, int]]) -> list[bytes]:
        """Several ranges at once, each its start and size; as `fetch`."""

        async def every() -> list[_Answer]:
            return await asyncio.gather(*(self._asked(start, size) for start, size in ranges))

        answers: list[_Answer] = self._run(every)
        if any(answer.facts != self._facts for answer in answers):
            raise failures.changed(self._path)
        return [answer.data for answer in answers]

    def _run(self, work: Callable[[], Any]) -> Any:
        try:
            return sync(self._fs.loop, work)
        except BaseException as error:
            if isinstance(error, Exception):
                raise failures.of_exception(error, self._path) from None
            raise

    async def _asked(self, start: int, size: int) -> _Answer:
        left = _TRIES
        while True:
            try:
                return await self._ask(start, size)
            except _Passing as passing:
                error, wait = passing.error, passing.wait
            # What a redirect led to may have ended its life.
            self._from = None
            if wait is None:
                left -= 1
                if not left:
                    raise error from None
                wait = _PAUSE * (_TRIES - left)
            else:
                self._waited += wait
                if self._waited > MOST_WAIT:
                    raise error from None
                waiting.told(self._path.shown, wait)
            await asyncio.sleep(wait)

    async def _ask(self, start: int, size: int) -> _Answer:
        session = await self._fs.set_session()
        headers = {**self._headers, "Range": f"bytes={start}-{start + size - 1}", "Accept-Encoding": "identity"}
        if self._tag:
            headers["If-Range"] = self._tag
        moved = self._from
        url = self._fs.encode_url(self._url) if moved is None else moved
        if moved is not None:
            # Where a redirect led, nobody logs in.
            headers.pop("authorization", None)
        limits = aiohttp.ClientTimeout(total=_LONGEST, sock_connect=PATIENCE, sock_read=PATIENCE)
        path = self._path
        try:
            asking = session.get(url, headers=headers, timeout=limits, max_redirects=_MOST_REDIRECTS)
            # An answer of 1xx, after which nothing comes, is no silence to aiohttp.
            async with await asyncio.wait_for(asking, 2 * PATIENCE) as response:
                if moved is not None and response.status in (401, 403, 404, 410):
                    raise _Passing(failures.of_status(path, response.status))
                return await self._checked(response, start, size)
        except (asyncio.TimeoutError, aiohttp.ServerTimeoutError):
            raise failures.no_answer(path, PATIENCE) from None
        except aiohttp.TooManyRedirects:
            raise failures.redirected(path, f"ever new addresses, more than {_MOST_REDIRECTS}") from None
        except aiohttp.RedirectClientError as error:
            raise failures.redirected(path, str(error.args[0] if error.args else "")) from None
        except aiohttp.InvalidURL:
            raise failures.no_address(path) from None
        except aiohttp.ClientConnectorError as error:
            raise failures.of_connection(error, path, error.host) from None
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError, aiohttp.ClientOSError) as error:
            raise _Passing(failures.broke_off(path)) from error
        except aiohttp.ClientError as error:
            raise failures.other_bytes(path, f"no HTTP: {type(error).__name__}") from None

    async def _checked(self, response: aiohttp.ClientResponse, start: int, size: int) -> _Answer:
        path, status = self._path, response.status
        self._check_way(response)
        again_in = response.headers.get("Retry-After", "")
        asked = waiting.seconds_in(again_in) if status in (429, 503) else None
        if status in _PASSING or asked is not None:
            wait = None if asked is None else max(_PAUSE, asked)
            raise _Passing(failures.of_status(path, status, asked), wait)
        if status == 416 and (empty := _EMPTY.fullmatch(response.headers.get("Content-Range", ""))):
            return _Answer(b"", self._facts_of(response, int(empty[1])))
        if status == 200:
            return await self._whole(response, start, size)
        if status != 206:
            raise failures.of_status(path, status)
        said = response.headers.get("Content-Range", "")
        match = _RANGE.fullmatch(said)
        if match is None:
            raise failures.other_bytes(path, f"Content-Range: {said[:60]!r}")
        begin, last, total = map(int, match.groups())
        if begin != start or last >= total or last != min(start + size, total) - 1:
            raise failures.other_bytes(path, f"{said} for {start}-{start + size - 1}")
        facts = self._facts_of(response, total)
        if self._facts not in (None, facts):
            raise failures.changed(path)
        data = await _body(response, last + 1 - begin)
        if len(data) < last + 1 - begin:
            raise _Passing(failures.other_bytes(path, f"{len(data):,} of {last + 1 - begin:,}"))
        if len(data) > last + 1 - begin:
            raise failures.other_bytes(path, f"more than {last + 1 - begin:,}")
        self._note(response)
        return _Answer(data, facts)

    async def _whole(self, response: aiohttp.ClientResponse, start: int, size: int) -> _Answer:
        """The answer of a server without ranges: of a small file it can be taken."""
        length = response.headers.get("Content-Length", "")
        facts = self._facts_of(response, int(length)) if length.isdigit() else None
        if self._tag and facts != self._facts:
            # So it answers to `If-Range`, where the file is another one.
            raise failures.changed(self._path)
        if facts is None or facts.size > _SMALL:
            raise failures.no_ranges(self._path)
        data = await _body(response, facts.size)
        if len(data) != facts.size:
            raise _Passing(failures.other_bytes(self._path, f"{len(data):,} of {facts.size:,}"))
        return _Answer(data[start : start + size], facts)

    def _check_way(self, response: aiohttp.ClientResponse) -> None:
        """Check where redirects led: from a connection that nobody can read to one that all can, they are refused."""
        schemes = [urlsplit(str(step.url)).scheme for step in (*response.history, response)]
        if "https" in schemes and "http" in schemes[schemes.index("https") :]:
            raise failures.redirected(self._path, str(response.url))

    def _facts_of(self, response: aiohttp.ClientResponse, size: int) -> Facts:
        tag, modified = response.headers.get("ETag", ""), response.headers.get("Last-Modified", "")
        return Facts(size, version_from(size, tag or modified))

    def _note(self, response: aiohttp.ClientResponse) -> None:
        """Remember what later requests say: which version is meant, and where a redirect led."""
        first = response.history[0] if response.history else response
        if self._heard is not None and _COMMIT.fullmatch(commit := first.headers.get("X-Repo-Commit", "")):
            self._heard(commit)
        tag = response.headers.get("ETag", "")
        self._tag = tag if tag.startswith('"') else ""
        # Another host is asked without a login, which is for the first one.
        moved = bool(response.history) and response.url.host != response.history[0].url.host
        self._from = response.url if moved and not response.url.user else None


async def _body(response: aiohttp.ClientResponse, size: int) -> bytes:
    """The bytes that are sent, one more than `size` at most."""
    data = bytearray()
    while len(data) <= size and (piece := await response.content.readany()):
        data += piece
    return bytes(data[: size + 1])
