"""Processes that help this one: what they use of the processor is not what others use."""

from __future__ import annotations

import os
from pathlib import Path

PROCESSES = Path("/proc")


class Helpers:
    """Those that work now, by their numbers, and what those that have ended have used."""

    def __init__(self) -> None:
        self._working: set[int] = set()
        self._ended = 0.0

    def add(self, pid: int) -> None:
        self._working.add(pid)

    def remove(self, pid: int) -> None:
        """Before it is waited for: afterwards nobody knows what it has used, and its number may become another's."""
        self._working.remove(pid)
        self._ended += seconds_of(pid)

    def seconds(self) -> float:
        """Core-seconds that they have used, all together."""
        return self._ended + sum(map(seconds_of, self._working))


def seconds_of(pid: int) -> float:
    """Core-seconds that a process has used, also one that has ended and was not waited for; 0 where the system does not
    tell."""
    try:
        told = (PROCESSES / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        fields = told.rpartition(")")[2].split()  # its name, in brackets, may hold anything
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (AttributeError, IndexError, OSError, ValueError):
        return 0.0


HELPERS = Helpers()
