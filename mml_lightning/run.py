"""A job of `train.py` or `eval.py`; and a stage: train the peers of a config together, measure them, export them."""

from __future__ import annotations

import dataclasses
import errno
import functools
import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.callbacks import Checkpoint, TQDMProgressBar
from pytorch_lightning.utilities.exceptions import MisconfigurationException, SIGTERMException

from mml_lightning import (
    advice,
    arguments,
    build,
    build_data,
    estimates,
    limits,
    manifest,
    nodes,
    nonfinite,
    norms,
    placement,
    plan,
    provenance,
    ranks,
    resume,
    tracking,
)
from mml_lightning.callbacks import EpochLines, Quarantine, ReadersTold, SharedBuffers
from mml_lightning.checkpoints import FOLDER, CheckpointFiles, Checkpoints
from mml_lightning.cohort import Cohort
from mml_lightning.data.clips import ClipDataset
from mml_lightning.data.flow import FlowCache
from mml_lightning.data.records import Dataset
from mml_lightning.errors import Preempted, RankDied, RunsFailed, UserError, exhausted
from mml_lightning.files import Busy, locked
from mml_lightning.lineage import Lineage
from mml_lightning.loaders import VideoData
from mml_lightning.metrics_log import MetricsLog
from mml_lightning.objectives.graph import Objective
from mml_lightning.preemption import LISTENER
from mml_lightning.process import is_first_rank, quieten_libraries, say, say_result, set_up_process, uses_gpu
from mml_lightning.progress import Progress, is_terminal
from mml_lightning.results import RunResult, nested_metrics, read_result
from mml_lightning.throughput import Throughput
from mml_lightning.watchdog import Watchdog

log = logging.getLogger(__name__)

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def job(cfg: DictConfig, do: Callable[[DictConfig, Sequence[str]], object]) -> None:
    """Do one job; a failure is logged, noted for the exit code, and leaves the other jobs of a sweep alone."""
    quieten_libraries()
    overrides = list(HydraConfig.get().overrides.task)
    failed: BaseException | None = None
    hint = f"continue with: python train.py resume={cfg.paths.output_dir}" if "resume" in cfg else "start it again"
    try:
        with LISTENER.listen(), alone(Path(cfg.paths.output_dir)):
            do(cfg, overrides)
    except Preempted as error:
        failed = error
        log.warning("%s; %s", error, hint)
        tracking.preempted(cfg)
        LISTENER.hand_on()
        arguments.failures.append(arguments.PREEMPTED)
        raise
    except (KeyboardInterrupt, SIGTERMException) as error:
        failed = error
        log.error("interrupted; %s", hint)
        arguments.failures.append(arguments.INTERRUPTED)
        raise
    except (UserError, OmegaConfBaseException) as error:
        failed = error if isinstance(error, UserError) else UserError(nodes.mistake(error))
        log.error("error: %s", failed)
        arguments.failures.append(arguments.MISTAKE)
        if is_first_rank():
            arguments.restore_stashed(Path(cfg.paths.output_dir))
    except (RunsFailed, RankDied) as error:
        failed = error
        log.error("error: %s", error)
        arguments.failures.append(arguments.FAILURE)
    except Exception as error:  # logged with its traceback; the sweep goes on
        failed = error
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            log.error("error: %s: %s; make room, then %s", error.filename, error.strerror, hint)
        elif not arguments.tracebacks and (spent := exhausted(error)):
            failed = UserError(spent)
            log.error("error: %s; then %s", spent, hint)
        elif not arguments.tracebacks and read_result(Path(cfg.paths.output_dir)) is None:
            failed = not_begun(error, overrides)
            log.error("error: %s", failed)
        else:
            log.exception("the run failed")
        arguments.failures.append(arguments.FAILURE)
    finally:
        tracking.close(cfg, failed is not None)
        if failed is not None and HydraConfig.get().mode == RunMode.MULTIRUN:
            provenance.record_failure(cfg, overrides, failed)
        elif isinstance(failed, UserError) and not isinstance(failed, InUse):
            provenance.discard_unstarted(Path(cfg.paths.output_dir))


class InUse(UserError):
    """The directory of a run belongs to another process."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Have the directory of a run for this process and its ranks.

    Raises:
        InUse: another process is at it.
    """
    if not is_first_rank():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder))
        except Busy:
            where = "wait for it, or choose another hydra.run.dir"
            raise InUse(f"{folder} is being written by another process: {where}") from None
        yield


def not_begun(error: Exception, overrides: Sequence[str]) -> UserError:
    """What is said of an error of a library that kept a run from beginning: mostly a setting of a kind that no check
    knows to be wrong, so the settings that were typed are named."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    if type(error).__module__.startswith("torch._inductor"):
        why = reason.partition(" Set TORCH")[0]
        off = "leave out step.compile=true (of --ways: compiled)"
        return UserError(f"torch.compile fails here ({why}); is a C++ compiler installed? {off}")
    typed = " ".join(overrides)[:300] or "none"
    return UserError(f"{reason}; is a setting of the wrong kind? typed: {typed} (HYDRA_FULL_ERROR=1 shows where)")


def stage(cfg: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """Train one stage, measure it, export its peers; returns the content of result.json.

    Everything that can be known to be wrong is said before anything is written.
    """
    build.check_values(cfg)
    set_up_process(cfg)
    specs = build.peer_specs(cfg, overrides)
    build.require_origins(specs)
    chosen = build_data.modalities(cfg)
    data = build_data.dataset(cfg)
    specs = Lineage(cfg, overrides, lambda: data).settle(specs)
    cache = build_data.flow_cache(cfg, chosen)
    datasets = build_data.clip_datasets(cfg, data, cache, list(chosen.values()))
    if not (cfg.test and limits.measures(cfg, "test")):
        datasets.pop("test", None)  # its flow would be computed for nothing
    nets, origins = build.peers(cfg, specs, data)
    cohort = build.cohort(cfg, specs, nets, origins, data)
    computed = build.step(cfg).apply(nets)
    resumed, folder = resume.where_to_begin(cfg, overrides, data, list(nets))
    limited = limits.declared(cfg, videos := len(datasets["train"]))
    shown = (cfg.callbacks.speed_every_steps, bool(cfg.callbacks.epoch_lines))
    speed = Throughput(cfg.data.batch_size, int(cfg.data.workers), *shown)
    trainer = make_trainer(cfg, folder, [*training_callbacks(cfg, folder, data), speed], objective=cohort.objective)
    sharing = check_shares(cfg, trainer, data, datasets)
    say(plan.describe(cfg, data, cohort.objective, sizes_of(nets), origins, computed, limited))
    comparable = estimates.conditions(cfg, cohort, sharing)
    if is_first_rank():  # it measures the first device
        lines = estimates.describe(cfg, cohort, videos, sharing, comparable)
        say([f"{key:<9} {line}" for key, line in lines])
    with open_result(cfg, overrides, data, cohort, origins, resumed) as result:
        if is_first_rank():
            manifest.write(cfg, result.fields)
        datasets = {split: dataclasses.replace(one, seen=data.seen(split)) for split, one in datasets.items()}
        video = VideoData(datasets, build_data.loader_settings(cfg), flow_filler(cache, datasets, cfg.data.workers))
        metrics, measured = fit_and_measure(cfg, trainer, cohort, video, resumed.path if resumed else None)
        limited = limits.trained(cfg, trainer, videos)
        told = speed.summary(trainer, cohort)
        result.fields |= {
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "limited": [*limited, *limits.measured(cfg, measured["measured"], measured["unreadable"])],
            "clips_per_s": speed.per_second(),
            "skipped_steps": nonfinite.skipped(trainer),
            "speed": told and told | {"conditions": comparable},
            "metrics": nested_metrics(metrics),
            **measured,
        }
        tracking.log_outcome(trainer.loggers, metrics, result.fields, folder)
        if is_first_rank():
            leave(cfg, cohort, data, origins, result, limited)
        with ranks.blamed():
            trainer.strategy.barrier("export")
    say_result(result.fields)
    if result.fields["speed"]:
        say([f"speed {advice.describe(result.fields['speed'], build_data.cheap(cfg))}"])
    return result.fields


def leave(
    cfg: DictConfig,
    cohort: Cohort,
    data: Dataset,
    origins: Mapping[str, Mapping[str, Any]],
    result: RunResult,
    limited: Sequence[str],
) -> None:
    """Export the networks of a run that has ended, and say where they are."""
    notes = [*limited, *resume.changed(result.fields["resumed"])]
    settings = provenance.settings(cfg, data, origins, notes)
    made = {"settings": settings, "recipe": provenance.hashed(settings), "limited": limited}
    provenance.export(cfg, cohort, origins, result, made)
    if limited:
        where = Path(cfg.paths.output_dir) / "peers"
        log.warning("limited (%s): the networks are in %s only, no alias finds them", ", ".join(limited), where)


def check_shares(cfg: DictConfig, trainer: pl.Trainer, data: Dataset, datasets: Mapping[str, ClipDataset]) -> int:
    """How many ranks share a batch.

    Raises:
        UserError: the parts of a batch are too small, or take more memory than there is.
    """
    sharing = 1 if placement.of(trainer) is not None else trainer.world_size
    build_data.check_batch(cfg, data, sharing)
    build_data.check_memory(cfg, datasets, trainer.world_size // trainer.num_nodes)
    norms.check(build.norms(cfg), trainer, cfg.data.batch_size)
    check_measuring(cfg, trainer, datasets)
    return sharing


def check_measuring(cfg: DictConfig, trainer: pl.Trainer, datasets: Mapping[str, ClipDataset]) -> None:
    """Raises:
    UserError: a limit in shares leaves no batch of val or test.
    """
    for split in sorted({"val", "test"} & set(datasets)):
        videos = max(1, int(cfg.data.eval_batch_size) // datasets[split].views)
        limits.check_share(cfg, split, math.ceil(len(datasets[split]) / trainer.world_size / videos))


def open_result(
    cfg: DictConfig,
    overrides: Sequence[str],
    data: Dataset,
    cohort: Cohort,
    origins: Mapping[str, Mapping[str, Any]],
    resumed: resume.Resumed | None,
) -> RunResult:
    """The result of a stage that is about to start."""
    sizes = sizes_of(cohort.peers)
    peers = {
        name: {
            "modality": cohort.modalities[name].name,
            "parameters": sizes[name],
            "frozen": name in cohort.frozen,
            **provenance.origin_fields(origins[name]),
        }
        for name, net in cohort.peers.items()
    }
    folder = Path(cfg.paths.output_dir)
    history = resume.history(folder, resumed)
    fingerprint = provenance.fingerprint(cfg, data, origins, resume.changed(history))
    known = provenance.identity(cfg, overrides, data) | {"fingerprint": fingerprint}
    return RunResult(folder, is_first_rank(), **known, peers=peers, resumed=history)


def sizes_of(nets: Mapping[str, Any] | torch.nn.ModuleDict) -> dict[str, int]:
    """Parameters of each network."""
    return {name: sum(p.numel() for p in net.parameters()) for name, net in nets.items()}


def fit_and_measure(
    cfg: DictConfig, trainer: pl.Trainer, cohort: Cohort, video: VideoData, checkpoint: Path | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train, then measure val and test; saves their scores, and returns their metrics and what was measured."""
    predictions = Path(cfg.paths.output_dir) / "predictions"
    told: dict[str, Any] = {"unreadable": {}, "damaged": {}, "measured": {}}

    def keep(split: str) -> dict[str, Any]:
        told["unreadable"][split] = provenance.unreadable(cohort, split)
        told["damaged"][split] = provenance.damaged(cohort)
        told["measured"][split] = provenance.measured(cohort, split)
        provenance.save_scores(cohort, predictions, split)
        return _of_split(trainer, split)

    with interruptible(trainer), ranks.blamed():
        trainer.fit(cohort, datamodule=video, ckpt_path=checkpoint and str(checkpoint), weights_only=True)
        by_val = limits.measures(cfg, "val")
        if by_val and cohort.validated_at != trainer.global_step:  # trainer.validations, or a finished run was resumed
            with nullcontext() if cohort.trained else unlogged(trainer):  # its row is there
                trainer.validate(cohort, datamodule=video, verbose=False)
        metrics = keep("val") if by_val else {}
        if cfg.test and limits.measures(cfg, "test"):
            trainer.test(cohort, datamodule=video, verbose=False)
            metrics |= keep("test")
    return metrics, told


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
    """Ctrl-C stays a KeyboardInterrupt: Lightning makes an exit of it, and a write that it cuts raises its own error
    (torch.save does)."""
    try:
        yield
    except SIGTERMException:
        raise
    except SystemExit:
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            cause = cause.__context__
        raise


def training_callbacks(cfg: DictConfig, folder: Path, data: Dataset) -> list[pl.Callback]:
    """What a run keeps while it trains: the quarantine, its batch norms and the last checkpoints."""
    videos = len(data.splits["train"]) + len(data.left_out)
    callbacks: list[pl.Callback] = [
        Quarantine(folder / "quarantine.csv", videos, cfg.data.max_bad_share, data.left_out)
    ]
    callbacks += norms.callbacks(build.norms(cfg), cfg.data.batch_size)
    callbacks += nonfinite.callbacks(build.nonfinite(cfg), folder)
    keys = ("checkpoint_every_steps", "checkpoint_every_minutes")
    every_steps, every_minutes = (cfg.callbacks[key] for key in keys)
    callbacks.append(Checkpoints(folder / FOLDER, every_steps, every_minutes, enabled=bool(cfg.callbacks.checkpoint)))
    return callbacks


def make_trainer(
    cfg: DictConfig,
    folder: Path,
    callbacks: Sequence[pl.Callback],
    job_type: str | None = None,
    objective: Objective | None = None,
) -> pl.Trainer:
    """The trainer of a job; writes nothing.

    Args:
        objective: of a training run, for `placement`.

    Raises:
        UserError: this machine does not have what `trainer` asks for, or a value is unknown.
    """
    ours = ("num_threads", "validations", "limit_epochs")
    settings = {k: v for k, v in nodes.plain(cfg.trainer).items() if v is not None and k not in ours}
    if objective is not None:
        where = (cfg.trainer.devices, cfg.trainer.num_nodes)
        placed = placement.strategy(cfg.placement, objective, build.norms(cfg), *where)
        settings |= {"strategy": placed} if placed is not None else {}
    epochs = limits.epochs(cfg)
    bar = is_terminal(sys.stdout) if cfg.callbacks.progress_bar == "auto" else bool(cfg.callbacks.progress_bar)
    own: list[pl.Callback] = [SharedBuffers(), ReadersTold(cfg.data.decoder)]
    if cfg.loading.stall:
        own.append(Watchdog(float(cfg.loading.stall)))
    if cfg.callbacks.epoch_lines:
        own.append(EpochLines(every=None if bar else 30.0))
    if bar:  # it reads the loss, for which a GPU stands still
        own.append(TQDMProgressBar(refresh_rate=10 if uses_gpu(cfg.trainer.accelerator) else 1))
    try:
        trainer = pl.Trainer(
            max_epochs=epochs,
            check_val_every_n_epoch=math.ceil(epochs / (cfg.trainer.validations or epochs)),
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
    ranks.watch(trainer)
    return trainer


def flow_filler(cache: FlowCache | None, datasets: Mapping[str, ClipDataset], workers: int) -> Callable[[], None]:
    """Computes the flow that the cache lacks when first called, and says how far it is."""

    @functools.cache
    def fill() -> None:
        if cache is None:
            return
        missing = cache.missing([record for dataset in datasets.values() for record in dataset.records])
        if not missing:
            return
        log.info("computing %s flow of %d videos in %s", cache.settings.algorithm, len(missing), cache.folder)
        with Progress(len(missing), "flow") as progress:
            failed = cache.prepare(missing, max(1, workers), progress.advance)
        if failed:
            log.warning(plan.describe_failures(failed, "no flow"))

    return fill
