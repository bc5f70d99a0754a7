"""Servers that ask to wait, and encrypted ones."""

from __future__ import annotations

import math
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path

import pytest

import convinspect
from convinspect.errors import ConvInspectError
from convinspect.remote import waiting
from support.on_terminal import on_terminal
from support.paths import FIXTURES
from support.program import run
from support.servers import Handler, Server, serving

pytest.importorskip("aiohttp")


def answering(status: int, again_in: str) -> Callable[[Handler], bool]:
    """A server that always says the same."""

    def answer(handler: Handler) -> bool:
        handler.send_bytes(status, b"<html>no</html>", {"Retry-After": again_in})
        return True

    return answer


def later(seconds: float) -> str:
    return formatdate(time.time() + seconds, usegmt=True)


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_asks_to_wait(server: Server, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    from convinspect.remote import http

    told: list[tuple[str, float]] = []
    monkeypatch.setattr(waiting, "told", lambda where, seconds: told.append((where, seconds)))
    monkeypatch.setattr(http, "MOST_WAIT", 0.2)
    busy = [answering(status, "0") for _ in range(5)]
    server.fault = lambda handler: busy.pop()(handler) if busy else False
    address = f"{server.address}/pointnet_stnkd.pt"
    assert len(convinspect.open(address)) == 37
    assert told == [(address, 0.01)] * 5
    # No more than is waited for in all.
    server.fault = answering(status, "0")
    with pytest.raises(ConvInspectError, match=rf"\({status}\); wait 0 seconds, and try again$"):
        convinspect.open(f"{server.address}/pointnet_stnkd.safetensors")
    assert 20 <= len(server.asked) <= 30


def test_how_long_a_server_asks_to_wait() -> None:
    assert [waiting.seconds_in(text) for text in ("0", " 7 ", "99999")] == [0, 7, 99999]
    assert waiting.seconds_in("9" * 5000) == math.inf
    assert 50 < (waiting.seconds_in(later(60)) or 0) <= 60
    assert waiting.seconds_in(later(-60)) == 0
    for text in ("", "-1", "soon", "1.5", "\xb2", "Sun, 99 Nov 9999 99:99:99 GMT", "\0"):
        assert waiting.seconds_in(text) is None


def test_on_a_terminal_a_wait_is_told(server: Server) -> None:
    busy = [answering(429, "1")]
    server.fault = lambda handler: busy.pop()(handler) if busy else False
    words = ["-m", "convinspect", "shapes", f"{server.address}/pointnet_stnkd.pt"]
    shown = re.sub(r"\x1b\[[0-9;]*m", "", on_terminal(*words, columns=200))
    assert f"note: {server.address}/pointnet_stnkd.pt: its server asks to wait 1 seconds" in shown
    assert "conv1" in shown


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for 127.0.0.1 that it signed itself, and its key."""
    path = tmp_path_factory.mktemp("certificate") / "own.pem"
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(path), "-out", str(path)]
    subprocess.run(["openssl", *words], check=True, capture_output=True)
    return path


def test_an_encrypted_server(tmp_path: Path, certificate: Path) -> None:
    """Refused where nobody vouches for it, accepted where the user does."""
    subprocess.run(["openssl", "x509", "-in", certificate, "-out", tmp_path / "alone.pem"], check=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # The key is written before the certificate or behind it.
    context.load_cert_chain(certificate)
    with serving(FIXTURES, tls=context) as server:
        address = f"{server.address}/pointnet_stnkd.pt"
        assert address.startswith("https://")
        refused = run("shapes", address, fresh=True)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr == (
            f"error: {address}: the certificate of 127.0.0.1 is not trusted; see whether the address is right, or let "
            "SSL_CERT_FILE name the certificates that you trust\n"
        )
        trusted = run("shapes", address, fresh=True, env={"SSL_CERT_FILE": str(tmp_path / "alone.pem")})
        assert (trusted.returncode, trusted.stderr) == (0, "")
        assert trusted.stdout == run("shapes", FIXTURES / "pointnet_stnkd.pt").stdout
