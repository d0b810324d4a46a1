"""Batch norms of a run: which follow the data, over how many clips they normalise, and precise statistics.

None of it reaches the exported weights but as values: names and shapes are those of the plain network.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.accelerators.cuda import CUDAAccelerator
from torch import nn

from mml_lightning.backbones.batch_norm import (
    FREEZES,
    BatchNorm,
    Population,
    group_batch_norm,
    population_statistics,
)
from mml_lightning.training.cohort import Cohort
from mml_lightning.utils.distributed import gather_objects
from mml_lightning.utils.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NormSettings:
    """The node `batch_norm` of the config.

    Args:
        freeze: none, partial (all but a peer's first), stats (running statistics) or all (affine values too).
        sync: normalise over the clips of all ranks.
        group_size: normalise over so many clips, whatever the batch and the number of ranks; None for the clips of a
            rank (the common way).
        precise: training batches over which running statistics are measured anew before every validation and
            checkpoint; 0 keeps the moving averages.

    Raises:
        UserError: a value is unknown, or two of them contradict each other.
    """

    freeze: str = "none"
    sync: bool = False
    group_size: int | None = None
    precise: int = 0

    def __post_init__(self) -> None:
        if self.freeze not in FREEZES:
            raise UserError(f"batch_norm.freeze={self.freeze} is unknown; use one of {', '.join(FREEZES)}")
        if not isinstance(self.sync, bool):
            raise UserError(f"batch_norm.sync={self.sync} must be true or false")
        for key, least in (("group_size", 1), ("precise", 0)):
            value = getattr(self, key)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not (whole and value >= least) and not (key == "group_size" and value is None):
                raise UserError(f"batch_norm.{key}={value} must be a whole number from {least}")
        if self.sync and self.group_size is not None:
            raise UserError("batch_norm.sync is group_size=<data.batch_size>; set one of the two")
        if self.freeze in ("stats", "all") and (self.sync or self.group_size is not None or self.precise):
            raise UserError(
                f"batch_norm.freeze={self.freeze} keeps all statistics; leave sync, group_size and precise at their "
                "defaults, or use freeze=none"
            )

    def describe(self) -> str:
        """For the plan: what differs from plain batch norms; "" where nothing does."""
        words = {
            "freeze": {"none": "", "partial": "partial BN"}.get(self.freeze, f"BN frozen ({self.freeze})"),
            "sync": "BN over all ranks" if self.sync else "",
            "group": f"BN over {self.group_size} clips" if self.group_size is not None else "",
            "precise": f"precise BN ({self.precise} batches)" if self.precise else "",
        }
        return ", ".join(filter(None, words.values()))

    def ranks_per_group(self, batch_size: int, ranks: int) -> int:
        """How many ranks normalise together, 1 for each on its own.

        Args:
            batch_size: clips of a step over all ranks.

        Raises:
            UserError: ranks and groups don't go into each other.
        """
        if self.sync:
            return ranks
        own = batch_size // ranks
        if self.group_size is None or own % self.group_size == 0:
            return 1
        together = self.group_size // own
        if self.group_size % own or ranks % together:
            raise UserError(
                f"batch_norm.group_size={self.group_size} does not divide data.batch_size={batch_size} on {ranks} "
                f"rank(s), {own} clips each; choose a batch size that is a multiple of it"
            )
        return together


def check(settings: NormSettings, trainer: pl.Trainer, batch_size: int) -> None:
    """Raises:
    UserError: this trainer can't normalise as `settings` say.
    """
    if settings.ranks_per_group(batch_size, trainer.world_size) > 1 and not isinstance(
        trainer.accelerator, CUDAAccelerator
    ):
        raise UserError(
            "batch norms over several ranks (batch_norm.sync, or a group_size above the clips of a rank) need CUDA "
            "devices; use one rank, or batch_norm.group_size=<clips of a rank>"
        )


def callbacks(settings: NormSettings, batch_size: int) -> list[pl.Callback]:
    """What the trainer needs for `settings`; nothing for plain batch norms."""
    made: list[pl.Callback] = []
    if settings.sync or settings.group_size is not None:
        made.append(GroupedNorms(settings, batch_size))
    if settings.precise:
        made.append(PreciseNorms(settings.precise))
    return made


class GroupedNorms(pl.Callback):
    """Makes the batch norms of the trained peers normalise over groups of clips, within a rank or across ranks."""

    def __init__(self, settings: NormSettings, batch_size: int) -> None:
        self.settings, self.batch_size = settings, batch_size

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        assert isinstance(pl_module, Cohort)
        check(self.settings, trainer, self.batch_size)
        ranks = self.settings.ranks_per_group(self.batch_size, trainer.world_size)
        group: Any = None
        if 1 < ranks < trainer.world_size:
            group, _ = torch.distributed.new_subgroups(group_size=ranks)
        for name, peer in ((name, part) for name, part in pl_module.learners.items() if name in pl_module.peers):
            if ranks > 1:
                pl_module.peers[name] = nn.SyncBatchNorm.convert_sync_batchnorm(peer, group)
            elif self.settings.group_size not in (None, self.batch_size // trainer.world_size):
                group_batch_norm(peer, int(self.settings.group_size or 0))


class PreciseNorms(pl.Callback):
    """Before every validation and checkpoint the running statistics of the trained peers become those of all values
    that enter the batch norms over some training batches, with the weights as they are now.

    Args:
        batches: of each rank; an epoch at most.
    """

    def __init__(self, batches: int) -> None:
        self.batches = batches
        self._loader: Any = None
        self._measured = -1

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._measure(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._measured != trainer.global_step:  # no validation
            self._measure(trainer, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._loader = None

    def _measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Cohort)
        peers = {name: part for name, part in pl_module.trained_peers.items() if name in pl_module.peers}
        count = int(min(self.batches, trainer.num_training_batches))
        if self._measured < 0:
            log.info("precise batch norm: %d training batches before every validation", count)
        devices = [pl_module.device] if pl_module.device.type == "cuda" else []
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            torch.random.fork_rng(devices),
            training_modes(pl_module),
            ExitStack() as stack,
        ):
            watched = [pair for net in peers.values() for pair in stack.enter_context(population_statistics(net))]
            if watched:
                for batch in itertools.islice(self._batches(trainer), count):
                    self._run(trainer, pl_module, peers, batch)
        gather(watched, trainer.world_size)
        for layer, population in watched:
            population.write(layer)
        self._measured = trainer.global_step

    def _batches(self, trainer: pl.Trainer) -> Iterator[Any]:
        """Those of the epoch, from a loader of our own: the trainer's is in use."""
        source = getattr(trainer, "datamodule", None)
        if self._loader is None:
            self._loader = source.train_dataloader() if source is not None else trainer.train_dataloader
        set_epoch = getattr(getattr(self._loader, "sampler", None), "set_epoch", None)
        if set_epoch is not None:
            set_epoch(trainer.current_epoch)
        return iter(self._loader)

    def _run(self, trainer: pl.Trainer, cohort: Cohort, peers: Mapping[str, nn.Module], batch: Any) -> None:
        batch = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
        with trainer.precision_plugin.train_step_context():
            for name, peer in peers.items():
                modality = cohort.modalities[name]
                clip = batch["clips"][modality.name]
                if not batch.get("complete"):
                    clip = clip[batch["present"][modality.name]]
                if len(clip):
                    peer(modality(clip.flatten(0, 1)).to(cohort.dtype))


@contextmanager
def training_modes(cohort: Cohort) -> Iterator[None]:
    """Modes as in training; afterwards what they were."""
    before = [(module, module.training) for module in cohort.modules()]
    cohort.set_modes()
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode


def gather(watched: list[tuple[BatchNorm, Population]], ranks: int) -> None:
    """Merge what the ranks have seen, in the same order on each, so that all hold the same numbers."""
    if ranks == 1 or not watched:
        return
    told: list[Any] = gather_objects([(p.count, p.mean, p.scatter) for _, p in watched], ranks)
    for index, (_, population) in enumerate(watched):
        population.count, population.mean, population.scatter = 0.0, None, None
        for count, mean, scatter in (rank[index] for rank in told):
            if mean is not None:  # this rank has seen something
                population.merge(count, mean, scatter)
