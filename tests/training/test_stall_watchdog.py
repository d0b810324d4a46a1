"""A run that stands still says where."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from mml_lightning.training.stall_watchdog import LOOKS, Watchdog


class Looks:
    """In the place of the event that ends the watch: what happens before each look, instead of time that passes."""

    def __init__(self, *happens: Callable[[], object]) -> None:
        self.left = list(happens)

    def wait(self, seconds: float) -> bool:
        assert seconds == 600 / LOOKS
        if not self.left:
            return True
        self.left.pop(0)()
        return False


def test_a_run_that_stands_still_says_where(caplog: pytest.LogCaptureFixture) -> None:
    data = SimpleNamespace(reading=lambda: ["v3", "v8"])
    trainer: Any = SimpleNamespace(current_epoch=2, global_rank=1, datamodule=data)
    watchdog = Watchdog(600)

    def moves() -> None:
        watchdog.on_train_batch_start(trainer, None, None, 7)

    def stands() -> None:
        """Nothing has happened since the last look."""

    watchdog._look(trainer, Looks(*[moves] * 30, *[stands] * (LOOKS - 1), moves, *[stands] * (LOOKS - 1)))  # type: ignore[arg-type]
    assert caplog.messages == []
    watchdog._look(trainer, Looks(moves, *[stands] * (2 * LOOKS + 1)))  # type: ignore[arg-type]
    line = "rank 1 is stuck for 10:00 at epoch 3, step 8 (training); being read: v3, v8"
    assert caplog.messages == [line, line]


@pytest.mark.parametrize("end", ["teardown", "on_exception"])
def test_the_watch_ends_with_the_run(end: str) -> None:
    watchdog, trainer = Watchdog(600), SimpleNamespace()
    watchdog.setup(trainer, None, "fit")  # type: ignore[arg-type]
    assert watchdog._thread is not None and watchdog._thread.is_alive()
    getattr(watchdog, end)(trainer, None, None)
    watchdog._thread.join(60)
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
