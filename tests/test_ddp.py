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
import torch

from mml_lightning.data.loading.samplers import TrainSampler

Shell = Callable[..., subprocess.CompletedProcess[str]]
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")


@pytest.fixture
def demo_flow(train: Callable[..., Any]) -> None:
    """The flow cache, so that the ranks need not wait for it."""
    train("modality=flow", "trainer=smoke", "schedule.epochs=1", run="warm_up")


def weights(file: Path) -> dict[str, torch.Tensor]:
    return torch.load(file, map_location="cpu", weights_only=True)["state_dict"]


def losses(run: Path, key: str) -> list[float]:
    """Epoch means of a training loss."""
    with (run / "logs" / "metrics.csv").open() as handle:
        return [float(row[key]) for row in csv.DictReader(handle) if row[key]]


def test_two_ranks_are_one_run(
    shell: Shell, train: Callable[..., Any], tmp_path: Path, one_directory: Callable[..., Path], demo_flow: None
) -> None:
    quiet = (
        *("stage=mml", "modality=[rgb,flow]", "backbone.net.dropout=0", "schedule.epochs=2", "optimizer.lr=0.05"),
        "batch_norm.freeze=stats",  # statistics of half batches are the one thing that ranks can't share
    )
    done = shell("train", *quiet, *TWO)
    assert done.returncode == 0, done.stdout + done.stderr
    run = one_directory(tmp_path / "single", "*_mml_*")
    files = {path.name for path in run.iterdir()}
    assert files == {
        ".hydra",
        "checkpoints",
        "logs",
        "peers",
        "predictions",
        "result.json",
        "manifest.json",
        "train.log",
    }
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
    for peer in ("rgb", "flow"):
        mine, theirs = (told["metrics"]["test"][peer]["loss"] for told in (alone, result))
        assert mine == pytest.approx(theirs, abs=1e-4)
        key = f"train/{peer}/ce"
        assert losses(tmp_path / "single/alone", key) == pytest.approx(losses(run, key), abs=1e-4)
        # gradients that were not averaged over the ranks would lead elsewhere
        one, two = (weights(folder / "peers" / f"{peer}.pt") for folder in (tmp_path / "single/alone", run))
        for name in one:
            torch.testing.assert_close(one[name], two[name], atol=2e-5, rtol=1e-3, msg=name)
    measured = shell("eval", f"ckpt={run}", "trainer=cpu", plain=True)
    assert measured.returncode == 0, measured.stderr
    again = json.loads(next(tmp_path.glob("single/*eval_test_center/result.json")).read_text())
    assert again["metrics"]["test"] == result["metrics"]["test"], "what was measured is what was kept"


def test_499_videos_on_two_ranks_are_measured_as_on_one(
    shell: Shell, demo: Path, small: list[str], tmp_path: Path
) -> None:
    files = sorted((demo / "data" / "videos").iterdir())
    lines = ["id,path,label,split"]
    for number in range(8 + 4 + 499):
        split = "train" if number < 8 else "val" if number < 12 else "test"
        several = f"{number % 7}|{number % 5}" if number % 11 else ""  # some videos have no label
        lines.append(f"v{number},{files[number % len(files)]},{several},{split}")
    (tmp_path / "videos.csv").write_text("\n".join(lines) + "\n")
    kept = [item for item in small if not item.startswith(("data.videos", "data.root"))]
    own = [
        "data=csv",
        f"data.index={tmp_path / 'videos.csv'}",
        "data.label_separator='|'",
        *kept,
        f"paths.root={tmp_path}",
    ]
    own += ["metrics.ap=sequential", "schedule.epochs=1"]
    done = shell("train", *own, "test=false", plain=True)
    assert done.returncode == 0, done.stdout + done.stderr
    ckpt = f"ckpt={next(tmp_path.glob('zoo/**/rgb.pt'))}"
    results, scores = [], []
    for name, ranks in (("alone", ()), ("together", TWO)):
        measured = shell("eval", *own, ckpt, f"name={name}", *ranks, plain=True)
        assert measured.returncode == 0, measured.stdout + measured.stderr
        folder = next(tmp_path.glob(f"single/*{name}"))
        results.append(json.loads((folder / "result.json").read_text())["metrics"])
        with np.load(folder / "predictions" / "test.npz") as saved:
            scores.append({key: saved[key] for key in saved.files})
    alone, together = scores
    assert together["ids"].tolist() == [f"v{number}" for number in range(12, 511)], "each id once, in order"
    assert results[0] == results[1] and set(results[0]["test"]["rgb"]) == {"map", "map_weighted", "map_samples"}
    assert np.array_equal(alone["target"], together["target"])
    # a batch of another size may round the last bits otherwise
    np.testing.assert_allclose(alone["logits/rgb"], together["logits/rgb"], rtol=0, atol=1e-5)


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
