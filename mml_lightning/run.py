"""Stages and pipelines: what `train.py` does with a composed config."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from tqdm import tqdm

from mml_lightning import arguments, build, plan, tracking
from mml_lightning.callbacks import EpochLines, Quarantine
from mml_lightning.cohort import Cohort
from mml_lightning.data.clips import ClipDataset
from mml_lightning.data.decode import decoder_version
from mml_lightning.data.flow import FlowCache
from mml_lightning.data.records import Dataset
from mml_lightning.errors import UserError
from mml_lightning.loaders import VideoData
from mml_lightning.results import RunResult, nested_metrics, read_result, write_json
from mml_lightning.zoo import export_peer, load_peer

log = logging.getLogger(__name__)

COSMETIC = ("paths", "logger", "callbacks", "name", "tags", "resume", "pipeline", "aliases", "test", "views", "experiment")
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

    result = RunResult(folder, is_first_rank(), **identity(cfg, data, overrides), fingerprint=fingerprint(cfg, data, provenance))
    result.fields["peers"] = {
        spec.name: {"modality": spec.modality.name, "parameters": sizes[spec.name], **origin_fields(provenance[spec.name])}
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
        result.fields |= {"epochs": trainer.current_epoch, "steps": trainer.global_step, "clips_per_s": round(clips / trained_s, 2)}
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


def pipeline(cfg: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """Run the stages of a pipeline in order; a step whose networks are in the zoo, from the same config, is not repeated."""
    root = Path(cfg.paths.output_dir)
    own = [o for o in overrides if not o.startswith(("pipeline=", "resume="))]
    parent = RunResult(root, is_first_rank(), name=f"pipeline_{cfg.pipeline.name}", pipeline=cfg.pipeline.name, seed=cfg.seed, overrides=list(overrides))
    steps = []
    for number, step in enumerate(cfg.pipeline.steps, start=1):
        typed = [*step.get("default", ()), *own, *(s.format(base=cfg.init.base) for s in step["set"])]
        step_cfg = compose("train", overrides=[*typed, "pipeline=none", "experiment=none"])
        with_dir = copy.deepcopy(step_cfg)
        OmegaConf.update(with_dir, "paths.output_dir", str(root / f"{number}_{step_cfg.name}"))
        steps.append((with_dir, typed))
    parent.write()
    try:
        for number, (step_cfg, typed) in enumerate(steps, start=1):
            log.info("pipeline %s, step %d of %d: %s", cfg.pipeline.name, number, len(steps), step_cfg.name)
            reused = finished_before(step_cfg, typed)
            folder = Path(step_cfg.paths.output_dir)
            if reused is not None:
                log.info("done before, taken from %s", reused["zoo"])
                keep(folder, reused)
                continue
            if is_first_rank():
                (folder / ".hydra").mkdir(parents=True, exist_ok=True)
                OmegaConf.save(step_cfg, folder / ".hydra" / "config.yaml")
                OmegaConf.save(OmegaConf.create(typed), folder / ".hydra" / "overrides.yaml")
            stage(step_cfg, typed)
            tracking.close(step_cfg)
    except BaseException as error:
        parent.finish("failed", f"{type(error).__name__}: {error}")
        raise
    parent.finish("completed")
    return parent.fields


def finished_before(cfg: DictConfig, overrides: Sequence[str]) -> dict[str, Any] | None:
    """The result of an earlier run of exactly this stage whose networks are all in the zoo."""
    folder = zoo_folder(cfg)
    result = read_result(folder)
    if result is None or result.get("status") != "completed":
        return None
    set_up_process(cfg)
    specs = build.peer_specs(cfg, overrides)
    if any(not (folder / f"{spec.name}.pt").is_file() for spec in specs):
        return None
    provenance = {s.name: {"init": s.origin.init, "path": s.origin.path, "provenance": load_peer(s.origin.path)["provenance"] if s.origin.path else None} for s in specs}
    same = result.get("fingerprint") == fingerprint(cfg, build.dataset(cfg), provenance)
    return result if same else None


def keep(folder: Path, result: Mapping[str, Any]) -> None:
    """Show a reused step in the directory of its pipeline."""
    if is_first_rank():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "result.json", {**result, "reused": True})


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
        callbacks.append(ModelCheckpoint(where, LAST.stem, save_top_k=1, enable_version_counter=False, save_on_train_epoch_end=True))
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


def export(cfg: DictConfig, cohort: Cohort, provenance: Mapping[str, Any], result: RunResult) -> None:
    """Leave every peer in the run directory and in the zoo, with where it came from inside the file."""
    zoo = zoo_folder(cfg)
    for name, peer in cohort.peers.items():
        entry = {
            **cohort.hparams["peers"][name],
            "state_dict": {key: value.detach().cpu() for key, value in peer.state_dict().items()},
            "provenance": {
                "peer": name,
                "run": cfg.name,
                "stage": cfg.stage.name,
                "setup": cfg.setup.name,
                "seed": cfg.seed,
                "fingerprint": result.fields["fingerprint"],
                "sampling": build.plain(cfg.sampling),
                "transforms": build.plain(cfg.transforms),
                "metrics": {s: m[name] for s, m in result.fields["metrics"].items() if name in m},
                "git_sha": result.fields["git_sha"],
                "origin": provenance[name],
            },
        }
        path = export_peer(Path(cfg.paths.output_dir) / "peers" / f"{name}.pt", entry)
        zoo.mkdir(parents=True, exist_ok=True)
        shared = zoo / f"{name}.pt"
        shutil.copyfile(path, shared.with_suffix(".tmp"))
        os.replace(shared.with_suffix(".tmp"), shared)
        result.fields["peers"][name]["zoo"] = str(shared)
    result.fields["zoo"] = str(zoo)
    write_json(zoo / "result.json", {**result.fields, "status": "completed"})


def save_scores(cohort: Cohort, folder: Path, split: str) -> None:
    """Per-view logits by video id: predictions/<split>.npz (one file per head, if there are several)."""
    if not is_first_rank():
        return
    for head, scores in cohort.scores.items():
        if scores.rows:
            scores.save(folder / (f"{split}.npz" if len(cohort.scores) == 1 else f"{split}_{head}.npz"))


def unreadable(cohort: Cohort) -> dict[str, str]:
    """Videos of the last evaluated split that could not be read, with reasons: they are in no metric."""
    failures = {video: reason for scores in cohort.scores.values() for video, reason in scores.failures.items()}
    if failures and is_first_rank():
        log.warning(plan.describe_failures(sorted(failures.items()), "not evaluated"))
    return failures


def identity(cfg: DictConfig, data: Dataset, overrides: Sequence[str]) -> dict[str, Any]:
    """What a table groups and labels runs by."""
    return {
        "name": cfg.name,
        "stage": cfg.stage.name,
        "objective": cfg.objective.name,
        "setup": cfg.setup.name,
        "data": cfg.data.name,
        "backbone": cfg.backbone.name,
        "modality": list(cfg.modality),
        "views": cfg.views.name,
        "seed": cfg.seed,
        "overrides": list(overrides),
        "data_fingerprint": data.fingerprint(),
        "decoder": {"name": cfg.data.decoder, "version": decoder_version(cfg.data.decoder)},
    }


def origin_fields(where: Mapping[str, Any]) -> dict[str, Any]:
    return {"init": where["init"], "origin": where["path"], "origin_fingerprint": (where.get("provenance") or {}).get("fingerprint")}


def fingerprint(cfg: DictConfig, data: Dataset, provenance: Mapping[str, Mapping[str, Any]]) -> str:
    """Hash of all that decides the weights of a stage: its config without cosmetics, its data, the weights it starts from."""
    values = build.plain(cfg)
    for key in COSMETIC:
        values.pop(key, None)
    for key in ("reader", "root", "index", "workers", "eval_batch_size"):  # the data fingerprint speaks for the files
        values["data"].pop(key, None)
    values["init"] = {name: (where.get("provenance") or {}).get("fingerprint") or where["init"] for name, where in provenance.items()}
    text = json.dumps([values, data.fingerprint()], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def zoo_folder(cfg: DictConfig) -> Path:
    return Path(cfg.paths.zoo) / cfg.data.name / cfg.backbone.name / cfg.name / f"seed{cfg.seed}"


def resumed_checkpoint(cfg: DictConfig) -> Path | None:
    """The checkpoint that `resume=<run directory>` continues from.

    Raises:
        UserError: there is none, or it is damaged.
    """
    if not cfg.resume:
        return None
    path = Path(cfg.resume) / LAST
    if not path.is_file():
        raise UserError(f"resume={cfg.resume} has no {LAST} (it stopped within its first epoch): start the run again without resume")
    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch.load raises many unrelated types for damaged files
        raise UserError(f"{path} can't be read, it is damaged ({type(error).__name__}): start the run again without resume") from None
    return path


def set_up_process(cfg: DictConfig) -> None:
    if cfg.trainer.num_threads:
        torch.set_num_threads(cfg.trainer.num_threads)
    if not isinstance(cfg.seed, int) or cfg.seed < 0:
        raise UserError(f"seed={cfg.seed} must be a whole number from 0")
    pl.seed_everything(cfg.seed, workers=True, verbose=False)


def quieten_libraries() -> None:
    """Lightning's adverts and per-run notices; warnings stay."""
    for name in ("pytorch_lightning", "lightning.fabric", "lightning_fabric", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)


def is_first_rank() -> bool:
    return getattr(rank_zero_only, "rank", 0) in (0, None)


def group_of(folder: Path) -> str:
    """W&B group: the sweep or pipeline a run belongs to, or the run itself."""
    return folder.parent.name if folder.parent.parent.name == "sweep" or folder.name[:1].isdigit() and folder.parent.name != "single" else folder.name


def say(lines: Sequence[str]) -> None:
    if is_first_rank():
        for line in lines:
            log.info(line)


def say_result(fields: Mapping[str, Any]) -> None:
    """One line per split with the first metric of every peer."""
    for split, by_peer in fields["metrics"].items():
        numbers = "  ".join(f"{peer} {next(m for k, m in values.items() if k in ('top1', 'map')):.2f}" for peer, values in by_peer.items())
        say([f"{split:<5} {numbers}   (percent; {fields['wall_s']:.0f} s in all)"])
