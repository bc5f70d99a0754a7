"""Tests run in several processes; each keeps to one thread, since the processes share the cores."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.servers import Server

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before PyTorch is imported, and for every program that the tests start.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure() -> None:
    """Before anything of the program is imported, which may keep the function."""
    from support.unsynced import leave_unsynced

    leave_unsynced()


@pytest.fixture(scope="session", autouse=True)
def _no_fork_server_is_left() -> Iterator[None]:
    """The processes that start the program end with the tests, in time for their coverage to be counted."""
    yield
    if "support.program" in sys.modules:
        sys.modules["support.program"].end_fork_servers()


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--like-windows`: every test runs with what Windows lacks taken away."""
    parser.addoption("--like-windows", action="store_true", help="take away what Windows lacks; needs Linux")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What collecting makes stays to the end; looking there for garbage, then and later, takes seconds a process."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what cannot run so."""
    if config.getoption("--like-windows"):
        items[:] = [item for item in items if item.get_closest_marker("unlike_windows") is None]


@pytest.fixture(autouse=True)
def _as_on_windows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undone before other fixtures end, so that they can clean up."""
    if not request.config.getoption("--like-windows"):
        yield
        return
    from support.like_windows import VARIABLE, like_windows

    monkeypatch.setenv(VARIABLE, "1")
    with like_windows():
        yield


@pytest.fixture
def unmeasured() -> dict[str, str]:
    """The environment of a program that is held to account for each file it opens or writes: without coverage, which
    keeps files of its own.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_PROCESS_")}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of HTTP with the fixtures' files, for which nobody waits long."""
    pytest.importorskip("aiohttp")
    from convinspect.remote import http
    from support.paths import FIXTURES
    from support.servers import serving

    monkeypatch.setattr(http, "_PAUSE", 0.01)
    with serving(FIXTURES) as found:
        yield found


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A Hub of the repositories in a new folder, which huggingface_hub is pointed at."""
    pytest.importorskip("aiohttp")
    huggingface_hub = pytest.importorskip("huggingface_hub")
    from convinspect.remote import fetching, folders, stores
    from support.servers import HubHandler, serving

    (tmp_path / "hub").mkdir()
    with serving(tmp_path / "hub", HubHandler) as found:
        monkeypatch.setenv("HF_ENDPOINT", found.address)
        monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", found.address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        template = f"{found.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        # Its functions ask the one that was made when it was imported.
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", found.address)
        huggingface_hub.HfFileSystem.clear_instance_cache()
        stores._hub.cache_clear()
        # Each test has a Hub of its own under the same addresses.
        folders._listed.clear()
        folders._folders.clear()
        monkeypatch.setattr(fetching, "_FILES", fetching._Files())
        yield found
    stores._hub.cache_clear()
    huggingface_hub.HfFileSystem.clear_instance_cache()
