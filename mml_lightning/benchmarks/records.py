"""How long a run takes to its first batch, and how much memory loading holds, against the number of records.

Every number of records has a process of its own. Each record has a file, as tiny as it can be, for what is measured is
the list and the look at every file, not the decoder. Memory is the proportional share (PSS) of the process and its
workers, so that pages that they share count once.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from mml_lightning import build_data, process
from mml_lightning.loaders import VideoData

PER_FOLDER, CLASSES, BATCH = 1000, 10, 32
SIZE, FRAMES = (96, 64), 12


@dataclass(frozen=True)
class Row:
    """Processor seconds of the main process from the config to the records and to the first batch, imports aside, and
    how long this lasts by the clock; megabytes of the process and its workers before the records, with the first batch
    and after `samples` samples."""

    records: int
    workers: int
    index_s: float
    first_batch_s: float
    first_batch_wall_s: float
    empty_mb: float
    first_mb: float
    last_mb: float
    samples: int


def compare(
    compose: Callable[[Sequence[str]], DictConfig],
    counts: Sequence[int],
    workers: int,
    samples: int,
    advance: Callable[[str], object] = lambda what: None,
) -> list[Row]:
    """One row per number of records.

    Args:
        compose: words to a config.
        samples: training samples to load, at most half an epoch.
    """
    rows = []
    with TemporaryDirectory() as folder:
        for count in counts:
            index, config = _make_list(Path(folder), count), Path(folder) / "config.yaml"
            values = [f"data.index={index}", f"data.workers={workers}", f"data.batch_size={BATCH}", "test=false"]
            cfg = compose(["data=csv", *values, f"paths.output_dir={folder}", f"paths.root={folder}"])
            OmegaConf.save(cfg, config, resolve=True)
            words = [sys.executable, "-m", __name__, str(config), str(samples)]
            told = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
            rows.append(Row(records=count, workers=workers, **json.loads(told.splitlines()[-1])))
            advance(f"{count} records")
    return rows


def _make_list(folder: Path, count: int) -> Path:
    """A CSV of `count` records, a tenth of them for validation, each with a file of its own."""
    index = folder / f"{count}.csv"
    with index.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["id", "path", "label", "split"])
        for first in range(0, count, PER_FOLDER):
            videos = _folder_of_videos(folder, first // PER_FOLDER)
            for number in range(first, min(first + PER_FOLDER, count)):
                split = "train" if number % 10 else "val"
                video = f"{videos}/{number % PER_FOLDER:03d}.mp4"
                writer.writerow([f"clip_{number:08d}", video, f"class{number % CLASSES}", split])
    return index


def _folder_of_videos(root: Path, number: int) -> str:
    """One video under as many names as there are videos in a folder: file systems bound the names of a file."""
    name = f"videos/{number:05d}"
    if not (root / name).exists():
        (root / name).mkdir(parents=True)
        _encode(root / name / "000.mp4")
        for other in range(1, PER_FOLDER):
            os.link(root / name / "000.mp4", root / name / f"{other:03d}.mp4")
    return name


def _encode(path: Path) -> None:
    import av

    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("mpeg4", rate=12)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for _ in range(FRAMES):
            picture = rng.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode(None))


def measure(cfg: DictConfig, samples: int) -> dict[str, float]:
    """In a process of its own: a run's data from the config to the first batch, then `samples` samples."""
    process.quieten_libraries()
    empty = held_memory()
    start, begun = time.process_time(), time.perf_counter()
    data = build_data.dataset(cfg)
    read = time.process_time()
    datasets = build_data.clip_datasets(cfg, data, None, list(build_data.modalities(cfg).values()))
    data.fingerprint()
    batches = iter(VideoData(datasets, build_data.loader_settings(cfg)).train_dataloader())
    next(batches)
    first, waited = time.process_time() - start, time.perf_counter() - begun
    at_first = held_memory()
    seen = BATCH
    while seen < min(samples, len(datasets["train"]) // 2):  # the workers end with the epoch
        next(batches)
        seen += BATCH
    return {
        "index_s": round(read - start, 3),
        "first_batch_s": round(first, 3),
        "first_batch_wall_s": round(waited, 3),
        "empty_mb": empty,
        "first_mb": at_first,
        "last_mb": held_memory(),
        "samples": seen,
    }


def held_memory() -> float:
    """Megabytes of this process and its children, what they share counted once."""
    own = os.getpid()
    children = Path(f"/proc/{own}/task/{own}/children").read_text(encoding="ascii").split()
    told = [Path(f"/proc/{one}/smaps_rollup").read_text(encoding="ascii") for one in (str(own), *children)]
    shares = [int(line.split()[1]) for text in told for line in text.splitlines() if line.startswith("Pss:")]
    return round(sum(shares) / 1024, 1)


def sentence(rows: Sequence[Row]) -> str:
    """What a record costs, and what to do about it."""
    most = max(rows, key=lambda row: row.records)
    each = 1e6 * most.first_batch_s / most.records
    return (
        f"a start costs {each:.1f} microseconds per record, the look at each file included: "
        "packed videos (mml pack) need one look per shard"
    )


if __name__ == "__main__":
    loaded = OmegaConf.load(sys.argv[1])
    assert isinstance(loaded, DictConfig)
    print(json.dumps(measure(loaded, int(sys.argv[2]))), flush=True)
    os._exit(0)  # in the middle of an epoch, its workers busy
