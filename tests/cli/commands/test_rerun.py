"""A run is repeated from its directory, and what differs is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mml_lightning.cli.main import main
from mml_lightning.runs import manifest
from mml_lightning.runs import result as runs_result
from mml_lightning.utils import result_file
from mml_lightning.utils.errors import UserError

Train = Callable[..., dict[str, Any]]


def test_a_rerun_gives_the_same_numbers_and_names_what_differs(
    train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = train("stage=mml", "modality=[rgb,flow]", "schedule.epochs=1")
    folder = tmp_path / "single/run"
    told = manifest.read(folder)
    assert told is not None and told["overrides"] == result["overrides"] and told["config"]["stage"]["name"] == "mml"
    assert told["starts"][0]["versions"]["torch"] and told["starts"][0]["machine"]["cores"] > 0
    assert told["data_fingerprint"] == result["data_fingerprint"] and set(told["origins"]) == {"rgb", "flow"}
    assert main(["rerun", str(folder)]) == 0
    said = capfd.readouterr().out
    again = tmp_path / "single/run_rerun"
    for line in (
        "weights  rgb: equal",
        "weights  flow: equal",
        "scores   test rgb: equal",
        "data     fingerprint: equal",
    ):
        assert line in said
    assert said.rstrip().endswith(f"equal: run and its rerun in {again}")
    assert json.loads((again / "rerun.json").read_text())["equal"] is True
    zoo = {path.parents[2].name for path in tmp_path.glob("zoo/*/*/*/seed0/*/rgb.pt")}
    assert zoo == {"mml_rgb+flow_from_scratch", "mml_rgb+flow_from_scratch_rerun"}, "it replaces nothing"
    assert main(["rerun", str(folder)]) == 2 and "is not empty" in capfd.readouterr().err

    # as if libraries and code had changed since
    told["starts"][0] |= {"git_sha": "0123456789ab", "versions": {**told["starts"][0]["versions"], "torch": "1.0"}}
    result_file.write_json(folder / manifest.FILE, told)
    with pytest.raises(SystemExit) as stop:
        main(["rerun", str(folder), "optimizer.lr=0.1", "--out", str(tmp_path / "other")])
    assert stop.value.code == 1
    said = capfd.readouterr().out
    assert "tensors differ, by up to" in said and "test rgb: logits differ by up to" in said
    assert "test/rgb/loss was" in said and "git_sha  was 0123456789ab, is" in said and "torch was 1.0, is" in said
    assert f"NOT EQUAL: run and its rerun in {tmp_path / 'other'}" in said


@pytest.mark.slow
def test_a_stage_of_phases_is_repeated(train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    of_second = ("phases.1.optimizer.lr=0.002", "+phases.1.schedule.factor.warmup_epochs=1")
    train("stage=lp_ft", "init=scratch", "phases.0.epochs=1", *of_second)
    assert main(["rerun", str(tmp_path / "single/run")]) == 0
    assert "weights  rgb: equal" in capfd.readouterr().out
    assert len(json.loads((tmp_path / "single/run_rerun/result.json").read_text())["phases"]) == 2


def test_what_can_t_be_repeated(train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rerun", str(tmp_path)]) == 2
    assert f"{tmp_path} has no manifest.json" in capsys.readouterr().err
    train("schedule.epochs=1", "trainer=smoke", "test=false")
    folder = tmp_path / "single/run"
    result_file.write_json(folder / "result.json", {"status": "preempted"})
    assert main(["rerun", str(folder)]) == 2
    assert "did not finish; continue it with: python train.py resume=" in capsys.readouterr().err
    assert main(["rerun", str(folder.parent)]) == 2
    assert "give the directory of one run, such as " in capsys.readouterr().err


def test_a_run_that_goes_on_keeps_all_its_starts(train: Train, tmp_path: Path) -> None:
    for _ in range(2):
        train("schedule.epochs=1", "trainer=smoke", "test=false", "resume=auto")
    told = manifest.read(tmp_path / "single/run")
    assert told is not None and len(told["starts"]) == 2
    with pytest.raises(
        UserError, match=r"already holds a run \(ce_rgb_from_scratch, completed\), which a new one would"
    ):
        train("schedule.epochs=1", "trainer=smoke", "test=false")


def test_changes_to_the_code_have_a_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = manifest.git_changes()
    assert changes is None or len(changes) == 16
    assert (changes is None) == (not (runs_result.git_sha() or "").endswith("+changes"))
    monkeypatch.setenv("PATH", "")
    assert manifest.git_changes() is None
