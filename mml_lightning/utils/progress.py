"""Progress of long work with its end in sight: a bar in a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from types import TracebackType

from mml_lightning.utils.terminal import bar, is_terminal

log = logging.getLogger(__name__)

EVERY = 10.0  # seconds between lines of a log file
DRAWN = 0.1  # seconds between pictures of a bar


def format_duration(seconds: float) -> str:
    """Seconds as 1:05 or 2:03:04."""
    minutes, second = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{second:02d}" if hours else f"{minutes}:{second:02d}"


def position(epoch: int, epochs: int | None, step: int, steps: float) -> str:
    """Where training is, with `epoch` and `step` counted from 0: `epoch 1/4  step 50/2637`."""
    return f"epoch {epoch + 1}/{epochs}  step {step + 1}/{steps:.0f}"


class Progress:
    """Context of `total` steps; call :meth:`advance` after each.

    Args:
        total: number of steps.
        what: what is being done, a few words.
        unit: what one step is.
        quiet: say nothing at all.
    """

    def __init__(self, total: int, what: str, unit: str = "video", quiet: bool = False) -> None:
        self.total, self.what, self.unit, self.done = total, what, unit, 0
        self._lines = not quiet and not is_terminal(sys.stderr)
        self._bar = None if quiet or self._lines else bar(sys.stderr)
        self._start = self._said = time.monotonic()

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
            self._bar.add_task(self.what, total=self.total, more=f"{self.unit}s")
            self._bar.refresh()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self) -> None:
        """One step is done."""
        self.done += 1
        now = time.monotonic()
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0])
            if now - self._said >= DRAWN:
                self._said = now
                self._bar.refresh()
        elif self._lines and now - self._said >= EVERY:
            self._said = now
            left = (now - self._start) / self.done * (self.total - self.done)
            log.info("%s: %d of %d %ss, %s left", self.what, self.done, self.total, self.unit, format_duration(left))


def describe_failures(failures: Sequence[tuple[str, str]], what: str) -> str:
    """One line for a list of (id, reason)."""
    video, reason = failures[0]
    return f"{what}: {counted(len(failures), 'video')}, first {video}: {reason}"


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
