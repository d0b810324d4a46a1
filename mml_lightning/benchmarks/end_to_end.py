"""From the files of videos to updated networks: ours from a pack, the published program's from loose JPEG files.

Both train one network per modality on the same synthetic videos of 427x240, read in the process itself, so that its
time is all there is, or by as many workers each, and then the time is that of the wall and begins with the second step:
workers that start read their first batches for nobody. The baseline opens images with Pillow, once for all its
networks, crops, resizes and normalises them on the host and hands float32 over; ours is a run: loader, trainer,
objective, optimiser.

Legend: T segments, L window.
"""

from __future__ import annotations

import functools
import importlib.util
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mml_lightning.benchmarks.baseline import open_images, to_float
from mml_lightning.benchmarks.data_files import FLOW, FRAMES, Clip, make_clips
from mml_lightning.benchmarks.subprocess_object import RemoteObject
from mml_lightning.benchmarks.tables import BenchTable
from mml_lightning.benchmarks.timing import CPU, alternate, rates, unfinished
from mml_lightning.benchmarks.training_step import (
    CLASSES,
    CohortSteps,
    Compose,
    PlainSteps,
    random_batches,
    run_words,
    seen,
)
from mml_lightning.config import data as config_data
from mml_lightning.config import training
from mml_lightning.config.settings import Settings
from mml_lightning.data.records.records import Dataset, Head, Record
from mml_lightning.data.video.media import ImageSequence
from mml_lightning.engine import trainer as engine_trainer
from mml_lightning.modalities import Modality
from mml_lightning.training import nonfinite_gradients
from mml_lightning.training.advice import bottleneck
from mml_lightning.training.datamodule import VideoData
from mml_lightning.transforms import TrainGeometry
from mml_lightning.utils.device import arithmetic_peak, now, peak_memory, precision_type
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.gpu_idle import Idle

FRAMES_PER_VIDEO = 45
BASELINE, OURS = "Pillow, loose JPEG, float32", "pack, as configured"


class Passes(pl.Callback):
    """The time of every pass over the clips, and how much of it was spent waiting for data: by the process, or by the
    GPU, which goes on while its host waits."""

    def __init__(self, cfg: Settings, device: torch.device) -> None:
        self.device, self.warm = device, 1 if cfg.data.workers else 0
        self.now = time.perf_counter if cfg.data.workers or device.type == "cuda" else functools.partial(now, device)
        self.idle = Idle() if device.type == "cuda" else None
        self.found: list[tuple[int, float, float]] = []  # steps, seconds, seconds of waiting
        self._steps = 0
        self._start = self._since = self._waited = 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        self._steps = 0
        self._begin()

    def on_train_batch_start(self, *_: Any) -> None:
        if self.idle is None:
            self._waited += self.now() - self._since
        else:
            self.idle.batch_came()

    def on_train_batch_end(self, *_: Any) -> None:
        self._steps += 1
        if self._steps == self.warm:
            self._begin()
        else:
            self._ended()

    def on_train_epoch_end(self, *_: Any) -> None:
        waited = self._waited + self._settle()
        self.found.append((self._steps - self.warm, self.now() - self._start, waited))

    def seconds_per_step(self) -> float:
        """Of the last pass."""
        steps, seconds, _ = self.found[-1]
        return seconds / steps

    def waiting(self) -> float:
        """Share of the time, of all passes but the first, which only makes warm."""
        _, seconds, waited = (sum(column) for column in zip(*self.found[1:], strict=True))
        return waited / seconds

    def _begin(self) -> None:
        self._settle()
        self._waited, self._start = 0.0, self.now()
        self._ended()

    def _ended(self) -> None:
        """A step has."""
        self._since = self.now()
        if self.idle is not None:
            self.idle.step_ended()

    def _settle(self) -> float:
        """Wait for a GPU, whose queue belongs to the time; seconds that it is now known to have waited."""
        if self.idle is None:
            return 0.0
        torch.cuda.synchronize(self.device)
        return self.idle.seconds()


class FromLooseFiles(PlainSteps):
    """The baseline with its reading."""

    def __init__(self, cfg: Settings, clips: Sequence[Clip], device: torch.device) -> None:
        super().__init__(cfg, config_data.modalities(cfg), device)
        self.clips, self.passes = clips, Passes(cfg, device)
        self.geometry = TrainGeometry(output=cfg.transforms.output)
        self.loader = DataLoader(
            _Numbered(self.read, len(clips)),
            cfg.data.batch_size,
            num_workers=cfg.data.workers,
            persistent_workers=cfg.data.workers > 0,
            pin_memory=device.type == "cuda",
            drop_last=True,
        )

    def epoch(self) -> float:
        """Seconds per step of one pass over the clips."""
        trainers, passes = self.trainers(), self.passes
        passes.on_train_epoch_start()
        for number, read in self.loader:
            passes.on_train_batch_start()
            target = (number % CLASSES).to(self.device)
            for name, trainer in trainers.items():
                trainer.step(read[name].to(self.device, non_blocking=True), target)
            passes.on_train_batch_end()
        passes.on_train_epoch_end()
        return passes.seconds_per_step()

    def told(self) -> tuple[float, int, float | None]:
        """Share of the time spent reading, bytes held at most, operations of a clip if they are counted."""
        return self.passes.waiting(), peak_memory(self.device), None

    def read(self, number: int) -> dict[str, Tensor]:
        """Normalised clips float32 [T*L*c, H, W] of one video."""
        clip, rng = self.clips[number], np.random.default_rng(number)
        crop = self.geometry.draw(*clip.size, random.Random(number))
        box = (crop.x, crop.y, crop.x + crop.width, crop.y + crop.height)
        segments = self.cfg.sampling.num_segments
        longest = max(modality.window for modality in self.modalities.values())
        starts = np.sort(rng.choice(FRAMES_PER_VIDEO - longest, segments, replace=False))
        return {name: self._modality(m, clip, starts, box) for name, m in self.modalities.items()}

    def _modality(self, modality: Modality, clip: Clip, starts: np.ndarray, box: tuple[int, int, int, int]) -> Tensor:
        media = clip.media[FRAMES if modality.source == "frames" else FLOW]
        assert isinstance(media, ImageSequence)
        indices = (starts[:, None] + np.arange(modality.window)).ravel().tolist()
        paths = [path for index in indices for path in media.paths(index)]
        images = open_images(paths, "RGB" if modality.source == "frames" else "L", box, self.cfg.transforms.output)
        return to_float(images, modality.mean, modality.std)


@dataclass(frozen=True)
class _Numbered(torch.utils.data.Dataset[tuple[int, dict[str, Tensor]]]):
    """What `read` makes of a number below `count`, with it."""

    read: Callable[[int], dict[str, Tensor]]
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> tuple[int, dict[str, Tensor]]:
        return number, self.read(number)


class FromPack:
    """A run with its reading."""

    def __init__(self, cfg: Settings, clips: Sequence[Clip], folder: Path, device: torch.device) -> None:
        modalities = config_data.modalities(cfg)
        self.steps = CohortSteps(cfg, modalities, folder, device)
        records = [Record(f"v{n}", clip.packed["pack"], {"label": n % CLASSES}) for n, clip in enumerate(clips)]
        data = Dataset("bench", {"train": records}, {"label": Head(tuple(map(str, range(CLASSES))))})
        self.datasets = config_data.clip_datasets(cfg, data, None, list(modalities.values()))
        self.data = VideoData(self.datasets, config_data.loader_settings(cfg))
        self.passes = Passes(cfg, device)

    def epoch(self) -> float:
        """Seconds per step of one pass over the clips."""
        cfg = self.steps.cfg
        checks = nonfinite_gradients.callbacks(training.nonfinite_settings(cfg), self.steps.folder)
        trainer: pl.Trainer = engine_trainer.make_trainer(cfg, self.steps.folder, [*checks, self.passes])
        trainer.fit(self.steps.cohort, datamodule=self.data)
        return self.passes.seconds_per_step()

    def told(self) -> tuple[float, int, float | None]:
        """Share of the time spent reading, bytes held at most, operations of a clip if they are counted."""
        peak, place = peak_memory(self.steps.device), torch.device("cpu")
        operations = self.steps.operations(random_batches(self.steps.cfg, 1, place)[0])
        return self.passes.waiting(), peak, operations


def compare(
    compose: Compose,
    overrides: Sequence[str],
    videos: int = 4,
    clips: int | None = None,
    baseline: bool = True,
    rounds: int = 2,
    device: torch.device = CPU,
    advance: Callable[[str], object] = lambda way: None,
) -> Iterator[BenchTable]:
    """The baseline and ours; before that, after each round of each, the rates so far.

    Args:
        videos: synthetic ones; clips: of a pass, in which they come again and again; None: as many as videos.

    Raises:
        UserError: fewer clips than two batches of workers, or than one; or Pillow is not installed.
    """
    if baseline and importlib.util.find_spec("PIL") is None:
        raise UserError("the baseline reads with Pillow: pip install pillow, or --without-baseline")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        cfg = compose(run_words(overrides, folder, device))
        size, count = cfg.data.batch_size, clips or videos
        if count < (least := size * (2 if cfg.data.workers else 1)):
            raise UserError(f"a pass over {count} clips is too short; use --clips {least} or more")
        files = make_clips(folder, videos, FRAMES_PER_VIDEO)
        read = [files[number % videos] for number in range(count)]
        ways: dict[str, RemoteObject] = {}
        if baseline:
            ways[BASELINE] = stack.enter_context(RemoteObject(BASELINE, FromLooseFiles, cfg, read, device))
        ways[OURS] = stack.enter_context(RemoteObject(OURS, FromPack, cfg, read, folder, device))
        wall = {"clock": "wall"} if cfg.data.workers else {}
        asked = {way: functools.partial(one.ask, "epoch") for way, one in ways.items()}
        for timings in alternate(asked, rounds, advance):
            yield replace(unfinished(rates(timings, size), timings, rounds), more=wall)
        found = {way: one.ask("told") for way, one in ways.items()}
        types = {BASELINE: torch.float32, OURS: precision_type(str(cfg.trainer.precision))}
        operations = found[OURS][2]  # of the same networks
        rows = rates(timings, size)
        for row in rows:
            waiting, peak, _ = found[row["way"]]
            peak_rate = arithmetic_peak(device, types[row["way"]])
            mfu = None if operations is None else row["clips_per_s"] * operations / peak_rate
            row |= {"data_wait": waiting, "mfu": mfu, "peak_mb": peak / 1e6}
        measured = {"data_wait": rows[-1]["data_wait"], "workers": int(cfg.data.workers), "cheap": True}
        yield BenchTable(rows, bottleneck(seen(cfg, device, rows[-1]["mfu"], **measured)), more=wall)
