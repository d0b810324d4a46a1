"""How fast a run trains, what it waits for, and which switch would move it.

Arithmetic is counted as two operations per multiply-add; a training step costs three forward passes of a network that
learns (forward, gradient of the maps, gradient of the filters) and one of a network that only teaches. What a device
can do is measured, by a matrix product and a convolution in the precision of the run, not looked up.
Source: Chowdhery et al., "PaLM", 2022 (model FLOPs utilisation).
"""

from __future__ import annotations

import logging
import math
import resource
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch

from mml_lightning.backbones.cost import cost
from mml_lightning.cohort import Cohort
from mml_lightning.data.threads import cores
from mml_lightning.idle import Idle
from mml_lightning.metrics_log import MetricsLog
from mml_lightning.progress import position

log = logging.getLogger(__name__)

TRAINING_PASSES = 3
WAITING = 0.15  # a larger share of time spent waiting for data is what limits a run
SMALL = 0.05  # share of the arithmetic: below it a device does little but begin and end operations
SIDES = {"cpu": 512, "cuda": 8192}  # of the matrices that tell what a device can do
MAPS = {"cpu": 8, "cuda": 512}  # images of the convolution that does


class Mark(NamedTuple):
    """What was counted up to a time: videos, steps of the optimiser; seconds of training and of waiting."""

    videos: int = 0
    steps: int = 0
    seconds: float = 0.0
    waited: float = 0.0


class Throughput(pl.Callback):
    """Training speed of a run: videos per second over all ranks, loading included, validation not; the share of the
    time that this process (on a GPU: the GPU) waited for data; and what share of the device's arithmetic that is.

    Args:
        batch_size: videos per batch over all ranks.
        workers: of the loader.
        every_steps: steps of the optimiser between two rows for dashboards; None for one per epoch.
        say: whether such a row is a line of the log, too.
        now: the clock, in seconds.
    """

    def __init__(
        self,
        batch_size: int,
        workers: int = 0,
        every_steps: int | None = None,
        say: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.batch_size, self.workers, self.every_steps, self.say, self.now = batch_size, workers, every_steps, say, now
        self.videos = self.steps = 0
        self.seconds = self.waited = 0.0
        self._since = 0.0
        self._epoch = self._told = Mark()  # when the epoch began, when a row was written
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._device = torch.device("cpu")  # where it was trained: Lightning takes the networks from there at the end
        self._idle: Idle | None = None
        self._operations: list[float | None] = []  # per clip, once counted
        self._peak: float | None = None  # of all devices

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._idle = Idle() if pl_module.device.type == "cuda" else None
        if self.every_steps and trainer.is_global_zero:  # now, while there is memory for it
            self._peak = self._measured_peak(trainer, pl_module.device)
        self._told = self._mark(trainer.global_step)
        self._begin()  # an epoch that is continued does not start

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin()
        self._epoch = self._mark()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin()  # it may lie within an epoch

    def _begin(self) -> None:
        self._since = self.now()
        if self._idle is not None:
            self._idle.step_ended()

    def _mark(self, steps: int = 0) -> Mark:
        return Mark(self.videos, steps, self.seconds, self.waited)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if (found := self.of_epoch()) is not None:
            self._log(trainer, {"clips_per_s": found[0], "data_wait": found[1]})

    def of_epoch(self) -> tuple[float, float] | None:
        """Clips per second, and the share of the time spent waiting for data, since the epoch began; None before its
        first step."""
        return self._rates(self._epoch)

    def _rates(self, since: Mark) -> tuple[float, float] | None:
        if self.videos == since.videos:
            return None
        seconds = self.seconds - since.seconds
        return (self.videos - since.videos) / seconds, (self.waited - since.waited) / seconds

    def _log(self, trainer: pl.Trainer, values: dict[str, float]) -> None:
        """A row for dashboards; the run's own log holds what is the same in every run of a seed."""
        row = {**{f"speed/{key}": value for key, value in values.items()}, "epoch": trainer.current_epoch}
        for logger in trainer.loggers:
            if not isinstance(logger, MetricsLog):
                logger.log_metrics(row, step=trainer.fit_loop.epoch_loop._batches_that_stepped)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._idle is None:
            self.waited += self.now() - self._since
        else:
            self._idle.batch_came()
            self.waited += self._idle.seconds()
        if not self._shapes:
            self._shapes = {name: tuple(clip.shape[2:]) for name, clip in batch["clips"].items()}
            self._device = next(iter(batch["clips"].values())).device

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._idle is not None:
            self._idle.step_ended()
            if trainer.is_last_batch:  # what the host is ahead belongs to this epoch
                self._idle.wait()
                self.waited += self._idle.seconds()
        now = self.now()
        self.seconds += now - self._since
        self._since = now
        self.videos += self.batch_size
        self.steps += 1
        if self.every_steps and trainer.is_global_zero and trainer.global_step - self._told.steps >= self.every_steps:
            self._tell(trainer, pl_module, batch_idx)
            self._begin()  # counting the arithmetic is no training

    def _tell(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch_idx: int) -> None:
        """The latest steps of the optimiser: a row, and a line."""
        assert isinstance(pl_module, Cohort)
        if not self._operations:
            self._operations.append(counted_or_none(lambda: training_operations(pl_module, self._shapes)))
        operations = self._operations[0]
        found = self._rates(self._told)
        assert found is not None and self._peak is not None
        steps, seconds = trainer.global_step - self._told.steps, self.seconds - self._told.seconds
        values = {"clips_per_s": found[0], "data_wait": found[1], "seconds_per_step": seconds / steps}
        if operations is not None:
            values["mfu"] = found[0] * operations / self._peak
        self._log(trainer, values)
        self._told = self._mark(trainer.global_step)
        if self.say:
            share = f", {values['mfu']:.0%} of the arithmetic" if "mfu" in values else ""
            log.info(
                "%s  |  %.3g clips/s (%.0f%% waiting for data)%s, %.3g s/step",
                position(trainer.current_epoch, trainer.max_epochs, batch_idx, trainer.num_training_batches),
                found[0],
                100 * found[1],
                share,
                values["seconds_per_step"],
            )

    def per_second(self) -> float | None:
        """None if nothing was trained, as after the resume of a finished run."""
        return round(self.videos / self.seconds, 2) if self.seconds else None

    def _clip(self) -> list[int]:
        """[T, H, W]"""
        frames, _, height, width = next(iter(self._shapes.values()))
        return [frames, height, width]

    def _measured_peak(self, trainer: pl.Trainer, device: torch.device) -> float:
        return arithmetic_peak(device, precision_type(trainer.precision)) * trainer.world_size

    def summary(self, trainer: pl.Trainer, cohort: Cohort) -> dict[str, Any] | None:
        """For `result.json`: what was measured, arithmetic per clip and the share of the device's that was reached
        (null where a network can't be counted). None if nothing was trained."""
        rate = self.per_second()
        if rate is None:
            return None
        held = peak_memory(self._device)  # which measuring the device forgets
        operations = counted_or_none(lambda: training_operations(cohort, self._shapes))
        peak = self._peak or self._measured_peak(trainer, self._device)
        return {
            "clips_per_s": rate,
            "seconds_per_step": round(self.seconds / self.steps, 5),
            "data_wait": round(self.waited / self.seconds, 4),
            "workers": self.workers,
            "batch_size": self.batch_size,
            "clip": self._clip(),
            "gflop_per_clip": None if operations is None else round(operations / 1e9, 3),
            "mfu": None if operations is None else round(rate * operations / peak, 4),
            "peak_gflops": round(peak / 1e9, 1),
            "peak_memory_mb": round(held / 1e6, 1),
            "device": device_name(self._device),
            "threads": torch.get_num_threads(),
            "precision": trainer.precision,
        }


def describe(speed: dict[str, Any], packed: bool = False) -> str:
    """One line: the numbers of :meth:`Throughput.summary`, what limits the run and the switch that would move it.

    Args:
        packed: whether the data are a pack.
    """
    share = "" if speed["mfu"] is None else f", {speed['mfu']:.0%} of the arithmetic that this device reaches"
    numbers = f"{speed['clips_per_s']:g} clips/s{share}, {speed['data_wait']:.0%} of the time waiting for data"
    return f"{numbers}; {advice(speed['data_wait'], speed['precision'], speed['workers'], speed['mfu'], packed)}"


def advice(data_wait: float, precision: str, workers: int = 0, mfu: float | None = None, packed: bool = False) -> str:
    """One sentence: the bottleneck, and the switch that would move it.

    Args:
        data_wait: share of the time spent waiting for data; precision: of the trainer; workers: of the loader; mfu:
            share of the device's arithmetic, if it is known; packed: whether the data are a pack.
    """
    more = suggest_workers(data_wait, workers, packed)
    if more:
        return f"reading data is the bottleneck: {more}"
    if mfu is not None and mfu < SMALL:
        return "starting operations, small as they are, is the bottleneck: a larger data.batch_size"
    if precision.startswith("32"):
        return "arithmetic in float32 is the bottleneck: trainer.precision=bf16-mixed"
    return "the networks are the bottleneck: a smaller transforms.output, fewer sampling.num_segments or more devices"


def suggest_workers(data_wait: float, workers: int, packed: bool = False) -> str:
    """Words if training waits too long for data; "" if not.

    With w the share of waiting, n workers keep up with steps that take 1 / (1 - w) times as long, so n / (1 - w) are
    needed; where the run reads by itself, w / (1 - w).

    Args:
        packed: whether the data are a pack, which is the cheapest way to read.
    """
    if data_wait <= WAITING:
        return ""
    needed = math.ceil((workers or data_wait) / max(0.01, 1 - data_wait) - 1e-9)
    if needed > cores():
        cheaper = "" if packed else ": mml pack makes it cheaper"
        return f"{needed} workers would keep up (now {workers}), there are {cores()} cores{cheaper}"
    return f"data.workers={needed} would keep up (now {workers})" + ("" if packed else ", or mml pack")


def counted_or_none(count: Callable[[], float]) -> float | None:
    """What `count` finds by running a network on meta tensors; None where they don't suit it."""
    try:
        return count()
    except (RuntimeError, ValueError) as error:
        log.debug("not counted: %s", error)
        return None


def training_operations(cohort: Cohort, shapes: dict[str, tuple[int, ...]]) -> float:
    """Operations of one training clip over all peers.

    Args:
        shapes: of the clips of each modality, [T, C, H, W] as they come from the loader.
    """
    total = 0.0
    for name, peer in cohort.peers.items():
        modality = cohort.modalities[name]
        frames, _, height, width = shapes[modality.name]
        counted = cost(peer, (1, frames, modality.channels, height, width))
        total += 2 * counted.multiply_adds * (1 if name in cohort.frozen else TRAINING_PASSES)
    return total


def arithmetic_peak(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Operations per second that `device` reaches: the faster of a large matrix product and a 3x3 convolution, the best
    of several each (on CPUs their libraries differ). Of random numbers: a GPU clocks higher on constant ones. Its
    memory is as before, but that the most that was allocated is forgotten."""
    try:
        return _arithmetic_peak(device, dtype)
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)


def _arithmetic_peak(device: torch.device, dtype: torch.dtype) -> float:
    side = SIDES.get(device.type, SIDES["cpu"])
    own = torch.Generator(device).manual_seed(0)  # the random numbers of the run stay as they are

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=own, device=device).to(dtype)

    left, right = random(side, side), random(side, side)
    images = MAPS.get(device.type, MAPS["cpu"])  # few would leave most of a GPU idle
    maps = random(images, 128, 28, 28).to(memory_format=torch.channels_last)
    filters = random(128, 128, 3, 3).to(memory_format=torch.channels_last)
    product = 2 * side**3 / _best(device, lambda: torch.mm(left, right))
    return max(product, 2 * 9 * 128 * maps.numel() / _best(device, lambda: torch.conv2d(maps, filters, padding=1)))


def _best(device: torch.device, work: Callable[[], object], times: int = 6) -> float:
    """Seconds; the first time warms up."""
    best = float("inf")
    for _ in range(times):
        start = clock(device)
        work()
        best = min(best, clock(device) - start)
    return best


def clock(device: torch.device) -> float:
    """Seconds: on the wall, with the queue of a GPU empty; of this process where it computes on one thread, so that its
    neighbours don't count."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def precision_type(precision: str) -> torch.dtype:
    """What a trainer's precision computes convolutions in."""
    if precision.startswith("bf16"):
        return torch.bfloat16
    return {"16": torch.float16, "64": torch.float64}.get(precision[:2], torch.float32)


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that was allocated on a GPU so far, or that this process held of the host's memory."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def device_name(device: torch.device) -> str:
    """Of a GPU its product name, else the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return device.type
