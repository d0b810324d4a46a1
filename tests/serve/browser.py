"""A browser without a window, driven as the W3C's WebDriver says, over its driver's HTTP."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.patience import LONGEST, wait_for

FLAGS = ["headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking"]
FLAGS += ["disable-component-update", "disable-sync", "disable-dev-shm-usage"]
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """One session of a driver."""

    def __init__(self, port: int, profile: Path) -> None:
        self._base = f"http://127.0.0.1:{port}"
        flags = [*FLAGS, f"user-data-dir={profile}", "window-size=1280,1400"]
        options = {"args": [f"--{flag}" for flag in flags]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        told = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._base += f"/session/{told['sessionId']}"

    def _ask(self, method: str, path: str, content: Any = None) -> Any:
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self._base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=LONGEST) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from None

    def open(self, url: str) -> None:
        self._ask("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a function body returns."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def send(self, selector: str, text: str) -> None:
        """Type into an element; into one for files, their paths."""
        found = self._ask("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT]
        self._ask("POST", f"/element/{found}/value", {"text": text})

    def text(self, selector: str) -> str:
        """What is shown of an element; nothing where it is hidden or not there."""
        script = "const e = document.querySelector(arguments[0]); return e?.checkVisibility() ? e.innerText : ''"
        return str(self.run(script, selector))

    def wait(self, selector: str, words: str) -> str:
        """The text of an element, as soon as `words` are in it."""
        wait_for(lambda: words in self.text(selector), f"{words!r} in {selector}")
        return self.text(selector)

    def size(self, width: int, height: int) -> None:
        """Of the page, as on a device of that width."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._ask("POST", "/goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics})

    def dark(self, value: bool) -> None:
        features = [{"name": "prefers-color-scheme", "value": "dark" if value else "light"}]
        params = {"cmd": "Emulation.setEmulatedMedia", "params": {"features": features}}
        self._ask("POST", "/goog/cdp/execute", params)

    def picture(self, path: Path) -> None:
        """The whole page as a PNG."""
        shot = {"cmd": "Page.captureScreenshot", "params": {"captureBeyondViewport": True}}
        path.write_bytes(base64.b64decode(self._ask("POST", "/goog/cdp/execute", shot)["data"]))

    def complaints(self) -> list[str]:
        """What the page, or the policy of its content, complained about."""
        return [one["message"] for one in self._ask("POST", "/se/log", {"type": "browser"})]

    def close(self) -> None:
        self._ask("DELETE", "")


@contextmanager
def browsing(folder: Path, count: int = 1) -> Iterator[list[Browser]]:
    """Browsers of one driver; the test is skipped where there is no Chromium."""
    driver = shutil.which("chromedriver")
    if driver is None or not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        pytest.skip("needs chromium and chromedriver on the path (apt-get install chromium chromium-driver)")
    process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    browsers: list[Browser] = []
    try:
        port = next(
            int(line.split("port ")[1].rstrip(".\n")) for line in process.stdout if "successfully on port" in line
        )
        browsers += [Browser(port, folder / f"profile{number}") for number in range(count)]
        yield browsers
    finally:
        for browser in browsers:
            browser.close()
        process.terminate()
        process.wait()
