"""What a run will cost, said before it starts: time by an earlier run or by its arithmetic, memory, disk; and which
batch and how many workers would suit this machine."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from mml_lightning.backbones.cost import kept_for_backward, parameter_count
from mml_lightning.backbones.execution import trunk_blocks
from mml_lightning.config import backbones, data, limits, phases, targets
from mml_lightning.config.key_roles import SPEED_DATA, SPEED_KEYS
from mml_lightning.config.settings import Settings
from mml_lightning.training import advice
from mml_lightning.training.arithmetic import counted_or_none, in_phase, training_operations
from mml_lightning.training.cohort import Cohort
from mml_lightning.training.phases import Phase
from mml_lightning.training.throughput import half_gain
from mml_lightning.utils import device
from mml_lightning.utils.device import arithmetic_peak, device_name, instructions, precision_type, uses_gpu
from mml_lightning.utils.progress import format_duration
from mml_lightning.utils.result_file import FILE, read_result
from mml_lightning.utils.threads import cores

USUAL_SHARE = 0.4  # of the device's arithmetic that training reaches, for want of a measurement
LATEST = 50  # runs that are looked at
KEPT = (1.3, 2.5)  # memory of a step over what it keeps of its maps: the least and the most of docs/benchmarks.md
NUMBERS = ("seconds_per_step", "data_wait", "workers", "steady", "others", "mfu", "gain", "room")  # of speed, used here
STATES = 3  # float32 numbers per parameter in training: itself, its gradient, its momentum
GENERATIONS = 2  # of checkpoints that are kept


def describe(cfg: Settings, cohort: Cohort, videos: int, ranks: int, comparable: str) -> list[tuple[str, str]]:
    """Lines with their first words: `cost`, seconds per epoch and in all, memory and disk; `warning`, what makes the
    run slow here; `advice`, a suggestion each. A number that can't be told is left out.

    Args:
        videos: in the training split. ranks: processes over which a batch is shared out.
        comparable: :func:`conditions` of this run.
    """
    earlier = next(earlier_runs(Path(cfg.paths.root), comparable), None)
    step = _step(cfg, cohort, ranks, earlier)
    words = [_time(cfg, *step, limits.batches(cfg, videos))] if step else []
    needed = memory_needed(cfg, cohort)
    batch = -(-int(cfg.data.batch_size) // ranks)
    if needed is not None:
        words.append(f"at least {_size(needed[0] + batch * needed[1])} for weights and activations")
    lines = [("cost", "; ".join([*words, _disk(cfg, cohort)])), ("warning", _precision(cfg, cohort))]
    if needed is not None and ranks == 1 and cfg.placement != "peer":
        parts = int(cfg.trainer.accumulate_grad_batches)
        lines.append(("advice", suggest_batch(batch, *needed, free_memory(cfg), parts, _checkpointable(cfg, cohort))))
    if earlier is not None and int(cfg.data.workers) <= earlier[1].get("workers", -1):
        lines.append(("advice", _workers(earlier[0], advice.of_speed(earlier[1], data.cheap(cfg)))))
    return [(key, line) for key, line in lines if line]


def _precision(cfg: Settings, cohort: Cohort) -> str:
    """Words if this device emulates the precision of the run."""
    precision = str(cfg.trainer.precision)
    return advice.emulated(precision, half_gain(_device(cfg), precision, None, cohort.peers.values()))


def _workers(name: str, seen: advice.Seen) -> str:
    """Words if the earlier run `name` waited for data, and something would help."""
    if advice.more_workers(seen) is None and seen.cheap:
        return ""
    told = advice.waiting(seen)
    return told and f"{name} spent {seen.data_wait:.0%} of the time waiting for data: {told}"


def _checkpointable(cfg: Settings, cohort: Cohort) -> bool:
    """Whether step.checkpointing=true is possible and not in use."""
    return (
        not cfg.step.compile
        and not cfg.step.checkpointing
        and all(trunk_blocks(part) for name, part in cohort.learners.items() if name in cohort.peers)
    )


def _step(
    cfg: Settings, cohort: Cohort, ranks: int, earlier: tuple[str, Mapping[str, Any]] | None
) -> tuple[float, str] | None:
    """Seconds of a training step and where they are known from."""
    if earlier is not None:
        return earlier[1]["seconds_per_step"], f"as {earlier[0]}"
    operations = counted_or_none(lambda: cfg.sampling.clips * training_operations(cohort, clip_shapes(cfg, cohort)))
    if operations is None:
        return None
    peak = ranks * arithmetic_peak(_device(cfg), precision_type(str(cfg.trainer.precision), _device(cfg)))
    guess = f"estimated at MFU {USUAL_SHARE:.0%}, without data loading and validation"
    return cfg.data.batch_size * operations / (USUAL_SHARE * peak), guess


def _device(cfg: Settings) -> torch.device:
    return torch.device("cuda" if uses_gpu(cfg.trainer.accelerator) else "cpu")


def _time(cfg: Settings, seconds: float, source: str, steps: int) -> str:
    epoch = seconds * steps
    return f"about {format_duration(epoch)} per epoch, {format_duration(epoch * limits.epochs(cfg))} in all ({source})"


def suggest_batch(
    batch: int, fixed: float, per_clip: float, free: float | None, parts: int = 1, checkpointing: bool = True
) -> str:
    """Words if a batch does not fit, or may not: one that does, with as many clips per step of the optimiser; "" if all
    is well.

    Args:
        fixed: bytes of weights, gradients and momenta. per_clip: bytes of activations. free: bytes.
        parts: batches per step of the optimiser. checkpointing: whether blocks could be computed twice.
    """
    least, most = KEPT
    if free is None or fixed + batch * most * per_clip <= free:
        return ""
    fits = [size for size in range(1, batch) if batch % size == 0 and fixed + size * most * per_clip <= free]
    takes = "takes" if fixed + batch * least * per_clip > free else "may take"
    words = f"a batch of {batch} {takes} more memory than the {_size(free)} that are free: "
    if not fits:
        return words + "use a smaller backbone, transforms.output or sampling.num_segments"
    split = f"data.batch_size={fits[-1]} trainer.accumulate_grad_batches={parts * (batch // fits[-1])}"
    norms = f" (batch norm then sees {fits[-1]} clips)"
    return f"{words}{split}{norms}" + (", or step.checkpointing=true, which saves memory" if checkpointing else "")


def free_memory(cfg: Settings) -> float | None:
    """Bytes free where the networks will be computed; None where the system does not tell."""
    if uses_gpu(cfg.trainer.accelerator):
        return float(torch.cuda.mem_get_info()[0])
    return device.free_memory()


def conditions(cfg: Settings, cohort: Cohort, ranks: int) -> str:
    """A hash of what the time of a step and the wait for data depend on, but the number of workers: networks, clips and
    how they are read and cut, precision, machine and its instructions. The speeds of two runs compare if it is
    equal."""
    values = targets.with_first_names(cfg.plain())
    values["backbone"] = backbones.identity(values)
    decisive = [
        {key: values[key] for key in SPEED_KEYS if key != "phases"},
        {key: values["data"][key] for key in SPEED_DATA},
        {name: [modality.name, name in cohort.frozen] for name, modality in cohort.modalities.items()},
        [
            str(cfg.trainer.precision),
            torch.get_num_threads(),
            ranks,
            device_name(_device(cfg)),
            instructions(),
            cores(),
        ],
    ]
    if declared := phases.identity(values):  # there was no such key
        decisive.append(declared)
    return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()[:16]


def earlier_runs(root: Path, comparable: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Name and speed of the finished runs below `root` under these :func:`conditions`, the latest first."""
    files = [*root.glob(f"single/*/{FILE}"), *root.glob(f"single/*/*/{FILE}"), *root.glob(f"sweep/*/*/{FILE}")]
    for file in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True)[:LATEST]:
        speed = (read_result(file.parent) or {}).get("speed") or {}
        numbers = all(isinstance(speed[key], int | float) for key in NUMBERS if speed.get(key) is not None)
        whole = {"seconds_per_step", "data_wait", "workers"} <= speed.keys() and isinstance(speed.get("precision"), str)
        if speed.get("conditions") == comparable and numbers and whole:
            yield file.parent.name, speed


def clip_shapes(cfg: Settings, cohort: Cohort) -> dict[str, tuple[int, ...]]:
    """Of the training clips of each modality as they are stored: [T, C, H, W] of images, [T, L] of sound."""
    frames, size, kinds = cfg.sampling.num_segments, (cfg.transforms.output,) * 2, data.sources(cfg)
    return {m.name: (frames, *kinds[m.source].segment(m, size)[0]) for m in cohort.modalities.values()}


def memory_needed(cfg: Settings, cohort: Cohort) -> tuple[float, float] | None:
    """Bytes of weights, gradients and momenta, and of the activations of a video, in the phase that needs most; None
    where they can't be counted."""
    found = [needed_in(cfg, cohort, phase) for phase in cohort.phases]
    known = [needed for needed in found if needed is not None]
    batch = int(cfg.data.batch_size)
    return max(known, key=lambda needed: needed[0] + batch * needed[1]) if len(known) == len(found) else None


def needed_in(cfg: Settings, cohort: Cohort, phase: Phase) -> tuple[float, float] | None:
    """The same in one phase."""
    shapes, fixed, per_clip = clip_shapes(cfg, cohort), 0.0, 0.0
    share = 0.5 if precision_type(str(cfg.trainer.precision), _device(cfg)).itemsize == 2 else 1.0
    for name, peer in cohort.peers.items():
        parameters = parameter_count(peer)
        if name not in phase.trains:
            fixed += 4 * parameters
            continue
        modality = cohort.modalities[name]
        frames, *segment = shapes[modality.name]
        clip = (1, frames, *modality.input_shape(segment))
        kept = counted_or_none(functools.partial(kept_for_backward, peer, clip, in_phase(cohort, phase, name)))
        if kept is None:
            return None
        learn = sum(value.numel() for key, value in peer.named_parameters() if phase.covers(name, key))
        fixed += 4 * parameters + 4 * (STATES - 1) * learn
        per_clip += share * kept * cfg.sampling.clips
    return fixed, per_clip


def disk_needed(cfg: Settings, learns: int) -> int:
    """Bytes of the files that a run of so many parameters that learn leaves: its checkpoints, the best one among them,
    and its networks, in its directory and in the zoo."""
    best = cfg.checkpoint.monitor is not None or cfg.checkpoint.export == "best"
    numbers = 2 if cfg.ema.decay is None else 3  # per parameter: itself, its momentum, its average
    checkpoints = 4 * numbers * (GENERATIONS + best) * learns if cfg.callbacks.checkpoint else 0
    return checkpoints + 4 * 2 * learns


def _disk(cfg: Settings, cohort: Cohort) -> str:
    needed = disk_needed(cfg, sum(map(parameter_count, cohort.learners.values())))
    place = Path(cfg.paths.root).absolute()
    free = shutil.disk_usage(next(folder for folder in (place, *place.parents) if folder.exists())).free
    return f"{_size(needed)} of disk ({_size(free)} free)"


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6))} MB"
