"""Ranks of one machine that were started by the first one: one that dies is named, and the others end.

Lightning's own watch kills the first rank as soon as another has ended, which then can't say anything, and nobody looks
after the others when it is the first that dies.
"""

from __future__ import annotations

import atexit
import logging
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mml_lightning.utils.errors import Preempted, RankDied

log = logging.getLogger(__name__)

GRACE = 30.0  # seconds that a rank may take to end by itself, once another one has ended
NOTICED = 5.0  # seconds after a broken connection within which the rank at its other end has ended
POLL = 0.2  # seconds between two looks, where the system has no event for the end of a process
FAILED, LEFT = 1, 75  # exit codes
CONNECTION = ("gloo", "NCCL", "Connection closed", "Connection reset", "Broken pipe", "Socket", "TCPStore", "peer")


class Children:
    """The ranks that this process has started."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self.first: tuple[int, int, int] | None = None  # rank, pid and exit code of the first that ended badly
        self._bad = threading.Event()
        self._over = threading.Event()

    def watch(self, processes: list[subprocess.Popen[bytes]]) -> None:
        self.processes = list(processes)
        for rank, process in enumerate(self.processes, start=1):
            threading.Thread(target=self._follow, args=(rank, process), daemon=True, name=f"rank {rank}").start()
        atexit.register(self._end)

    def _follow(self, rank: int, process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        if code == 0 or self._over.is_set():
            return
        if self.first is None:
            self.first = (rank, process.pid, code)
        self._bad.set()
        if self._over.wait(GRACE):
            return
        log.error("error: %s; the other ranks are terminated", self.cause())
        self.send(signal.SIGKILL)
        os._exit(FAILED)

    def cause(self, patience: float = 0.0) -> BaseException | None:
        """Why a run can't go on, if a rank has ended badly, or does so within `patience` seconds."""
        if not self.processes or not self._bad.wait(patience) or self.first is None:
            return None
        rank, pid, code = self.first
        if code == LEFT:
            return Preempted(f"signal to rank {rank}: stopped")
        how = f"was killed by {_name(-code)}; out of memory?" if code < 0 else f"ended with code {code}, see its error"
        return RankDied(f"rank {rank} (process {pid}) {how}")

    def send(self, number: int) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                process.send_signal(number)

    def _end(self) -> None:
        """The first rank ends. After one that died the others have no reason to go on."""
        self._over.set()
        if self.first is not None:
            until = time.monotonic() + NOTICED
            for process in self.processes:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, until - time.monotonic()))
            self.send(signal.SIGKILL)


CHILDREN = Children()
"""Those of this process."""


def end_with_the_first() -> None:
    """Have this rank end when the first one has, which started it; does nothing in the first."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True, name="first rank").start()


@contextmanager
def blamed() -> Iterator[None]:
    """An error of a collective inside says that a connection broke; what is raised instead says which rank has ended.

    Raises:
        RankDied: a rank has ended that should not have.
        Preempted: a rank received a signal and could not wait for the others.
    """
    try:
        yield
    except Exception as error:
        broken = isinstance(error, RuntimeError) and any(word in str(error) for word in CONNECTION)
        cause = CHILDREN.cause(NOTICED if broken else 0.0)
        if cause is None and broken and (rank := os.environ.get("LOCAL_RANK", "0")) != "0":
            cause = RankDied(f"rank {rank} has lost the others, see the error of the first")
        if cause is None:
            raise
        raise cause from None


def _end_with(parent: int) -> None:
    """The first rank ends, however that happens: a rank that waits for it in a collective would do so for ever."""
    try:
        handle = os.pidfd_open(parent)
        select.select([handle], [], [])
    except (AttributeError, OSError):  # not Linux, or it has ended already
        while os.getppid() == parent:
            time.sleep(POLL)
    time.sleep(GRACE)  # this thread ends with the process, which ends by itself after a run that is done
    log.error("error: the first rank (process %d) is gone; rank %s ends", parent, os.environ.get("LOCAL_RANK"))
    os._exit(FAILED)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
