"""A stage: train the peers of a config together, measure them, export them."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import SIGTERMException

from mml_lightning.backbones.cost import parameter_counts
from mml_lightning.config import data as config_data
from mml_lightning.config import limits, phases, training, values
from mml_lightning.config import peers as config_peers
from mml_lightning.config.settings import Settings
from mml_lightning.data.flow.cache import FlowCache
from mml_lightning.data.loading.dataset import ClipDataset
from mml_lightning.data.records.chance import chances
from mml_lightning.data.records.records import Dataset
from mml_lightning.engine import cost, plan, policy_cost, recipe
from mml_lightning.engine.flow import flow_filler
from mml_lightning.engine.monitors import settle
from mml_lightning.engine.process import set_up_process
from mml_lightning.engine.trainer import make_trainer, training_callbacks
from mml_lightning.modalities import Modality
from mml_lightning.runs import export, manifest, next_steps, resume, tracking
from mml_lightning.runs import fingerprint as runs_fingerprint
from mml_lightning.runs.lineage import Lineage
from mml_lightning.runs.result import RunResult, nested_metrics, say_result
from mml_lightning.training import (
    advice,
    batch_norm,
    best_checkpoint,
    lightning_internals,
    nonfinite_gradients,
    peer_parallel,
    weight_average,
)
from mml_lightning.training.cohort import Cohort
from mml_lightning.training.csv_logger import MetricsLog
from mml_lightning.training.datamodule import VideoData
from mml_lightning.training.monitored import out_of_time, stopped_early
from mml_lightning.training.throughput import Throughput
from mml_lightning.utils import progress, ranks
from mml_lightning.utils.distributed import is_first_rank
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.process import say

log = logging.getLogger(__name__)


def stage(cfg: Settings, overrides: Sequence[str], alone: bool = True) -> dict[str, Any]:
    """Train one stage, measure it, export its peers; returns the content of result.json.

    Everything that can be known to be wrong is said before anything is written. Where it is `alone` all that was
    started, what can be done next is told in the end.
    """
    values.check_values(cfg)
    set_up_process(cfg)
    specs = config_peers.peer_specs(cfg, overrides)
    config_peers.require_origins(specs)
    chosen = config_data.modalities(cfg)
    data = config_data.dataset(cfg)
    specs = Lineage(cfg, overrides, lambda: data).settle(specs)
    cache = config_data.flow_cache(cfg, chosen)
    datasets = clips_to_read(cfg, data, cache, chosen)
    nets, origins = config_peers.peers(cfg, specs, data)
    cohort = training.cohort(cfg, specs, nets, origins, data)
    resumed, folder = resume.where_to_begin(cfg, overrides, data, list(nets))
    limited = limits.declared(cfg, videos := len(datasets["train"]))
    speed = measured_speed(cfg)
    monitors = settle(cfg, cohort, data)
    if resumed is not None and monitors.best is not None and cfg.checkpoint.export == "best":
        best_checkpoint.require_all_epochs(monitors.best, resumed.best, resumed.path.parent, resumed.epochs)
    kept = [*training_callbacks(cfg, folder, data, monitors), speed]
    trainer = make_trainer(cfg, folder, kept, objectives=[one.objective for one in cohort.phases])
    computed = training.execution_settings(cfg).settle(cohort, trainer.strategy.root_device, trainer.world_size)
    sharing = check_shares(cfg, trainer, data, datasets)
    recipe.warn_of_toy(cfg)
    comparable = announce(cfg, cohort, data, origins, sharing, computed, limited, monitors.told)
    with open_result(cfg, overrides, data, cohort, origins, resumed) as result:
        if is_first_rank():
            manifest.write(cfg, result.fields)
        datasets = {split: dataclasses.replace(one, seen=data.seen(split)) for split, one in datasets.items()}
        video = VideoData(datasets, config_data.loader_settings(cfg), flow_filler(cache, datasets, cfg.data.workers))
        metrics, measured = fit_and_measure(cfg, trainer, cohort, video, resumed.path if resumed else None)
        steered = best_checkpoint.steered(trainer, cfg.checkpoint.export)
        limited = limits.trained(cfg, trainer, videos, steered["stopped_early"] is not None, out_of_time(trainer))
        told = speed.summary(trainer, cohort)
        result.fields |= {
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            **(steered | {"monitored": monitors.measured(metrics, trainer.callback_metrics)}),
            "limited": [*limited, *limits.measured(cfg, measured["measured"], measured["unreadable"])],
            "clips_per_s": speed.per_second(),
            "skipped_steps": nonfinite_gradients.skipped(trainer),
            **declared_phases(cfg, cohort),
            "speed": told and told | {"conditions": comparable},
            "metrics": nested_metrics(metrics),
            **measured,
        }
        result.fields |= policy_cost.fields(cfg, cohort, metrics, "test/fused")
        tracking.log_outcome(trainer.loggers, metrics, result.fields, folder)
        if is_first_rank():
            leave(cfg, cohort, data, origins, result, limited)
        wait_for_export(trainer)
    conclude(cfg, folder, data, result.fields, alone)
    return result.fields


def announce(
    cfg: Settings,
    cohort: Cohort,
    data: Dataset,
    origins: Mapping[str, Mapping[str, Any]],
    sharing: int,
    computed: str,
    limited: Sequence[str],
    monitored: Sequence[str],
) -> str:
    """Say what a run will do and what it costs; returns the conditions under which its speed is measured.

    Args:
        sharing: ranks that share a batch; others as of :func:`mml_lightning.engine.plan.describe`.
    """
    about = (parameter_counts(cohort.peers), origins, computed, described_fusion(cohort), limited, monitored)
    say(plan.describe(cfg, data, cohort.phases, *about))
    comparable = cost.conditions(cfg, cohort, sharing)
    if is_first_rank():  # it measures the first device
        costs = cost.describe(cfg, cohort, len(data.splits["train"]), sharing, comparable)
        say([f"{key:<9} {line}" for key, line in costs])
    return comparable


def described_fusion(cohort: Cohort) -> str:
    """weighted, of rgb and flow, 1 parameter"""
    if cohort.fusion is None:
        return ""
    learned = sum(parameter.numel() for parameter in cohort.fusion.parameters())
    told = f"{cohort.fusion.rule}, of {' and '.join(cohort.peers)}"
    return told + (f", {progress.counted(learned, 'parameter')}" if learned else "")


def wait_for_export(trainer: pl.Trainer) -> None:
    """All ranks leave together."""
    with ranks.blamed():
        trainer.strategy.barrier("export")


def clips_to_read(
    cfg: Settings, data: Dataset, cache: FlowCache | None, chosen: Mapping[str, Modality]
) -> dict[str, ClipDataset]:
    """The splits that this run looks at."""
    datasets = config_data.clip_datasets(cfg, data, cache, list(chosen.values()))
    if not (cfg.test and limits.measures(cfg, "test")):
        datasets.pop("test", None)  # its flow would be computed for nothing
    return datasets


def declared_phases(cfg: Settings, cohort: Cohort) -> dict[str, Any]:
    """For `result.json`: the phases of a stage that declares some, each with its graph."""
    told = []
    for number in range(len(cfg.phases)):
        one, declared = cohort.phases[number], phases.settings_of_phase(cfg, number).plain("objective")
        when = {"name": one.name, "first_epoch": one.first, "epochs": one.epochs, "train": list(one.words)}
        told.append(when | {"objective": declared | {"frozen": sorted(one.objective.frozen)}})
    return {"phases": told} if told else {}


def measured_speed(cfg: Settings) -> Throughput:
    """What measures the speed of the training."""
    shown = (cfg.callbacks.speed_every_steps, bool(cfg.callbacks.epoch_lines))
    return Throughput(cfg.data.batch_size, int(cfg.data.workers), *shown)


def conclude(cfg: Settings, folder: Path, data: Dataset, fields: Mapping[str, Any], alone: bool) -> None:
    """The last lines of a run: its numbers and its speed; where its networks are and what can be typed next if it is
    `alone`."""
    say_result(fields)
    if fields["speed"]:
        say([f"speed {advice.describe(fields['speed'], config_data.cheap(cfg))}"])
    if alone:
        weights = sorted((folder / "peers").glob("*.pt"))
        say(next_steps.after_training(cfg, folder, weights, chances(data), fields["metrics"]))


def leave(
    cfg: Settings,
    cohort: Cohort,
    data: Dataset,
    origins: Mapping[str, Mapping[str, Any]],
    result: RunResult,
    limited: Sequence[str],
) -> None:
    """Export the networks of a run that has ended, and say where they are."""
    notes = [*limited, *resume.changed(result.fields["resumed"])]
    settings = runs_fingerprint.settings(cfg, data, origins, notes)
    made = {"settings": settings, "recipe": runs_fingerprint.hashed(settings), "limited": limited}
    export.export(cfg, cohort, origins, result, made)
    if limited:
        where = Path(cfg.paths.output_dir) / "peers"
        log.warning("limited (%s): the networks are in %s only, not in the zoo", ", ".join(limited), where)


def check_shares(cfg: Settings, trainer: pl.Trainer, data: Dataset, datasets: Mapping[str, ClipDataset]) -> int:
    """How many ranks share a batch.

    Raises:
        UserError: the parts of a batch are too small, or take more memory than there is.
    """
    sharing = 1 if peer_parallel.strategy_of(trainer) is not None else trainer.world_size
    config_data.check_batch(cfg, data, sharing)
    config_data.check_memory(cfg, datasets, trainer.world_size // trainer.num_nodes)
    batch_norm.check(training.batch_norm_settings(cfg), trainer, cfg.data.batch_size)
    check_measuring(cfg, trainer, datasets)
    return sharing


def check_measuring(cfg: Settings, trainer: pl.Trainer, datasets: Mapping[str, ClipDataset]) -> None:
    """Raises:
    UserError: a limit in shares leaves no batch of val or test.
    """
    for split in sorted({"val", "test"} & set(datasets)):
        videos = max(1, int(cfg.data.eval_batch_size) // datasets[split].views)
        limits.check_share(cfg, split, math.ceil(len(datasets[split]) / trainer.world_size / videos))


def open_result(
    cfg: Settings,
    overrides: Sequence[str],
    data: Dataset,
    cohort: Cohort,
    origins: Mapping[str, Mapping[str, Any]],
    resumed: resume.Resumed | None,
) -> RunResult:
    """The result of a stage that is about to start."""
    sizes = parameter_counts(cohort.peers)
    peers = {
        name: {
            "modality": cohort.modalities[name].name,
            "parameters": sizes[name],
            "frozen": name in cohort.frozen,
            **runs_fingerprint.origin_fields(origins[name]),
            **runs_fingerprint.own_backbone(cfg, cohort.modalities[name].name),
        }
        for name, net in cohort.peers.items()
    }
    folder = Path(cfg.paths.output_dir)
    history = resume.history(folder, resumed)
    fingerprint = runs_fingerprint.fingerprint(cfg, data, origins, resume.changed(history))
    known = runs_fingerprint.identity(cfg, overrides, data) | {"fingerprint": fingerprint}
    return RunResult(folder, is_first_rank(), **known, peers=peers, resumed=history)


def fit_and_measure(
    cfg: Settings, trainer: pl.Trainer, cohort: Cohort, video: VideoData, checkpoint: Path | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train, then measure val and test; saves their scores, and returns their metrics and what was measured."""
    predictions = Path(cfg.paths.output_dir) / "predictions"
    told: dict[str, Any] = {"unreadable": {}, "damaged": {}, "measured": {}}

    def keep(split: str) -> dict[str, Any]:
        told["unreadable"][split] = export.unreadable(cohort, split)
        told["damaged"][split] = export.damaged(cohort)
        told["measured"][split] = export.measured(cohort, split)
        export.save_scores(cohort, predictions, split)
        return _of_split(trainer, split)

    with interruptible(trainer), ranks.blamed():
        trainer.fit(cohort, datamodule=video, ckpt_path=checkpoint and str(checkpoint), weights_only=True)
        if (why := stopped_early(trainer)) is not None:
            lightning_internals.complete_epoch(trainer)  # of a run that had ended and was resumed
            say([f"stopped early after epoch {trainer.current_epoch}: {why}"])
        elif out_of_time(trainer):
            say([_of_time(cfg, trainer)])
        if (averaged := weight_average.of(trainer)) is not None:  # val was measured with them already
            weight_average.put(cohort, averaged.averages)
        others = cfg.checkpoint.export == "best" and best_checkpoint.restore(trainer, cohort) != trainer.global_step
        by_val = limits.measures(cfg, "val")
        if by_val and cohort.validated_at != trainer.global_step:  # trainer.validations, or a finished run was resumed
            with nullcontext() if cohort.trained or others else unlogged(trainer):  # its row is there
                trainer.validate(cohort, datamodule=video, verbose=False)
        metrics = keep("val") if by_val else {}
        if cfg.test and limits.measures(cfg, "test"):
            trainer.test(cohort, datamodule=video, verbose=False)
            metrics |= keep("test")
    return metrics, told


def _of_time(cfg: Settings, trainer: pl.Trainer) -> str:
    """That a run has been cut by a limit on its time, and how it goes on."""
    cut = f"stopped by {limits.time_limit(cfg)} in epoch {trainer.current_epoch}, at step {trainer.global_step}"
    if not cfg.callbacks.checkpoint:
        return f"{cut}; no checkpoint is kept, so only a new run with more time gets further"
    more = "+trainer.max_time=<more>" if cfg.trainer.max_time else "a longer timer"
    return f"{cut}; it goes on with resume={cfg.paths.output_dir} and {more}"


def _of_split(trainer: pl.Trainer, split: str) -> dict[str, Any]:
    return {key: value for key, value in trainer.callback_metrics.items() if key.startswith(f"{split}/")}


@contextmanager
def unlogged(trainer: pl.Trainer) -> Iterator[None]:
    """No rows for what is measured here."""
    rows = [logger for logger in trainer.loggers if isinstance(logger, MetricsLog)]
    for log_ in rows:
        log_.muted = True
    try:
        yield
    finally:
        for log_ in rows:
            log_.muted = False


@contextmanager
def interruptible(trainer: pl.Trainer) -> Iterator[None]:
    """Ctrl-C and SIGTERM are a KeyboardInterrupt: Lightning makes an exit of them, and a write that they cut raises its
    own error (torch.save does)."""
    try:
        yield
    except SIGTERMException:
        raise KeyboardInterrupt from None
    except SystemExit:
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    except Exception as error:
        if str(error).startswith("Early stopping conditioned on metric"):  # one that a callback did not log
            raise UserError(f"callbacks: {str(error).replace('`', '')}") from None
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            cause = cause.__context__
        raise
