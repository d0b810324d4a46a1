"""A run that stands still says where."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from mml_lightning.watchdog import Watchdog


def test_a_run_that_stands_still_says_where(caplog: pytest.LogCaptureFixture) -> None:
    data = SimpleNamespace(reading=lambda: ["v3", "v8"])
    trainer: Any = SimpleNamespace(current_epoch=2, global_rank=1, datamodule=data)
    watchdog = Watchdog(0.4)
    watchdog.setup(trainer, None, "fit")  # type: ignore[arg-type]
    for step in range(8):
        watchdog.on_train_batch_start(trainer, None, None, step)
        time.sleep(0.05)
    assert caplog.messages == []
    until = time.monotonic() + 10
    while not caplog.messages and time.monotonic() < until:
        time.sleep(0.02)
    assert caplog.messages[0] == "rank 1 has not moved for 0:00 at epoch 3, step 8 (training); being read: v3, v8"
    watchdog.teardown(trainer, None, "fit")  # type: ignore[arg-type]
    assert watchdog._thread is not None
    watchdog._thread.join(5)
    assert not watchdog._thread.is_alive()


def test_every_part_of_a_run_moves() -> None:
    watchdog = Watchdog(600)
    trainer: Any = SimpleNamespace(current_epoch=0, global_rank=0)
    watchdog.on_train_batch_end(trainer, None, None, None, 4)
    assert watchdog.line(trainer).endswith("at epoch 1, after step 5 (training); no video is being read")
    for name in ("validation", "test"):
        before = watchdog._beats
        getattr(watchdog, f"on_{name}_batch_start")(trainer, None, None, 0)
        getattr(watchdog, f"on_{name}_batch_end")(trainer, None, None, None, 0)
        assert watchdog._beats == before + 2
