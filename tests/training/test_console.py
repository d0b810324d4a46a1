"""What a run says and keeps while it trains."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mml_lightning.training.console import EpochLines
from mml_lightning.training.quarantine import Quarantine
from mml_lightning.training.throughput import Throughput
from mml_lightning.utils.errors import UserError


def trainer(**fields: Any) -> Any:
    usual: dict[str, Any] = dict(
        world_size=1, is_global_zero=True, current_epoch=0, max_epochs=4, num_training_batches=10
    )
    batches = SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(ready=5)))
    usual["fit_loop"] = SimpleNamespace(restarting=False, epoch_loop=batches)
    usual["check_val_every_n_epoch"] = 1
    return SimpleNamespace(**{**usual, "callback_metrics": {}, "callbacks": [], **fields})


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def test_epoch_lines_tell_losses_scores_and_the_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    clock = Clock()
    lines = EpochLines(every=30, now=clock)
    lines.on_train_start(trainer(current_epoch=1), None)  # type: ignore[arg-type]  # resumed: one epoch was done before
    clock.time += 60
    metrics = {"train/rgb/ce": 1.25, "train/rgb/kl": 0.5, "train/loss": 9.0, "val/rgb/top1": 40.0, "val/rgb/loss": 2.0}
    lines.on_train_epoch_end(trainer(current_epoch=1, callback_metrics=metrics), None)  # type: ignore[arg-type]
    assert caplog.messages == ["epoch 2/4  rgb/ce 1.250  rgb/kl 0.500  |  val rgb 40.0  |  60.0 s/epoch, 2:00 left"]
    seldom = trainer(current_epoch=1, callback_metrics=metrics, check_val_every_n_epoch=3)
    lines.on_train_epoch_end(seldom, None)  # type: ignore[arg-type]  # the scores are those of an earlier epoch
    assert caplog.messages[1] == "epoch 2/4  rgb/ce 1.250  rgb/kl 0.500  |  60.0 s/epoch, 2:00 left"
    speed = Throughput(batch_size=8)
    speed.videos, speed.seconds, speed.waited = 80, 2.0, 0.5
    lines.on_train_epoch_end(trainer(current_epoch=1, callbacks=[speed]), None)  # type: ignore[arg-type]
    assert "  |  40 clips/s (25% waiting for data), 60.0 s/epoch" in caplog.messages[2]


def test_epoch_lines_of_an_epoch_that_is_continued_count_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    clock = Clock()
    lines = EpochLines(every=30, now=clock)
    continued = trainer(current_epoch=1)  # half of its second epoch was done before
    continued.fit_loop.restarting = True
    lines.on_train_start(continued, None)  # type: ignore[arg-type]
    clock.time += 40
    lines.on_train_batch_end(continued, None, None, None, 8)  # type: ignore[arg-type]
    assert caplog.messages == ["epoch 2/4  step 9/10  |  3:30 left"], "0.4 epochs in 40 s, 2.1 to go"


def test_epoch_lines_speak_within_a_long_epoch_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    clock = Clock()
    lines = EpochLines(every=30, now=clock)
    lines.on_train_start(trainer(), None)  # type: ignore[arg-type]
    for step in range(4):
        clock.time += 20
        lines.on_train_batch_end(trainer(), None, None, None, step)  # type: ignore[arg-type]
    assert caplog.messages == ["epoch 1/4  step 2/10  |  12:40 left", "epoch 1/4  step 4/10  |  12:00 left"]
    caplog.clear()
    silent = EpochLines(every=None, now=clock)
    silent.on_train_start(trainer(), None)  # type: ignore[arg-type]
    clock.time += 1000
    silent.on_train_batch_end(trainer(), None, None, None, 0)  # type: ignore[arg-type]
    assert caplog.messages == []


@pytest.mark.parametrize(("every", "seconds"), [(None, 1.0), (30.0, 1.0), (30.0, 600.0)])
def test_a_long_run_has_some_lines_of_epochs(
    every: float | None, seconds: float, caplog: pytest.LogCaptureFixture
) -> None:
    """In a terminal, in a log, and where each epoch takes ten minutes; the first and the last are among them."""
    caplog.set_level("INFO")
    clock = Clock()
    lines = EpochLines(every=every, now=clock)
    lines.on_train_start(trainer(max_epochs=1000), None)  # type: ignore[arg-type]
    for epoch in range(1000):
        for step in range(10):
            clock.time += seconds / 10
            lines.on_train_batch_end(trainer(current_epoch=epoch, max_epochs=1000), None, None, None, step)  # type: ignore[arg-type]
        lines.on_train_epoch_end(trainer(current_epoch=epoch, max_epochs=1000), None)  # type: ignore[arg-type]
    assert caplog.messages[0] == "epochs    a line for every 20 epochs, all in logs/metrics.csv"
    told = [line for line in caplog.messages if line.startswith("epoch ")]
    assert 50 <= len(told) < 400 and told[0].startswith("epoch 1/1000") and told[-1].startswith("epoch 1000/1000")


def test_few_validated_epochs_have_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    lines = EpochLines(every=30, now=Clock())
    for epoch in range(300):
        lines.on_train_epoch_end(trainer(current_epoch=epoch, max_epochs=300, check_val_every_n_epoch=100), None)  # type: ignore[arg-type]
    assert [f"epoch {done}/300" in caplog.text for done in (99, 100, 101, 200, 300)] == [False, True, False, True, True]


def test_epoch_lines_tell_how_far_a_test_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    clock = Clock()
    lines = EpochLines(every=30, now=clock)
    lines.on_test_start(trainer(), None)  # type: ignore[arg-type]
    clock.time += 45
    lines.on_test_batch_end(trainer(num_test_batches=[5]), None, None, None, 2)  # type: ignore[arg-type]
    assert caplog.messages == ["test  step 3/5  |  0:30 left"]


def test_quarantine_names_each_video_once_and_stops_above_its_share(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    quarantine = Quarantine(tmp_path / "run" / "quarantine.csv", videos=10, max_share=0.2)
    for failures in ([], [("b", "broken, b")], [("b", "broken, b"), ("a", "broken a")]):
        quarantine.on_train_batch_start(trainer(), None, {"failures": failures}, 0)  # type: ignore[arg-type]
    assert (tmp_path / "run" / "quarantine.csv").read_text() == 'id,reason\na,broken a\nb,"broken, b"\n'
    assert len(caplog.messages) == 2
    resumed = Quarantine(tmp_path / "run" / "quarantine.csv", videos=10, max_share=0.2)
    resumed.load_state_dict(quarantine.state_dict())
    with pytest.raises(UserError, match=r"3 of 10 training videos are unreadable, more than data.max_bad_share=0.2"):
        resumed.on_train_batch_start(trainer(), None, {"failures": [("c", "broken c")]}, 0)  # type: ignore[arg-type]


def test_no_quarantine_without_a_reason(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "quarantine.csv", 10, 0.0)
    quarantine.on_train_batch_start(trainer(), None, {"failures": []}, 0)  # type: ignore[arg-type]
    quarantine.on_train_epoch_end(trainer(), None)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
