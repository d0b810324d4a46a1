"""`mml check`: config to one report, in the terminal and as a page."""

from __future__ import annotations

import dataclasses
import functools
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from mml_lightning.config import data as config_data
from mml_lightning.config.settings import Settings
from mml_lightning.data import check
from mml_lightning.data.check import Report, Speed, Wanted
from mml_lightning.data.loading.dataset import ClipDataset, collate
from mml_lightning.data.records.records import Dataset
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.files import write_atomically
from mml_lightning.utils.progress import Progress

TIMED_SECONDS, TIMED_VIDEOS = 10.0, 256


def run_check(cfg: Settings, samples: int, threads: int, timed: bool = True) -> tuple[Report, Path]:
    """Check the data of a config; returns the report and the folder of findings.csv, leaks.csv and report.html.

    Args:
        samples: frames read per video.
        threads: videos read at a time.
        timed: whether to time the loading of training samples.

    Raises:
        UserError: a wrong config, reader or number, or the folder can't be written.
    """
    chosen = config_data.modalities(cfg)
    data = config_data.records(cfg)
    folder = config_data.check_folder(cfg)
    with ExitStack() as stack:

        def begin(videos: int) -> Callable[[], object]:
            print(f"checking {videos} files and folders of {data.name} with {threads} threads", flush=True)
            return stack.enter_context(Progress(videos, "check")).advance

        findings = check.check(data, folder / check.FILE, samples, threads, begin, config_data.indexes(cfg))
    leaks = check.find_leaks(data, findings)
    window = max((modality.window for modality in chosen.values()), default=1)
    wanted = Wanted(
        frames=int(cfg.sampling.num_segments) + window - 1,
        max_bad_share=float(cfg.data.max_bad_share),
        leave_out=config_data.leaves_out(cfg),
    )
    report = check.summarise(data, findings, leaks, wanted)
    if timed:
        report = dataclasses.replace(report, speed=_speed(cfg, data, folder / check.FILE))
    try:
        check.write_leaks(leaks, folder / "leaks.csv")
        with write_atomically(folder / "report.html") as handle:
            handle.write(check.page(report, data.name))
    except OSError as error:
        raise UserError(f"can't write {folder} ({error.strerror}); set paths.root") from None
    return report, folder


def _speed(cfg: Settings, data: Dataset, file: Path) -> Speed | None:
    """Training samples per second with the workers of the config; None where there is nothing to read.

    Flow that is computed from frames is left out: runs compute it once, before they train.
    """
    chosen = config_data.modalities(cfg)
    usable = check.with_check(data, file, {"frames"})
    records = list(usable.splits.get("train", ()))
    stored = {source for record in records for source in record.media}
    kept = [modality for modality in chosen.values() if modality.source in stored]
    if not records or not kept:
        return None
    cache = config_data.flow_cache(cfg, {modality.name: modality for modality in kept})
    dataset = config_data.clip_datasets(cfg, usable, cache, kept)["train"]
    step = max(1, len(records) // TIMED_VIDEOS)
    seconds, videos = _time(dataset, range(0, len(records), step), int(cfg.data.workers))
    if not videos or not seconds:
        return None
    rate = videos / seconds
    frames = sum(int(cfg.sampling.num_segments) * modality.window for modality in kept)
    return Speed(rate, rate * frames, videos, int(cfg.data.workers), len(records) / rate)


def _time(dataset: ClipDataset, indices: range, workers: int) -> tuple[float, int]:
    """(seconds, videos): batches until the time is up, but for the first, which waits for the workers."""
    loader = DataLoader(
        dataset,
        batch_size=4,
        sampler=[(0, index) for index in indices],  # type: ignore[arg-type]  # a ClipDataset is indexed by (epoch, index)
        num_workers=workers,
        collate_fn=functools.partial(collate, kinds=dataset.kinds),
        worker_init_fn=_one_thread,
        timeout=600 if workers else 0,
    )
    start = first = time.monotonic()
    seen = [0]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")  # said when it was made
        for batch in loader:
            if len(seen) == 1:
                first = time.monotonic()
            seen.append(len(batch["index"]))
            if time.monotonic() - start > TIMED_SECONDS:
                break
    now = time.monotonic()
    later = sum(seen[2:])
    return (now - first, later) if later else (now - start, sum(seen))


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)


def check_lines(report: Report, folder: Path) -> list[str]:
    """What `mml check` prints."""
    return [*check.lines(report), f"wrote {folder / check.FILE}, leaks.csv and report.html"]
