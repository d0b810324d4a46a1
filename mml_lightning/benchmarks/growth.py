"""How the cost of a clip grows: frames, size, peers, workers and views are varied one at a time, all else at its value.

Frames, size and peers are training steps on random clips as `mml bench step` makes them; workers train from packed
videos, and read them without training; views are evaluation as `mml bench eval` makes it. The rounds of an axis
alternate between its values.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from mml_lightning import build, build_data, run
from mml_lightning.benchmarks.end_to_end import FRAMES_PER_VIDEO, FromPack
from mml_lightning.benchmarks.evaluation import CohortViews
from mml_lightning.benchmarks.step import CPU, CohortSteps, random_batches
from mml_lightning.benchmarks.timing import alternate, markdown
from mml_lightning.data.data_bench_files import make_clips
from mml_lightning.errors import UserError
from mml_lightning.loaders import VideoData
from mml_lightning.modalities import Modality
from mml_lightning.throughput import (
    TRAINING_PASSES,
    advice,
    arithmetic_peak,
    counted_or_none,
    precision_type,
    training_operations,
)

FILES = 2  # synthetic videos that the loaders read again and again
BATCHES = 8  # of a round with loaders, per step of one without: workers need some to fall into step
READ_FOR = 1.0  # seconds at least that a round reads without training
Compose = Callable[[Sequence[str]], DictConfig]


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
            most that a round allocated of a GPU's memory, what lay there before aside; waiting: share of the training
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
    def spread(self) -> float:
        """The fastest round over the slowest, less one."""
        return self.best / min(self.rates) - 1


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

    def __init__(self, cfg: DictConfig, folder: Path, device: torch.device, steps: int) -> None:
        self.steps, self.batches = CohortSteps(cfg, _peers(cfg), folder, device), random_batches(cfg, steps)
        self.size = cfg.data.batch_size

    def __call__(self) -> float:
        """Seconds per clip."""
        return self.steps(self.batches) / self.size

    def operations(self) -> float:
        return self.steps.operations(self.batches[0])

    def more(self) -> dict[str, Any]:
        return {"kept_mb": self.steps.kept(self.batches[0]) / self.size / 1e6}


class _Evaluation:
    """Random videos of several views."""

    def __init__(self, cfg: DictConfig, device: torch.device, steps: int, views: int) -> None:
        self.videos, self.views = steps * cfg.data.batch_size, views
        self.runner = CohortViews(cfg, _peers(cfg), self.videos, views, device)
        self.per_step = max(1, cfg.data.eval_batch_size // views)  # as loaders batch them

    def __call__(self) -> float:
        """Seconds per video."""
        return self.runner(self.per_step) / self.videos

    def operations(self) -> float:
        shapes = {name: tuple(clip.shape[2:]) for name, clip in self.runner.batch["clips"].items()}
        return training_operations(self.runner.cohort, shapes) / TRAINING_PASSES * self.views  # none is frozen

    def more(self) -> dict[str, Any]:
        return {}


class _Loading:
    """Training from packed videos, and reading them alone. Time is that of the wall: workers are other processes."""

    def __init__(self, cfg: DictConfig, folder: Path, device: torch.device, clips: Sequence[Any]) -> None:
        self.size, self.device = cfg.data.batch_size, device
        self.run = FromPack(cfg, clips, folder, device)
        self.run.speed.now = self._now
        self.loader = VideoData(self.run.datasets, build_data.loader_settings(cfg)).train_dataloader()
        self.read: list[float] = []
        self.waited = self.seconds = 0.0

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def __call__(self) -> float:
        """Seconds per clip of training."""
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < READ_FOR:
            count += sum(len(batch["index"]) for batch in self.loader)
        self.read.append(count / (time.perf_counter() - start))
        speed, steps = self.run.speed, self.run.steps
        before, waited, videos = speed.seconds, speed.waited, speed.videos
        run.make_trainer(steps.cfg, steps.folder, [speed]).fit(steps.cohort, self.loader)
        self.seconds, self.waited = self.seconds + speed.seconds - before, self.waited + speed.waited - waited
        return (speed.seconds - before) / (speed.videos - videos)

    def operations(self) -> float:
        return self.run.steps.operations(random_batches(self.run.steps.cfg, 1)[0])

    def more(self) -> dict[str, Any]:
        return {"waiting": self.waited / self.seconds, "reading": self.read[1:]}  # the first one warmed up


_Runner = _Training | _Evaluation | _Loading


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
) -> Curve:
    """The curve of one axis.

    Args:
        name: of :data:`AXES`; values: as :func:`values_of` gives them.
        steps: of a round, in batches of `data.batch_size`; with workers :data:`BATCHES` times as many.

    Raises:
        UserError: the config is wrong.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        common = [*overrides, f"paths.output_dir={folder}", "callbacks=none", "schedule.epochs=1", "init=scratch"]
        common += [f"trainer.accelerator={'gpu' if device.type == 'cuda' else 'cpu'}"]
        common += [f"trainer.limit_train_batches={BATCHES * steps}"] if name == "workers" else []
        plain = compose(common)
        one = next(iter(build_data.modalities(plain)))
        cfgs = {n: compose([*common, *AXES[name].words(n, one)]) for n in values}
        runners = _runners(name, cfgs, folder, device, steps)
        peaks = dict.fromkeys(values, 0.0)

        def work(value: int) -> float:
            before = _allocated(device)
            spent = runners[value]()
            peaks[value] = max(peaks[value], _most_allocated(device) - before)
            return spent

        ways = {f"{name} {value}": lambda value=value: work(value) for value in values}
        timings = alternate(ways, rounds, advance)
        reach = arithmetic_peak(device, precision_type(plain.trainer.precision))
        points = []
        for value, timing in zip(values, timings.values(), strict=True):
            operations = counted_or_none(runners[value].operations)
            mfu = None if operations is None else operations / timing.best / reach
            peak = peaks[value] / 1e6 if device.type == "cuda" else None
            rates = [1 / seconds for seconds in timing.rounds]
            points.append(Point(value, rates, mfu, peak_mb=peak, **runners[value].more()))
        return Curve(name, points)


def _runners(
    name: str, cfgs: Mapping[int, DictConfig], folder: Path, device: torch.device, steps: int
) -> Mapping[int, _Runner]:
    if name == "views":
        return {views: _Evaluation(cfg, device, steps, views) for views, cfg in cfgs.items()}
    if name == "workers":
        clips = make_clips(folder, FILES, FRAMES_PER_VIDEO)
        repeated = -(-BATCHES * BATCHES * next(iter(cfgs.values())).data.batch_size // FILES)
        return {workers: _Loading(cfg, folder, device, clips * repeated) for workers, cfg in cfgs.items()}
    return {value: _Training(cfg, folder, device, steps) for value, cfg in cfgs.items()}


def _peers(cfg: DictConfig) -> dict[str, Modality]:
    return {spec.name: spec.modality for spec in build.peer_specs(cfg, [])}


def _allocated(device: torch.device) -> float:
    """Bytes of a GPU's memory in use; what was used at most is counted from here on."""
    if device.type != "cuda":
        return 0.0
    torch.cuda.reset_peak_memory_stats(device)
    return float(torch.cuda.memory_allocated(device))


def _most_allocated(device: torch.device) -> float:
    return float(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else 0.0


def table(curve: Curve) -> str:
    """Markdown. *growth* is the time of a clip against that of the first row, over what proportional growth would
    make of it; of workers, clips read against as many times those of one."""
    loading = curve.axis == "workers"
    heads = [curve.axis, "videos/s" if curve.axis == "views" else "clips/s", "spread"]
    heads += ["waiting", "read alone clips/s", "vs proportional"] if loading else ["growth"]
    extra = {"MFU": "mfu", "kept MB/clip": "kept_mb", "peak MB": "peak_mb"}
    shown = {head: key for head, key in extra.items() if any(getattr(p, key) is not None for p in curve.points)}
    cells = []
    for p in curve.points:
        row = [str(p.value), f"{p.best:.3g}", f"{p.spread:.0%}"]
        if loading:
            read = max(p.reading or [0.0])
            row += [f"{p.waiting:.0%}", f"{read:.3g}", f"{read / curve.proportional(p):.2f}"]
        else:
            row += [f"{curve.proportional(p) / p.best:.2f}"]
        told = {key: getattr(p, key) for key in shown.values()}
        row += ["" if v is None else f"{v:.0%}" if key == "mfu" else f"{v:.0f}" for key, v in told.items()]
        cells.append(row)
    return markdown([*heads, *shown], cells)


def sentence(curve: Curve, precision: str) -> str:
    """How the cost grows."""
    if curve.axis == "workers":
        few, many = curve.points[0], curve.points[-1]
        ratio = max(many.reading or [0.0]) / max(few.reading or [1.0])
        told = f"{many.value} workers read {ratio:.2f} times as many clips/s as {few.value}"
        return f"{told}; with them {advice(many.waiting or 0.0, precision, many.value)}"
    found = curve.twice()
    if found is None:
        return f"one value of {curve.axis} has no growth; name several"
    verb, power = "takes" if curve.axis == "size" else "take", AXES[curve.axis].power
    return (
        f"twice the {curve.axis} {verb} {found[0]:.2f} times as long ({found[1]:.2f} to {found[2]:.2f} by "
        f"round; proportional to {'the pixels' if power == 2 else curve.axis}: {2**power})"
    )


def as_json(curves: Sequence[Curve]) -> dict[str, Any]:
    return {c.axis: {"points": [asdict(p) for p in c.points], "twice": c.twice()} for c in curves}
