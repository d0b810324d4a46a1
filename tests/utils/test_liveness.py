"""A run that was killed is told from one that goes on: by its process here, by its silence elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mml_lightning import report
from mml_lightning.runs.result import RunResult
from mml_lightning.utils import liveness
from mml_lightning.utils.result_file import FILE, read_result


def run(folder: Path, **changes: Any) -> Path:
    """A run that says that it is running, by this process unless told otherwise."""
    result = RunResult(folder, True, name="mine")
    result.write()
    told = json.loads((folder / FILE).read_text())
    assert told["status"] == "running" and told["process"]["pid"] == os.getpid()
    (folder / FILE).write_text(json.dumps({**told, "process": {**told["process"], **changes}}))
    return folder


def ended() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def status(folder: Path) -> str:
    told = read_result(folder)
    (listed,) = report.collect(folder)
    assert told is not None and told["status"] == listed["status"] and told["error"] == listed["error"]
    return str(told["status"])


def test_a_run_of_this_machine_lives_as_long_as_its_process(tmp_path: Path) -> None:
    assert status(run(tmp_path / "mine")) == "running"
    assert status(run(tmp_path / "gone", pid=ended())) == "died"
    assert status(run(tmp_path / "another", began="1")) == "died", "its number was given to another process"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells")
def test_a_process_that_nobody_has_buried_is_dead(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    folder = run(tmp_path, pid=process.pid, began=liveness._began(process.pid))
    assert status(folder) == "running"
    process.kill()
    while liveness._began(process.pid) is not None:
        time.sleep(0.01)
    assert status(folder) == "died"
    process.wait()


def test_a_run_elsewhere_lives_as_long_as_it_gives_signs(tmp_path: Path) -> None:
    folder = run(tmp_path, place="another machine", host="node7", pid=12)
    assert status(folder) == "running"
    silent = time.time() - liveness.SILENT - 1
    os.utime(folder / FILE, (silent, silent))
    assert status(folder) == "died"
    assert "process 12 on node7 is gone; last heartbeat" in (read_result(folder) or {})["error"]


@pytest.mark.parametrize("pid", ["12", -1, 0, 10**30, None, 1.5, True])
def test_a_foreign_process_is_no_error(tmp_path: Path, pid: object) -> None:
    assert status(run(tmp_path, pid=pid)) in ("died", "running")


def test_signs_of_life_end_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "BEAT", 0.01)
    with RunResult(tmp_path, True, name="mine"):
        os.utime(tmp_path / FILE, (0, 0))
        until = time.monotonic() + 60
        while (tmp_path / FILE).stat().st_mtime == 0:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert (tmp_path / FILE).stat().st_mtime > 0
    told = json.loads((tmp_path / FILE).read_text())
    assert told["status"] == "completed" and "process" not in told, "no name of a machine in what is kept"


def test_a_dead_run_counts_as_failed(tmp_path: Path) -> None:
    run(tmp_path / "gone", pid=ended())
    table = report.markdown(report.tabulate(report.collect(tmp_path), "val", None))
    assert "| failed |" in table and "running" not in table
