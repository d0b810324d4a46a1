"""Calls of `mml bench` that are cut tell what they have measured."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mml_lightning.benchmarks.timing import Timing, alternate, rates, unfinished
from tests.conftest import environment, hear_ctrl_c
from tests.patience import wait_for

SMALL = ["backbone=tiny", "backbone.net.width=8", "transforms.output=32", "transforms.short_side=36"]
SMALL += ["sampling.num_segments=4"]
ENDLESS = ["--rounds", "100000"]
BENCHES = {  # words, and the number that a row has from its first round on
    "step": (["step", *SMALL, "--ways", "float32,bfloat16", *ENDLESS], "clips_per_s"),
    "eval": (["eval", *SMALL, "--videos", "2", *ENDLESS], "views_per_s"),
    "end_to_end": (["end_to_end", *SMALL, "--videos", "2", "--without-baseline", *ENDLESS], "clips_per_s"),
    "growth": (["growth", *SMALL, "--frames", "2,4", *ENDLESS], "clips_per_s"),
    "data": (["data", "--videos", "1", "--frames", "14", "--sources", "frames", *ENDLESS], "samples_per_s"),
    "flow": (["flow", "--engines", "dis-ultrafast", "--size", "32x32", *ENDLESS], "milliseconds"),
}


def begun(words: list[str], file: Path) -> subprocess.Popen[str]:
    """A bench in a group of its own, as a shell starts it, that has measured something."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-m", "mml_lightning", "bench", *words, "--json", str(file)],
        **{"stdout": pipe, "stderr": subprocess.DEVNULL, "text": True, "env": environment()},
        start_new_session=True,
        preexec_fn=hear_ctrl_c,
    )
    wait_for(file.exists, f"the first round of {words[0]}", process)
    return process


def table(file: Path) -> dict[str, Any]:
    (told,) = json.loads(file.read_text())["tables"]
    return told


@pytest.mark.parametrize("bench", BENCHES)
def test_who_asks_a_bench_to_leave_gets_its_table(bench: str, tmp_path: Path) -> None:
    words, number = BENCHES[bench]
    process = begun(words, file := tmp_path / "rows.json")
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate()
    assert process.returncode == 130 and printed.startswith("| ") and "made by `mml bench" in printed.splitlines()[-1]
    told = table(file)
    assert told["sentence"] in printed and told["sentence"].startswith(("stopped early: ", "cut off: "))
    assert told["whole"] is False and told["rows"] and all(row[number] > 0 for row in told["rows"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_what_was_measured_is_on_the_disk_whatever_ends_it(number: signal.Signals, tmp_path: Path) -> None:
    words, _ = BENCHES["step"]
    process = begun(words, file := tmp_path / "rows.json")
    process.send_signal(number)
    printed, _ = process.communicate()
    told = table(file)
    assert told["rows"][0]["way"] == "float32" and told["rows"][0]["clips_per_s"] > 0
    assert ("cut off: " in printed) == (number == signal.SIGINT)


def test_a_bench_whose_process_dies_tells_what_it_has(tmp_path: Path) -> None:
    words, _ = BENCHES["growth"]
    process = begun(words, file := tmp_path / "rows.json")
    (child, *_) = measuring(process.pid)
    signal.pidfd_send_signal(child, signal.SIGKILL)
    printed, _ = process.communicate()
    assert process.returncode == 2 and table(file)["sentence"] in printed


def measuring(pid: int) -> list[int]:
    """Handles of the processes that a bench measures in: those of its fork server."""
    import os

    def children(parent: int) -> list[int]:
        return [int(one) for one in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]

    return [os.pidfd_open(grandchild) for child in children(pid) for grandchild in children(child)]


def test_rounds_are_told_as_they_end() -> None:
    seconds = iter([9.0, 8.0, 2.0, 4.0, 1.0])
    told = [
        (unfinished(rates(timings, 8), timings, 2).sentence, [row["clips_per_s"] for row in rates(timings, 8)])
        for _, timings in zip(range(5), alternate({way: lambda: next(seconds) for way in "ab"}, 2), strict=False)
    ]
    alone = "there is the round before them alone, which makes warm"
    assert told == [
        (f"cut off: of 2 rounds 0 are whole; of a {alone}; b: not measured", [8 / 9]),
        (f"cut off: of 2 rounds 0 are whole; of a, b {alone}", [8 / 9, 1.0]),
        (f"cut off: of 2 rounds 0 are whole; of b {alone}", [4.0, 1.0]),
        ("cut off: of 2 rounds 1 are whole", [4.0, 2.0]),
        ("cut off: of 2 rounds 1 are whole", [8.0, 2.0]),
    ]
    assert Timing(warm=3.0).best == 3.0
