"""The trainer of a job and the callbacks of a training run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint, ProgressBar
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from mml_lightning.config import lightning_nodes, limits, training
from mml_lightning.config.settings import Settings
from mml_lightning.data.records.records import Dataset
from mml_lightning.engine.monitors import Monitors
from mml_lightning.objectives.graph import Objective
from mml_lightning.runs import tracking
from mml_lightning.training import batch_norm, lightning_internals, nonfinite_gradients, peer_parallel
from mml_lightning.training.best_checkpoint import BestCheckpoint
from mml_lightning.training.broadcast_buffers import SharedBuffers
from mml_lightning.training.checkpoints import FOLDER, CheckpointFiles, Checkpoints
from mml_lightning.training.console import EpochLines, ReadersTold
from mml_lightning.training.progress_bar import TrainingBar
from mml_lightning.training.quarantine import Quarantine
from mml_lightning.training.stall_watchdog import Watchdog
from mml_lightning.training.step_log import StepLog
from mml_lightning.training.weight_average import AverageWeights
from mml_lightning.utils import ranks
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.terminal import is_terminal


def training_callbacks(
    cfg: Settings, folder: Path, data: Dataset, monitors: Monitors | None = None
) -> list[pl.Callback]:
    """What a run keeps while it trains: the quarantine, its batch norms and its checkpoints; and what its config calls.

    Raises:
        UserError: a callback can't be made.
    """
    videos = len(data.splits["train"]) + len(data.left_out)
    callbacks: list[pl.Callback] = [
        Quarantine(folder / "quarantine.csv", videos, cfg.data.max_bad_share, data.left_out)
    ]
    callbacks += batch_norm.callbacks(training.batch_norm_settings(cfg), cfg.data.batch_size)
    callbacks.append(StepLog())
    callbacks += nonfinite_gradients.callbacks(training.nonfinite_settings(cfg), folder)
    if cfg.ema.decay is not None:
        callbacks.append(AverageWeights(cfg.ema.decay, cfg.ema.weights == "averaged"))
    if monitors is not None:
        callbacks += lightning_nodes.callbacks(cfg, monitors.callbacks)
        if monitors.best is not None:
            callbacks.append(BestCheckpoint(folder / FOLDER, monitors.best))
    kept = cfg.callbacks
    every = (kept.checkpoint_every_steps, kept.checkpoint_every_minutes)
    callbacks.append(Checkpoints(folder / FOLDER, *every, enabled=kept.checkpoint))
    return callbacks


def make_trainer(
    cfg: Settings,
    folder: Path,
    callbacks: Sequence[pl.Callback],
    job_type: str | None = None,
    objectives: Sequence[Objective] = (),
) -> pl.Trainer:
    """The trainer of a job; writes nothing.

    Args:
        objectives: of the phases of a training run, for `placement`.

    Raises:
        UserError: this machine does not have what `trainer` asks for, or a value is unknown.
    """
    ours = ("num_threads", "validations", "limit_epochs")
    settings = {k: v for k, v in cfg.plain("trainer").items() if v is not None and k not in ours}
    if objectives:
        where = (cfg.trainer.devices, cfg.trainer.num_nodes)
        placed = peer_parallel.make_strategy(cfg.placement, objectives, training.batch_norm_settings(cfg), *where)
        settings |= {"strategy": placed} if placed is not None else {}
    epochs = limits.epochs(cfg)
    bar = is_terminal(sys.stdout) if cfg.callbacks.progress_bar == "auto" else bool(cfg.callbacks.progress_bar)
    own: list[pl.Callback] = [SharedBuffers(), ReadersTold(cfg.data.decoder)]
    if cfg.loading.stall:
        own.append(Watchdog(float(cfg.loading.stall)))
    if cfg.callbacks.epoch_lines:
        own.append(EpochLines(every=None if bar else 30.0))
    if given := [one for one in callbacks if isinstance(one, ProgressBar)]:
        bar = True
    if bar and not given:
        own.append(TrainingBar())
    try:
        trainer = pl.Trainer(
            max_epochs=epochs,
            check_val_every_n_epoch=limits.validation_interval(cfg),
            logger=tracking.loggers(cfg, folder, job_type or cfg.stage.name),
            callbacks=[*own, *callbacks],
            enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
            enable_progress_bar=bar,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,  # ours make every rank see its share of the same global batches
            log_every_n_steps=10,
            default_root_dir=str(folder),
            plugins=[CheckpointFiles()],
            **settings,
        )
    except (MisconfigurationException, ImportError, RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"trainer: {' '.join(str(error).split())[:300]}") from None
    lightning_internals.validate_the_end(trainer)
    if len(objectives) > 1 and not lightning_internals.renews_optimizers(trainer.strategy):
        raise UserError(f"trainer.strategy={cfg.trainer.strategy} can't go over to another phase: use auto or ddp")
    if lightning_internals.hand_ranks_to(ranks.CHILDREN, trainer):
        ranks.end_with_the_first()
    return trainer
