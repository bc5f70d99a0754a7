"""Servers on this machine that tests read from: one of HTTP that counts, waits and lies on demand, and a small Hub.

Each is started in threads of the test's process, on a port that the system chooses.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

Fault = Callable[["Handler"], bool]
"""Answers a request in another way, and returns True; or returns False, and the file is sent."""


@dataclass
class Asked:
    """One request.

    Attributes:
        method: GET, HEAD, …
        path: As in the request, with its query.
        range: The header of that name.
        authorization: The header of that name.
        sent: Bytes of the answer's body.
    """

    method: str
    path: str
    range: str
    authorization: str
    sent: int = 0


@dataclass
class Server:
    """A server of the files in a folder.

    Attributes:
        folder: The files; what is asked for is looked for here.
        address: `http://127.0.0.1:PORT`.
        asked: All requests, in order.
        fault: What it does instead of what it should.
        latency: Seconds that it waits before each answer.
        ranges: Whether it knows ranges.
    """

    folder: Path
    address: str = ""
    asked: list[Asked] = field(default_factory=list)
    fault: Fault | None = None
    latency: float = 0.0
    ranges: bool = True

    def forget(self) -> None:
        """Forget the requests."""
        self.asked.clear()

    @property
    def sent(self) -> int:
        """Bytes of all answers' bodies."""
        return sum(one.sent for one in self.asked)


class Handler(BaseHTTPRequestHandler):
    """Sends files, or a range of one."""

    protocol_version = "HTTP/1.1"
    # Else what follows the headers waits for the client's acknowledgement, some 40 milliseconds.
    disable_nagle_algorithm = True
    server_data: Server

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        data = self.server_data
        said = self.headers.get
        self.asked = Asked(self.command, self.path, said("Range", ""), said("Authorization", ""))
        data.asked.append(self.asked)
        if data.latency:
            time.sleep(data.latency)
        if data.fault is not None and data.fault(self):
            return
        self.send_path(data.folder / unquote(urlsplit(self.path).path).lstrip("/"))

    def send_path(self, path: Path, total: int | None = None, more: dict[str, str] | None = None) -> None:
        """Send a file as a server should.

        Args:
            path: The file.
            total: What to say of its size.
            more: Other headers.
        """
        # A path may be none that a file can have.
        if not os.path.isfile(path):
            self.send_bytes(404, b"not here")
            return
        size = path.stat().st_size
        status, start, end = 200, 0, size
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if match and self.server_data.ranges:
            start, end = int(match[1]), min(int(match[2] or size) + 1, size)
            if start >= size:
                self.send_bytes(416, b"", {"Content-Range": f"bytes */{size}"})
                return
            status = 206
            if self.headers.get("If-Range") not in (None, etag_of(path)):
                status, start, end = 200, 0, size
        headers = {"ETag": etag_of(path), **(more or {})}
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size if total is None else total}"
        with open(path, "rb") as file:
            file.seek(start)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(end - start)}.items():
                self.send_header(name, value)
            self.end_headers()
            left = 0 if self.command == "HEAD" else end - start
            while left and (piece := file.read(min(left, 1 << 20))):
                try:
                    self.wfile.write(piece)
                except OSError:
                    self.close_connection = True
                    return
                left -= len(piece)
                self.asked.sent += len(piece)

    def send_bytes(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, length: int | None = None
    ) -> None:
        """Send an answer.

        Args:
            status: Its number.
            body: Its bytes.
            headers: Beside the length.
            length: What it says of its length, if not the truth.
        """
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body) if length is None else length)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
            self.asked.sent += len(body)


def etag_of(path: Path) -> str:
    """What tells versions of a file apart."""
    status = path.stat()
    return f'"{status.st_size:x}-{status.st_mtime_ns:x}"'


class _Quiet(ThreadingHTTPServer):
    """Says nothing of clients that leave."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        pass


@contextmanager
def serving(
    folder: Path, handler: type[Handler] = Handler, tls: ssl.SSLContext | None = None, **options: object
) -> Iterator[Server]:
    """A server of a folder's files, until the context ends.

    Args:
        folder: The files.
        handler: What answers.
        tls: With what connections are encrypted, if they are.
        options: As of `Server`.
    """
    data = Server(folder, **options)  # type: ignore[arg-type]
    own = type("Own", (handler,), {"server_data": data})
    server = _Quiet(("127.0.0.1", 0), own)
    data.address = f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_port}"
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield data
    finally:
        server.shutdown()
        server.server_close()


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubHandler(Handler):
    """The parts of the Hub that huggingface_hub asks: a repository's facts, its files, and their bytes.

    `folder/OWNER/NAME` is a repository. Bytes come from `/cdn/…`, to which `/resolve/` redirects.
    """

    def _answer(self) -> None:
        data = self.server_data
        said = self.headers.get
        self.asked = Asked(self.command, self.path, said("Range", ""), said("Authorization", ""))
        data.asked.append(self.asked)
        if data.latency:
            time.sleep(data.latency)
        if data.fault is not None and data.fault(self):
            return
        parts = unquote(urlsplit(self.path).path).lstrip("/").split("/")
        if parts[0] == "cdn":
            self.send_path(data.folder / "/".join(parts[1:]))
        elif parts[:2] == ["api", "models"]:
            self._send_facts(data.folder / "/".join(parts[2:4]), parts[2:4], parts[4:])
        elif len(parts) > 4 and parts[2] == "resolve":
            self._send_resolved("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self.send_bytes(404, b"{}")

    def _send_facts(self, repository: Path, name: list[str], what: list[str]) -> None:
        if not repository.is_dir():
            self.send_bytes(404, b'{"error": "no"}', {"X-Error-Code": "RepoNotFound"})
            return
        if what[:1] == ["tree"]:
            folder = repository / "/".join(what[2:])
            if not folder.is_dir():
                self.send_bytes(404, b'{"error": "no"}', {"X-Error-Code": "EntryNotFound"})
                return
            self._send_json([_entry(path, repository) for path in sorted(folder.iterdir())])
        elif what[:1] == ["paths-info"]:
            self._send_json([])
        else:
            siblings = [{"rfilename": path.name} for path in sorted(repository.iterdir())]
            self._send_json({"id": "/".join(name), "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})

    def _send_resolved(self, repository: str, revision: str, name: str) -> None:
        path = self.server_data.folder / repository / name
        if not (self.server_data.folder / repository).is_dir():
            self.send_bytes(404, b"", {"X-Error-Code": "RepoNotFound"})
            return
        if not path.is_file():
            self.send_bytes(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        if path.suffix == ".json":
            # What is small lies in the repository itself.
            self.send_path(path, more={"X-Repo-Commit": COMMIT})
            return
        linked = {"X-Repo-Commit": COMMIT, "X-Linked-Size": str(path.stat().st_size), "X-Linked-Etag": etag_of(path)}
        where = f"{self.server_data.address}/cdn/{repository}/{name}"
        self.send_bytes(302, b"", {**linked, "ETag": etag_of(path), "Location": where})

    def _send_json(self, value: object) -> None:
        self.send_bytes(200, json.dumps(value).encode(), {"Content-Type": "application/json"})


def _entry(path: Path, repository: Path) -> dict[str, object]:
    name = path.relative_to(repository).as_posix()
    oid = sha256(name.encode()).hexdigest()[:40]
    if path.is_dir():
        return {"type": "directory", "oid": oid, "size": 0, "path": name}
    return {"type": "file", "oid": oid, "size": path.stat().st_size, "path": name}
