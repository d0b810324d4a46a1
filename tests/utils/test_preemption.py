"""Who is asked to leave hears it wherever it stands: while it waits for data, in C code, before and after training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mml_lightning.data.loading import worker_recovery
from mml_lightning.data.loading.dataset import ClipDataset
from mml_lightning.training import checkpoints
from mml_lightning.utils.errors import Preempted
from mml_lightning.utils.preemption import LISTENER
from tests.conftest import ROOT, assert_same_weights, environment
from tests.runs.test_resume import CE, assert_equal_runs

Train = Callable[..., dict[str, Any]]


def started(script: str) -> subprocess.Popen[str]:
    """A process that has come to the line in which it says `ready`."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=pipe,
        stderr=pipe,
        text=True,
        env=environment(PYTHONPATH=str(ROOT)),
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # these tests may run under nohup
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


STUCK = """
import ctypes, sys
from mml_lightning.utils.preemption import LISTENER
with LISTENER.listen():
    LISTENER.deferring = True
    print("ready", flush=True)
    futex = ctypes.CDLL(None).syscall  # waits for ever: sleep() ends with the first signal
    lock = (ctypes.c_int * 1)(0)
    while futex(202, lock, 0, 0, None) != 0:
        pass
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_second_time_ends_at_once(name: str) -> None:
    """Even in C code that hears no signal handler of Python's."""
    process = started(STUCK)
    while process.poll() is None:
        process.send_signal(signal.Signals[name])
        time.sleep(0.05)
    assert process.returncode == 128 + signal.Signals[name]
    said = process.communicate()[1]
    assert said == f"second {name}: stopped at once, nothing is saved\n"


HEARD = """
import signal
if {ignored}:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
from mml_lightning.utils.errors import Preempted
from mml_lightning.utils.preemption import LISTENER
try:
    with LISTENER.listen():
        print("ready", flush=True)
        while True:
            signal.pause()
except Preempted as error:
    print(error)
"""


def test_a_closed_terminal_is_a_request_to_leave() -> None:
    process = started(HEARD.format(ignored=False))
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=60)[0] == "SIGHUP: stopped\n"


def test_nohup_is_heeded() -> None:
    process = started(HEARD.format(ignored=True))
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[0] == "SIGTERM: stopped\n"


class Stuck:
    """From one sample on none comes any more, until this process has been told to leave."""

    def __init__(self, mark: Path, split: str, epoch: int, samples: int) -> None:
        self.mark, self.split, self.epoch, self.left = mark, split, epoch, samples
        self.load = ClipDataset._load

    def install(self, patch: pytest.MonkeyPatch) -> None:
        def load(dataset: ClipDataset, record: Any, epoch: int) -> dict[str, Any]:
            here = dataset.replace == (self.split == "train") and epoch == self.epoch
            self.left -= here
            if here and self.left < 0:
                self.mark.touch()
                signal.pause()
            return self.load(dataset, record, epoch)

        patch.setattr(ClipDataset, "_load", load)
        pid = os.getpid()

        def tell() -> None:
            while not self.mark.exists():
                time.sleep(0.01)
            os.kill(pid, signal.SIGTERM)

        threading.Thread(target=tell, daemon=True).start()


@pytest.mark.parametrize(
    ("split", "epoch", "samples"), [("train", 0, 0), ("train", 0, 9), ("train", 1, 0), ("train", 1, 9), ("val", 0, 0)]
)
def test_while_it_waits_for_data(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str, epoch: int, samples: int
) -> None:
    """One rank saves where it stands, and goes on to the same end."""
    monkeypatch.setattr(worker_recovery, "POLL", 0.2)
    own = [*CE, "data.workers=1", "callbacks.checkpoint_every_steps=null"]
    train(*own, run="whole")
    with monkeypatch.context() as patch, LISTENER.listen():
        Stuck(tmp_path / "stuck", split, epoch, samples).install(patch)
        with pytest.raises(Preempted):
            train(*own, run="cut")
    kept = checkpoints.newest(tmp_path / "single/cut")
    assert (kept is None) == (epoch == 0 and samples == 0 and split == "train"), "nothing was done yet"
    told = train(*own, "resume=auto", run="cut")
    assert [one["step"] for one in told["resumed"]] == ([] if kept is None else [kept[1]["global_step"]])
    assert_equal_runs(tmp_path / "single/whole", tmp_path / "single/cut", assert_same_weights)


def test_without_workers_it_is_heard_between_two_videos(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, load, seen = [*CE, "data.workers=0"], ClipDataset._load, []
    train(*own, run="whole")

    def told(dataset: ClipDataset, record: Any, epoch: int) -> dict[str, Any]:
        seen.append(record.id)
        if len(seen) == 10:
            os.kill(os.getpid(), signal.SIGTERM)
        return load(dataset, record, epoch)

    with monkeypatch.context() as patch, LISTENER.listen():
        patch.setattr(ClipDataset, "_load", told)
        with pytest.raises(Preempted):
            train(*own, run="cut")
    assert len(seen) == 10
    train(*own, f"resume={tmp_path / 'single/cut'}", run="cut")
    assert_equal_runs(tmp_path / "single/whole", tmp_path / "single/cut", assert_same_weights)
