"""The page in a real browser: upload, result, bad file, 200 MB, two at once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mml_lightning.serve.analysis import Analyst
from mml_lightning.serve.asked import Asked
from tests.patience import wait_for
from tests.serve.browser import Browser, browsing
from tests.serve.conftest import MOST, Client, Here

Serving = Callable[..., AbstractContextManager[Client]]

PICK = """
const [selector, value] = arguments, select = document.querySelector(selector);
select.value = value;
select.dispatchEvent(new Event('change'));
"""


def opened(browser: Browser, client: Client) -> None:
    browser.open(f"http://127.0.0.1:{client.server.server_address[1]}/")
    browser.wait("#model", "flow, rgb of")
    browser.wait("#found", "11 videos")


@pytest.mark.slow
def test_the_page(serving: Serving, analyst: Analyst, clips: list[Path], tmp_path: Path) -> None:
    text, large = tmp_path / "text.mp4", tmp_path / "large.mp4"
    text.write_text("no video\n" * 99)
    with large.open("wb") as file:
        file.truncate(200 * 2**20)
    with browsing(tmp_path, count=2) as (one, other), serving(Here(analyst)) as client:
        opened(one, client)
        one.send("#file", str(clips[0]))
        one.wait("#status", f"{clips[0].name}: ")
        expected = analyst.analyse(Asked(), _copy(clips[0], tmp_path))["heads"]["label"]
        assert one.text("#best") == expected["fused"][0]["class"]
        shown = one.text("#result")
        for words in ("fused", "ensemble", "without flow", "Over time", "Grad-CAM of"):
            assert words.casefold() in shown.casefold(), words
        assert one.run("return document.querySelectorAll('.frame img').length") == 2 * 2 * 4
        assert one.run("return [...document.querySelectorAll('.frame img')].every((i) => i.naturalWidth == 32)")

        second = expected["fused"][1]["class"]
        before = one.run("return document.querySelector('.heat').src")
        one.run(PICK, "#of-class", second)
        wait_for(
            lambda: one.run("return document.querySelector('.heat')?.src") not in (None, before), "another Grad-CAM"
        )
        assert one.run("return document.querySelector('#of-class').value") == second

        one.send("#file", str(text))
        assert one.wait("#error", "text.mp4").startswith("text.mp4 can't be scored: ") and one.text("#result") == ""
        one.send("#file", str(large))
        assert one.wait("#error", "large.mp4") == "large.mp4 has 200 MB; uploads may have 1 MB (--max-mb)."
        one.run("model.limits.max_mb = 1e6")  # as a page of another version might have it: the server refuses, too
        one.send("#file", str(large))
        one.wait("#error", "that --max-mb allows")

        one.send("#search", "nothing like it")
        one.wait("#found", "0 videos")
        one.run("document.querySelector('#search').value = ''")
        opened(other, client)
        other.run(PICK, "#videos", "2")
        one.send("#file", str(clips[1]))  # two at once
        one.wait("#status", f"{clips[1].name}: ")
        other.wait("#status", f"{analyst.test[2].id}: ")
        assert "labelled" in other.text("#result")

        for browser in (one, other):  # refused requests are listed, and nothing else
            assert not [line for line in browser.complaints() if "the server responded with a status of 4" not in line]
        one.size(400, 800)
        assert one.run("return document.documentElement.scrollWidth") == 400


@pytest.mark.slow
def test_every_control_has_a_name_and_the_wait_is_told(serving: Serving, analyst: Analyst, tmp_path: Path) -> None:
    slow = _Held(analyst)
    with browsing(tmp_path, count=2) as (one, other), serving(Here(slow), replace(MOST, queue=1)) as client:
        opened(one, client)
        opened(other, client)
        one.run(PICK, "#videos", "0")
        wait_for(lambda: slow.asked, "the first")
        other.run(PICK, "#videos", "0")
        other.wait("#status", "1 more in the queue")
        slow.held = False
        one.wait("#status", "frames")
        other.wait("#status", "frames")
        unnamed = one.run(
            "return [...document.querySelectorAll('input, select, button, [role=img]')].filter((e) => "
            "!e.labels?.length && !e.getAttribute('aria-label')).map((e) => e.outerHTML)"
        )
        assert unnamed == []
        assert one.run("return [...document.images].every((i) => i.hasAttribute('alt'))")


class _Held:
    """An analyst that waits until it may go on."""

    def __init__(self, analyst: Analyst) -> None:
        self.analyst, self.held, self.asked = analyst, True, 0
        self.describe, self.test_videos = analyst.describe, analyst.test_videos

    def analyse(self, asked: Any, upload: Path | None) -> dict[str, Any]:
        self.asked += 1
        wait_for(lambda: not self.held, "leave to go on")
        return self.analyst.analyse(asked, upload)


def _copy(clip: Path, folder: Path) -> Path:
    path = folder / "again" / "upload"
    path.parent.mkdir()
    path.write_bytes(clip.read_bytes())
    return path
