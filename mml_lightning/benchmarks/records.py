"""How long a run takes to its first batch, and how much memory loading holds, against the number of records.

Every number of records has a process of its own. Each record has a file, as tiny as it can be, for what is measured is
the list and the look at every file, not the decoder. Memory is the proportional share (PSS) of the process and its
workers, so that pages that they share count once; pages of files (code of libraries) are left out, for their share
hangs on what else runs on the machine.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from mml_lightning.benchmarks.record_lists import KINDS
from mml_lightning.config import compose as config_compose
from mml_lightning.config import data as config_data
from mml_lightning.config.settings import Settings
from mml_lightning.training.datamodule import VideoData
from mml_lightning.utils import process

BATCH = 32


@dataclass(frozen=True)
class Row:
    """Processor seconds of the main process from the config to the records and to the first batch, imports aside, and
    how long this lasts by the clock; megabytes of the process and its workers before the records, with the first batch
    and after `samples` samples."""

    lists: str
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
    compose: Callable[[Sequence[str]], Settings],
    kinds: Sequence[str],
    counts: Sequence[int],
    workers: int,
    samples: int,
    advance: Callable[[str], object] = lambda what: None,
) -> Iterator[Row]:
    """One row per number of records of each kind, as soon as it is known.

    Args:
        compose: words to a config.
        kinds: of lists, see :data:`KINDS`.
        samples: training samples to load, at most half an epoch.
    """
    with TemporaryDirectory() as folder:
        for kind, count in itertools.product(kinds, counts):
            words, config = KINDS[kind](Path(folder), count), Path(folder) / "config.yaml"
            values = [f"data.workers={workers}", f"data.batch_size={BATCH}", "test=false"]
            cfg = compose([*words, *values, f"paths.output_dir={folder}", f"paths.root={folder}"])
            config_compose.save(cfg, config)
            command = [sys.executable, "-m", __name__, str(config), str(samples)]
            told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            advance(f"{kind}: {count} records")
            yield Row(lists=kind, records=count, workers=workers, **json.loads(told.splitlines()[-1]))


def measure(cfg: Settings, samples: int) -> dict[str, float]:
    """In a process of its own: a run's data from the config to the first batch, then `samples` samples."""
    process.quieten_libraries()
    empty = held_memory()
    start, begun = time.process_time(), time.perf_counter()
    data = config_data.dataset(cfg)
    read = time.process_time()
    datasets = config_data.clip_datasets(cfg, data, None, list(config_data.modalities(cfg).values()))
    data.fingerprint()
    batches = iter(VideoData(datasets, config_data.loader_settings(cfg)).train_dataloader())
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
    """Megabytes of this process and its children but for pages of files, what they share counted once."""
    own = os.getpid()
    children = Path(f"/proc/{own}/task/{own}/children").read_text(encoding="ascii").split()
    told = [Path(f"/proc/{one}/smaps_rollup").read_text(encoding="ascii") for one in (str(own), *children)]
    kinds = ("Pss_Anon:", "Pss_Shmem:")
    shares = [int(line.split()[1]) for text in told for line in text.splitlines() if line.startswith(kinds)]
    return round(sum(shares) / 1024, 1)


def sentence(rows: Sequence[Row]) -> str:
    """What a record costs, and what to do about it."""
    most = {row.lists: row for row in sorted(rows, key=lambda row: row.records)}
    each = ", ".join(f"{1e6 * row.first_batch_s / row.records:.1f} ({kind})" for kind, row in most.items())
    return (
        f"a start costs {each} microseconds per record, the look at its files included: one for a video of a CSV, two "
        "for a folder of images; packed videos (mml pack) need one per shard"
    )


if __name__ == "__main__":
    print(json.dumps(measure(config_compose.load(Path(sys.argv[1])), int(sys.argv[2]))), flush=True)
    os._exit(0)  # in the middle of an epoch, its workers busy
