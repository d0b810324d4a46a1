"""Who is served when: one at a time, first come first served, and not more waiting than there is room for."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus

from mml_lightning.serve.asked import Refused

LOOK = 0.5  # seconds after which one who waits is looked at again


class Gone(Exception):
    """Nobody waits for the answer any more."""


class Turns:
    """Args:
    waiting: requests that may wait, or be on their way here, while one is served.
    """

    def __init__(self, waiting: int) -> None:
        self._most = waiting + 1
        self._inside = 0
        self._line: deque[object] = deque()
        self._changed = threading.Condition()

    @property
    def inside(self) -> int:
        """Requests that are being served, wait or are on their way."""
        return self._inside

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for a request, before anything of it is read.

        Raises:
            Refused: there is none.
        """
        with self._changed:
            if self._inside >= self._most:
                raise Refused(
                    HTTPStatus.SERVICE_UNAVAILABLE,
                    f"one video is being scored and {self._most - 1} wait, which --queue allows: try again later",
                )
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1

    @contextmanager
    def turn(self, gone: Callable[[], bool]) -> Iterator[None]:
        """The turn of a request that is complete.

        Args:
            gone: whether whoever asked is gone; looked at while it waits.

        Raises:
            Gone: it is so.
        """
        mine = object()
        with self._changed:
            self._line.append(mine)
        try:
            with self._changed:
                while self._line[0] is not mine:
                    self._changed.wait(LOOK)
                    if gone():
                        raise Gone
            yield
        finally:
            with self._changed:
                self._line.remove(mine)
                self._changed.notify_all()
