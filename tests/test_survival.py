"""Breaking runs for real: killed, preempted, on a full disk; what comes out in the end is what always comes out."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

from mml_lightning.config.compose import changed
from mml_lightning.config.settings import Settings
from mml_lightning.engine import train as engine_train
from mml_lightning.engine import trainer as engine_trainer
from tests import kills
from tests.conftest import assert_same_weights, command, environment
from tests.patience import LONGEST, wait_for
from tests.runs.test_resume import CE, assert_equal_runs

Train = Callable[..., dict[str, Any]]
Composed = Callable[..., tuple[Settings, list[str]]]
Shell = Callable[..., subprocess.CompletedProcess[str]]
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")


@pytest.mark.slow
def test_killed_at_any_moment(demo: Path, tmp_path: Path) -> None:
    """A few of the kills of `python tests/kills.py`."""
    told: list[str] = []
    assert kills.torment(6, tmp_path / "runs", demo, seed=1, say=told.append) == [], told


def started(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    """train.py in a process group of its own, its directory `folder`."""
    given = command("train", *overrides, f"hydra.run.dir={folder}", "resume=auto")
    pipe = subprocess.PIPE
    return subprocess.Popen(
        given, stdout=pipe, stderr=subprocess.STDOUT, text=True, env=environment(), start_new_session=True
    )


@pytest.mark.slow
def test_two_ranks_leave_together_and_go_on(small: list[str], tmp_path: Path) -> None:
    """The first rank alone is told, then all processes of the job, workers too; each time they save and leave."""
    settings = [*small, *TWO, "stage=mml", "modality=[rgb,flow]", "data.workers=1", "schedule.epochs=3"]
    settings += [f"paths.root={tmp_path}", "optimizer.clip_norm=0.5", "data.batch_size=4", "optimizer.lr=0.02"]
    whole = started(tmp_path / "whole", *settings)
    said, _ = whole.communicate(timeout=LONGEST)
    assert whole.returncode == 0, said
    folder = tmp_path / "cut"
    for signal_all in (False, True):
        process = started(folder, *settings, *(["callbacks.checkpoint_every_steps=1"]))
        last = folder / "checkpoints/last.ckpt"
        before = last.stat().st_mtime if last.exists() else 0.0
        wait_for(lambda: last.exists() and last.stat().st_mtime != before, "a checkpoint", process)  # noqa: B023
        (os.killpg if signal_all else os.kill)(process.pid, signal.SIGUSR1 if signal_all else signal.SIGTERM)
        said, _ = process.communicate(timeout=LONGEST)
        assert process.returncode == 75, said
        assert f"continue with: python train.py resume={folder}" in said and "Traceback" not in said
        assert json.loads((folder / "result.json").read_text())["status"] == "preempted"
    done = started(folder, *settings)
    said, _ = done.communicate(timeout=LONGEST)
    assert done.returncode == 0, said
    result = json.loads((folder / "result.json").read_text())
    assert len(result["resumed"]) == 2 and result["status"] == "completed"
    for peer in ("rgb", "flow"):
        assert_same_weights(tmp_path / f"whole/peers/{peer}.pt", folder / f"peers/{peer}.pt")
    assert (folder / "logs/metrics.csv").read_text() == (tmp_path / "whole/logs/metrics.csv").read_text()
    assert result["metrics"] == json.loads((tmp_path / "whole/result.json").read_text())["metrics"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    folder = tmp_path / "small_disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Leave no byte free."""
    file = folder / "filler"
    with file.open("wb", buffering=0) as handle:
        try:
            while True:
                handle.write(b"x" * 4096)
        except OSError as error:
            assert error.errno == errno.ENOSPC
    return file


class FullDisk(pl.Callback):
    """The disk is full from one step on, and has room again from another on."""

    def __init__(self, folder: Path, full: int, room: int | None) -> None:
        self.folder, self.full, self.room = folder, full, room

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == self.full:
            fill(self.folder)
        if trainer.global_step == self.room:
            (self.folder / "filler").unlink()


@pytest.mark.parametrize("room", [9, None])
def test_a_full_disk_costs_no_step_and_no_row(
    train: Train,
    composed: Composed,
    small_disk: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    room: int | None,
) -> None:
    """Full within the first epoch: training goes on. Where the disk stays full there is one clear error at the end, and
    the run is continued from its last good checkpoint."""
    whole = tmp_path / "single/whole"
    train(*CE, run="whole")
    folder = small_disk / "run"

    def start() -> dict[str, Any]:
        cfg, typed = composed(*CE, f"paths.root={small_disk}", "resume=auto")
        return engine_train.stage(changed(cfg, {"paths.output_dir": str(folder)}), typed)

    plain = engine_trainer.training_callbacks
    with monkeypatch.context() as patch:
        patch.setattr(
            engine_train, "training_callbacks", lambda *given: [*plain(*given), FullDisk(small_disk, full=3, room=room)]
        )
        if room is None:
            with pytest.raises(OSError, match="No space left"):
                start()
            told = json.loads((folder / "result.json").read_text())
            assert told["status"] in ("failed", "running"), "whole, whatever was last written"
            (small_disk / "filler").unlink()
        else:
            start()
    assert "THE CHECKPOINT OF STEP 4 COULD NOT BE WRITTEN" in caplog.text
    if room is None:
        assert [told["step"] for told in start()["resumed"]] == [3]
    assert_equal_runs(whole, folder, assert_same_weights)
    assert not list(small_disk.rglob("*.tmp"))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_temporary_folder_on_another_disk_does_not_matter(
    train: Train, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    fill(small_disk)
    monkeypatch.setenv("TMPDIR", str(small_disk))
    monkeypatch.setattr(tempfile, "tempdir", None)
    own = (
        (*CE, f"data.workers={workers}", "logger=wandb", "logger.mode=offline")
        if not workers
        else (*CE, "data.workers=2")
    )
    train(*own, run="run")
    assert {path.name for path in (tmp_path / "single/run/checkpoints").iterdir()} == {"last.ckpt", "previous.ckpt"}
    assert [path.name for path in small_disk.iterdir() if not path.is_dir()] == ["filler"]
