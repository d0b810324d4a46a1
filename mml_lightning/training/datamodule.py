"""Loaders of a run: the samples of every split, the same for every rank and worker count."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakValueDictionary

import pytorch_lightning as pl
import torch

from mml_lightning.data.loading.dataset import ATTEMPTS, ClipDataset
from mml_lightning.data.loading.loader_settings import LoaderSettings
from mml_lightning.data.loading.samplers import EvalSampler, TrainSampler
from mml_lightning.data.loading.worker_recovery import FaultTolerantLoader
from mml_lightning.training import lightning_internals, peer_parallel
from mml_lightning.utils.errors import UserError


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
        self._loaders: WeakValueDictionary[str, FaultTolerantLoader] = WeakValueDictionary()
        self._begun = (0, 0)

    def state_dict(self) -> dict[str, int]:
        """Where the training loader is: an epoch, and how many of its steps are done."""
        assert self.trainer is not None
        epochs: Any = self.trainer.fit_loop.epoch_progress.current
        within = epochs.started > epochs.processed
        return {"epoch": epochs.processed, "steps": lightning_internals.batches_begun(self.trainer) if within else 0}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._begun = (state_dict["epoch"], state_dict["steps"])

    def prepare_data(self) -> None:
        if self._prepare is not None:
            self._prepare()

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Raises:
        UserError: a training batch is not full: unreadable videos could not be replaced.
        """
        _, ranks = self._training_rank()
        training = self.trainer is not None and self.trainer.training
        if training and len(batch["index"]) < self.settings.batch_size // ranks:
            last = batch["failures"][-1][1]
            raise UserError(f"{ATTEMPTS} training videos in a row can't be read, last: {last}; run mml check")
        return batch

    def train_dataloader(self) -> FaultTolerantLoader:
        dataset = self.datasets["train"]
        rank, ranks = self._training_rank()
        sampler = TrainSampler(len(dataset), self.settings.batch_size, dataset.seed, rank, ranks)
        # workers read ahead before Lightning tells the epoch; later loaders are other readers' (precise batch norms)
        sampler.start_at(*self._begun)
        self._begun = (0, 0)
        return self._loader("train", sampler, self.settings.batch_size // ranks)

    def val_dataloader(self) -> FaultTolerantLoader:
        return self._eval("val")

    def test_dataloader(self) -> FaultTolerantLoader:
        return self._eval("test")

    def reading(self) -> list[str]:
        """Ids of the videos that the loaders in use are reading now."""
        return [video for loader in self._loaders.values() for video in loader.reading()]

    def read_next(self) -> None:
        """Read the next training batch now, while threads compute that leave this one nothing to do."""
        if (loader := self._loaders.get("train")) is not None:
            loader.read_next()

    def _eval(self, split: str) -> FaultTolerantLoader:
        dataset = self.datasets[split]
        videos = max(1, self.settings.eval_batch_size // dataset.views)
        return self._loader(split, EvalSampler(len(dataset), *self._rank()), videos)

    def _loader(self, split: str, sampler: TrainSampler | EvalSampler, batch_size: int) -> FaultTolerantLoader:
        settings, (rank, ranks) = self.settings, self._rank()
        loader = FaultTolerantLoader(
            self.datasets[split],
            batch_size,
            sampler,  # yields (epoch, index), so that workers know the epoch
            settings.workers,
            settings.timeout,
            settings.context,
            f"{split}, rank {rank}" if ranks > 1 else split,
            self._device(),
            self._step() if split == "train" else None,
        )
        self._loaders[split] = loader
        return loader

    def _device(self) -> torch.device | None:
        """Where batches are copied to ahead of time: a GPU. A CPU has nothing to copy."""
        device = self.trainer.strategy.root_device if self.trainer is not None else None
        return device if device is not None and device.type == "cuda" else None

    def _step(self) -> int | None:
        """Batches of a step that must know of each other: where samples may lack a modality."""
        if self.datasets["train"].missing != "mask":
            return None
        return int(self.trainer.accumulate_grad_batches) if self.trainer is not None else 1

    def _training_rank(self) -> tuple[int, int]:
        """Whose share of a batch this process trains on: all of it where each rank has a peer of its own."""
        return (0, 1) if peer_parallel.strategy_of(self.trainer) is not None else self._rank()

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)
