"""What a run will cost, said before it starts: time by an earlier run or by its arithmetic, memory, disk."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from mml_lightning.backbones.cost import kept_for_backward
from mml_lightning.cohort import Cohort
from mml_lightning.progress import clock
from mml_lightning.results import FILE, read_result
from mml_lightning.throughput import WAITING, arithmetic_peak, counted_or_none, precision_type, training_operations

USUAL_SHARE = 0.4  # of the device's arithmetic that training reaches, for want of a measurement
LATEST = 50  # runs that are looked at
STATES = 3  # float32 numbers per parameter in training: itself, its gradient, its momentum
GENERATIONS = 2  # of checkpoints that are kept


def describe(cfg: DictConfig, cohort: Cohort, steps: int) -> str:
    """One line: seconds per epoch and in all, memory, disk; a number that can't be told is left out.

    Args:
        steps: of an epoch.
    """
    words = [_time(cfg, cohort, steps), _memory(cfg, cohort), _disk(cfg, cohort)]
    return "; ".join(filter(None, words))


def _time(cfg: DictConfig, cohort: Cohort, steps: int) -> str:
    earlier = next(earlier_runs(cfg), None)
    if earlier is not None:
        seconds, source = earlier[1]["seconds_per_step"], f"as {earlier[0]}"
        if earlier[1]["data_wait"] > WAITING:
            source += f", which waited for data {earlier[1]['data_wait']:.0%} of the time: try more data.workers"
    else:
        operations = counted_or_none(lambda: training_operations(cohort, clip_shapes(cfg, cohort)))
        if operations is None:
            return ""
        device = torch.device("cpu" if cfg.trainer.accelerator == "cpu" or not torch.cuda.is_available() else "cuda")
        peak = arithmetic_peak(device, precision_type(str(cfg.trainer.precision)))
        seconds, source = cfg.data.batch_size * operations / (USUAL_SHARE * peak), "by arithmetic, reading aside"
    epoch = seconds * steps
    return f"about {clock(epoch)} per epoch, {clock(epoch * cfg.schedule.epochs)} in all ({source})"


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


def _memory(cfg: DictConfig, cohort: Cohort) -> str:
    shapes, total = clip_shapes(cfg, cohort), 0.0
    share = 0.5 if precision_type(str(cfg.trainer.precision)).itemsize == 2 else 1.0
    for name, peer in cohort.peers.items():
        parameters = sum(p.numel() for p in peer.parameters())
        if name in cohort.frozen:
            total += 4 * parameters
            continue
        modality = cohort.modalities[name]
        frames, _, height, width = shapes[modality.name]
        batch = (cfg.data.batch_size, frames, modality.channels, height, width)
        kept = counted_or_none(functools.partial(kept_for_backward, peer, batch))
        if kept is None:
            return ""
        total += 4 * STATES * parameters + share * kept
    return f"about {_size(total)} for weights and activations"


def _disk(cfg: DictConfig, cohort: Cohort) -> str:
    learns = sum(p.numel() for n, peer in cohort.peers.items() for p in peer.parameters() if n not in cohort.frozen)
    checkpoints = 4 * 2 * GENERATIONS * learns if cfg.callbacks.checkpoint else 0
    place = Path(cfg.paths.root).absolute()
    free = shutil.disk_usage(next(folder for folder in (place, *place.parents) if folder.exists())).free
    return f"{_size(checkpoints + 4 * 2 * learns)} of disk ({_size(free)} free)"


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6))} MB"
