"""Standard output and error whose reader may go away: what nobody reads is dropped, and the work goes on.

`train.py | head -1` must not cost a run, and a terminal that was closed must not fill a log with complaints about it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

RESERVE = 32 << 20  # bytes of address space, no memory: enough to say that there is none

_reserve: list[bytes] = []


class Stream:
    """A text stream that leads nowhere from the first write on that its reader does not take."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._dropping():
            return int(self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        with self._dropping():
            self._stream.flush()

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except OSError:  # EPIPE: the reader is gone; EIO: the terminal is
            with suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
                self._stream.flush()  # what was kept for the reader


def fill_closed() -> None:
    """Standard streams that were closed before the start lead nowhere: files that are opened would take their numbers,
    and be written by whoever prints."""
    for number, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, flags)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def release_reserve() -> None:
    """Address space that was kept for saying what went wrong, after a MemoryError."""
    _reserve.clear()


@contextmanager
def guarded() -> Iterator[None]:
    """Inside, print and log as long as somebody reads; a reserve of address space is kept."""
    fill_closed()
    _reserve.append(bytes(RESERVE))  # unlike a bytearray it is never written, and takes no memory
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Stream(sys.stdout), Stream(sys.stderr)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before
        release_reserve()
