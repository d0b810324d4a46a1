"""A rank that dies is named, the others end, and nobody takes the run for one that goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mml_lightning import report
from mml_lightning.utils.result_file import read_result
from tests.patience import wait_for
from tests.test_ddp import TWO
from tests.test_survival import started

LONG = ("schedule.epochs=100000", "callbacks.epoch_lines=false", "callbacks.checkpoint_every_steps=1")


def children(pid: int) -> list[int]:
    """Processes that one has started and that train, too."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(one) for one in listed if b"train.py" in Path(f"/proc/{one}/cmdline").read_bytes()]


def gone(pid: int) -> bool:
    """Whether a process has ended, be it buried or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


@pytest.fixture
def training(small: list[str], tmp_path: Path) -> Iterator[Callable[[], tuple[subprocess.Popen[str], int]]]:
    """Two ranks that train for ever: the first one's process, and the number of the other's."""
    running: list[int] = []

    def start() -> tuple[subprocess.Popen[str], int]:
        process = started(tmp_path / "run", *small, *TWO, *LONG, f"paths.root={tmp_path}")
        running.append(process.pid)
        wait_for((tmp_path / "run/checkpoints/last.ckpt").exists, "a checkpoint", process)
        (other,) = children(process.pid)
        running.append(other)
        return process, other

    yield start
    for pid in running:  # of a test that failed
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_the_second_rank_is_killed(training: Callable[[], tuple[subprocess.Popen[str], int]], tmp_path: Path) -> None:
    process, other = training()
    os.kill(other, signal.SIGKILL)
    said, _ = process.communicate()
    assert process.returncode == 1
    line = f"rank 1 (process {other}) was killed by SIGKILL; out of memory?"
    assert f"error: {line}" in said and "Traceback" not in said
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert (result["status"], result["error"]) == ("failed", line)


def test_the_first_rank_is_killed(training: Callable[[], tuple[subprocess.Popen[str], int]], tmp_path: Path) -> None:
    process, other = training()
    told = read_result(tmp_path / "run")
    assert told is not None and told["status"] == "running"
    process.kill()
    said, _ = process.communicate()  # until the other one has closed it, too
    wait_for(lambda: gone(other), "the end of the other one")
    assert "rank 1" in said and "Traceback" not in said
    (listed,) = report.collect(tmp_path / "run")
    assert listed["status"] == "died" and f"process {process.pid} on " in listed["error"]
