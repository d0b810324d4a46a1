"""Loggers: the CSV log always, Weights & Biases offline without a network."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mml_lightning.config.settings import Settings
from mml_lightning.pipelines.run_pipeline import pipeline
from mml_lightning.runs import tracking
from tests.conftest import command, environment
from tests.offline import offline_run
from tests.patience import LONGEST
from tests.report.test_paper_table import tiny

Composed = Callable[..., tuple[Settings, list[str]]]
WANDB = ("logger=wandb", "logger.mode=offline", "tags=[mine]")


@pytest.mark.parametrize(
    "folder, group",
    [
        ("multirun/single/stamp_ce", "stamp_ce"),
        ("multirun/single/stamp_pipeline_mml/1_ce", "stamp_pipeline_mml"),
        ("multirun/sweep/stamp_seed/3_ce", "stamp_seed"),
        ("multirun/sweep/stamp_seed/3_pipeline_mml/1_ce", "stamp_seed"),
        ("elsewhere/2nd", "2nd"),
    ],
)
def test_group_is_the_sweep_or_pipeline(folder: str, group: str) -> None:
    assert tracking.group_of(Path("/somewhere") / folder) == group


def test_ablation_keys_are_flat(composed: Composed) -> None:
    cfg, _ = composed("stage=mml", "modality=[rgb,flow]", "init.flow=ce")
    flat = tracking.ablation(cfg)
    assert flat["ablation/modality"] == "rgb+flow" and flat["ablation/init_flow"] == "ce"
    assert flat["ablation/init_rgb"] == "scratch" and flat["ablation/seed"] == 0
    assert all(isinstance(value, str | int) for value in flat.values())


def test_offline_run_has_group_job_type_tags_and_ablation(
    composed: Composed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    tracking.SAID.clear()
    cfg, _ = composed("stage=mml", "modality=[rgb,flow]", *WANDB)
    for name in ("one", "two"):
        logger = tracking.loggers(cfg, tmp_path / "sweep" / "stamp_seed" / name, "mml")[1]
        run: Any = logger.experiment
        assert run.settings.mode == "offline" or run.offline
        assert (run.group, run.job_type, tuple(run.tags)) == ("stamp_seed", "mml", ("demo", "mml", "mine"))
        assert run.config["ablation/init_flow"] == "scratch" and run.config["config"]["stage"]["name"] == "mml"
        logger.log_metrics({"val/rgb/top1": 1.0}, step=1)
        tracking.log_outcome([logger], {"test/rgb/top1": 2.0}, {"peers": {}}, tmp_path)
        assert run.summary["test/rgb/top1"] == 2.0
        tracking.close(cfg)
    folders = [tmp_path / "sweep/stamp_seed" / name / "wandb" for name in ("one", "two")]
    records = [sorted(folder.glob("offline-run-*")) for folder in folders]
    assert [len(found) for found in records] == [1, 1] and records[0][0].name != records[1][0].name
    assert len([line for line in caplog.messages if "W&B is offline" in line]) == 1


def test_resumed_run_goes_on_in_its_record(composed: Composed, tmp_path: Path) -> None:
    cfg, _ = composed(*WANDB)
    ids = []
    for _ in range(2):
        run: Any = tracking.loggers(cfg, tmp_path / "run", "ce")[1].experiment
        ids.append(run.id)
        tracking.preempted(cfg)
        tracking.close(cfg)
    assert ids[0] == ids[1]


def test_a_run_with_wandb_leaves_one_record_and_needs_no_network(
    train: Callable[..., dict[str, Any]], composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody answers there
    train(*WANDB, "schedule.epochs=1", "trainer=smoke")
    tracking.close(composed(*WANDB)[0])
    found = sorted((tmp_path / "single/run/wandb").glob("offline-run-*"))
    assert len(found) == 1
    result = json.loads((tmp_path / "single/run/result.json").read_text())
    assert result["status"] == "completed"
    told = offline_run(found[0])
    assert (told.run.run_group, told.run.job_type, list(told.run.tags)) == ("run", "ce", ["demo", "ce", "mine"])
    assert told.config["ablation/name"] == "ce_rgb_from_scratch" and told.config["config"]["seed"] == 0
    assert told.config["run"]["data_fingerprint"] == result["data_fingerprint"]
    assert told.summary["parameters/rgb"] == result["peers"]["rgb"]["parameters"]
    for split in ("val", "test"):
        assert told.summary[f"{split}/rgb/top1"] == pytest.approx(result["metrics"][split]["rgb"]["top1"], abs=1e-4)
        columns, rows = told.table(f"per_class/{split}")
        with (tmp_path / f"single/run/predictions/{split}_per_class.csv").open(newline="") as handle:
            head, *lines = list(csv.reader(handle))
        assert columns == head and [row[0] for row in rows] == [line[0] for line in lines]
        assert [row[2] for row in rows] == [float(line[2]) if line[2] else None for line in lines]
    assert any("train/rgb/ce" in step for step in told.history), "curves"


def test_a_pipeline_logs_its_table(composed: Composed, tmp_path: Path) -> None:
    pipeline(*tiny(composed, "seeds=1", *WANDB, "schedule.epochs=1", "trainer=smoke", "trainer.accelerator=cpu"))
    (record,) = (tmp_path / "single/run/wandb").glob("offline-run-*")
    told = offline_run(record)
    assert (told.run.run_group, told.run.job_type) == ("run", "report")
    assert "two of scratch" in told.media("page").read_text(), "its own table stands on the page"
    assert told.table("seeds")[1], "with a number at least"


def test_a_machine_without_a_login_stays_offline(small: list[str], tmp_path: Path) -> None:
    """Without WANDB_MODE, which other tests set: what a stranger's shell looks like."""
    empty = tmp_path / "home"
    empty.mkdir()
    stranger = environment(HOME=str(empty), NETRC=str(empty / "netrc"))
    kept = {key: value for key, value in stranger.items() if key not in ("WANDB_MODE", "WANDB_API_KEY")}
    given = [*small, f"paths.root={tmp_path}", "schedule.epochs=1", "trainer=smoke", "logger=wandb"]
    done = subprocess.run(
        command("train", *given), capture_output=True, text=True, env=kept, cwd=tmp_path, timeout=LONGEST
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.glob("single/*/wandb/offline-run-*")) and "W&B is offline" in done.stdout
