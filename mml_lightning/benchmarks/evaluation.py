"""Evaluation of several views per video: video by video, or views across videos.

Legend: B videos, V views.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mml_lightning.benchmarks.subprocess_object import RemoteObject
from mml_lightning.benchmarks.tables import BenchTable, Row
from mml_lightning.benchmarks.timing import CPU, alternate, rates, unfinished
from mml_lightning.benchmarks.training_step import (
    CLASSES,
    Compose,
    autocast,
    fresh_cohort,
    random_clips,
    run_words,
    seen,
)
from mml_lightning.config import data
from mml_lightning.config.settings import Settings
from mml_lightning.modalities import Modality
from mml_lightning.training import advice
from mml_lightning.training.arithmetic import TRAINING_PASSES, counted_or_none, training_operations
from mml_lightning.utils.device import arithmetic_peak, now, peak_memory, precision_type

ALONE, ACROSS = "video by video", "across videos"


class CohortViews:
    """Evaluation of random clips by the networks of a config, in its precision.

    Args:
        peers: the modality of each. videos, views: as many of the former, of the latter each.
    """

    def __init__(
        self, cfg: Settings, peers: Mapping[str, Modality], videos: int, views: int, device: torch.device
    ) -> None:
        self.videos, self.device = videos, device
        self.cohort = fresh_cohort(cfg, peers, [str(number) for number in range(videos)])
        self.cohort.to(device).eval()
        self.cfg, self.batch = cfg, _batch(cfg, videos, views, device)

    def __call__(self, size: int) -> float:
        """Seconds for all videos, `size` of them per step."""
        if self.device.type == "cuda":  # whose memory was given back after the last round
            self._evaluate(size, size)
        return self._evaluate(self.videos, size)

    def _evaluate(self, videos: int, size: int) -> float:
        self.cohort._start("test")
        start = now(self.device)
        with torch.inference_mode(), autocast(self.cfg, self.device):
            for first in range(0, videos, size):
                self.cohort.test_step(_part(self.batch, slice(first, first + size)), 0)
        return now(self.device) - start

    def told(self) -> tuple[float | None, int]:
        """Operations of a view (None if they can't be counted), bytes held at most."""
        peak = peak_memory(self.device)
        shapes = {name: tuple(clip.shape[2:]) for name, clip in self.batch["clips"].items()}
        trained = counted_or_none(lambda: training_operations(self.cohort, shapes))
        return None if trained is None else trained / TRAINING_PASSES, peak  # no network is frozen

    def logits(self) -> np.ndarray:
        """float32 of all peers, one after the other, of the last call."""
        dump = self.cohort.scores["label"].dump()
        assert dump is not None
        return torch.cat(list(dump.logits.values())).numpy()


def compare(
    compose: Compose,
    overrides: Sequence[str],
    videos: int = 8,
    views: int = 2,
    rounds: int = 3,
    device: torch.device = CPU,
    advance: Callable[[str], object] = lambda way: None,
) -> Iterator[BenchTable]:
    """Both ways on random clips, in the config's precision; `data.eval_batch_size` views at a time across videos.
    Before that, after each round of each, the rates so far."""
    cfg = compose(run_words(overrides, Path("nowhere"), device))
    made = (CohortViews, cfg, data.modalities(cfg), videos, views, device)
    with RemoteObject(ALONE, *made) as alone, RemoteObject(ACROSS, *made) as across:
        ways = {ALONE: (alone, 1), ACROSS: (across, videos)}
        asked = {way: functools.partial(one.ask, "__call__", size) for way, (one, size) in ways.items()}
        for timings in alternate(asked, rounds, advance):
            rows = rates(timings, videos * views, "views")
            yield unfinished(rows, timings, rounds)
        first = alone.ask("logits")
        reach = arithmetic_peak(device, precision_type(str(cfg.trainer.precision)))
        for row in rows:
            one, _ = ways[row["way"]]
            operations, peak = one.ask("told")
            mfu = None if operations is None else row["views_per_s"] * operations / reach
            row |= {"mfu": mfu, "peak_mb": peak / 1e6}
            row["logit_difference"] = float(np.abs(one.ask("logits") - first).max())
    yield BenchTable(rows, bottleneck(rows, cfg.data.eval_batch_size, seen(cfg, device, rows[1]["mfu"])))


def bottleneck(rows: Sequence[Row], size: int, measured: advice.Seen) -> str:
    """What limits evaluation with `size` views at a time, and the switch that would move it."""
    if (times := rows[1]["vs_first"]) > 1.1 + (rows[1]["spread"] or 0.0):
        return (
            f"small passes are the bottleneck of one video at a time: data.eval_batch_size={size} is "
            f"{times:.2f} times as fast"
        )
    return advice.bottleneck(measured).replace("batch_size", "eval_batch_size")


def _batch(cfg: Settings, videos: int, views: int, device: torch.device) -> dict[str, Any]:
    made = random_clips(cfg, videos, views, torch.Generator().manual_seed(0))
    clips = {name: clip.to(device) for name, clip in made.items()}
    present = {name: torch.ones(videos, dtype=torch.bool) for name in clips}
    target = {"label": torch.arange(videos) % CLASSES}
    ids = [str(number) for number in range(videos)]
    return {"clips": clips, "present": present, "target": target, "index": torch.arange(videos), "id": ids}


def _part(batch: dict[str, Any], rows: slice) -> dict[str, Any]:
    cut = {key: {n: v[rows] for n, v in batch[key].items()} for key in ("clips", "present", "target")}
    return {**cut, "index": batch["index"][rows], "id": batch["id"][rows], "failures": []}
