"""data.missing=mask in real runs: two processes, and accumulated batches, are one process that sees whole batches."""

from __future__ import annotations

import csv
import json
import math
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from mml_lightning.config import training
from mml_lightning.config.compose import compose
from mml_lightning.engine import train as runs
from mml_lightning.engine import trainer
from mml_lightning.engine.train import stage
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.process import quieten_libraries
from tests.data.videos import moving, write_video
from tests.runs.test_resume import Cut

Shell = Callable[..., subprocess.CompletedProcess[str]]
Same = Callable[[Path, Path], None]
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
VIDEOS = 24  # to train; batches of 8
SINGLE = {0, 1, 2, 4, 5, 7, 8, 10, 11, 13, 14, 15, 16, 17, 19, 20, 22, 23}  # of one frame: they have no flow


@pytest.fixture
def own(demo: Path, small: list[str], tmp_path: Path) -> list[str]:
    """Overrides of a run on videos most of which have one frame."""
    lines = ["id,path,label,split"]
    for number in range(VIDEOS + 8):
        frames = moving(8, 1 + number % 3, 1 + number % 4)[: 1 if number in SINGLE else None]
        path = write_video(tmp_path / "videos" / f"{number}.mp4", frames)
        split = "train" if number < VIDEOS else "val" if number < VIDEOS + 4 else "test"
        lines.append(f"v{number},{path},class{number % 3},{split}")
    (tmp_path / "videos.csv").write_text("\n".join(lines) + "\n")
    kept = [item for item in small if not item.startswith(("data.videos", "data.root", "paths.cache"))]
    return [
        *("data=csv", f"data.index={tmp_path / 'videos.csv'}", *kept, f"paths.root={tmp_path}"),
        *("stage=mml", "modality=[rgb,flow]", "data.missing=mask", "backbone.net.dropout=0", "schedule.epochs=2"),
        *("optimizer.lr=0.05", "optimizer.clip_norm=null", "test=false"),
        "batch_norm.freeze=stats",  # statistics of half batches are the one thing that ranks can't share
    ]


def weights(run: Path, peer: str) -> dict[str, torch.Tensor]:
    return torch.load(run / "peers" / f"{peer}.pt", map_location="cpu", weights_only=True)["state_dict"]


def losses(run: Path) -> list[dict[str, float]]:
    """Epoch means of the training losses."""
    with (run / "logs" / "metrics.csv").open() as handle:
        rows = [{k: v for k, v in row.items() if k.startswith("train/") and v} for row in csv.DictReader(handle)]
    return [{k: float(v) for k, v in row.items()} for row in rows if "train/loss_epoch" in row]


@pytest.mark.slow
def test_two_ranks_and_accumulated_batches_are_one_process_with_whole_batches(
    shell: Shell, own: Sequence[str], tmp_path: Path, one_directory: Callable[..., Path]
) -> None:
    """Ranks and batches without a single flow among them; 24 videos are 3 steps of 8, or 6 batches of 4, two a step."""
    ways = {
        "alone": (),
        "two": TWO,
        "accumulated": ("data.batch_size=4", "trainer.accumulate_grad_batches=2"),
        "both": (*TWO, "data.batch_size=4", "trainer.accumulate_grad_batches=2"),
    }
    found = {}
    for name, words in ways.items():
        done = shell("train", *own, *words, f"name={name}", plain=True)
        assert done.returncode == 0, done.stdout + done.stderr
        found[name] = one_directory(tmp_path / "single", f"*_{name}")
        assert json.loads((found[name] / "result.json").read_text())["steps"] == 6, name
    before = losses(found["alone"])
    assert [set(row) for row in before] == [
        {f"train/{peer}/{what}" for peer in ("rgb", "flow") for what in ("ce", "kl", "top1")} | {"train/loss_epoch"}
    ] * 2
    assert 0.5 < before[0]["train/flow/ce"] / math.log(3) < 2, "of six videos, not of twenty-four"
    for name in ("two", "accumulated", "both"):
        for one, other in zip(before, losses(found[name]), strict=True):
            for key in one:
                # the steps are the same; within an accumulated one the order of float32 sums is another
                assert one[key] == pytest.approx(other[key], abs=2e-4), (name, key)
        for peer in ("rgb", "flow"):
            first, second = weights(found["alone"], peer), weights(found[name], peer)
            for key in first:
                torch.testing.assert_close(first[key], second[key], atol=3e-5, rtol=1e-3, msg=f"{name} {peer} {key}")


@pytest.mark.slow
def test_one_peer_per_rank_is_one_process(
    shell: Shell, own: Sequence[str], tmp_path: Path, one_directory: Callable[..., Path], same_weights: Same
) -> None:
    """To the last bit, with batch norms and dropout: each rank sees whole batches."""
    own = [*own, "batch_norm.freeze=none", "backbone.net.dropout=0.3", "trainer.num_threads=1"]
    folders = []
    for name, words in (("alone", ()), ("apart", (*TWO, "placement=peer"))):
        done = shell("train", *own, *words, f"name={name}", plain=True)
        assert done.returncode == 0, done.stdout + done.stderr
        folders.append(one_directory(tmp_path / "single", f"*_{name}"))
    for peer in ("rgb", "flow"):
        same_weights(folders[0] / "peers" / f"{peer}.pt", folders[1] / "peers" / f"{peer}.pt")
    assert losses(folders[0]) == losses(folders[1])


def test_a_run_that_was_cut_goes_on_as_if_it_had_not_been(
    hydra: None, own: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_weights: Same
) -> None:
    """In the middle of a step, and of an epoch: six batches, two per step; the loader looks ahead from there."""
    quieten_libraries()
    words = [*own, "batch_norm.freeze=none", "data.batch_size=4", "trainer.accumulate_grad_batches=2"]
    words += ["callbacks.checkpoint_every_steps=1", "modality=[rgb,flow]"]

    def train(run: str, *more: str) -> Path:
        folder = tmp_path / "single" / run
        typed = [*words, *more]
        stage(compose("train", overrides=[*typed, f"paths.output_dir={folder}"]), typed)
        return folder

    whole, plain = train("whole"), trainer.training_callbacks
    for calls in (3, 4, 9):
        with monkeypatch.context() as patch:
            patch.setattr(runs, "training_callbacks", lambda *g, n=calls: [*plain(*g), Cut("on_train_batch_start", n)])
            with pytest.raises(ConnectionResetError):
                train(f"cut{calls}")
        again = train(f"cut{calls}", f"resume={tmp_path}/single/cut{calls}")
        for peer in ("rgb", "flow"):
            same_weights(whole / "peers" / f"{peer}.pt", again / "peers" / f"{peer}.pt")
        assert (whole / "logs/metrics.csv").read_text() == (again / "logs/metrics.csv").read_text()


@pytest.mark.parametrize("word", ["batch_norm.sync=true", "batch_norm.group_size=4"])
def test_groups_of_one_size_are_refused(hydra: None, word: str) -> None:
    cfg = compose("train", overrides=["data.missing=mask", "paths.output_dir=out", word])
    with pytest.raises(UserError, match=r"with data\.missing=mask a batch has any number of samples"):
        training.batch_norm_settings(cfg)
