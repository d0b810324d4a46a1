"""Loggers of a run: the CSV log always, Weights & Biases if asked for."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger

log = logging.getLogger(__name__)


def loggers(cfg: DictConfig, folder: Path, group: str) -> list[Logger]:
    """CSV below `<folder>/logs`, and a W&B run with group, job type, tags and flat ablation keys.

    W&B is online when logged in, else offline below the run directory, said in one line.
    """
    found: list[Logger] = [CSVLogger(folder, name="logs", version="")]
    if cfg.logger.wandb:
        found.append(_wandb(cfg, folder, group))
    return found


def ablation(cfg: DictConfig) -> dict[str, Any]:
    """Flat keys that a dashboard groups by without clicking."""
    flat = {
        "setup": cfg.setup.name,
        "stage": cfg.stage.name,
        "modality": "+".join(cfg.modality),
        "backbone": cfg.backbone.name,
        "data": cfg.data.name,
        "objective": cfg.objective.name,
        "sampling": cfg.sampling.mode,
        "seed": cfg.seed,
    }
    return {f"ablation/{k}": v for k, v in (flat | {f"init_{m}": str(cfg.init[m]) for m in cfg.modality}).items()}


def log_summary(trainer_loggers: list[Logger], metrics: Mapping[str, Any]) -> None:
    """Put the final numbers where a W&B table looks for them."""
    for logger in trainer_loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.summary.update(dict(metrics))


def close(cfg: DictConfig) -> None:
    """Finish the W&B run: one left open would swallow the next job of a sweep."""
    if cfg.logger.wandb:
        import wandb

        if wandb.run is not None:
            wandb.finish()


def _wandb(cfg: DictConfig, folder: Path, group: str) -> WandbLogger:
    import wandb

    mode = (
        cfg.logger.mode
        if cfg.logger.mode != "auto"
        else os.environ.get("WANDB_MODE") or ("online" if wandb.api.api_key else "offline")
    )
    if mode == "offline":
        log.info("W&B is offline (not logged in): upload later with: wandb sync %s/wandb/offline-run-*", folder)
    return WandbLogger(
        name=cfg.name,
        save_dir=str(folder),
        project=cfg.logger.project,
        entity=cfg.logger.entity,
        offline=mode == "offline",
        group=group,
        job_type=cfg.stage.name,
        tags=[cfg.setup.name, cfg.stage.name, *cfg.tags],
        config={"config": OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)} | ablation(cfg),
        log_model=False,
    )
