"""Stages and pipelines: what `train.py` does with a composed config."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from pytorch_lightning.callbacks import ModelCheckpoint
from tqdm import tqdm

from mml_lightning import arguments, build, plan, tracking
from mml_lightning.callbacks import EpochLines, Quarantine
from mml_lightning.cohort import Cohort
from mml_lightning.data.clips import ClipDataset
from mml_lightning.data.flow import FlowCache
from mml_lightning.errors import UserError
from mml_lightning.loaders import VideoData
from mml_lightning.process import is_first_rank, quieten_libraries, say, say_result, set_up_process
from mml_lightning.provenance import export, fingerprint, identity, origin_fields, save_scores, unreadable
from mml_lightning.results import RunResult, nested_metrics

log = logging.getLogger(__name__)

LAST = Path("checkpoints") / "last.ckpt"


def job(cfg: DictConfig, do: Callable[[DictConfig, Sequence[str]], object]) -> None:
    """Do one job; a failure is logged, noted for the exit code, and leaves the other jobs of a sweep alone."""
    quieten_libraries()
    try:
        do(cfg, list(HydraConfig.get().overrides.task))
    except UserError as error:
        log.error("error: %s", error)
        arguments.failures.append(arguments.MISTAKE)
    except Exception:  # logged with its traceback; the sweep goes on
        log.exception("the run failed")
        arguments.failures.append(arguments.FAILURE)
    finally:
        if "logger" in cfg:
            tracking.close(cfg)


def stage(cfg: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """Train one stage, measure it, export its peers; returns the content of result.json."""
    set_up_process(cfg)
    specs = build.peer_specs(cfg, overrides)
    chosen = build.modalities(cfg)
    data = build.dataset(cfg)
    cache = build.flow_cache(cfg, chosen)
    datasets = build.clip_datasets(cfg, data, cache, list(chosen.values()))
    nets, provenance = build.peers(cfg, specs, data)
    cohort = build.cohort(cfg, specs, nets, provenance, data)
    folder = Path(cfg.paths.output_dir)
    checkpoint = resumed_checkpoint(cfg)
    sizes = {name: sum(p.numel() for p in net.parameters()) for name, net in nets.items()}
    say(plan.describe(cfg, data, cohort.objective, sizes, provenance))

    result = RunResult(
        folder, is_first_rank(), **identity(cfg, data, overrides), fingerprint=fingerprint(cfg, data, provenance)
    )
    result.fields["peers"] = {
        spec.name: {
            "modality": spec.modality.name,
            "parameters": sizes[spec.name],
            **origin_fields(provenance[spec.name]),
        }
        for spec in specs
    }
    result.write()
    try:
        video = VideoData(datasets, build.loader_settings(cfg), lambda: fill_flow(cache, datasets, cfg.data.workers))
        trainer = make_trainer(cfg, folder, len(datasets["train"]))
        started = time.monotonic()
        fit(trainer, cohort, video, checkpoint)
        trained_s = time.monotonic() - started
        metrics = {k: v for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        save_scores(cohort, folder / "predictions", "val")
        if cfg.test:
            trainer.test(cohort, datamodule=video, verbose=False)
            metrics |= {k: v for k, v in trainer.callback_metrics.items() if k.startswith("test/")}
            save_scores(cohort, folder / "predictions", "test")
        clips = trainer.global_step * cfg.data.batch_size * trainer.accumulate_grad_batches
        result.fields |= {
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "clips_per_s": round(clips / trained_s, 2),
        }
        result.fields |= {"metrics": nested_metrics(metrics), "unreadable": unreadable(cohort)}
        tracking.log_summary(trainer.loggers, metrics)
        if is_first_rank():
            export(cfg, cohort, provenance, result)
        trainer.strategy.barrier("export")
    except BaseException as error:
        result.finish("failed", f"{type(error).__name__}: {error}")
        raise
    result.finish("completed")
    say_result(result.fields)
    return result.fields


def fit(trainer: pl.Trainer, cohort: Cohort, video: VideoData, checkpoint: Path | None) -> None:
    """Train; what the loaders find wrong with the user's numbers is the user's mistake, not a traceback."""
    try:
        trainer.fit(cohort, datamodule=video, ckpt_path=str(checkpoint) if checkpoint else None)
    except ValueError as error:
        if "batch_size" in str(error):
            raise UserError(str(error)) from None
        raise
    if trainer.interrupted:
        raise KeyboardInterrupt("stopped by hand; continue with resume=<this directory>")


def make_trainer(cfg: DictConfig, folder: Path, videos: int) -> pl.Trainer:
    settings = {k: v for k, v in build.plain(cfg.trainer).items() if v is not None and k != "num_threads"}
    callbacks: list[pl.Callback] = [Quarantine(folder / "quarantine.csv", videos, cfg.data.max_bad_share)]
    if cfg.callbacks.epoch_lines:
        callbacks.append(EpochLines())
    if cfg.callbacks.checkpoint:
        where = folder / LAST.parent
        callbacks.append(
            ModelCheckpoint(where, LAST.stem, save_top_k=1, enable_version_counter=False, save_on_train_epoch_end=True)
        )
    bar = cfg.callbacks.progress_bar
    return pl.Trainer(
        max_epochs=cfg.schedule.epochs,
        logger=tracking.loggers(cfg, folder, group_of(folder)),
        callbacks=callbacks,
        enable_checkpointing=bool(cfg.callbacks.checkpoint),
        enable_progress_bar=sys.stdout.isatty() if bar == "auto" else bool(bar),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # ours make every rank see its share of the same global batches
        log_every_n_steps=10,
        default_root_dir=str(folder),
        **settings,
    )


def fill_flow(cache: FlowCache | None, datasets: Mapping[str, ClipDataset], workers: int) -> None:
    """Compute the flow that the cache lacks, with a progress bar."""
    if cache is None:
        return
    records = [record for dataset in datasets.values() for record in dataset.records]
    missing = cache.missing(records)
    if not missing:
        return
    log.info("computing %s flow of %d videos, cached in %s", cache.settings.algorithm, len(missing), cache.folder)
    with tqdm(total=len(missing), desc="flow", unit="video", mininterval=1.0, disable=None) as bar:
        failed = cache.prepare(missing, max(1, workers), bar.update)
    if failed:
        log.warning(plan.describe_failures(failed, "no flow"))


def resumed_checkpoint(cfg: DictConfig) -> Path | None:
    """The checkpoint that `resume=<run directory>` continues from.

    Raises:
        UserError: there is none, or it is damaged.
    """
    if not cfg.resume:
        return None
    path = Path(cfg.resume) / LAST
    if not path.is_file():
        raise UserError(
            f"resume={cfg.resume} has no {LAST} (it stopped within its first epoch): start the run again without resume"
        )
    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch.load raises many unrelated types for damaged files
        raise UserError(
            f"{path} can't be read, it is damaged ({type(error).__name__}): start the run again without resume"
        ) from None
    return path


def group_of(folder: Path) -> str:
    """W&B group: the sweep or pipeline a run belongs to, or the run itself."""
    return (
        folder.parent.name
        if folder.parent.parent.name == "sweep" or (folder.name[:1].isdigit() and folder.parent.name != "single")
        else folder.name
    )
