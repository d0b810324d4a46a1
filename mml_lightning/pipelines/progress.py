"""The state of the runs of a pipeline: waiting, running, done, reused, failed or blocked; and what is left to do."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from mml_lightning.pipelines.plan import PlannedRun, dependencies
from mml_lightning.report.markdown import pipes
from mml_lightning.report.measured import STATE
from mml_lightning.utils.files import write_atomically
from mml_lightning.utils.result_file import write_json

WAITING, RUNNING, DONE, REUSED, FAILED, BLOCKED = "waiting", "running", "done", "reused", "failed", "blocked"
READY = (DONE, REUSED)
OVER = (DONE, REUSED, FAILED, BLOCKED)
COLUMNS = ("state", "run", "seed", "networks", "seconds", "note")


@dataclass
class Entry:
    """Where one run stands."""

    state: str = WAITING
    began: float | None = None
    seconds: float | None = None
    note: str = ""


@dataclass
class PipelineState:
    """All runs of a pipeline.

    Args:
        runs: in order.
        jobs: how many run at a time.
        pace: seconds that one network took in earlier runs, None where there are none.
        told: what runs.json says beside the runs.
    """

    runs: Sequence[PlannedRun]
    jobs: int = 1
    pace: float | None = None
    told: Mapping[str, Any] = field(default_factory=dict)
    entries: list[Entry] = field(init=False)
    needs: Mapping[int, set[int]] = field(init=False)

    def __post_init__(self) -> None:
        self.entries = [Entry() for _ in self.runs]
        self.needs = dependencies(self.runs)

    def ready(self) -> int | None:
        """The next run that can start, if there is one; those that never can are blocked."""
        for number, entry in enumerate(self.entries):
            if entry.state != WAITING:
                continue
            lost = [n for n in self.needs[number] if self.entries[n].state in (FAILED, BLOCKED)]
            if lost:
                self.set(number, BLOCKED, f"needs {self.runs[lost[0]].label}")
            elif all(self.entries[n].state in READY for n in self.needs[number]):
                return number
        return None

    def set(self, number: int, state: str, note: str = "") -> None:
        entry = self.entries[number]
        if state == RUNNING:
            entry.began = time.monotonic()
        elif entry.began is not None and state in (DONE, FAILED):
            entry.seconds = time.monotonic() - entry.began
        entry.state, entry.note = state, note

    def count(self, *states: str) -> int:
        return sum(entry.state in states for entry in self.entries)

    def failed(self) -> list[int]:
        return [number for number, entry in enumerate(self.entries) if entry.state == FAILED]

    def networks_left(self) -> int:
        return sum(
            run.networks for run, e in zip(self.runs, self.entries, strict=True) if e.state in (WAITING, RUNNING)
        )

    def seconds_a_network(self) -> float | None:
        """What the runs so far took per network; before the first one has ended, what earlier ones took."""
        done = [
            (entry.seconds, run.networks)
            for run, entry in zip(self.runs, self.entries, strict=True)
            if entry.state == DONE and entry.seconds is not None and run.networks
        ]
        if not done:
            return self.pace
        return sum(seconds for seconds, _ in done) / sum(networks for _, networks in done)

    def seconds_left(self) -> float | None:
        """Until all is done, if the rest goes at the pace so far; None where nothing tells a pace."""
        pace = self.seconds_a_network()
        if pace is None:
            return None
        spent = sum(time.monotonic() - e.began for e in self.entries if e.state == RUNNING and e.began is not None)
        return max(0.0, pace * self.networks_left() - spent) / max(1, self.jobs)

    def line(self) -> str:
        """12 of 36 done (4 reused), 1 running, 23 waiting; about 9 min left, until 14:02"""
        parts = [f"{self.count(*READY)} of {len(self.runs)} done ({self.count(REUSED)} reused)"]
        parts += [f"{self.count(state)} {state}" for state in (RUNNING, WAITING, FAILED, BLOCKED) if self.count(state)]
        left = self.seconds_left()
        if left is None or not self.networks_left():
            return ", ".join(parts)
        until = datetime.now() + timedelta(seconds=left)
        return f"{', '.join(parts)}; about {duration(left)} left, until {until:%H:%M}"

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                "state": entry.state,
                "run": run.title,
                "seed": run.seed,
                "networks": run.networks,
                "seconds": "" if entry.seconds is None else f"{entry.seconds:.0f}",
                "note": entry.note,
            }
            for run, entry in zip(self.runs, self.entries, strict=True)
        ]

    def table(self) -> str:
        return pipes([COLUMNS, *([str(row[column]) for column in COLUMNS] for row in self.rows())])

    def write(self, folder: Path) -> None:
        """runs.md for people, runs.json for tables."""
        with write_atomically(folder / "runs.md") as handle:
            handle.write(f"{self.line()}\n\n{self.table()}")
        runs = [
            {"key": run.key, "views": run.views, **row, "folder": os.path.relpath(run.folder, folder)}
            for run, row in zip(self.runs, self.rows(), strict=True)
        ]
        write_json(folder / STATE, {"schema": 1, **self.told, "runs": runs})


def duration(seconds: float) -> str:
    """47 s, 9 min, 3.5 h"""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
