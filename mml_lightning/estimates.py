"""What a run will cost, said before it starts: time by an earlier run or by its arithmetic, memory, disk; and which
batch and how many workers would suit this machine."""

from __future__ import annotations

import functools
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from mml_lightning.backbones.cost import kept_for_backward
from mml_lightning.cohort import Cohort
from mml_lightning.data import memory
from mml_lightning.data.clips import ClipDataset
from mml_lightning.errors import UserError
from mml_lightning.process import uses_gpu
from mml_lightning.progress import clock
from mml_lightning.results import FILE, read_result
from mml_lightning.throughput import arithmetic_peak, counted_or_none, precision_type, training_operations

USUAL_SHARE = 0.4  # of the device's arithmetic that training reaches, for want of a measurement
LATEST = 50  # runs that are looked at
STATES = 3  # float32 numbers per parameter in training: itself, its gradient, its momentum
GENERATIONS = 2  # of checkpoints that are kept


def describe(cfg: DictConfig, cohort: Cohort, train: ClipDataset, ranks: int) -> list[str]:
    """A line with seconds per epoch and in all, memory and disk, and one per suggestion; a number that can't be told is
    left out.

    Args:
        train: the training split. ranks: processes over which a batch is shared out.
    """
    step = _step(cfg, cohort, ranks)
    words = [_time(cfg, *step, len(train) // cfg.data.batch_size)] if step else []
    needed = memory_needed(cfg, cohort)
    batch = -(-int(cfg.data.batch_size) // ranks)
    if needed is not None:
        words.append(f"about {_size(needed[0] + batch * needed[1])} for weights and activations")
    suggestions = []
    if needed is not None and ranks == 1:
        suggestions.append(suggest_batch(batch, *needed, free_memory(cfg)))
    if step and cfg.data.cache != "ram":  # which reads once
        suggestions.append(suggest_workers(int(cfg.data.workers), batch * _reading(train), step[0], _cores()))
    return ["; ".join([*words, _disk(cfg, cohort)]), *filter(None, suggestions)]


def _step(cfg: DictConfig, cohort: Cohort, ranks: int) -> tuple[float, str] | None:
    """Seconds of a training step and where they are known from."""
    earlier = next(earlier_runs(cfg), None)
    if earlier is not None:
        return earlier[1]["seconds_per_step"], f"as {earlier[0]}"
    operations = counted_or_none(lambda: training_operations(cohort, clip_shapes(cfg, cohort)))
    if operations is None:
        return None
    device = torch.device("cuda" if uses_gpu(cfg) else "cpu")
    peak = ranks * arithmetic_peak(device, precision_type(str(cfg.trainer.precision)))
    return cfg.data.batch_size * operations / (USUAL_SHARE * peak), "by arithmetic, reading aside"


def _time(cfg: DictConfig, seconds: float, source: str, steps: int) -> str:
    epoch = seconds * steps
    return f"about {clock(epoch)} per epoch, {clock(epoch * cfg.schedule.epochs)} in all ({source})"


def suggest_batch(batch: int, fixed: float, per_clip: float, free: float | None) -> str:
    """Words if a batch does not fit: one that does, with as many clips per step of the optimiser; "" if all is well.

    Args:
        fixed: bytes of weights, gradients and momenta. per_clip: bytes of activations. free: bytes.
    """
    if free is None or fixed + batch * per_clip <= free:
        return ""
    fits = [size for size in range(1, batch) if batch % size == 0 and fixed + size * per_clip <= free]
    words = f"a batch of {batch} takes more memory than the {_size(free)} that are free: "
    if not fits:
        return words + "use a smaller backbone, transforms.output or sampling.num_segments"
    split = f"data.batch_size={fits[-1]} trainer.accumulate_grad_batches={batch // fits[-1]}"
    return f"{words}{split}, or step.checkpointing=true"


def suggest_workers(workers: int, reading: float, step: float, cores: int) -> str:
    """Words if the loader will not keep up with training; "" if it will, or where nothing is known.

    Args:
        reading: seconds of one process for the videos of a step, 0 where it is not known. step: seconds of a step.
        cores: that this process may use.
    """
    needed = math.ceil(reading / step)
    if needed <= max(1, workers):
        return ""
    words = f"reading the videos of a step takes {reading:.2g} s, the step itself {step:.2g} s: "
    if needed > cores:
        return f"{words}{needed} workers would be needed and there are {cores} cores; mml pack makes reading cheaper"
    return f"{words}data.workers={needed} would keep up (now {workers})"


def _reading(train: ClipDataset) -> float:
    """Seconds to read a sample, the faster of two; 0 where it can't be read yet (flow that is to be computed)."""
    taken = []
    for index in range(min(2, len(train))):
        start = time.perf_counter()
        try:
            if "clips" not in train[0, index]:
                return 0.0
        except UserError:
            return 0.0
        taken.append(time.perf_counter() - start)
    return min(taken)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory(cfg: DictConfig) -> float | None:
    """Bytes free where the networks will be computed; None where the system does not tell."""
    if uses_gpu(cfg):
        return float(torch.cuda.mem_get_info()[0])
    return memory.free_memory()


def earlier_runs(cfg: DictConfig) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Name and speed of finished runs of the same networks, clips and precision, the latest first."""
    root = Path(cfg.paths.root)
    files = [*root.glob(f"single/*/{FILE}"), *root.glob(f"single/*/*/{FILE}"), *root.glob(f"sweep/*/*/{FILE}")]
    for file in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True)[:LATEST]:
        result = read_result(file.parent) or {}
        speed = result.get("speed") or {}
        same = (
            result.get("backbone") == cfg.backbone.name
            and result.get("modality") == list(cfg.modality)
            and result.get("stage") == cfg.stage.name
            and speed.get("clip") == [cfg.sampling.num_segments, cfg.transforms.output, cfg.transforms.output]
            and speed.get("batch_size") == cfg.data.batch_size
            and speed.get("precision") == str(cfg.trainer.precision)
            and speed.get("threads") == torch.get_num_threads()
        )
        if same:
            yield file.parent.name, speed


def clip_shapes(cfg: DictConfig, cohort: Cohort) -> dict[str, tuple[int, ...]]:
    """[T, C, H, W] of the training clips of each modality."""
    frames, side = cfg.sampling.num_segments, cfg.transforms.output
    return {m.name: (frames, m.window * m.item_channels, side, side) for m in cohort.modalities.values()}


def memory_needed(cfg: DictConfig, cohort: Cohort) -> tuple[float, float] | None:
    """Bytes of weights, gradients and momenta, and of the activations of a clip; None where they can't be counted."""
    shapes, fixed, per_clip = clip_shapes(cfg, cohort), 0.0, 0.0
    share = 0.5 if precision_type(str(cfg.trainer.precision)).itemsize == 2 else 1.0
    for name, peer in cohort.peers.items():
        parameters = sum(p.numel() for p in peer.parameters())
        if name in cohort.frozen:
            fixed += 4 * parameters
            continue
        modality = cohort.modalities[name]
        frames, _, height, width = shapes[modality.name]
        clip = (1, frames, modality.channels, height, width)
        kept = counted_or_none(functools.partial(kept_for_backward, peer, clip))
        if kept is None:
            return None
        fixed += 4 * STATES * parameters
        per_clip += share * kept
    return fixed, per_clip


def _disk(cfg: DictConfig, cohort: Cohort) -> str:
    learns = sum(p.numel() for n, peer in cohort.peers.items() for p in peer.parameters() if n not in cohort.frozen)
    checkpoints = 4 * 2 * GENERATIONS * learns if cfg.callbacks.checkpoint else 0
    place = Path(cfg.paths.root).absolute()
    free = shutil.disk_usage(next(folder for folder in (place, *place.parents) if folder.exists())).free
    return f"{_size(checkpoints + 4 * 2 * learns)} of disk ({_size(free)} free)"


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6))} MB"
