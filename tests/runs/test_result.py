"""result.json: written whole, once when a run begins and once when it ends, whatever the end."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mml_lightning.config.compose import changed
from mml_lightning.runs.result import RunResult, git_sha, nested_metrics, record_failure
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.result_file import read_result, write_json


def test_a_result_is_running_then_completed(tmp_path: Path) -> None:
    with RunResult(tmp_path / "run", True, name="x") as result:
        told = read_result(tmp_path / "run")
        assert told is not None and (told["status"], told["name"], told["schema"]) == ("running", "x", 1)
        result.fields["metrics"] = {"val": {"rgb": {"top1": math.nan}}}
    told = read_result(tmp_path / "run")
    assert told is not None and told["status"] == "completed" and told["metrics"]["val"]["rgb"]["top1"] is None
    assert told["wall_s"] >= 0 and told["finished"] >= told["started"]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["result.json"]


@pytest.mark.parametrize(
    "error, text",
    [
        (UserError("do this"), "do this"),
        (ValueError("first\nsecond"), "ValueError: first"),
        (KeyboardInterrupt(), "interrupted"),
        (RuntimeError(), "RuntimeError: "),
    ],
)
def test_a_failure_is_told_and_goes_on(tmp_path: Path, error: BaseException, text: str) -> None:
    with pytest.raises(type(error)), RunResult(tmp_path, True):
        raise error
    told = json.loads((tmp_path / "result.json").read_text())
    assert (told["status"], told["error"]) == ("failed", text)


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    with RunResult(tmp_path / "run", False):
        pass
    assert not (tmp_path / "run").exists()


def test_metrics_nest_by_split_peer_and_metric() -> None:
    flat = {"val/rgb/top1": 73.599998, "test/verb/rgb/map": 1.0, "train/rgb/ce": 2.0, "lr": 3.0}
    assert nested_metrics(flat) == {"test": {"verb/rgb": {"map": 1.0}}, "val": {"rgb": {"top1": 73.6}}}


def test_what_can_not_be_read_is_none(tmp_path: Path) -> None:
    assert read_result(tmp_path) is None
    for content in ("{", "[1]"):
        (tmp_path / "result.json").write_text(content)
        assert read_result(tmp_path) is None
    write_json(tmp_path / "result.json", {"a": (1, math.inf)})
    assert read_result(tmp_path) == {"a": [1, None]}


def test_git_sha_is_a_commit_or_nothing() -> None:
    sha = git_sha()
    assert sha is None or len(sha.removesuffix("+changes")) == 12


@pytest.mark.parametrize("value", [["a", "b"], {"a": "b"}, 7, None], ids=["list", "table", "number", "nothing"])
@pytest.mark.parametrize("group", ["data", "stage", "objective", "setup", "backbone", "views"])
def test_a_job_that_fails_for_its_names_has_a_row(group: str, value: object, composed: Callable[..., Any]) -> None:
    cfg, typed = composed()
    cfg = changed(cfg, {f"{group}.name": value})
    record_failure(cfg, typed, UserError("no name"))
    told = read_result(Path(cfg.paths.output_dir))
    assert told is not None and told["error"] == "no name"
    assert told[group] in (str(value), None) and (told[group] is None) <= (value is None)
