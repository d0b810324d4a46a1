"""Threads of torch, and the cores for them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")
STAT = Path("/proc/stat")
SPINS = 2000  # some tens of microseconds


def cores() -> int:
    """Of the machine, those that this process may use: its own, and no more than its control group may keep busy."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (float(word) for word in QUOTA.read_text(encoding="ascii").split())
    except (OSError, ValueError):  # no such group, or "max"
        return own
    return max(1, min(own, math.ceil(quota / period)))


def idle_seconds() -> float | None:
    """Core-seconds that the cores of this process have had nothing to do since the machine was started; None where the
    system does not tell."""
    try:
        lines = [line.split() for line in STAT.read_text(encoding="ascii").splitlines() if line.startswith("cpu")]
        mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        found = [int(idle) + int(waiting) for name, _, _, _, idle, waiting, *_ in lines if name in mine]
        return sum(found) / os.sysconf("SC_CLK_TCK") if len(found) == len(mine) else None
    except (AttributeError, OSError, ValueError):
        return None


def wait_briefly() -> None:
    """Have torch's threads sleep soon where they wait for each other; counts before torch is imported, and for the
    processes that are started. What the user has set stays.

    GNU's OpenMP lets a thread spin for milliseconds, as long as a time slice: where others use the machine, threads
    burn the time in which the one they wait for could run, and a small network trains ten times slower.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread inside, as many as before afterwards: for work that is parallel over videos, whose last bits shall not
    depend on the number of threads, or whose time is measured."""
    import torch  # most who count cores need no torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
