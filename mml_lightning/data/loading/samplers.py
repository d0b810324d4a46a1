"""Which record stands where in which epoch: index streams that every rank can compute by itself."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class TrainSampler(Sampler[tuple[int, int]]):
    """Shuffled (epoch, index) pairs; a pure function of (seed, epoch), so ranks, workers and resumed runs agree.

    Step s of all ranks together sees the same global batch whatever the number of ranks. The tail that does not fill a
    global batch is dropped, so every rank makes the same number of steps. An epoch that was begun before is continued
    with :meth:`start_at`: what it skips is never read.

    Raises:
        ValueError: the global batch is not a multiple of the ranks, or larger than the dataset.
    """

    def __init__(self, size: int, batch_size: int, seed: int, rank: int = 0, ranks: int = 1) -> None:
        if batch_size % ranks:
            raise ValueError(f"data.batch_size={batch_size} is the batch over all ranks: make it a multiple of {ranks}")
        if size < batch_size:
            raise ValueError(
                f"the train split has {size} videos, fewer than one batch; lower data.batch_size={batch_size}"
            )
        self.size, self.batch_size, self.seed, self.rank, self.ranks = size, batch_size, seed, rank, ranks
        self.epoch = self.skipped = 0

    def start_at(self, epoch: int, steps: int) -> None:
        """Begin with step `steps` of `epoch`; every other epoch begins with its first."""
        self.epoch, self.skipped = epoch, steps * (self.batch_size // self.ranks)

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch, also after a resume."""
        if epoch != self.epoch:
            self.start_at(epoch, 0)

    def __len__(self) -> int:
        """Of a whole epoch, by which Lightning counts."""
        return self.size // self.batch_size * (self.batch_size // self.ranks)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.size, generator=generator)[: self.size // self.batch_size * self.batch_size]
        own, epoch = order[self.rank :: self.ranks][self.skipped :].numpy(), self.epoch
        return ((epoch, int(i)) for i in own)


class EvalSampler(Sampler[tuple[int, int]]):
    """Every index over all ranks; the epoch is always 0.

    Ranks make equal numbers of steps (a rank that stops early would leave the others waiting), so the last ranks may
    repeat a first index: scores are keyed by index and counted once, see :class:`score_collector.ScoreCollector`.
    """

    def __init__(self, size: int, rank: int = 0, ranks: int = 1) -> None:
        self.size, self.places = size, range(rank, -(-size // ranks) * ranks, ranks)

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((0, place % self.size) for place in self.places)
