"""`mml bench suite`: parts in a budget of time, and what they leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from mml_lightning.benchmarks.commands import suite
from mml_lightning.benchmarks.commands.leaving import ENDS
from mml_lightning.cli.main import main, parse

SMALL = ["backbone=tiny", "backbone.net.width=8", "transforms.output=32", "sampling.num_segments=4"]


@pytest.mark.parametrize("device", suite.SIZES)
def test_every_part_is_a_command(device: str) -> None:
    for part in suite.parts(device):
        words = part.command(SMALL, device)
        args = parse(words)
        assert args.device == device and part.words.split()[1:] and set(SMALL) <= set(getattr(args, "overrides", SMALL))
    assert len({part.name for part in suite.parts(device)}) == len(suite.parts(device))


def test_a_page_a_file_each_and_what_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = suite.parts("cpu")[0]
    monkeypatch.setattr(suite, "parts", lambda *_: [suite.Part("no", "No", "flow --engines raft"), step])
    assert main(["bench", "suite", "--device", "cpu", "--out", str(tmp_path / "out"), *SMALL]) == 2
    told = capsys.readouterr()
    assert f"no failed; see {tmp_path}/out/no.log" in told.err.splitlines()[-1]
    page = (tmp_path / "out" / "page.md").read_text()
    assert page.startswith("## No\n\nfailed: mml: error: ") and told.out == page
    assert f"\n\n## {step.title}\n\n| way |" in page and "| bare |" in page
    assert page.count("made by `mml bench") == 1 and "--json" not in page
    (table,) = json.loads((tmp_path / "out" / "step.json").read_text())["tables"]
    assert [row["way"] for row in table["rows"]] == ["bare", "bfloat16"]


def test_the_budget_ends_a_part_and_begins_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (part,) = (part for part in suite.parts("cpu") if part.name == "growth")
    monkeypatch.setattr(suite, "SHORTEST", 0.0)
    told = suite._measure(part, "cpu", SMALL, tmp_path, time.monotonic() + 0.5)
    assert told.startswith("out of time before the end of `mml bench growth data.batch_size=2")
    monkeypatch.undo()
    assert suite._measure(part, "cpu", SMALL, tmp_path, time.monotonic()) == "not started: out of time"
    assert suite._section(part, tmp_path, "why") == "## Growth\n\nwhy\n\n"


@pytest.mark.parametrize("number", ENDS)
def test_who_asks_the_suite_to_leave_ends_its_part(
    number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[subprocess.Popen[bytes]] = []

    class Popen(subprocess.Popen[bytes]):
        def wait(self, timeout: float | None = None) -> int:
            if not begun:  # the suite waits for its part: now
                begun.append(self)
                os.kill(os.getpid(), number)
            return super().wait(timeout)

    monkeypatch.setattr(suite.subprocess, "Popen", Popen)
    before = signal.signal(number, lambda *_: None)
    try:
        assert main(["bench", "suite", "--device", "cpu", "--out", str(tmp_path), *SMALL]) == 130
        assert signal.getsignal(number) not in (signal.SIG_IGN, signal.SIG_DFL)  # as it was
    finally:
        signal.signal(number, before)
    assert len(begun) == 1 and begun[0].returncode
    with pytest.raises(ProcessLookupError):
        os.killpg(begun[0].pid, 0)


def test_no_more_workers_are_measured_than_there_are_cores() -> None:
    few = {part.name: part.words for part in suite.parts("cuda", 4)}
    assert "data.workers=4 " in few["end_to_end"] and "--workers 0,1,2,4 " in few["growth"]
    assert "data.workers=16 " in {part.name: part.words for part in suite.parts("cuda", 64)}["end_to_end"]


def test_what_needs_a_compiler_comes_last() -> None:
    assert ["compiled" in part.words for part in suite.parts("cuda")][-2:] == [False, True]
    assert sum("compiled" in part.words for part in suite.parts("cuda")) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--parts", "steps"], "--parts steps is unknown; use some of step, joint, end_to_end"),
        (["--out", "{file}/out"], "name another --out"),
        (["--out", "/proc"], "name another --out"),
        (["--minutes", "-1"], "--minutes -1 must be a number above 0.17"),
        (["--minutes", "0"], "--minutes 0 must be a number"),
        (["--minutes", "nan"], "--minutes nan must be a number"),
        (["backbone=no"], "backbone"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    given = [word.replace("{file}", str(tmp_path / "file")) for word in words]
    assert main(["bench", "suite", "--device", "cpu", *given]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
