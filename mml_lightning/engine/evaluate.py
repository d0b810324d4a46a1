"""Measure trained peers with any views: what `eval.py` does."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mml_lightning.config import data as config_data
from mml_lightning.config import limits, values
from mml_lightning.config.made_by import overrides_beside
from mml_lightning.config.settings import Settings
from mml_lightning.engine import flow, policy_cost, process, train
from mml_lightning.engine import trainer as engine_trainer
from mml_lightning.engine.load import as_trained
from mml_lightning.engine.predict import Entries, Predictor, backbone_label, load_entries
from mml_lightning.evaluation.metrics import FUSED
from mml_lightning.runs import export, fingerprint, next_steps, tracking
from mml_lightning.runs import result as runs_result
from mml_lightning.runs.result import RunResult, nested_metrics
from mml_lightning.training import checkpoints
from mml_lightning.training.datamodule import VideoData
from mml_lightning.utils import distributed, ranks
from mml_lightning.utils import process as utils_process
from mml_lightning.utils.errors import UserError
from mml_lightning.zoo.files import CHECKPOINT


def evaluate(cfg: Settings, overrides: Sequence[str], alone: bool = True) -> dict[str, Any]:
    """Measure `ckpt` on `split` with `views`; returns the content of result.json.

    Args:
        alone: whether it is all that was started, so that what can be done next is told in the end.
    """
    values.check_values(cfg)
    process.set_up_process(cfg)
    if not limits.measures(cfg, "test"):
        raise UserError("trainer.limit_test_batches=0: nothing would be evaluated; raise it, or set it to null")
    folder = Path(cfg.paths.output_dir)
    if any((folder / name).is_dir() for name in ("peers", checkpoints.FOLDER)):
        raise UserError(f"{folder} holds a training run, whose results would be overwritten: choose another directory")
    read = functools.cache(lambda: config_data.dataset(cfg, [cfg.split]))
    entries = load_entries(cfg, overrides, read)
    cfg = _drawn_as_trained(cfg, entries, overrides)
    data = read()
    predictor = Predictor.of(cfg, entries, data.heads)
    datasets = {"test": predictor.clips(data, cfg.split)}
    cohort = predictor.cohort(data, cfg.split)
    trainer = engine_trainer.make_trainer(cfg, folder, [], job_type="eval")
    config_data.check_memory(cfg, datasets, trainer.world_size // trainer.num_nodes)
    train.check_measuring(cfg, trainer, datasets)
    asked = f"{', '.join(entries)} on {len(datasets['test'])} {cfg.split} videos of {data.name}"
    utils_process.say([f"evaluating {asked}, views {cfg.views.name}; output {folder}"])
    looked_at = [modality.name for modality in predictor.distinct]
    known = fingerprint.identity(cfg, overrides, data) | {"stage": "eval", "modality": looked_at}
    known["backbone"] = backbone_label(cfg, entries, predictor.modalities)
    where = {"init": str(cfg.ckpt), "origin": str(cfg.ckpt)}
    peers = {name: {"modality": modality.name, **where} for name, modality in predictor.modalities.items()}
    known |= {"weights": {name: entry["provenance"].get("fingerprint") for name, entry in entries.items()}}
    with RunResult(folder, distributed.is_first_rank(), **known, peers=peers) as result:
        filler = flow.flow_filler(predictor.flow, datasets, cfg.data.workers)
        datasets = {split: dataclasses.replace(one, seen=data.seen(cfg.split)) for split, one in datasets.items()}
        video = VideoData(datasets, config_data.loader_settings(cfg), filler)
        with train.interruptible(trainer), ranks.blamed():
            trainer.test(cohort, datamodule=video, verbose=False)
        export.save_scores(cohort, folder / "predictions", cfg.split)
        result.fields |= {
            "metrics": nested_metrics(trainer.callback_metrics),
            "unreadable": {cfg.split: export.unreadable(cohort, cfg.split)},
            "damaged": {cfg.split: export.damaged(cohort)},
            "measured": {cfg.split: export.measured(cohort, cfg.split, "test")},
        }
        result.fields["limited"] = [
            *(f"{name}: {why}" for name, entry in entries.items() for why in entry["provenance"].get("limited") or ()),
            *limits.measured(cfg, result.fields["measured"], result.fields["unreadable"], "test"),
        ]
        result.fields |= policy_cost.fields(cfg, cohort, trainer.callback_metrics, f"{cfg.split}/{FUSED}")
        tracking.log_outcome(trainer.loggers, trainer.callback_metrics, result.fields, folder)
        if not result.fields["metrics"]:
            utils_process.say([f"{cfg.split} has no labels; mml score {folder} writes submissions"])
    runs_result.say_result(result.fields)
    if alone:
        utils_process.say(next_steps.after_evaluation(folder, result.fields["metrics"]))
    return result.fields


def _drawn_as_trained(cfg: Settings, entries: Entries, overrides: Sequence[str]) -> Settings:
    """With the sampling and the crops of a checkpoint that no run stands beside: one of a Trainer of the user's, or one
    that was copied away."""
    file = Path(str(cfg.ckpt)).expanduser()
    alone = file.suffix == CHECKPOINT and overrides_beside(file, overrides) is None
    return as_trained(cfg, entries, overrides) if alone else cfg
