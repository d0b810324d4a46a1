"""`mml serve` as it is started and ended, and the example of its page of the docs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mml_lightning.cli.main import main
from tests.conftest import ROOT, environment, hear_ctrl_c
from tests.patience import LONGEST, wait_for

DOCS = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")


@pytest.fixture
def started(demo: Path, trained: Path, tmp_path: Path) -> Callable[..., Iterator[tuple[subprocess.Popen[str], str]]]:
    """started(*words) serves the trained run in a process of its own: it, and its address."""

    @contextmanager
    def run(*words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
        call = [sys.executable, "-m", "mml_lightning", "serve", "--ckpt", str(trained), "--port", "0"]
        call += ["--set", f"data.root={demo / 'data'}", "--set", f"paths.cache={demo / 'cache'}", *words]
        own = environment(TMPDIR=str(tmp_path), PYTHONPATH=str(ROOT))
        pipe = subprocess.PIPE
        process = subprocess.Popen(call, stdout=pipe, stderr=pipe, text=True, env=own, preexec_fn=hear_ctrl_c)
        try:
            assert process.stdout is not None
            found = re.search(r" at (http://\S+/) \(Ctrl-C", line := process.stdout.readline())
            assert found, (line, process.communicate())
            yield process, found[1]
        finally:
            process.kill()
            process.communicate()

    return run


def test_the_example_of_the_docs_and_a_clean_end(
    started: Callable[..., Iterator[tuple[subprocess.Popen[str], str]]], demo: Path, tmp_path: Path
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    clip = sorted((demo / "data").rglob("videos/*.mp4"))[0]
    (tmp_path / "clip.mp4").write_bytes(clip.read_bytes())
    (block,) = re.findall(r"```bash\n(curl .*?)```", DOCS, re.DOTALL)
    with started("--timeout", "3600") as (process, url):
        lines = block.replace("\\\n", " ").strip().splitlines()
        answers = []
        for line in lines:
            words = [word.replace("http://127.0.0.1:8420/", url) for word in shlex.split(line.partition("  #")[0])]
            done = subprocess.run([*words, "-s"], capture_output=True, text=True, cwd=tmp_path, timeout=LONGEST)
            assert done.returncode == 0, done.stderr
            answers.append(json.loads(done.stdout))
        assert len(answers) == 4 and not any("error" in one for one in answers)
        (shown,) = re.findall(r"```json\n(.*?)```", DOCS, re.DOTALL)
        assert shape(answers[0]) == shape(json.loads(shown))
        left = [path for path in tmp_path.glob("mml_serve_*/*")]
        assert left == []
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=LONGEST)
    assert process.returncode == 0 and out == "stopped; no upload is left\n" and "Traceback" not in err, err
    assert "POST /api/predict?name=clip.mp4: clip.mp4 (" in err
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def shape(value: object) -> object:
    """Keys, and what stands in lists, but no numbers and names."""
    if isinstance(value, dict):
        return {key: shape(one) for key, one in value.items()}
    return [shape(value[0])] if isinstance(value, list) and value else type(value).__name__


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_upload_and_a_prediction_under_way_end_with_it(
    started: Callable[..., Iterator[tuple[subprocess.Popen[str], str]]], tmp_path: Path, number: signal.Signals
) -> None:
    with started() as (process, url):
        port = int(url.rstrip("/").rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as half:
            half.sendall(b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nbegin")
            wait_for(lambda: list(tmp_path.glob("mml_serve_*/*/upload")), "half an upload", process)
            process.send_signal(number)
            out, err = process.communicate(timeout=LONGEST)
        assert process.returncode == 0 and out == "stopped; no upload is left\n" and "Traceback" not in err, err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words, message",
    [
        (["--max-mb", "0"], "--max-mb 0 must be a positive number"),
        (["--timeout", "1e9"], "--timeout 1e+09 must be at most 86400 seconds"),
        (["--max-seconds", "nan"], "--max-seconds nan must be a positive number"),
        (["--timeout", "inf"], "--timeout inf must be a positive number"),
        (["--queue", "-1"], "--queue -1 must be 0 or more"),
        (["--set", "workers"], "KEY=VALUE"),
        (["--set", "data.workers=4"], "mml serve reads one video at a time"),
        (["--host", "no.such.host.invalid"], "can't listen at --host no.such.host.invalid"),
        (["--port", "{taken}"], "can't listen at --host 127.0.0.1 --port"),
        (["--port", "99999"], "can't listen at"),
    ],
)
def test_mistakes_are_one_line(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "--ckpt", str(trained), *(word.format(taken=port) for word in words)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mml: error")]
    assert message in line
    assert list(tmp_path.iterdir()) == []
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.slow
def test_what_can_not_be_loaded_is_one_line(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "mml_lightning", "serve", "--ckpt", str(tmp_path), "--port", "0"]
    own = environment(TMPDIR=str(tmp_path), PYTHONPATH=str(ROOT))
    done = subprocess.run(call, capture_output=True, text=True, env=own, timeout=LONGEST)
    assert done.returncode == 2 and "holds no peers" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert os.listdir(tmp_path) == []
