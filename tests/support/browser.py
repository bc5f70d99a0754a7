"""A headless Chromium that finds no network, driven by selenium; skipped with a reason where there is none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip


@contextmanager
def chromium(profile: Path) -> Iterator[Chrome]:
    """A browser, whose console and network are logged."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("there is no Chromium with its ChromeDriver here")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver: Chrome = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        # The page that it starts with goes on loading its own parts, which a slow machine would see within a test.
        driver.get("about:blank")
        yield driver
    finally:
        driver.quit()


def _log(browser: Chrome, name: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = browser.get_log(name)  # type: ignore[no-untyped-call]
    return entries


def said(browser: Chrome) -> list[str]:
    """What the console says since it was last asked, but for advice on how tests look at a canvas."""
    every = [entry["message"] for entry in _log(browser, "browser")]
    return [text for text in every if "willReadFrequently" not in text]


def asked_for(browser: Chrome) -> dict[str, str]:
    """Addresses that were asked for since this was last asked, each with why the browser refused it; "" where not.

    What the browser asks of itself for its own first page, which may come late, does not count.
    """
    events: list[Any] = [json.loads(entry["message"])["message"] for entry in _log(browser, "performance")]
    named: dict[str, list[Any]] = {}
    for event in events:
        named.setdefault(event["method"], []).append(event["params"])
    refused = {each["requestId"]: each.get("blockedReason", "") for each in named.get("Network.loadingFailed", [])}
    asked = named.get("Network.requestWillBeSent", [])
    addresses = {each["request"]["url"]: refused.get(each["requestId"], "") for each in asked}
    return {address: why for address, why in addresses.items() if not address.startswith("chrome:")}


def emulate(browser: Chrome, width: int, height: int, dark: bool = False) -> None:
    """Give the window a size, and the reader a colour scheme."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def seconds_of_work(browser: Chrome) -> float:
    """Processor seconds that the page's thread has spent so far, whatever else the machine does."""
    browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
    metrics = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return float(next(each["value"] for each in metrics if each["name"] == "TaskDuration"))
