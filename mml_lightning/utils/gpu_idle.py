"""How long a GPU waits for data. The host runs ahead of it, and may wait for the loader without making it wait: events
on the GPU's own queue tell, read once they have passed, so that nobody waits for them either."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch


class Idle:
    """Seconds that a GPU had nothing to do between a step and the next batch.

    Args:
        event: makes one that keeps its time.
    """

    def __init__(self, event: Callable[[], Any] = lambda: torch.cuda.Event(enable_timing=True)) -> None:
        self._event = event
        self._ended: Any = None
        self._gaps: deque[tuple[Any, Any]] = deque()

    def step_ended(self) -> None:
        self._ended = self._event()
        self._ended.record()

    def batch_came(self) -> None:
        came = self._event()
        came.record()
        self._gaps.append((self._ended, came))

    def wait(self) -> None:
        """For all that the GPU has to do."""
        self._ended.synchronize()

    def seconds(self) -> float:
        """Those that have become known since the last call."""
        found = 0.0
        while self._gaps and self._gaps[0][1].query():
            ended, came = self._gaps.popleft()
            found += ended.elapsed_time(came) / 1000
        return found
