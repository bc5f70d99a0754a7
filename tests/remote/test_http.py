"""Files on a server of HTTP: the same as here, in few requests; and what is said of servers that do not behave."""

from __future__ import annotations

import shutil
import socket
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import convinspect
from convinspect.errors import BrokenFile, ChangedMeanwhile, ConvInspectError, NotInstalled, NotThere
from support.in_process import call_main
from support.paths import FIXTURES
from support.servers import Handler, Server, serving

pytest.importorskip("aiohttp")

FILES = (
    "pointnet_stnkd.pt", "pointnet_stnkd.safetensors", "pointnet_stnkd_legacy.pt", "pointnet_stnkd_script.pt",
    "pointnet_stnkd_module.pt", "pointnet_stnkd.pt2", "dtypes.pt", "legacy_views.pt", "big_endian.pt",
    "sharded/model.safetensors.index.json", "sharded_bin/pytorch_model.bin.index.json", "distributed/.metadata",
)  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_elsewhere_is_as_it_is_here(server: Server, name: str) -> None:
    here, there = convinspect.open(FIXTURES / name), convinspect.open(f"{server.address}/{name}")
    assert [*there] == [*here]
    assert (there.format, there.problems, there.notes) == (here.format, here.problems, here.notes)
    for key in here:
        assert there[key]._replace(storage=None) == here[key]._replace(storage=None)
        if here[key].whole and "float4" not in here[key].dtype:
            assert np.array_equal(there.read(key), here.read(key), equal_nan=True)


@pytest.mark.parametrize("name", FILES)
def test_commands_say_the_same_of_a_file_elsewhere(server: Server, name: str) -> None:
    here, there = f"{FIXTURES}/{name}", f"{server.address}/{name}"
    for words in (["shapes", "--all"], ["weights"], ["convert", "--to", "linear", "-n"]):
        a, b = (call_main(words[0], path, *words[1:], "--format", "table") for path in (here, there))
        # Of a folder that is to be written, no other files come along.
        lines = [line for line in b.err.splitlines(True) if "only the weights were fetched" not in line]
        assert (b.code, b.out.replace(there, here), "".join(lines).replace(there, here)) == a
    assert call_main("diff", here, there).code == 0
    assert call_main("verify", there, here, "--bits").code == 0
    assert call_main("check", there).code == call_main("check", here).code


def test_a_small_file_takes_one_request(server: Server) -> None:
    convinspect.open(f"{server.address}/pointnet_stnkd.pt")
    assert [(one.method, one.range) for one in server.asked] == [("GET", "bytes=0-65535")]


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A checkpoint of 40 MB, as torch.save writes it."""
    torch.manual_seed(0)
    state = {f"blocks.{i}.conv.weight": torch.randn(512, 512, 1) for i in range(40)}
    state |= {f"blocks.{i}.norm.weight": torch.randn(512) for i in range(40)}
    torch.save(state, tmp_path / "large.pt")
    return tmp_path / "large.pt"


def test_only_headers_and_one_layer_are_fetched(server: Server, large: Path) -> None:
    with serving(large.parent) as server:
        checkpoint = convinspect.open(f"{server.address}/large.pt")
        assert len(server.asked) <= 6
        assert server.sent <= 1_000_000
        server.forget()
        key = "blocks.17.conv.weight"
        assert torch.equal(torch.from_numpy(checkpoint.read(key)), torch.load(large)[key])
        assert 1 << 20 <= server.sent <= (1 << 20) + 200_000
        assert len(server.asked) <= 2
        server.forget()
        checkpoint.read("blocks.17.norm.weight")
        assert server.sent <= 100_000


def shards(folder: Path, number: int) -> dict[str, str]:
    """A sharded model; returns the index's map."""
    places = {}
    for at in range(1, number + 1):
        name = f"model-{at:05}-of-{number:05}.safetensors"
        tensors = {f"model.layers.{at}.block.{i}.weight": torch.full((64, 32, 1), float(at + i)) for i in range(12)}
        save_file(tensors, folder / name, {"format": "pt"})
        places.update(dict.fromkeys(tensors, name))
    import json

    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return places


def test_shards_are_fetched_together_and_their_headers_alone(tmp_path: Path, server: Server) -> None:
    places = shards(tmp_path, 12)
    headers = sum(8 + int.from_bytes(path.read_bytes()[:8], "little") for path in tmp_path.glob("*.safetensors"))
    at_once: list[int] = []
    now = 0
    lock = threading.Lock()

    def count(handler: Handler) -> bool:
        nonlocal now
        with lock:
            now += 1
            at_once.append(now)
        handler.send_path(tmp_path / handler.path.lstrip("/"))
        with lock:
            now -= 1
        return True

    with serving(tmp_path, latency=0.02, fault=count) as far:
        checkpoint = convinspect.open(f"{far.address}/model.safetensors.index.json")
        assert set(checkpoint) == set(places)
        of_shards = [one for one in far.asked if "json" not in one.path]
        assert len(of_shards) == 12
        assert sum(one.sent for one in of_shards) <= 1.5 * headers


def test_a_converted_file_is_written_here(server: Server, tmp_path: Path) -> None:
    for name in ("pointnet_stnkd.pt", "pointnet_stnkd.safetensors"):
        here, there = tmp_path / f"here_{name}", tmp_path / name
        convinspect.convert(FIXTURES / name, here, to="linear")
        convinspect.convert(f"{server.address}/{name}", there, to="linear")
        assert there.read_bytes() == here.read_bytes()
        convinspect.convert(f"{server.address}/{name}", there, force=True)
        assert there.read_bytes() == (FIXTURES / name).read_bytes()
    folder = tmp_path / "folder"
    convinspect.convert(f"{server.address}/sharded/model.safetensors.index.json", folder, to="linear")
    convinspect.convert(FIXTURES / "sharded/model.safetensors.index.json", tmp_path / "other", to="linear")
    for path in (tmp_path / "other").iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()
    convinspect.convert(f"{server.address}/sharded/model.safetensors.index.json", tmp_path / "same")
    for path in (tmp_path / "same").iterdir():
        assert path.read_bytes() == (FIXTURES / "sharded" / path.name).read_bytes()


def test_an_unpacked_file_whose_folder_nobody_lists(tmp_path: Path) -> None:
    with zipfile.ZipFile(FIXTURES / "pointnet_stnkd.pt") as packed:
        packed.extractall(tmp_path)
    with serving(tmp_path) as far, pytest.raises(NotThere, match="does not say what lies beside it"):
        convinspect.open(f"{far.address}/pointnet_stnkd/data.pkl")


def test_a_member_of_an_archive_elsewhere(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pack.zip", "w") as pack:
        pack.write(FIXTURES / "pointnet_stnkd.pt", "exp/model.pth")
        pack.write(FIXTURES / "README.md", "README.md")
    here = convinspect.open(FIXTURES / "pointnet_stnkd.pt")
    with serving(tmp_path) as server:
        for address in (f"{server.address}/pack.zip", f"{server.address}/pack.zip!exp/model.pth"):
            there = convinspect.open(address)
            assert [*there] == [*here]
            assert np.array_equal(there.read("conv1.weight"), here.read("conv1.weight"))


# --- servers that do not behave


def outcome(address: str) -> ConvInspectError:
    with pytest.raises(ConvInspectError) as raised:
        convinspect.open(address).read("conv1.weight")
    # One line, which names the address.
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(f"{address}: ")
    return raised.value


def answering(status: int, body: bytes = b"", length: int | None = None, **headers: str) -> Callable[[Handler], bool]:
    """A server that always says the same."""

    def answer(handler: Handler) -> bool:
        handler.send_bytes(status, body, {key.replace("_", "-"): value for key, value in headers.items()}, length)
        return True

    return answer


STATUSES = {
    401: "its server asks who is there (401)",
    403: "its server does not give it to whoever asks (403)",
    404: "there is no such file (404)",
    410: "there is no such file (410)",
    418: "its server answers 418",
    429: "its server has had too many requests (429)",
    500: "its server failed (500)",
    503: "its server failed (503)",
}


@pytest.mark.parametrize("status", STATUSES)
def test_an_answer_that_is_no_file(server: Server, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from convinspect.remote import http

    monkeypatch.setattr(http, "MOST_WAIT", 5)
    server.fault = answering(status, b"<html>no</html>", Retry_After="7")
    assert outcome(f"{server.address}/w.pt").problem == STATUSES[status]
    assert len(server.asked) == (3 if status == 500 else 1)
    ended = call_main("shapes", f"{server.address}/w.pt")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.count("\n") == 1
    assert ("wait 7 seconds" in ended.err) == (status in (429, 503))


def test_a_failure_that_passes(server: Server) -> None:
    failing = [answering(503), answering(502)]
    server.fault = lambda handler: failing.pop()(handler) if failing else False
    assert len(convinspect.open(f"{server.address}/pointnet_stnkd.pt")) == 37


def test_a_server_without_ranges(large: Path) -> None:
    with serving(large.parent, ranges=False) as server:
        error = outcome(f"{server.address}/large.pt")
        assert "sends no parts of a file" in error.problem
        assert error.remedy == f"fetch all of it: curl -LO {server.address}/large.pt"
        assert len(server.asked) == 1
    with serving(FIXTURES, ranges=False) as server:
        # A small file can be taken whole.
        assert len(convinspect.open(f"{server.address}/pointnet_stnkd.pt")) == 37


def test_a_file_that_changes(large: Path) -> None:
    with serving(large.parent) as server:
        checkpoint = convinspect.open(f"{server.address}/large.pt")
        torch.save({"blocks.3.conv.weight": torch.zeros(2000, 2000)}, large)
        with pytest.raises(ChangedMeanwhile, match="it changed while it was read; try again"):
            checkpoint.read("blocks.3.conv.weight")
        # The next one sees what is there now.
        assert len(convinspect.open(f"{server.address}/large.pt")) == 1


def test_a_file_that_changes_under_a_server_without_etags(large: Path) -> None:
    def plain(handler: Handler) -> bool:
        data = large.read_bytes()
        start, _, end = handler.headers["Range"].removeprefix("bytes=").partition("-")
        piece = data[int(start) : int(end) + 1]
        span = f"bytes {start}-{int(start) + len(piece) - 1}/{len(data)}"
        handler.send_bytes(206, piece, {"Content-Range": span})
        return True

    with serving(large.parent, fault=plain) as server:
        checkpoint = convinspect.open(f"{server.address}/large.pt")
        large.write_bytes(large.read_bytes() + b"x")
        with pytest.raises(ChangedMeanwhile, match="it changed"):
            checkpoint.read("blocks.3.conv.weight")


LIES = {
    "another begin": (206, b"x" * 100, None, "bytes 7-106/1000"),
    "fewer than asked": (206, b"x" * 100, None, "bytes 0-99/1000000"),
    "more than there are": (206, b"x" * 100, None, "bytes 0-99/50"),
    "no range": (206, b"x" * 100, None, ""),
    "several ranges": (206, b"x" * 100, None, "multipart/byteranges"),
    "an unknown size": (206, b"x" * 100, None, "bytes 0-99/*"),
    "a body that breaks off": (206, b"x" * 100, 65536, "bytes 0-65535/1000000"),
    "a shorter body": (206, b"x" * 100, None, "bytes 0-65535/1000000"),
    "a longer body": (206, b"x" * 70000, None, "bytes 0-65535/1000000"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_server_that_sends_something_else(server: Server, lie: str) -> None:
    status, body, length, said = LIES[lie]

    def answer(handler: Handler) -> bool:
        handler.send_bytes(status, body, {"Content-Range": said} if said else {}, length)
        handler.close_connection = True
        return True

    server.fault = answer
    error = outcome(f"{server.address}/w.pt")
    assert isinstance(error, BrokenFile)
    assert "broke off" in error.problem or "other bytes than were asked for" in error.problem


def test_other_bytes_on_the_second_request(large: Path) -> None:
    """Another file's under the same name and version, which the checksum of what is read shows."""

    def answer(handler: Handler) -> bool:
        if handler.headers["Range"].startswith("bytes=0-"):
            return False
        handler.headers.replace_header("Range", "bytes=5" + handler.headers["Range"].removeprefix("bytes="))
        start, _, end = handler.headers["Range"].removeprefix("bytes=").partition("-")
        size = int(end) + 1 - int(start[1:])
        span = f"bytes {start[1:]}-{end}/{large.stat().st_size}"
        from support.servers import etag_of

        handler.send_bytes(206, b"\1" * size, {"Content-Range": span, "ETag": etag_of(large)})
        return True

    with serving(large.parent, fault=answer) as server:
        try:
            checkpoint = convinspect.open(f"{server.address}/large.pt")
        except BrokenFile:
            return
        assert checkpoint.problems


def test_redirects(server: Server, tmp_path: Path) -> None:
    with serving(FIXTURES) as other:
        server.fault = answering(302, Location=f"{other.address}/pointnet_stnkd.pt")
        address = server.address.replace("//", "//me:secret@") + "/w.pt"
        assert len(convinspect.open(address)) == 37
        assert server.asked[0].authorization.startswith("Basic ")
        assert [one.authorization for one in other.asked] == [""]
    for where in (f"file://{FIXTURES}/pointnet_stnkd.pt", "ftp://127.0.0.1/w.pt", "s3://b/w.pt"):
        server.fault = answering(302, Location=where)
        assert outcome(f"{server.address}/x.pt").problem == f"its server redirects to {where}, which is not followed"
    server.fault = answering(302, Location="/again")
    assert "ever new addresses" in outcome(f"{server.address}/y.pt").problem


def test_a_redirect_that_leaves_the_encrypted_way(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from convinspect.remote.addresses import path_of
    from convinspect.remote.http import HttpFile

    path = path_of("https://host/w.pt")
    file = HttpFile(path, "https://host/w.pt", {})  # type: ignore[arg-type]

    def answer(*urls: str) -> object:
        steps = [SimpleNamespace(url=url) for url in urls]
        return SimpleNamespace(url=urls[-1], history=steps[:-1])

    file._check_way(answer("https://host/w.pt", "https://other/w.pt"))
    file._check_way(answer("http://host/w.pt", "https://other/w.pt"))
    with pytest.raises(BrokenFile, match=r"redirects to http://other/w\.pt"):
        file._check_way(answer("https://host/w.pt", "http://other/w.pt"))


def test_a_silent_server(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from convinspect.remote import http

    monkeypatch.setattr(http, "PATIENCE", 0.2)
    server.latency = 1.5
    assert outcome(f"{server.address}/w.pt").problem == "its server did not answer within 0.2 seconds"


def test_a_server_that_promises_an_answer(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from convinspect.remote import http

    def promise(handler: Handler) -> bool:
        handler.send_response_only(100)
        handler.end_headers()
        time.sleep(1)
        return True

    monkeypatch.setattr(http, "PATIENCE", 0.1)
    server.fault = promise
    assert outcome(f"{server.address}/w.pt").problem == "its server did not answer within 0.1 seconds"


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 206\r\nContent-Length: many\r\n\r\n"])
def test_what_is_no_server_of_http(server: Server, answer: bytes) -> None:
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    error = outcome(f"http://127.0.0.1:{listening.getsockname()[1]}/w.pt")
    listening.close()
    assert isinstance(error, BrokenFile)


def test_nobody_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    error = outcome(f"http://127.0.0.1:{port}/w.pt")
    assert (type(error), error.problem) == (NotThere, "127.0.0.1 cannot be reached (Connection refused)")
    error = outcome("http://no-such-host.invalid/w.pt")
    assert (type(error), error.problem) == (NotThere, "there is no host no-such-host.invalid")
    assert isinstance(outcome("http://"), NotThere)
    assert isinstance(outcome("http://[::1/w.pt"), ConvInspectError)


def test_an_encrypted_server_that_nobody_vouches_for(server: Server) -> None:
    error = outcome(server.address.replace("http:", "https:") + "/w.pt")
    assert isinstance(error, ConvInspectError)


def test_shards_that_are_not_there(server: Server, tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "sharded", tmp_path / "sharded")
    gone = min((tmp_path / "sharded").glob("*.safetensors"))
    gone.unlink()
    with serving(tmp_path) as partial:
        checkpoint = convinspect.open(f"{partial.address}/sharded/model.safetensors.index.json")
        assert f"shard {gone.name}: there is no such file (404)" in checkpoint.problems[0]


def test_a_file_that_is_empty_or_a_page(server: Server, tmp_path: Path) -> None:
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "page.pt").write_text("<!DOCTYPE html><html>sign in</html>")
    with serving(tmp_path) as server:
        assert "empty" in outcome(f"{server.address}/empty.pt").problem
        assert "HTML" in outcome(f"{server.address}/page.pt").problem


@pytest.mark.parametrize("form", ["table", "json", "csv", "md"])
def test_secrets_are_nowhere(server: Server, tmp_path: Path, form: str) -> None:
    address = server.address.replace("//", "//me:geheim@") + "/pointnet_stnkd.pt?X-Amz-Signature=geheim"
    linear = tmp_path / "linear.pt"
    convinspect.convert(FIXTURES / "pointnet_stnkd.pt", linear, to="linear")
    commands: list[list[object]] = [
        ["shapes", address, "--format", form],
        ["weights", address, "conv1", "--format", form],
        ["diff", address, linear, "--format", form],
        ["convert", address, "--to", "linear", "-o", tmp_path / "x.pt", "--force"],
        ["verify", address, linear],
        ["check", address, "--format", "json" if form == "json" else "sarif"],
        ["shapes", address, "-o", tmp_path / "x.svg"],
    ]
    for words in commands:
        ended = call_main(*words)
        assert ended.code in (0, 1), ended.err
        assert "geheim" not in ended.out + ended.err
    assert server.asked[0].authorization
    assert "geheim" not in (tmp_path / "x.svg").read_text()
    server.fault = answering(403)
    ended = call_main("shapes", address.replace("stnkd", "none"))
    assert "(403)" in ended.err
    assert "geheim" not in ended.err
    assert "geheim" not in repr(convinspect.open(FIXTURES / "pointnet_stnkd.pt"))


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "convinspect.remote.http", raising=False)
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(NotInstalled) as raised:
        convinspect.open(f"{server.address}/unread.pt")
    assert raised.value.remedy == "python -m pip install aiohttp"
