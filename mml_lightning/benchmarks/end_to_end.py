"""From the files of videos to updated networks: ours from a pack, the published program's from loose JPEG files.

Both train one network per modality on the same synthetic videos of 427x240, read in the process itself, so that its
time is all there is, or by as many workers each, and then the time is that of the wall. The baseline opens images with
Pillow, once for all its networks, crops, resizes and normalises them on the host and hands float32 over; ours is a run:
loader, trainer, objective, optimiser.

Legend: T segments, L window.
"""

from __future__ import annotations

import functools
import importlib.util
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import DataLoader

from mml_lightning import build, build_data, nonfinite, run
from mml_lightning.benchmarks.apart import Apart
from mml_lightning.benchmarks.baseline import PlainTrainer, open_images, to_float
from mml_lightning.benchmarks.step import CLASSES, CohortSteps, PlainSteps, random_batches
from mml_lightning.benchmarks.timing import alternate, markdown
from mml_lightning.data.data_bench_files import FLOW, FRAMES, Clip, make_clips
from mml_lightning.data.records import Dataset, Head, ImageSequence, Record
from mml_lightning.errors import UserError
from mml_lightning.loaders import VideoData
from mml_lightning.modalities import Modality
from mml_lightning.throughput import Throughput, advice, arithmetic_peak, clock, peak_memory, precision_type
from mml_lightning.transforms import TrainGeometry

FRAMES_PER_VIDEO = 45
BASELINE, OURS = "Pillow, loose JPEG, float32", "pack, as configured"


@dataclass(frozen=True)
class Row:
    """One way: clips per second (best round), spread over the rounds, share of the time spent reading and of the
    arithmetic of a matrix product, megabytes that the process held at most."""

    way: str
    clips_per_s: float
    spread: float
    reading: float
    mfu: float
    peak_mb: float


class FromLooseFiles(PlainSteps):
    """The baseline with its reading."""

    def __init__(self, cfg: DictConfig, clips: Sequence[Clip], device: torch.device) -> None:
        super().__init__(cfg, build_data.modalities(cfg), device)
        self.clips, self.waited, self.total = clips, 0.0, 0.0
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
        """Seconds of one pass over the clips."""
        cfg = self.cfg
        trainers = {n: PlainTrainer(net, cfg.optimizer.lr, cfg.optimizer.weight_decay) for n, net in self.nets.items()}
        began = start = now(cfg, self.device)
        for number, read in self.loader:
            self.waited += now(cfg, self.device) - start
            target = (number % CLASSES).to(self.device)
            for name, trainer in trainers.items():
                trainer.step(read[name].to(self.device, non_blocking=True), target)
            start = now(cfg, self.device)
        spent = now(cfg, self.device) - began
        self.total += spent
        return spent

    def told(self) -> tuple[float, int, float | None]:
        """Share of the time spent reading, bytes held at most, operations of a clip if they are counted."""
        return self.waited / self.total, peak_memory(self.device), None

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


def now(cfg: DictConfig, device: torch.device) -> float:
    """Seconds: of this process where it does everything itself, else on the wall. A GPU is not waited for: either way
    waits for it in every step."""
    return clock(device) if device.type == "cpu" and not cfg.data.workers else time.perf_counter()


class FromPack:
    """A run with its reading."""

    def __init__(self, cfg: DictConfig, clips: Sequence[Clip], folder: Path, device: torch.device) -> None:
        modalities = build_data.modalities(cfg)
        self.steps = CohortSteps(cfg, modalities, folder, device)
        records = [
            Record(f"v{n}", dict(zip((FRAMES, FLOW), clip.packed["pack"], strict=True)), {"label": n % CLASSES})
            for n, clip in enumerate(clips)
        ]
        data = Dataset("bench", {"train": records}, {"label": Head(tuple(map(str, range(CLASSES))))})
        self.datasets = build_data.clip_datasets(cfg, data, None, list(modalities.values()))
        self.data = VideoData(self.datasets, build_data.loader_settings(cfg))
        self.speed = Throughput(cfg.data.batch_size, now=functools.partial(now, cfg, device))

    def epoch(self) -> float:
        """Seconds of one pass over the clips."""
        cfg, before = self.steps.cfg, self.speed.seconds
        checks = nonfinite.callbacks(build.nonfinite(cfg), self.steps.folder)
        trainer: pl.Trainer = run.make_trainer(cfg, self.steps.folder, [*checks, self.speed])
        trainer.fit(self.steps.cohort, datamodule=self.data)
        return self.speed.seconds - before

    def told(self) -> tuple[float, int, float | None]:
        """Share of the time spent reading, bytes held at most, operations of a clip if they are counted."""
        operations = self.steps.operations(random_batches(self.steps.cfg, 1)[0])
        return self.speed.waited / self.speed.seconds, peak_memory(self.steps.device), operations


def compare(
    compose: Callable[[Sequence[str]], DictConfig],
    overrides: Sequence[str],
    videos: int = 4,
    rounds: int = 2,
    device: torch.device | None = None,
    advance: Callable[[str], object] = lambda way: None,
) -> list[Row]:
    """The baseline and ours.

    Args:
        videos: synthetic ones, an epoch.

    Raises:
        UserError: fewer videos than a batch, or Pillow is not installed.
    """
    if importlib.util.find_spec("PIL") is None:
        raise UserError("the baseline reads with Pillow: pip install pillow")
    place = device or torch.device("cpu")
    with TemporaryDirectory() as name:
        folder = Path(name)
        common = [*overrides, f"paths.output_dir={folder}", "callbacks=none", "schedule.epochs=1"]
        common += ["trainer.limit_val_batches=0"]
        cfg = compose([*common, "backbone.net.dropout=0", f"trainer.accelerator={'gpu' if device else 'cpu'}"])
        if videos < cfg.data.batch_size:
            raise UserError(f"--videos {videos} is less than one batch; use {cfg.data.batch_size} or more")
        clips = make_clips(folder, videos, FRAMES_PER_VIDEO)
        seen = videos // cfg.data.batch_size * cfg.data.batch_size
        plain = Apart(BASELINE, FromLooseFiles, cfg, clips, place)
        with plain, Apart(OURS, FromPack, cfg, clips, folder, place) as ours:
            ways = {BASELINE: plain, OURS: ours}
            asked = {way: functools.partial(one.ask, "epoch") for way, one in ways.items()}
            timings = alternate(asked, rounds, advance)
            told = {way: one.ask("told") for way, one in ways.items()}
        operations = told[OURS][2] or float("nan")  # of the same networks
        types = {BASELINE: torch.float32, OURS: precision_type(cfg.trainer.precision)}
        rows = []
        for way, timing in timings.items():
            rate = seen / timing.best
            share = rate * operations / arithmetic_peak(place, types[way])
            rows.append(Row(way, rate, timing.spread, told[way][0], share, told[way][1] / 1e6))
        return rows


def table(rows: Sequence[Row]) -> str:
    """Markdown, with the ratio to the baseline."""
    heads = ["way", "clips/s", "vs the first", "spread", "reading", "MFU", "peak MB"]
    cells = [
        [
            r.way,
            f"{r.clips_per_s:.3g}",
            f"{r.clips_per_s / rows[0].clips_per_s:.2f}x",
            f"{r.spread:.0%}",
            f"{r.reading:.0%}",
            f"{r.mfu:.0%}",
            f"{r.peak_mb:.0f}",
        ]
        for r in rows
    ]
    return markdown(heads, cells)


def sentence(rows: Sequence[Row], precision: str, workers: int) -> str:
    """The bottleneck of ours, and the switch that would move it."""
    return advice(rows[-1].reading, precision, workers)


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]
