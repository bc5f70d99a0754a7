"""Makes the picture of docs/report.md from a real page: `python docs/report_picture.py`.

It needs Selenium, Chromium and its ChromeDriver.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions, ChromeService

import convinspect

ROOT = Path(__file__).resolve().parent.parent
WIDTH, HEIGHT = 1200, 1514
_OPEN = """
const row = [...document.querySelectorAll("tr.row")].find((each) => each.textContent.includes(arguments[0]));
row.click();
document.activeElement.blur();
"""


def make(folder: Path) -> Path:
    """Write the picture."""
    path = folder.resolve() / "report.png"
    # The commands on the page name the file as it was opened.
    os.chdir(ROOT)
    options = ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(flag)
    # Named, since Selenium would ask the network for one.
    browser = Chrome(options, ChromeService(shutil.which("chromedriver")))
    try:
        size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        # Nothing is caught while it turns.
        still = [{"name": "prefers-reduced-motion", "value": "reduce"}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": still})
        with tempfile.TemporaryDirectory() as place:
            page = convinspect.report("fixtures/pointnet_stnkd.pt").save(Path(place) / "report.html")
            browser.get(page.as_uri())
            browser.execute_script(_OPEN, "conv2")
            browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
            path.write_bytes(browser.get_screenshot_as_png())
    finally:
        browser.quit()
    return path


if __name__ == "__main__":
    print(make(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images").name)
