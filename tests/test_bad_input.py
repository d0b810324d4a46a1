"""docs/bad_input.md: every row of its table is made, and the answer compared with the one that stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mml_lightning.config import data
from tests import tiny
from tests.bad_input import lists, tables, videos  # noqa: F401  # fill CASES
from tests.bad_input.lab import CASES, FLOW, Lab, Shell
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "bad_input.md").read_text(encoding="utf-8")
ROWS = {
    row[0]: row[1:] for row in re.findall(r"^\| ([^|`]+) \| (start|sample|check|command) \| `(.+)` \|$", PAGE, re.M)
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def lab(small: list[str], hydra: None, shell: Shell, train: Any, tmp_path: Path, clips: Path) -> Lab:
    from mml_lightning.utils.process import quieten_libraries

    quieten_libraries()
    left = ("data.videos", "data.root", "paths.cache")
    typed = [word for word in small if not word.startswith(left)] + ["data.batch_size=4"]
    return Lab(tmp_path, clips, typed, shell, train)


def test_page_and_cases_are_of_one_mind() -> None:
    assert set(ROWS) == set(CASES)
    assert len(ROWS) >= 25 and len(re.findall(r"^\| .* \|$", PAGE, re.M)) == len(ROWS) + 1  # and the head
    for where, answer in ROWS.values():
        assert len(answer.replace("…", "")) >= 25, (where, answer)


@pytest.mark.parametrize("damage", CASES)
def test_answer(lab: Lab, damage: str) -> None:
    said = CASES[damage](lab)
    where, answer = ROWS[damage]
    assert "\n" not in said and lab.where == where
    expected = ".*".join(re.escape(part) for part in answer.split("…"))
    assert re.fullmatch(expected, said), f"docs/bad_input.md has\n{answer}\nsaid was\n{said}"


def test_what_a_run_says_and_bears(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """Lines of the log: a video in train and val, and flow that is too short, where the run looks at flow."""
    words = lab.lists(flow=True)
    for kind, count in (("", 6), ("_flow", 5)):
        tiny.edit(lab.data / f"val{kind}.txt", f"v9 {count} 1", f"v3 {count} 1")
    tiny.edit(lab.data / "train_flow.txt", "v5 5 1", "v5 3 1")
    data.dataset(lab.config(*words)[0])
    doubles = "data=frames_data: 1 of 8 training videos are in val or test too (same files or id), first v3 (val)"
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith(doubles)
    caplog.clear()
    data.dataset(lab.config(*words, *FLOW)[0])
    assert len(caplog.messages) == 2 and caplog.messages[0].startswith(doubles)
    assert "flow of 1 of 12 videos does not match" in caplog.messages[1] and "train/v5" in caplog.messages[1]


def test_more_workers_than_cores_are_said_once(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    data.loader_settings(lab.config(*lab.lists(), "data.workers=0")[0])
    assert not caplog.messages
    data.loader_settings(lab.config("data=frame_lists", "data.root=x", "data.workers=9999")[0])
    (said,) = caplog.messages
    assert said.startswith("data.workers=9999: there are ") and said.endswith("fewer workers may be faster")
