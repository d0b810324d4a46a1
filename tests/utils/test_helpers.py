"""What helpers use of the processor is counted while they work, and kept when they have ended."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mml_lightning.utils.helpers import Helpers, seconds_of
from tests.patience import wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the system tells nothing of other processes")


def test_seconds_are_those_of_the_process() -> None:
    helpers = Helpers()
    assert helpers.seconds() == 0
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        helpers.add(process.pid)
        wait_for(lambda: helpers.seconds() >= 0.2, "its work")
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        used = helpers.seconds()
        helpers.remove(process.pid)
    assert helpers.seconds() == used >= 0.2, "kept when nobody can look it up any more"


def test_of_a_process_that_is_not_there_nothing_is_told() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert seconds_of(process.pid) == 0
