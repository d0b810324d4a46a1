"""Evaluation of several views per video: video by video, or views across videos.

Legend: B videos, V views.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from mml_lightning import build, build_data, process
from mml_lightning.benchmarks.apart import Apart
from mml_lightning.benchmarks.step import CLASSES, networks
from mml_lightning.benchmarks.timing import alternate, markdown
from mml_lightning.cohort import Cohort
from mml_lightning.modalities import Modality
from mml_lightning.throughput import (
    TRAINING_PASSES,
    arithmetic_peak,
    clock,
    counted_or_none,
    peak_memory,
    precision_type,
    training_operations,
)

ALONE, ACROSS = "video by video", "across videos"


@dataclass(frozen=True)
class Row:
    """One way: views per second (best round), spread over the rounds, share of the arithmetic of a matrix product,
    megabytes that the process held at most, largest difference of a logit to the first."""

    way: str
    views_per_s: float
    spread: float
    mfu: float
    peak_mb: float
    difference: float


class CohortViews:
    """Evaluation of random clips by the networks of a config, in its precision.

    Args:
        peers: the modality of each. videos, views: as many of the former, of the latter each.
    """

    def __init__(
        self, cfg: DictConfig, peers: Mapping[str, Modality], videos: int, views: int, device: torch.device
    ) -> None:
        self.videos, self.device = videos, device
        process.set_up_process(cfg)
        build.step(cfg).apply(nets := networks(cfg, peers))
        self.cohort = Cohort(
            peers=nets,
            modalities=peers,
            objective=build.objective(cfg, list(nets)),
            plan=build.optimiser_plan(cfg, {}),
            ids={"test": [str(number) for number in range(videos)]},
            multi_label={"label": False},
            max_views=cfg.data.eval_batch_size,
        )
        self.cohort.to(device).eval()
        self.batch = _batch(cfg, videos, views, device)
        self.dtype = precision_type(cfg.trainer.precision)

    def __call__(self, size: int) -> float:
        """Seconds for all videos, `size` of them per step."""
        self.cohort._start("test")
        start = clock(self.device)
        with torch.inference_mode(), torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            for first in range(0, self.videos, size):
                self.cohort.test_step(_part(self.batch, slice(first, first + size)), 0)
        return clock(self.device) - start

    def told(self) -> tuple[float, int]:
        """Operations of a view (NaN if they can't be counted), bytes held at most."""
        peak = peak_memory(self.device)
        shapes = {name: tuple(clip.shape[2:]) for name, clip in self.batch["clips"].items()}
        trained = counted_or_none(lambda: training_operations(self.cohort, shapes))
        return float("nan") if trained is None else trained / TRAINING_PASSES, peak  # no network is frozen

    def logits(self) -> np.ndarray:
        """float32 of all peers, one after the other, of the last call."""
        dump = self.cohort.scores["label"].dump()
        assert dump is not None
        return torch.cat(list(dump.logits.values())).numpy()


def compare(
    compose: Callable[[Sequence[str]], DictConfig],
    overrides: Sequence[str],
    videos: int = 8,
    views: int = 2,
    rounds: int = 3,
    device: torch.device | None = None,
    advance: Callable[[str], object] = lambda way: None,
) -> list[Row]:
    """Both ways on random clips, in the config's precision; `data.eval_batch_size` views at a time across videos."""
    cfg = compose([*overrides, "paths.output_dir=nowhere"])
    place = device or torch.device("cpu")
    made = (CohortViews, cfg, build_data.modalities(cfg), videos, views, place)
    with Apart(ALONE, *made) as alone, Apart(ACROSS, *made) as across:
        ways = {ALONE: (alone, 1), ACROSS: (across, videos)}
        asked = {way: functools.partial(one.ask, "__call__", size) for way, (one, size) in ways.items()}
        timings = alternate(asked, rounds, advance)
        first = alone.ask("logits")
        reach = arithmetic_peak(place, precision_type(cfg.trainer.precision))
        rows = []
        for way, timing in timings.items():
            rate, (operations, peak) = videos * views / timing.best, ways[way][0].ask("told")
            apart = float(np.abs(ways[way][0].ask("logits") - first).max())
            rows.append(Row(way, rate, timing.spread, rate * operations / reach, peak / 1e6, apart))
    return rows


def _batch(cfg: DictConfig, videos: int, views: int, device: torch.device) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    frames, side = cfg.sampling.num_segments, cfg.transforms.output
    clips, present = {}, {}
    for m in build_data.modalities(cfg).values():
        shape = (videos, views, frames, m.window * m.item_channels, side, side)
        clips[m.name] = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)
        present[m.name] = torch.ones(videos, dtype=torch.bool)
    target = {"label": torch.arange(videos) % CLASSES}
    ids = [str(number) for number in range(videos)]
    return {"clips": clips, "present": present, "target": target, "index": torch.arange(videos), "id": ids}


def _part(batch: dict[str, Any], rows: slice) -> dict[str, Any]:
    cut = {key: {n: v[rows] for n, v in batch[key].items()} for key in ("clips", "present", "target")}
    return {**cut, "index": batch["index"][rows], "id": batch["id"][rows], "failures": []}


def table(rows: Sequence[Row]) -> str:
    """Markdown, with the ratio to the first way."""
    heads = ["way", "views/s", "vs the first", "spread", "MFU", "peak MB", "logits differ by"]
    cells = [
        [
            r.way,
            f"{r.views_per_s:.3g}",
            f"{r.views_per_s / rows[0].views_per_s:.2f}x",
            f"{r.spread:.0%}",
            f"{r.mfu:.0%}",
            f"{r.peak_mb:.0f}",
            f"{r.difference:.1e}",
        ]
        for r in rows
    ]
    return markdown(heads, cells)


def sentence(rows: Sequence[Row], precision: str) -> str:
    """The bottleneck, and the switch that would move it."""
    if precision.startswith("32"):
        return "arithmetic in float32 is the bottleneck: trainer.precision=bf16-mixed"
    if rows[1].views_per_s > 1.1 * rows[0].views_per_s:
        return "small passes are the bottleneck: a larger data.eval_batch_size"
    return "the network is the bottleneck: fewer views, or a smaller transforms.output"


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]
