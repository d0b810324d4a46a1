"""Nothing that decodes in the parent may own native threads: a worker made by fork frees a copy of it, joins a thread
that it does not have, and crashes (seen with the scaler of PyAV, whose frames were in a reference cycle)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import environment
from tests.data.numbered import everything

WATCH = """
import os, sys
from pathlib import Path
from mml_lightning.data.check.referee import shown_from_the_start
from mml_lightning.data.video.decode import open_video
from mml_lightning.data.video.video_index import judge

most = 0

def watch(frame, event, argument):
    global most
    most = max(most, len(os.listdir("/proc/self/task")))

for path in map(Path, sys.argv[1:]):
    for again in range(2):  # the first one imports
        most, before = 0, len(os.listdir("/proc/self/task"))
        sys.setprofile(watch if again else None)
        judge(path, decode=True)
        shown_from_the_start(path, {0, 3})
        with open_video(path, "pyav") as video:
            video.frames([0, 3])
        sys.setprofile(None)
    print(path.name, before, most)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted by Linux's /proc")
def test_decoding_starts_no_native_threads(tmp_path: Path) -> None:
    named = {f"{made.name}.{made.ending}": made for made in everything()}
    names = ["libx264-closed.mp4", "libvpx-vp9-plain.webm", "libsvtav1-plain.mp4", "libx265-default.mp4"]
    paths = [str(named[name].write(tmp_path)) for name in names if name in named]
    done = subprocess.run([sys.executable, "-c", WATCH, *paths], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == len(paths) and len(paths) >= 2
    assert [line for line in lines if line[1] != line[2]] == []
