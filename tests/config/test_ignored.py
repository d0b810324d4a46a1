"""What is typed and does nothing is refused; what does something, or was brought along, is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mml_lightning.config import ignored
from mml_lightning.config.compose import changed, compose
from mml_lightning.config.settings import Settings
from mml_lightning.utils.errors import UserError

Composed = Callable[..., tuple[Settings, list[str]]]
NO_CHECKPOINT = {"callbacks.checkpoint": False}
# a key, the settings that it does nothing with, those that give it something to do, and a word that chooses these
OF_THINGS: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("pipeline.dry", {"pipeline.dry": True}, {"pipeline.runs": [{"stage": "ce"}]}, ""),
    ("pipeline.jobs", {"pipeline.jobs": 2}, {"seeds": 2}, ""),
    ("resume_force", {"resume_force": True}, {"resume": "auto"}, ""),
    ("catalogue", {"catalogue": {"mine": {"stage": "ce"}}}, {"tables": {"mine": {}}}, ""),
    ("ema.weights", {}, {"ema.decay": 0.9}, "ema.decay=null"),
    ("mix.probability", {}, {"mix.cutmix": 1.0}, "mix.mixup=null"),
    ("checkpoint.mode", {"checkpoint.mode": "min"}, {"checkpoint.monitor": "val/rgb/loss"}, "checkpoint.export=last"),
    ("checkpoint.monitor", {"checkpoint.monitor": "train/loss", **NO_CHECKPOINT}, {"callbacks.checkpoint": True}, ""),
    ("callbacks.checkpoint_every_steps", NO_CHECKPOINT, {"callbacks.checkpoint": True}, "callbacks.checkpoint=false"),
    ("nonfinite.stop_after", {"nonfinite.policy": "ignore"}, {"nonfinite.policy": "skip"}, ""),
    ("init.file", {}, {"init.base": "imagenet"}, "init=scratch"),
    ("init.new_head", {}, {"init.rgb": "ce"}, "init.all=scratch"),
    ("data.cache_mb", {"data.cache": "none"}, {"data.cache": "ram"}, "data.cache=none"),
    ("logger.project", {"logger.wandb": False}, {"logger.wandb": True}, "logger=none"),
    ("flow.preset", {}, {"modality.rgb.source": "flow"}, "modality=[rgb]"),
    ("flow", {}, {"modality.rgb.source": "flow"}, "modality=[rgb]"),
    ("views.dense_length", {}, {"views.dense": 1}, "views=center"),
    ("views.stride", {}, {"views.strided": 1}, "views.strided=0"),
]


def test_a_setting_of_a_thing_that_is_not_chosen_is_refused(composed: Composed) -> None:
    usual, _ = composed()
    for key, lacking, chosen, switch in OF_THINGS:
        cfg, word = changed(usual, lacking), f"{key}=x"
        for typed in ([word], [f"++{word}", "seed=1"]):
            with pytest.raises(UserError, match=rf"^{key} does nothing here: "):
                ignored.check(cfg, typed)
        ignored.check(cfg, ["seed=1"])  # it stands in a file, or a resumed run has brought it along
        ignored.check(changed(cfg, chosen), [word])
        if switch:  # whoever types both knows, as does a sweep over the thing
            ignored.check(cfg, [word, switch])
    ignored.check(changed(usual, {"checkpoint.mode": "min"}), ["checkpoint.mode=min"], sweep=True)


TRAINING = ["pipeline", "pipeline.dry", "seeds", "test", "resume_force", "placement", "nonfinite.policy"]
TRAINING += ["callbacks.checkpoint_every_steps", "callbacks.early_stopping.patience", "callbacks"]
TRAINING += ["trainer.validations", "trainer.limit_train_batches", "trainer.max_time"]
OF_FILES = ["checkpoint.export", "ema.weights", "mix.mixup", "optimizer", "optimizer.lr", "schedule.epochs", "stage"]
OF_FILES += ["objective", "init.rgb", "data.batch_size"]
MEASURING = ["views", "views.crops", "split", "data", "data.workers", "trainer.devices", "trainer.limit_test_batches"]
MEASURING += ["callbacks.epoch_lines", "fusion", "name", "setup", "metrics.ap"]


def test_an_evaluation_refuses_what_is_of_the_training(composed: Composed) -> None:
    usual, _ = composed("ckpt=peers/rgb.pt", "callbacks=[default,early_stopping]", program="eval")
    for ckpt in ("peers/rgb.pt", "last.ckpt", "ce"):
        cfg = changed(usual, {"ckpt": ckpt})
        for key in (*TRAINING, *(OF_FILES if ckpt != "ce" else ())):
            with pytest.raises(UserError, match=rf"^{key}.* (an evaluation does nothing|takes part in trainings only)"):
                ignored.check(cfg, [f"{key}=x", f"ckpt={ckpt}"])
        for key in (*MEASURING, *(OF_FILES if ckpt == "ce" else ())):  # they say which of several networks is meant
            ignored.check(cfg, [f"{key}=x", f"ckpt={ckpt}"])


def test_a_setting_of_another_reader_is_refused(composed: Composed) -> None:
    """And of a table what the reader does not take of it; all that conf/ itself brings along is read."""
    cfg, typed = composed()
    ignored.check(cfg, typed)
    for key in ("data.fps", "data.columns.id", "data.videos.more", "data.columns"):
        with pytest.raises(UserError, match=rf"^{key} does nothing here: the reader of data=demo"):
            ignored.check(cfg, [f"+{key}=3"])
    for key in ("data", "data.workers", "data.videos.train", "data.root", "data.reader.name", "data.reader._target_"):
        ignored.check(cfg, [f"{key}=3"])
    ignored.check(composed("+data.mine=4", "data.workers=${data.mine}")[0], ["+data.mine=4"])
    ignored.check(compose("train", ["data=jester", "data.root=x"]), ["data.columns.id=x", "data.fps=9"])
