"""One job: what is said where it stops, and which exit code that is."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import hydra as hydra_package
import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from mml_lightning.config.made_by import overrides_beside
from mml_lightning.engine import job
from mml_lightning.utils.exit_codes import FAILURE, INTERRUPTED, MISTAKE, JobOutcome


def stopped(
    program: str,
    typed: list[str],
    error: BaseException,
    monkeypatch: pytest.MonkeyPatch,
    outcome: JobOutcome | None = None,
) -> JobOutcome:
    """A job of `train` or `eval` whose work ends with `error`."""
    words = [*typed, *(["ckpt=x"] if program == "eval" and not any("ckpt=" in word for word in typed) else [])]
    cfg = hydra_package.compose(program, words, return_hydra_config=True)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        cfg.pop("hydra")

    def fails(*given: Any) -> None:
        raise error

    outcome = outcome or JobOutcome()
    try:
        job.job(cfg, fails, outcome)
    except BaseException as raised:
        assert raised is error
    return outcome


@pytest.mark.parametrize(
    ("program", "advice"), [("train", "continue with: python train.py resume="), ("eval", "start it again")]
)
@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), INTERRUPTED), (OSError(28, "No space left on device", "x"), FAILURE)]
)
def test_a_measurement_is_started_again_and_a_run_continued(
    hydra: None,
    small: list[str],
    tmp_path: Path,
    program: str,
    advice: str,
    error: BaseException,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    typed = [*small, f"paths.root={tmp_path}", f"paths.output_dir={tmp_path / 'run'}"]
    with caplog.at_level(logging.ERROR):
        outcome = stopped(program, typed, error, monkeypatch)
    assert outcome.code == code
    (said,) = [record.getMessage() for record in caplog.records if record.name == job.__name__]
    assert advice in said and ("resume=" in said) is (program == "train")


def test_a_wrong_value_is_a_mistake(
    hydra: None,
    small: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    typed = [*small, f"paths.root={tmp_path}", f"paths.output_dir={tmp_path / 'run'}", "schedule.epochs=-1"]
    assert stopped("train", typed, AssertionError("it began"), monkeypatch).failures == [MISTAKE]


def test_what_is_typed_and_does_nothing_is_a_mistake_and_what_a_run_brings_along_is_none(
    hydra: None, small: list[str], trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = [f"paths.root={tmp_path}", f"paths.output_dir={tmp_path / 'run'}"]
    dry = [*small, *here, "pipeline.dry=true"]
    began, left = AssertionError("it began"), []
    for program, typed in (("train", dry), ("eval", [*small, *here, "ckpt=peers/rgb.pt"])):
        assert stopped(program, typed, began, monkeypatch).failures == [MISTAKE]
    for ckpt in (trained, trained / "checkpoints" / "last.ckpt", trained / "peers" / "rgb.pt"):
        saved = overrides_beside(ckpt, here)
        assert saved and any(word.startswith("schedule.epochs") for word in saved)
        left += stopped("eval", [*saved, *here, f"ckpt={ckpt}"], began, monkeypatch).failures
        assert stopped("eval", [*saved, *here, "optimizer.lr=1", f"ckpt={ckpt}"], began, monkeypatch).failures == [
            MISTAKE
        ]
    assert left == [FAILURE] * 3, "they began"
    brought = JobOutcome(brought=["pipeline.dry=true"])
    assert stopped("train", dry, began, monkeypatch, brought).failures == [FAILURE]
