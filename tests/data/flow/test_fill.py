"""A cache filled ahead of training: in parallel, resumable after kills, with statistics."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mml_lightning import optical_flow
from mml_lightning.cli.main import main
from mml_lightning.data.flow import engines, micro_batch
from mml_lightning.data.flow import fill as flow_fill
from mml_lightning.data.flow.cache import FlowCache, FlowSettings, quantise
from mml_lightning.data.flow.fill import Moments, fill, moments, splits_of, summary, warnings
from mml_lightning.data.flow.micro_batch import MicroBatcher
from mml_lightning.data.records.records import Dataset, Head, Record
from mml_lightning.data.video.images import open_media
from mml_lightning.data.video.media import ImageSequence
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.files import temporary_name
from tests.conftest import environment
from tests.data.flow_of import flow_of
from tests.data.videos import ROOT, damaged, moving, record, write_video
from tests.patience import LONGEST, wait_for

SETTINGS = FlowSettings(preset="ultrafast")


def content(folder: Path) -> dict[str, str]:
    """Hash of every file, hidden ones too."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# ------------------------------------------------------------------------------------------------ statistics


def test_moments_of_known_flow() -> None:
    motion = np.zeros((2, 2, 2, 2), dtype=np.float32)
    motion[0, 0, 0] = (3.0, 4.0)
    motion[1, 1, 1] = (-20.0, 0.0)
    motion[1, 0, 1] = (0.0, 25.0)
    found = moments(quantise(motion, 20.0), 20.0)
    assert (found.pairs, found.looked_at, found.vectors, found.clipped, found.zero) == (2, 2, 8, 2, 5)
    assert found.length == pytest.approx(5 + 20 + 20, abs=0.3)
    assert (found + found).shares() == found.shares()
    assert found.shares()["clipped_share"] == 0.25


def test_moments_look_at_a_few_pairs_from_first_to_last() -> None:
    flow = np.full((100, 4, 4, 2), 128, dtype=np.uint8)
    flow[[0, 99]] = 0
    found = moments(flow, 20.0, most=4)
    assert (found.pairs, found.looked_at, found.clipped, found.zero) == (100, 4, 32, 32)


def test_wrong_looking_flow_is_warned_of() -> None:
    row = {"zero_share": 0.2, "clipped_share": 0.04}
    assert warnings({"train": row}, 20.0) == []
    lines = warnings({"train": row | {"zero_share": 0.96}, "val": row | {"clipped_share": 0.0512}}, 20.0)
    assert lines[0].startswith("train: 96.0% of the vectors are zero") and len(lines) == 2
    assert lines[1].startswith("val: 5.1% of the vectors reach the bound, 20 px: raise flow.bound")
    assert warnings({"val": Moments().shares()}, 20.0) == []


# ------------------------------------------------------------------------------------------------ filling


@pytest.mark.parametrize("workers", [1, 2])
def test_outcomes_are_in_order_and_files_shared(videos: dict[str, Path], tmp_path: Path, workers: int) -> None:
    cache = FlowCache(tmp_path / "flow", SETTINGS)
    bad = record(damaged("zeros", videos["vp9"], tmp_path / "bad.webm"))
    rows = [record(videos["moving"]), bad, record(videos["single"]), record(videos["moving"], id="part", span=(0, 1))]
    steps: list[int] = []
    outcomes = fill(cache, rows, workers, lambda: steps.append(1))
    assert len(steps) == 3 and outcomes[0] == outcomes[3]
    assert [(o.moments is None, o.single) for o in outcomes] == [(0, 0), (1, 0), (1, 1), (0, 0)]
    assert "bad.webm" in outcomes[1].reason and "one frame" in outcomes[2].reason
    with open_media(videos["moving"]) as video:
        assert np.array_equal(np.load(cache.path(rows[0])), flow_of(video.stream(), SETTINGS))
    row = summary({"train": outcomes})["train"]
    assert (row["videos"], row["failed"], row["one_frame"], row["pairs"]) == (4, 1, 1, 12)
    assert row["mean_px"] == pytest.approx(np.hypot(3, 2), abs=0.8)
    assert {path.suffix for path in cache.folder.iterdir()} == {".npy", ".json"}


def test_pairs_of_several_videos_in_one_batch_give_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: more threads than pairs of a video, sizes mixed, a damaged video among them."""
    rows = [
        record(write_video(tmp_path / f"{n}.mp4", moving(3 + n % 3, 1 + n % 4, n % 2, 64 + 32 * (n % 2), 48)))
        for n in range(8)
    ]
    rows.append(record(damaged("truncated", tmp_path / "1.mp4", tmp_path / "bad.mp4")))
    settings = FlowSettings("tvl1", "fast", parameters={"inner": 8}, decoder="pyav")
    alone, common = FlowCache(tmp_path / "alone", settings), FlowCache(tmp_path / "common", settings)
    one = fill(alone, rows, 1)

    class Crowd(micro_batch.MicroBatcher):
        """The first call begins when every thread has come."""

        whole = False

        def _answer(self, size: torch.Size) -> None:
            wait_for(lambda: self.whole or len(self._waiting) >= threads, f"{threads} threads")
            self.whole = True
            super()._answer(size)

    monkeypatch.setattr(engines, "TOGETHER", ("cpu",))
    monkeypatch.setattr(micro_batch, "MicroBatcher", Crowd)
    engines.together.cache_clear()
    sizes: list[int] = []
    threads, pairs = 6, optical_flow.tvl1_pairs

    def counted(first: torch.Tensor, *rest: Any) -> torch.Tensor:
        sizes.append(len(first))
        return pairs(first, *rest)

    monkeypatch.setattr(optical_flow, "tvl1_pairs", counted)
    other = fill(common, rows, threads)
    engines.together.cache_clear()
    assert [outcome.reason for outcome in other] == [outcome.reason for outcome in one]
    assert sum(sizes) == sum(outcome.moments.pairs for outcome in one if outcome.moments)
    assert max(sizes) > 4, "no video has more than four pairs"
    for path in alone.folder.glob("*.npy"):
        found, expected = (np.load(folder / path.name).astype(int) for folder in (common.folder, alone.folder))
        assert np.abs(found - expected).max() <= 1 and (found != expected).mean() < 1e-3, "a tie may round either way"


def test_what_fails_in_common_fails_for_each(tmp_path: Path) -> None:
    def fail(clips: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        raise RuntimeError(f"out of memory with {len(clips)}")

    both = MicroBatcher(fail)
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(both, torch.zeros(2, 1, 4, 4)) for _ in range(2)]
        for job in jobs:
            with pytest.raises(RuntimeError, match="out of memory"):
                job.result()


def test_streamed_files_are_those_of_numpy(videos: dict[str, Path], tmp_path: Path) -> None:
    cache = FlowCache(tmp_path / "flow", SETTINGS)
    path = cache.make(record(videos["moving"]))
    np.save(tmp_path / "whole.npy", np.load(path))
    assert path.read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_unwritable_cache_is_a_users_mistake(videos: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "flow").write_text("a file")
    with pytest.raises(UserError, match=r"can't write the flow cache .*paths\.cache"):
        fill(FlowCache(tmp_path / "flow", SETTINGS), [record(videos["moving"])], 1)


def test_own_flow_is_left_alone_and_empty_splits_are_named(videos: dict[str, Path]) -> None:
    own = Record("own", {"frames": videos["vp9"], "flow": ImageSequence(videos["vp9"].parent, "{:05d}.png", 3)}, {})
    data = Dataset("d", {"train": [record(videos["vp9"]), own], "val": []}, {"label": Head(("a", "b"))})
    assert [row.id for row in splits_of(data, ["train"])["train"]] == ["vp9"]
    for split in ("val", "valid"):
        with pytest.raises(UserError, match=rf"no videos in split '{split}'; use --splits train"):
            splits_of(data, [split])


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    cache = FlowCache(tmp_path / "flow", SETTINGS)
    cache.describe()
    dead = temporary_name(cache.folder / "dead")
    dead.write_bytes(b"half")
    script = (
        "import sys; from pathlib import Path; from mml_lightning.utils.files import write_atomically\n"
        "with write_atomically(Path(sys.argv[1])): print('open', flush=True); sys.stdin.read()"
    )
    environ = environment(PYTHONPATH=str(ROOT))
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    command = [sys.executable, "-c", script, str(cache.folder / "living")]
    with subprocess.Popen(command, **pipes, env=environ) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"open\n"
        cache.clear_leftovers()
        (living,) = cache.folder.glob(".living.*")
        assert not dead.exists()
        writer.kill()
    cache.clear_leftovers()
    assert not living.exists()


# ------------------------------------------------------------------------------------------------ kills


def table(folder: Path, videos: int) -> Path:
    """Tiny videos of several motions and a table of them."""
    rows = ["path,label,split"]
    for k in range(videos):
        name = f"v{k}.mp4"
        write_video(folder / name, moving(17, 1 + k % 4, k % 3, width=160, height=120))
        rows.append(f"{name},class{k % 2},{'val' if k % 4 == 3 else 'train'}")
    (folder / "videos.csv").write_text("\n".join(rows) + "\n")
    return folder / "videos.csv"


def command(index: Path, root: Path, workers: int) -> list[str]:
    words = ["data=csv", f"data.index={index}", f"paths.root={root}", "flow=tvl1_fast", "data.name=tiny"]
    return [sys.executable, "-m", "mml_lightning", "flow", *words, "--workers", str(workers)]


def flow_files(root: Path) -> set[str]:
    """Names of the flow files of v0, v1, ..., half-written ones too."""
    return {path.name for path in root.rglob("*") if path.name.startswith(("v", ".v"))}


def seconds_per_video(root: Path) -> float:
    """Between one file of flow and the next, as they were written."""
    written = sorted(path.stat().st_mtime for path in root.rglob("v*.npy"))
    return (written[-1] - written[0]) / (len(written) - 1)


def killed_until_done(index: Path, folder: Path, kills: int, workers: int, longest: float) -> list[Path]:
    """Start the command and kill it at random moments, at most `longest` seconds after it has begun to write flow,
    until so many kills left it something to do; then let it end. Where one comes too late, whatever made the machine
    faster than it was or this process slower, all begins anew in another place, with half the time; the places."""
    environ, quiet = environment(PYTHONPATH=str(ROOT)), subprocess.DEVNULL
    rng, early, roots = random.Random(kills), 0, [folder / "0"]
    while early < kills:
        root = roots[-1]
        before = flow_files(root)
        with subprocess.Popen(command(index, root, workers), env=environ, stdout=quiet, stderr=quiet) as process:
            while process.poll() is None and flow_files(root) <= before:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, longest))
            in_time = process.poll() is None
            process.kill()
        early += in_time
        if not in_time:
            assert process.returncode == 0 and len(roots) < 2 * kills
            roots.append(folder / str(len(roots)))
            longest /= 2
    done = subprocess.run(
        command(index, roots[-1], workers), env=environ, capture_output=True, text=True, timeout=LONGEST
    )
    assert done.returncode == 0, done.stderr
    return roots


def check_kills(folder: Path, videos: int, kills: int, workers: int) -> None:
    index = table(folder / "videos", videos)
    assert main(command(index, folder / "whole", 1)[3:]) == 0
    longest = seconds_per_video(folder / "whole")
    whole = content(folder / "whole")
    assert sum(name.endswith(".npy") for name in whole) == videos
    for place in killed_until_done(index, folder / "killed", kills, workers, longest):
        assert content(place) == whole


def test_killed_and_continued_it_leaves_the_same_files(tmp_path: Path) -> None:
    check_kills(tmp_path, videos=5, kills=2, workers=1)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_killed_twenty_times_it_leaves_the_same_files(tmp_path: Path, workers: int) -> None:
    check_kills(tmp_path, videos=24, kills=20, workers=workers)


def test_workers_end_with_a_killed_parent(videos: dict[str, Path], tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from mml_lightning.data.flow import fill as flow_fill\n"
        "from mml_lightning.data.flow.cache import FlowCache, FlowSettings\n"
        "import os\n"
        "if __name__ == '__main__':\n"
        "    cache = FlowCache(Path(sys.argv[1]), FlowSettings())\n"
        "    pool = flow_fill._pool(cache, 1 + 1)\n"
        "    print(pool.submit(os.getpid).result(), flush=True); sys.stdin.read()\n"
    )
    file = tmp_path / "main.py"
    file.write_text(script)
    environ = environment(PYTHONPATH=str(ROOT))
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, str(file), str(tmp_path)], **pipes, env=environ) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        os.kill(worker, 0)  # it lives
        parent.kill()
    wait_for(lambda: not alive(worker), "the end of the worker")


def alive(process: int) -> bool:
    """Whether a process runs; one that ended and nobody has waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_dead_worker_is_a_users_mistake(
    videos: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        flow_fill, "_pool", lambda *_: ProcessPoolExecutor(1, get_context("spawn"), initializer=os._exit, initargs=(9,))
    )
    with pytest.raises(UserError, match="a worker died"):
        fill(FlowCache(tmp_path / "flow", SETTINGS), [record(videos["moving"])], 2)
