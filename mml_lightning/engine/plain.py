"""Plain Lightning: a CSV and a few arguments to a LightningDataModule and a LightningModule, for a Trainer of your own.

Both are made of the settings that conf/ has, as a run of the command line is, so that what they train loads again in
:func:`mml_lightning.load`, `mml eval` and `init=<file>`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from mml_lightning.config import data as config_data
from mml_lightning.config import peers, training
from mml_lightning.config.apart import apart
from mml_lightning.config.compose import ComposeErrors, compose
from mml_lightning.config.overrides import init_file
from mml_lightning.config.saved_overrides import key_of, quoted
from mml_lightning.config.settings import Settings
from mml_lightning.config.values import check_values
from mml_lightning.data.records.records import Dataset
from mml_lightning.engine.flow import flow_filler
from mml_lightning.engine.trainer import training_callbacks
from mml_lightning.training import lightning_internals
from mml_lightning.training.broadcast_buffers import SharedBuffers
from mml_lightning.training.cohort import Cohort
from mml_lightning.training.console import ReadersTold
from mml_lightning.training.datamodule import VideoData
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.process_state import kept_random

OF_RUNS = ("callbacks", "checkpoint", "ema", "logger", "pipeline", "trainer")  # groups of conf/ that runs read

log = logging.getLogger(__name__)


class VideoDataModule(VideoData):
    """The videos of a CSV with the columns path, label and split (docs/datasets.md), as samples of several modalities.

    Args:
        index: the CSV.
        modalities: what the networks will look at, names of conf/modality.
        root: the folder that its paths are relative to; by default its own.
        frames: segments of a clip. size: of its frames, in pixels.
        batch_size: training videos per step, over all ranks.
        workers: processes per loader.
        overrides: any other settings, as on the command line: `["data.decoder=pyav", "transforms.flip=false"]`.

    Raises:
        UserError: the CSV or a value is wrong.
    """

    def __init__(
        self,
        index: str | Path,
        modalities: Sequence[str] = ("rgb",),
        root: str | Path | None = None,
        frames: int = 8,
        size: int = 112,
        batch_size: int = 8,
        workers: int = 2,
        overrides: Sequence[str] = (),
    ) -> None:
        words = ["data=csv", quoted("data.index", index), f"modality=[{','.join(modalities)}]"]
        words += [quoted("data.root", root)] if root is not None else []
        words += [f"sampling.num_segments={frames}", f"transforms.output={size}"]
        words += [f"transforms.short_side={round(size * 8 / 7)}", f"data.workers={workers}"]
        words += [f"data.batch_size={batch_size}", f"data.eval_batch_size={batch_size}"]
        self.words = [*words, *map(str, overrides)]
        cfg = settings(self.words)
        self.records = config_data.dataset(cfg)
        chosen = config_data.modalities(cfg)
        cache = config_data.flow_cache(cfg, chosen)
        datasets = config_data.clip_datasets(cfg, self.records, cache, list(chosen.values()))
        config_data.check_batch(cfg, self.records, 1)
        super().__init__(datasets, config_data.loader_settings(cfg), flow_filler(cache, datasets, workers))

    @property
    def classes(self) -> dict[str, list[str]]:
        """{head: names of its classes}"""
        return {head: list(value.classes) for head, value in self.records.heads.items()}


class PlainCohort(Cohort):
    """A cohort for a Trainer of the user's: it brings the callbacks that name unreadable videos and leave out steps
    that are not finite. Checkpoints, loggers and all else are the Trainer's."""

    made_of: tuple[Settings, Dataset]

    def configure_callbacks(self) -> list[pl.Callback]:
        cfg, records = self.made_of
        ours = training_callbacks(cfg, Path(self.trainer.default_root_dir), records)
        kept = [callback for callback in ours if not isinstance(callback, Checkpoint)]
        return [SharedBuffers(), ReadersTold(cfg.data.decoder), *kept]

    def setup(self, stage: str) -> None:
        super().setup(stage)
        root = self.trainer.strategy.root_device
        training.execution_settings(self.made_of[0]).arrange(self, root, self.trainer.world_size)
        if self.trainer.world_size > 1 and lightning_internals.replaces_samplers(self.trainer):
            raise UserError("on several devices use pl.Trainer(use_distributed_sampler=False): the loaders share out")
        if stage == "fit" and self.trainer.max_epochs != self.plan.epochs:
            log.warning(
                "the learning rate follows a schedule of %d epochs, the Trainer has max_epochs=%s: make them equal",
                self.plan.epochs,
                self.trainer.max_epochs,
            )


def cohort(
    data: VideoDataModule,
    backbone: str = "tsm_resnet18",
    objective: str = "cross_entropy",
    init: str = "scratch",
    epochs: int = 30,
    lr: float = 0.01,
    seed: int = 0,
    overrides: Sequence[str] = (),
) -> Cohort:
    """A network for each modality of `data`, which learn from the labels and, as `objective` says, from each other.

    Args:
        backbone, objective: options of conf/backbone and conf/objective.
        init: where the networks start: scratch, imagenet, or a weight file.
        epochs: of the schedule of the learning rate: those of the Trainer.
        seed: of the first weights and of all that is drawn.
        overrides: any other settings, as on the command line: `["optimizer=adamw", "backbone.flow=tsm_resnet18"]`.

    Raises:
        UserError: a value is wrong, or does not fit the data.
    """
    words = [f"backbone={backbone}", f"objective={objective}", init_file(f"init={init}"), f"schedule.epochs={epochs}"]
    words = [*data.words, *words, f"optimizer.lr={lr}", f"seed={seed}", *map(str, overrides)]
    cfg = settings(words)
    specs = peers.peer_specs(cfg, words)
    peers.require_origins(specs)
    with kept_random():  # the seed of each network is its own
        nets, origins = peers.peers(cfg, specs, data.records)
        made = training.cohort(cfg, specs, nets, origins, data.records, PlainCohort)
    assert isinstance(made, PlainCohort)
    training.execution_settings(cfg).apply(nets)
    made.made_of = (cfg, data.records)
    return made


def settings(words: Sequence[str]) -> Settings:
    """Raises:
    UserError: a word or a value is wrong.
    """
    if ours := next((word for word in words if key_of(word).partition(".")[0] in OF_RUNS), None):
        raise UserError(f"{ours} belongs to the Trainer here: give it to pl.Trainer, or train with mml_lightning.train")
    with apart():
        try:
            cfg = compose("train", words)
        except ComposeErrors as error:
            raise UserError(" ".join(str(error).split())[:300]) from None
    check_values(cfg)
    return cfg
