"""Flow that a process of its own computes meanwhile: the same files, whatever ends it, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mml_lightning.data.flow.ahead import FlowAhead
from mml_lightning.data.flow.cache import FlowCache, FlowSettings
from mml_lightning.data.records.records import Record
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.helpers import HELPERS
from tests.conftest import environment
from tests.data.flow.test_fill import alive, content
from tests.data.videos import ROOT, moving, record, write_video
from tests.patience import wait_for

SETTINGS = FlowSettings(preset="ultrafast", decoder="pyav")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """Four videos and one that can't be read."""
    folder = tmp_path_factory.mktemp("videos")
    files = [write_video(folder / f"v{k}.mp4", moving(9, 1 + k, k)) for k in range(4)]
    (folder / "broken.mp4").write_bytes(b"no video")
    return [record(path) for path in (*files, folder / "broken.mp4")]


def over(process: FlowAhead) -> None:
    wait_for(lambda: not process.working(), "the end of the process")


def long(folder: Path) -> Path:
    """A video that takes seconds."""
    return write_video(folder / "long.mp4", moving(30, 1, 1, width=1280, height=960))


def test_it_leaves_the_files_that_a_run_leaves(records: list[Record], tmp_path: Path) -> None:
    here, there = FlowCache(tmp_path / "here", SETTINGS), FlowCache(tmp_path / "there", SETTINGS)
    assert [name for name, _ in here.prepare(records, 1, lambda: None)] == [records[-1].id]
    before = HELPERS.seconds()
    process = FlowAhead(there, records, 2)
    over(process)
    assert process.stop() == "4 videos done, 1 can't be read"
    assert content(there.folder) == content(here.folder) and len(content(there.folder)) == 5
    assert [one.id for one in there.missing(records)] == [records[-1].id], "whose reason the run tells"
    if sys.platform == "linux":
        assert HELPERS.seconds() > before


def test_stopped_on_its_way_it_leaves_whole_files_and_the_rest_is_computed(tmp_path: Path) -> None:
    video = long(tmp_path)
    records = [record(write_video(tmp_path / "short.mp4", moving(5, 1, 1))), record(video)]
    cache = FlowCache(tmp_path / "cache", FlowSettings(decoder="pyav"))
    process = FlowAhead(cache, records, 1)
    wait_for(lambda: len(list(cache.folder.glob(".long*"))), "the file that is being written")
    assert process.stop() == "not all is there yet"
    assert {path.name for path in cache.folder.iterdir()} == {"settings.json", cache.path(records[0]).name}
    assert [one.id for one in cache.missing(records)] == ["long"]


def test_what_keeps_it_from_writing_is_told(records: list[Record], tmp_path: Path) -> None:
    cache = FlowCache(tmp_path, SETTINGS)
    (cache.folder / "settings.json").mkdir(parents=True)
    process = FlowAhead(cache, records, 1)
    over(process)
    said = process.stop()
    assert said.startswith("can't write the flow cache ") and said.endswith("; set paths.cache")
    with pytest.raises(UserError, match="can't write the flow cache"):  # as the run itself will say
        cache.prepare(records, 1, lambda: None)


def test_a_process_that_dies_is_told(records: list[Record], tmp_path: Path) -> None:
    process = FlowAhead(FlowCache(tmp_path, SETTINGS), records, 1)
    process._process.send_signal(signal.SIGTERM)
    over(process)
    assert process.stop() in (f"its process died (exit code {-signal.SIGTERM})", "4 videos done, 1 can't be read")


def test_it_ends_with_a_killed_parent_and_hears_no_ctrl_c(tmp_path: Path) -> None:
    video = long(tmp_path)
    script = (
        "import sys; from pathlib import Path; from mml_lightning.data.flow.ahead import FlowAhead\n"
        "from mml_lightning.data.flow.cache import FlowCache, FlowSettings\n"
        "from mml_lightning.data.records.records import Record\n"
        "cache = FlowCache(Path(sys.argv[1]), FlowSettings(decoder='pyav'))\n"
        "process = FlowAhead(cache, [Record('long', {'frames': Path(sys.argv[2])}, {})], 1)\n"
        "print(process._process.pid, flush=True); sys.stdin.read()\n"
    )
    words = [sys.executable, "-c", script, str(tmp_path / "cache"), str(video)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(words, text=True, env=environment(PYTHONPATH=str(ROOT)), **pipes) as parent:  # type: ignore[call-overload]
        pid = int(parent.stdout.readline())
        wait_for(lambda: list((tmp_path / "cache").rglob(".long*")), "its work")
        os.kill(pid, signal.SIGINT)
        assert alive(pid)
        parent.kill()
    wait_for(lambda: not alive(pid), "the end of the process")


def test_it_needs_no_torch_for_what_computes_without(tmp_path: Path) -> None:
    """It would cost more than the flow of a small data set."""
    script = "import sys, mml_lightning.data.flow.ahead; print(*{'torch', 'pytorch_lightning'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment(PYTHONPATH=str(ROOT))
    )
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr
