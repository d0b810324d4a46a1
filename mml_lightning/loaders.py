"""Loaders of a run: the samples of every split, the same for every rank and worker count."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from mml_lightning.data.batches import EvalSampler, TrainSampler
from mml_lightning.data.clips import ATTEMPTS, ClipDataset, collate
from mml_lightning.errors import UserError

Loader = DataLoader[dict[str, Any]]


@dataclass(frozen=True)
class LoaderSettings:
    """How loaders batch and work.

    Args:
        batch_size: training videos per step over all ranks.
        eval_batch_size: videos per step of one rank.
        workers: loader processes per rank; 0 decodes in the main process.
        context: how workers start, "fork", "spawn", "forkserver" or None for the platform's way.

    Raises:
        UserError: a number is out of range.
    """

    batch_size: int
    eval_batch_size: int
    workers: int
    context: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("eval_batch_size", 1), ("workers", 0)):
            if getattr(self, name) < least:
                raise UserError(f"data.{name}={getattr(self, name)} must be {least} or more")


class VideoData(pl.LightningDataModule):
    """The loaders of a run.

    Args:
        datasets: per split, how samples are made.
        prepare: called once per machine before training: files that are computed from others (the flow cache).
    """

    def __init__(
        self, datasets: Mapping[str, ClipDataset], settings: LoaderSettings, prepare: Callable[[], None] | None = None
    ) -> None:
        super().__init__()
        self.datasets = datasets
        self.settings = settings
        self._prepare = prepare

    def prepare_data(self) -> None:
        if self._prepare is not None:
            self._prepare()

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Raises:
        UserError: a training batch is not full: unreadable videos could not be replaced.
        """
        _, ranks = self._rank()
        training = self.trainer is not None and self.trainer.training
        if training and len(batch["index"]) < self.settings.batch_size // ranks:
            last = batch["failures"][-1][1]
            raise UserError(f"{ATTEMPTS} training videos in a row can't be read, last: {last}; run mml check")
        return batch

    def train_dataloader(self) -> Loader:
        dataset = self.datasets["train"]
        rank, ranks = self._rank()
        sampler = TrainSampler(len(dataset), self.settings.batch_size, dataset.seed, rank, ranks)
        return self._loader(dataset, sampler, self.settings.batch_size // ranks)

    def val_dataloader(self) -> Loader:
        return self._eval("val")

    def test_dataloader(self) -> Loader:
        return self._eval("test")

    def _eval(self, split: str) -> Loader:
        dataset = self.datasets[split]
        return self._loader(dataset, EvalSampler(len(dataset), *self._rank()), self.settings.eval_batch_size)

    def _loader(self, dataset: ClipDataset, sampler: TrainSampler | EvalSampler, batch_size: int) -> Loader:
        workers = self.settings.workers
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,  # type: ignore[arg-type]  # yields (epoch, index), so that workers know the epoch
            num_workers=workers,
            collate_fn=collate,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            multiprocessing_context=self.settings.context if workers else None,
            worker_init_fn=_one_thread,
            timeout=600 if workers else 0,  # a decoder that hangs ends the run instead of stalling it
        )

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)  # workers are the parallelism
