"""How the cost of a clip grows: frames, size, peers, workers and views are varied one at a time, all else at its value.

Frames, size and peers are training steps on random clips as `mml bench step` makes them; workers train from packed
videos, and read them without training, on the wall; views are evaluation as `mml bench eval` makes it. The rounds of an
axis alternate between its values.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from mml_lightning.benchmarks.data_files import Clip, make_clips
from mml_lightning.benchmarks.end_to_end import FRAMES_PER_VIDEO, FromPack
from mml_lightning.benchmarks.evaluation import CohortViews
from mml_lightning.benchmarks.subprocess_object import RemoteObject
from mml_lightning.benchmarks.tables import BenchTable, Row
from mml_lightning.benchmarks.timing import CPU, Timing, alternate, unfinished
from mml_lightning.benchmarks.training_step import CohortSteps, Compose, run_words
from mml_lightning.config import data, peers
from mml_lightning.config.settings import Settings
from mml_lightning.modalities import Modality
from mml_lightning.training.advice import Seen, bottleneck
from mml_lightning.training.datamodule import VideoData
from mml_lightning.utils.device import arithmetic_peak, precision_type
from mml_lightning.utils.errors import UserError

FILES = 2  # synthetic videos behind them
BATCHES = 8  # of a round with loaders, per step of one without: workers need some to fall into step
EPOCH = 64  # batches of the videos that loaders read again and again
READ_FOR = 1.0  # seconds at least that a round reads without training


@dataclass(frozen=True)
class Axis:
    """What is varied.

    Args:
        values: by default; least: what they start at.
        words: of the config, for a value and the first modality.
        power: proportional growth is that of value ** power.
    """

    values: tuple[int, ...]
    words: Callable[[int, str], list[str]]
    least: int = 1
    power: int = 1


AXES = {
    "frames": Axis((4, 8, 16, 32), lambda n, _: [f"sampling.num_segments={n}"]),
    "size": Axis((112, 160, 224, 256), lambda n, _: [f"transforms.output={n}"], power=2),
    "peers": Axis(
        (1, 2, 3, 4), lambda n, one: [f"stage={'ml' if n > 1 else 'ce'}", f"stage.copies={n}", f"modality=[{one}]"]
    ),
    "workers": Axis((0, 1, 2), lambda n, _: [f"data.workers={n}"], least=0),
    "views": Axis((1, 2, 4, 8), lambda n, _: []),
}


@dataclass(frozen=True)
class Point:
    """One value of an axis.

    Args:
        rates: training clips per second in each round; videos, where views are varied.
        mfu: share of the arithmetic of a matrix product; kept_mb: what a clip keeps for the backward pass; peak_mb: the
            most that was allocated of a GPU's memory, or that the process held; waiting: share of the training
            time spent waiting for data. None where it does not apply.
        reading: clips per second in each round that are read without training, where workers are varied.
    """

    value: int
    rates: list[float]
    mfu: float | None = None
    kept_mb: float | None = None
    peak_mb: float | None = None
    waiting: float | None = None
    reading: list[float] | None = None

    @property
    def best(self) -> float:
        return max(self.rates)

    @property
    def spread(self) -> float | None:
        """The fastest round over the slowest, less one; None of a single round."""
        return self.best / min(self.rates) - 1 if len(self.rates) > 1 else None


@dataclass(frozen=True)
class Curve:
    """The points of an axis, in the order of their values."""

    axis: str
    points: list[Point]

    def proportional(self, point: Point) -> float:
        """Clips per second at a point if their cost grew like the work from the first one on; more workers than one
        are taken to do as much more. Of reading, where workers are varied."""
        if self.axis == "workers":
            one = next((p for p in self.points if p.value == 1), self.points[0])
            return max(one.reading or one.rates) * max(point.value, 1) / max(one.value, 1)
        first = self.points[0]
        return first.best * (first.value / point.value) ** AXES[self.axis].power

    def twice(self) -> tuple[float, float, float] | None:
        """How many times as long a clip takes if the value doubles, by a line through the logarithms of the best
        rounds; the least and the most of these and of single rounds. None of one point, and of workers."""
        if len(self.points) < 2 or self.axis == "workers":
            return None
        best = self._twice([p.best for p in self.points])
        each = [self._twice([p.rates[n] for p in self.points]) for n in range(len(self.points[0].rates))]
        return best, min(best, *each), max(best, *each)

    def _twice(self, rates: Sequence[float]) -> float:
        return float(2 ** -np.polyfit(np.log([p.value for p in self.points]), np.log(rates), 1)[0])


class _Training:
    """Steps on random clips."""

    def __init__(self, cfg: Settings, folder: Path, device: torch.device) -> None:
        self.steps, self.size = CohortSteps(cfg, _peers(cfg), folder, device), cfg.data.batch_size

    def round(self, steps: int) -> float:
        """Seconds per clip."""
        return self.steps.round(steps) / self.size

    def facts(self) -> dict[str, Any]:
        """What a :class:`Point` tells beside its rates, and the operations of a clip, if they can be counted."""
        told = self.steps.facts()
        return {"operations": told.operations, "kept_mb": told.kept / 1e6, "peak_mb": told.peak / 1e6}


class _Evaluation:
    """Random videos of so many views, in a round about `clips` of these."""

    def __init__(self, cfg: Settings, device: torch.device, clips: int, views: int) -> None:
        self.videos, self.views = max(1, clips // views), views
        self.cohort_views = CohortViews(cfg, _peers(cfg), self.videos, views, device)
        self.per_step = max(1, cfg.data.eval_batch_size // views)  # as loaders batch them

    def round(self, steps: int) -> float:
        """Seconds per video."""
        return self.cohort_views(self.per_step) / self.videos

    def facts(self) -> dict[str, Any]:
        """As of training."""
        operations, peak = self.cohort_views.told()
        return {"operations": None if operations is None else operations * self.views, "peak_mb": peak / 1e6}


class _Loading:
    """Training from packed videos, and reading them alone, at least so many `seconds` in a round."""

    def __init__(
        self, cfg: Settings, folder: Path, device: torch.device, clips: Sequence[Clip], seconds: float
    ) -> None:
        self.least, self.run = seconds, FromPack(cfg, clips, folder, device)
        self.size, self.run.passes.now = cfg.data.batch_size, time.perf_counter  # workers are other processes
        self.loader = VideoData(self.run.datasets, data.loader_settings(cfg)).train_dataloader()
        self.read: list[float] = []

    def round(self, steps: int) -> float:
        """Seconds per clip of training."""
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < self.least:
            count += sum(len(batch["index"]) for batch in self.loader)
        self.read.append(count / (time.perf_counter() - start))
        return self.run.epoch() / self.size

    def facts(self) -> dict[str, Any]:
        """As of training."""
        waiting, _, operations = self.run.told()
        return {"operations": operations, "waiting": waiting, "reading": self.read[1:]}  # the first one warmed up


def values_of(name: str, given: Sequence[int] | None) -> list[int]:
    """Those of an axis, in order; its own if none are given.

    Raises:
        UserError: one is too small.
    """
    values = sorted(set(given or AXES[name].values))
    if values[0] < AXES[name].least:
        raise UserError(f"--{name} {values[0]} must be {AXES[name].least} or more")
    return values


def measure(
    name: str,
    compose: Compose,
    overrides: Sequence[str],
    values: Sequence[int],
    rounds: int = 3,
    steps: int = 1,
    device: torch.device = CPU,
    advance: Callable[[str], object] = lambda what: None,
) -> Generator[BenchTable, None, Curve]:
    """The curve of one axis; gives the rates so far after each round of each value.

    Args:
        name: of :data:`AXES`; values: as :func:`values_of` gives them.
        steps: of a round, in batches of `data.batch_size`; with workers :data:`BATCHES` times as many.

    Raises:
        UserError: the config is wrong.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        common = [*run_words(overrides, folder, device), "init=scratch"]
        common += [f"trainer.limit_train_batches={BATCHES * steps}"] if name == "workers" else []
        plain = compose(common)
        one = next(iter(data.modalities(plain)))
        cfgs = {n: compose([*common, *AXES[name].words(n, one)]) for n in values}
        runners = _runners(stack, name, cfgs, folder, device, steps)
        ways = {f"{name} {n}": functools.partial(runner.ask, "round", steps) for n, runner in runners.items()}
        for timings in alternate(ways, rounds, advance):
            known = {n: one for n, one in zip(cfgs, timings.values(), strict=True) if one.best < math.inf}
            so_far = Curve(name, [Point(n, _rates(one)) for n, one in known.items()])
            yield unfinished(rows(so_far), timings, rounds, title=name)
        reach = arithmetic_peak(device, precision_type(str(plain.trainer.precision), device))
        points = []
        for value, timing in known.items():
            facts = runners[value].ask("facts")
            operations = facts.pop("operations")
            mfu = None if operations is None else operations / timing.best / reach
            points.append(Point(value, _rates(timing), mfu, **facts))
        return Curve(name, points)


def _rates(timing: Timing) -> list[float]:
    return [1 / seconds for seconds in timing.rounds or [timing.best]]


def _runners(
    stack: ExitStack, name: str, cfgs: Mapping[int, Settings], folder: Path, device: torch.device, steps: int
) -> dict[int, RemoteObject]:
    """One per value, each in a process of its own."""
    size = next(iter(cfgs.values())).data.batch_size
    made: dict[int, tuple[Any, ...]]
    if name == "views":
        made = {views: (_Evaluation, cfg, device, steps * size, views) for views, cfg in cfgs.items()}
    elif name == "workers":
        clips = make_clips(folder, FILES, FRAMES_PER_VIDEO) * (EPOCH * size // FILES + 1)
        made = {workers: (_Loading, cfg, folder, device, clips, READ_FOR) for workers, cfg in cfgs.items()}
    else:
        made = {value: (_Training, cfg, folder, device) for value, cfg in cfgs.items()}
    return {value: stack.enter_context(RemoteObject(f"{name} {value}", *maker)) for value, maker in made.items()}


def _peers(cfg: Settings) -> dict[str, Modality]:
    return {spec.name: spec.modality for spec in peers.peer_specs(cfg, [])}


def rows(curve: Curve) -> list[Row]:
    """*growth* is the time of a clip against that of the first row, over what proportional growth would make of it; of
    workers, clips read against as many times those of one."""
    unit = "videos" if curve.axis == "views" else "clips"
    found = []
    for p in curve.points:
        row: Row = {curve.axis: p.value, f"{unit}_per_s": p.best, "spread": p.spread, "data_wait": p.waiting}
        if p.reading:
            read = max(p.reading)
            row |= {"read_per_s": read, "vs_proportional": read / curve.proportional(p)}
        else:
            row["growth"] = curve.proportional(p) / p.best
        row |= {"mfu": p.mfu, "kept_mb": p.kept_mb, "peak_mb": p.peak_mb}
        found.append(row | {"rounds": p.rates, "reading_rounds": p.reading})
    return found


def sentence(curve: Curve, measured: Callable[..., Seen]) -> str:
    """How the cost grows, what limits, and the switch that would move it.

    Args:
        measured: makes what was seen of a share of the arithmetic and of what else is known.
    """
    last = curve.points[-1]
    if curve.axis == "workers":
        return f"{_workers(curve)}; with {last.value} {bottleneck(_seen_with_workers(last, measured))}"
    limit = bottleneck(measured(last.mfu))
    found = curve.twice()
    if found is None:
        return f"one value of {curve.axis} has no growth, name several; {limit}"
    verb, power = "takes" if curve.axis == "size" else "take", AXES[curve.axis].power
    return (
        f"twice the {curve.axis} {verb} {found[0]:.2f} times as long ({found[1]:.2f} to {found[2]:.2f} by "
        f"round; proportional to {'the pixels' if power == 2 else curve.axis}: {2**power}); {limit}"
    )


def _seen_with_workers(point: Point, measured: Callable[..., Seen]) -> Seen:
    return measured(point.mfu, data_wait=point.waiting or 0.0, workers=point.value, cheap=True)


def _workers(curve: Curve) -> str:
    """What workers change of reading, and of training."""
    few, last = curve.points[0], curve.points[-1]
    ratio = max(last.reading or [0.0]) / max(few.reading or [1.0])
    best, noise = max(curve.points, key=lambda point: point.best), max(point.spread or 0.0 for point in curve.points)
    told = f"training is the fastest with data.workers={best.value}"
    if best.best <= (1 + noise) * min(point.best for point in curve.points):
        told = "training is as fast with any of them, to the spread of a round"
    return f"{last.value} workers read {ratio:.2f} times as many clips/s as {few.value}; {told}"


def told(curve: Curve, measured: Callable[..., Seen]) -> BenchTable:
    more = {"clock": "wall"} if curve.axis == "workers" else {"twice": curve.twice()}
    return BenchTable(rows(curve), sentence(curve, measured), title=curve.axis, more=more)
