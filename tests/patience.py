"""How long tests wait: for what happens, and without an end in sight only so that a hang is told.

A limit is no measurement: what takes a minute here takes ten on a machine that is shared, and a test that is cut at
five tells nothing about the program. So nothing here is near what anything takes.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty
from typing import Any

LONGEST = 3600.0  # seconds; what takes longer hangs


def wait_for(happened: Callable[[], Any], what: str, process: subprocess.Popen[str] | None = None) -> Any:
    """What `happened` returns as soon as that is true.

    Args:
        what: is waited for, in words for the message.
        process: makes it happen; if it ends before, nobody waits on.
    """
    until = time.monotonic() + LONGEST
    while not (found := happened()):
        if process is not None and process.poll() is not None and not (found := happened()):
            raise AssertionError(f"{what}: the process ended with {process.returncode}, {process.communicate()}")
        if found:
            break
        assert time.monotonic() < until, f"{what}: not in {LONGEST:.0f} s"
        time.sleep(0.01)
    return found


def answers(queue: Any, processes: Sequence[Any]) -> list[Any]:
    """One of each of the processes of a multiprocessing queue; a process that fails is told at once."""
    found: list[Any] = []

    def came() -> bool:
        with suppress(Empty):
            found.append(queue.get(timeout=0.1))
        failed = [process.exitcode for process in processes if process.exitcode]
        assert not failed, f"exit codes {failed}, {len(found)} answers"
        return len(found) == len(processes)

    wait_for(came, f"{len(processes)} answers")
    return found
