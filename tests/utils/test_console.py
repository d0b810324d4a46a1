"""Who no longer reads what is printed costs nothing; what the machine lacks is one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mml_lightning.data.video.decode import DecodeError
from mml_lightning.utils.errors import UserError, exhausted
from tests.conftest import ROOT, command, environment

LINES = """
import logging, os, sys
from mml_lightning.utils import console
with console.guarded():
    logging.basicConfig(stream=sys.stdout, level=logging.INFO)
    file = open(sys.argv[1], "w")
    print("first", flush=True)
    sys.stdin.readline()
    for number in range(10):
        logging.info("%d", number)
        print("error", number, file=sys.stderr, flush=True)
    file.write(f"{file.fileno()} done")
    file.close()
"""


def test_a_reader_that_goes_away_ends_nothing(tmp_path: Path) -> None:
    pipe = subprocess.PIPE
    words = [sys.executable, "-c", LINES, str(tmp_path / "file")]
    process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, env=environment(PYTHONPATH=str(ROOT)))
    assert process.stdout is not None and process.stdin is not None and process.stderr is not None
    assert process.stdout.readline() == b"first\n"
    process.stdout.close()
    process.stdin.write(b"\n")
    process.stdin.close()
    said = process.stderr.read().decode()
    assert process.wait() == 0
    assert said.splitlines() == [f"error {number}" for number in range(10)], "no traceback of logging"
    assert (tmp_path / "file").read_text().endswith("done")


def test_closed_streams_lead_nowhere(tmp_path: Path) -> None:
    """A file must not take the number of standard output: whoever prints would write into it."""
    words = f'"{sys.executable}" -c "$CODE" "{tmp_path / "file"}" <&- >&- 2>&-'
    done = subprocess.run(["sh", "-c", words], env=environment(PYTHONPATH=str(ROOT), CODE=LINES))
    assert done.returncode == 0
    number, _ = (tmp_path / "file").read_text().split()
    assert int(number) > 2


def test_training_goes_on_when_nobody_reads(small: list[str], tmp_path: Path) -> None:
    given = command("train", *small, f"hydra.run.dir={tmp_path / 'run'}", f"paths.root={tmp_path}")
    pipe = subprocess.PIPE
    process = subprocess.Popen(given, stdout=pipe, stderr=pipe, env=environment(), cwd=tmp_path)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait() == 0 and said == b""
    assert json.loads((tmp_path / "run/result.json").read_text())["status"] == "completed"
    assert "epoch 2/2" in (tmp_path / "run/train.log").read_text()


def test_tables_are_written_when_nobody_reads(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/result.json").write_text(json.dumps({"schema": 1, "status": "failed", "name": "x" * 100_000}))
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-m", "mml_lightning", "report", str(tmp_path)]
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, env=environment(PYTHONPATH=str(ROOT)))
    os.close(writer)
    assert done.returncode == 0 and done.stderr == b""
    assert (tmp_path / "table.html").is_file()


def limited(kilobytes: int) -> Callable[[], None]:
    import resource

    return lambda: resource.setrlimit(resource.RLIMIT_AS, (kilobytes * 1024,) * 2)


@pytest.mark.parametrize(
    ("kilobytes", "says"), [(400_000, "raise it"), (900_000, "raise it"), (1_200_000, "lower data.")]
)
def test_too_little_memory_is_one_line(small: list[str], tmp_path: Path, kilobytes: int, says: str) -> None:
    """Where it is used up depends on the machine; what is said does not."""
    given = command("train", *small, f"paths.root={tmp_path}", "data.workers=2")
    done = subprocess.run(
        given, capture_output=True, text=True, env=environment(), cwd=tmp_path, preexec_fn=limited(kilobytes)
    )
    if done.returncode == 0:
        pytest.skip("it is enough here")
    assert "Traceback" not in done.stdout + done.stderr
    (said,) = [line for line in (done.stdout + done.stderr).splitlines() if "error: " in line]
    assert f"ulimit -v is {kilobytes} KiB" in said and says in said


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "memory ran out"),
        (OSError(12, "Cannot allocate memory"), "memory ran out"),
        (ImportError("libtorch.so: failed to map segment from shared object"), "memory ran out"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried .."), "memory ran out"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "the device's memory ran out"),
        (RuntimeError("can't start new thread"), "no further thread could be started"),
        (OSError(24, "Too many open files"), "too many open files (ulimit -n is "),
        (RuntimeError("unable to open shared memory object: Too many open files (24)"), "too many open files"),
    ],
)
def test_what_the_machine_lacks_is_named(error: Exception, says: str) -> None:
    told = exhausted(error)
    assert told is not None and told.startswith(says) and "\n" not in told


def test_no_file_is_blamed_for_what_the_process_lacks() -> None:
    """A video that could not be opened for want of a descriptor would be left out for good."""
    for reason in ("Too many open files", "libswscale.so: failed to map segment from shared object"):
        with pytest.raises(UserError, match=r"ulimit -n|memory ran out"):
            raise DecodeError(f"v.mp4: {reason} (pyav)")
    assert exhausted(ValueError("no such file")) is None
    assert str(DecodeError("v.mp4: Cannot allocate memory (pyav)")) == "v.mp4: Cannot allocate memory (pyav)"
