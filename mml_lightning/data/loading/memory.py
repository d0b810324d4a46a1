"""How much memory loading takes, before it begins, and how much there is."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

import numpy as np

from mml_lightning.data.loading.dataset import FRAME, ClipDataset
from mml_lightning.data.loading.worker_recovery import FEWER, PREFETCH, SHARED
from mml_lightning.utils.device import free_memory, free_shared_memory
from mml_lightning.utils.errors import UserError

GB = 2**30
WORKER = 200 * 2**20  # bytes that a worker has for itself: its part of Python, the frames of the video it reads
ITEMS = 300  # frames of such a video


def sample_bytes(dataset: ClipDataset) -> int:
    """Size of the clips of one sample, without reading one."""
    counts = {modality.name: ITEMS for modality in dataset.modalities}
    windows = {modality.name: modality.window for modality in dataset.modalities}
    starts = dataset.starts(counts, windows, np.random.default_rng(0))
    crops = dataset.geometries(*FRAME, random.Random(0))
    total = 0
    for modality in dataset.modalities:
        segments = [dataset.kinds[modality.name].segment(modality, crop.output) for crop in crops]
        total += starts[modality.name].size * sum(math.prod(shape) * dtype.itemsize for shape, dtype in segments)
    return total


def check(
    datasets: Mapping[str, ClipDataset],
    batches: Mapping[str, int],
    workers: int,
    ranks: int,
    cache: int = 0,
    budget: float | None = None,
    held: int = 0,
) -> None:
    """Refuse what would end in a killed worker hours later.

    Args:
        batches: samples in a batch of one rank, per split.
        ranks: processes on this machine.
        cache: bytes that every process that reads keeps of decoded videos.
        budget: GB that loading may take; None for what is free.
        held: training batches of each rank that wait for those of their step.

    Raises:
        UserError: loading would take more memory, or more shared memory, than there is.
    """
    batch = {split: batches[split] * sample_bytes(dataset) for split, dataset in datasets.items()}
    moving = ranks * sum(size * (workers * (PREFETCH + 1) if workers else 1) for size in batch.values())
    moving += ranks * held * batch.get("train", 0)
    readers = ranks * (workers * len(batch) or 1)  # the workers of a split stay while another is read
    needed = moving + readers * ((WORKER if workers else 0) + cache)
    free = budget * GB if budget is not None else free_memory()
    told = f"{ranks} rank(s), {workers} workers per split, batches up to {max(batch.values()) / 2**20:.0f} MB"
    if free is not None and needed > free:
        kept = f", {cache / GB:.1f} GB of decoded videos in each" if cache else ""
        raise UserError(
            f"loading would take about {needed / GB:.1f} GB of memory ({told}{kept}), {max(0.0, free) / GB:.1f} GB "
            f"{'are allowed by loading.memory_gb' if budget is not None else 'are free'}; lower {FEWER}"
            f"{', data.cache_mb' if cache else ''}, or set loading.memory_gb to the allowed amount"
        )
    shared = free_shared_memory()
    if workers and budget is None and shared is not None and moving > shared:
        raise UserError(
            f"batches in transit would take about {moving / 2**20:.0f} MB of shared memory ({told}), "
            f"{shared / 2**20:.0f} MB are free: {SHARED}{FEWER}"
        )
