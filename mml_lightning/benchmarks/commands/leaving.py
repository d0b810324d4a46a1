"""What asks a measurement to leave ends it as Ctrl-C does, so that it tells what it has."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def leaving() -> Iterator[None]:
    """Raises KeyboardInterrupt where a signal of :data:`ENDS` comes; those that come after it are not heard."""

    def leave(number: int, frame: FrameType | None) -> None:
        for one in before:
            signal.signal(one, signal.SIG_IGN)  # it is leaving
        raise KeyboardInterrupt

    heard = ENDS if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.getsignal(number) for number in heard}
    before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}  # nohup
    for number in before:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
