"""Two processes on the CPU: one directory, every test video counted once, the same steps as one process."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mml_lightning.data.batches import TrainSampler

Shell = Callable[..., subprocess.CompletedProcess[str]]
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")


@pytest.fixture
def demo_flow(train: Callable[..., Any]) -> None:
    """The flow cache, so that the ranks need not wait for it."""
    train("modality=flow", "trainer=smoke", "schedule.epochs=1", run="warm_up")


def losses(run: Path, key: str) -> list[float]:
    """Epoch means of a training loss."""
    with (run / "logs" / "metrics.csv").open() as handle:
        return [float(row[key]) for row in csv.DictReader(handle) if row[key]]


def test_two_ranks_are_one_run(
    shell: Shell, train: Callable[..., Any], tmp_path: Path, one_directory: Callable[..., Path], demo_flow: None
) -> None:
    quiet = ("stage=mml", "modality=[rgb,flow]", "backbone.net.dropout=0", "optimizer.lr=0.001", "schedule.epochs=2")
    done = shell("train", *quiet, *TWO)
    assert done.returncode == 0, done.stdout + done.stderr
    run = one_directory(tmp_path / "single", "*_mml_*")
    files = {path.name for path in run.iterdir()}
    assert files == {".hydra", "checkpoints", "logs", "peers", "predictions", "result.json", "train.log"}
    assert {path.name for path in tmp_path.iterdir()} == {"single", "zoo"}
    log = (run / "train.log").read_text()
    assert log.count("epoch 2/2") == 1 and log.count("graph ") == 1, "one voice"
    assert done.stdout.count("epoch 2/2") == 1
    result = json.loads((run / "result.json").read_text())
    assert result["status"] == "completed" and result["steps"] == 6
    with np.load(run / "predictions" / "test.npz") as scores:
        ids, target, logits = scores["ids"], scores["target"], scores["logits/rgb"]
    assert len(ids) == len(set(ids.tolist())) == 11, "odd: one rank repeats a video, which must count once"
    top1 = 100 * (logits[:, 0].argmax(-1) == target).mean()
    assert result["metrics"]["test"]["rgb"]["top1"] == pytest.approx(top1, abs=1e-3)

    alone = train(*quiet, run="alone")
    assert alone["fingerprint"] != result["fingerprint"]
    for peer in ("rgb", "flow"):  # batch norms see half batches, all else is equal
        mine, theirs = (told["metrics"]["test"][peer]["loss"] for told in (alone, result))
        assert mine == pytest.approx(theirs, abs=0.05)
        key = f"train/{peer}/ce"
        assert losses(tmp_path / "single/alone", key) == pytest.approx(losses(run, key), abs=0.05)
    measured = shell("eval", f"ckpt={run}", "trainer=cpu", plain=True)
    assert measured.returncode == 0, measured.stderr
    again = json.loads(next(tmp_path.glob("single/*eval_test_center/result.json")).read_text())
    assert again["metrics"]["test"] == result["metrics"]["test"], "what was measured is what was kept"


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_the_batches_of_one(ranks: int) -> None:
    alone = list(TrainSampler(26, 8, seed=3))
    shares = [list(TrainSampler(26, 8, seed=3, rank=rank, ranks=ranks)) for rank in range(ranks)]
    for step in range(3):
        own = 8 // ranks
        together = {pair for share in shares for pair in share[step * own : (step + 1) * own]}
        assert together == set(alone[step * 8 : (step + 1) * 8])


def test_ranks_stop_together_when_too_many_videos_are_unreadable(
    shell: Shell, demo: Path, small: list[str], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video" * 100)
    files = sorted((demo / "data" / "videos").iterdir())[:16]
    lines = ["id,path,label,split"]
    for number, file in enumerate(files):
        split = "train" if number < 8 else "val" if number < 12 else "test"
        lines.append(f"v{number},{bad if number in (1, 2, 5) else file},class{number % 2},{split}")
    (tmp_path / "videos.csv").write_text("\n".join(lines) + "\n")
    kept = [item for item in small if not item.startswith(("data.videos", "data.root"))]
    own = ["data=csv", f"data.index={tmp_path / 'videos.csv'}", *kept, f"paths.root={tmp_path}", "data.batch_size=8"]
    done = shell("train", *own, *TWO, plain=True)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "3 of 8 training videos are unreadable" in done.stdout
    result = json.loads(next(tmp_path.glob("single/*/result.json")).read_text())
    assert result["status"] == "failed" and "3 of 8" in result["error"]
    assert len(next(tmp_path.glob("single/*/quarantine.csv")).read_text().splitlines()) == 4
    assert not (tmp_path / "zoo").exists()
