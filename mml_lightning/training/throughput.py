"""How fast a run trains, and what it waits for.

Arithmetic is counted as two operations per multiply-add; a training step costs three forward passes of a network that
learns (forward, gradient of the maps, gradient of the filters) and one of a network that only teaches. What a device
can do is measured, by a matrix product and a convolution in the precision of the run, not looked up. What follows from
these numbers, and from the cores that had nothing to do, is said by `advice`.
Source: Chowdhery et al., "PaLM", 2022 (model FLOPs utilisation).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import nn

from mml_lightning.training import lightning_internals
from mml_lightning.training.advice import WORTH
from mml_lightning.training.arithmetic import counted_or_none, operations_in, training_operations
from mml_lightning.training.cohort import Cohort
from mml_lightning.training.csv_logger import MetricsLog
from mml_lightning.utils.device import arithmetic_peak, device_name, gain, instructions, peak_memory, precision_type
from mml_lightning.utils.gpu_idle import Idle
from mml_lightning.utils.helpers import HELPERS
from mml_lightning.utils.progress import position
from mml_lightning.utils.threads import cores, idle_seconds

log = logging.getLogger(__name__)


class Mark(NamedTuple):
    """What was counted up to a time: videos, steps of the optimiser; seconds of training and of waiting."""

    videos: int = 0
    steps: int = 0
    seconds: float = 0.0
    waited: float = 0.0


class Cores:
    """What the cores of this machine do from now on: this process's threads and helpers, others, nothing."""

    def __init__(self) -> None:
        self._since = self._now()

    @staticmethod
    def _now() -> tuple[float, float | None, float]:
        return time.monotonic(), idle_seconds(), time.process_time() + HELPERS.seconds()

    def used(self) -> tuple[float, float] | None:
        """How many of them, on average, have had nothing to do and were this process's; None where that is unknown."""
        (began, idle, own), (now, later, owned) = self._since, self._now()
        if idle is None or later is None or now == began:
            return None
        return (later - idle) / (now - began), (owned - own) / (now - began)


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
        self.seconds = self.waited = self.first_waited = 0.0  # the last one for the first batches of epochs
        self._since = 0.0
        self._epoch = self._told = Mark()  # when the epoch began, when a row was written
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._segments = 1  # of a video
        self._device = torch.device("cpu")  # where it was trained: Lightning takes the networks from there at the end
        self._idle: Idle | None = None
        self._operations: dict[str, float | None] = {}  # per clip of each phase, once counted
        self._peak: float | None = None  # of all devices
        self._cores: Cores | None = None
        self._used: tuple[float, float] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._idle = Idle() if pl_module.device.type == "cuda" else None
        if self.every_steps and trainer.is_global_zero:  # now, while there is memory for it
            self._peak = self._measured_peak(trainer, pl_module.device)
        self._told = self._mark(trainer.global_step)
        self._cores = Cores()
        self._begin()  # an epoch that is continued does not start

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._used = self._cores.used() if self._cores is not None else None

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
                logger.log_metrics(row, step=lightning_internals.steps_logged(trainer))

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._idle is None:
            self.waited += (waited := self.now() - self._since)
            self.first_waited += waited if batch_idx == 0 else 0.0
        else:
            self._idle.batch_came()
            self.waited += self._idle.seconds()
        if not self._shapes:
            self._shapes = {name: tuple(clip.shape[2:]) for name, clip in batch["clips"].items()}
            self._segments = int(next(iter(batch["clips"].values())).shape[1])
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
        phase = pl_module.phase
        if phase.name not in self._operations:
            counted = counted_or_none(lambda: self._segments * operations_in(pl_module, phase, self._shapes))
            self._operations[phase.name] = counted
        operations = self._operations[phase.name]
        found = self._rates(self._told)
        assert found is not None and self._peak is not None
        steps, seconds = trainer.global_step - self._told.steps, self.seconds - self._told.seconds
        values = {"clips_per_s": found[0], "data_wait": found[1], "seconds_per_step": seconds / steps}
        if operations is not None:
            values["mfu"] = found[0] * operations / self._peak
        self._log(trainer, values)
        self._told = self._mark(trainer.global_step)
        if self.say:
            share = f", {values['mfu']:.0%} MFU" if "mfu" in values else ""
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
        """[T, H, W]; of what has no pictures [T, ...]."""
        frames, _, *size = next(iter(self._shapes.values()))
        return [frames, *size]

    def _measured_peak(self, trainer: pl.Trainer, device: torch.device) -> float:
        return arithmetic_peak(device, precision_type(trainer.precision)) * trainer.world_size

    def summary(self, trainer: pl.Trainer, cohort: Cohort) -> dict[str, Any] | None:
        """For `result.json`: what was measured, arithmetic per clip and the share of the device's that was reached
        (null where a network can't be counted). None if nothing was trained."""
        rate = self.per_second()
        if rate is None:
            return None
        device = self._device
        held = peak_memory(device)  # which measuring the device forgets
        operations = counted_or_none(lambda: self._segments * training_operations(cohort, self._shapes))
        peak = self._peak or self._measured_peak(trainer, device)
        mfu = None if operations is None else round(rate * operations / peak, 4)
        return {
            "clips_per_s": rate,
            "seconds_per_step": round(self.seconds / self.steps, 5),
            "data_wait": round(self.waited / self.seconds, 4),
            "workers": self.workers,
            "batch_size": self.batch_size,
            "clip": self._clip(),
            "gflop_per_clip": None if operations is None else round(operations / 1e9, 3),
            "mfu": mfu,
            "gain": half_gain(device, str(trainer.precision), mfu, cohort.peers.values()),
            "peak_gflops": round(peak / 1e9, 1),
            "peak_memory_mb": round(held / 1e6, 1),
            "device": device_name(device),
            "threads": torch.get_num_threads(),
            "precision": trainer.precision,
            **self._of_cores(trainer),
        }

    def _of_cores(self, trainer: pl.Trainer) -> dict[str, Any]:
        """What `advice` wants to know of the processor: see :class:`mml_lightning.training.advice.Seen`."""
        ranks, on_cpu = trainer.world_size // trainer.num_nodes, self._device.type == "cpu"
        told: dict[str, Any] = {"instructions": instructions(), "cores": cores(), "steady": None}
        if self._idle is None:
            told["steady"] = round((self.waited - self.first_waited) / (self.seconds - self.first_waited), 4)
        if self._used is None:
            return told | {"idle_cores": None, "room": None, "others": None}
        idle, own = self._used
        busy = ranks * (self.workers + (torch.get_num_threads() if on_cpu else 1))  # if none of them waits
        room = max(0, min(cores() - busy, math.floor(idle + 0.5))) // ranks
        others = max(0.0, cores() - idle - ranks * (own + self.workers)) / cores() if on_cpu else 0.0
        return told | {"idle_cores": round(idle, 2), "room": room, "others": round(others, 3)}


def half_gain(device: torch.device, precision: str, mfu: float | None, nets: Iterable[nn.Module]) -> float | None:
    """:func:`mml_lightning.utils.device.gain` of the half precision that these networks are computed in, or could be;
    None where nothing follows from it."""
    dtype = precision_type(precision, device)
    if dtype == torch.float64 or (dtype == torch.float32 and (mfu is None or 1 - mfu > 1 / WORTH)):
        return None
    dimensions = 3 if any(isinstance(layer, nn.Conv3d) for net in nets for layer in net.modules()) else 2
    return round(gain(device, torch.bfloat16 if dtype == torch.float32 else dtype, dimensions), 3)
