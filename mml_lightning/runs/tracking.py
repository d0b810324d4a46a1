"""Loggers of a run: the CSV log always, Weights & Biases if asked for. Lightning is imported when they are made."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mml_lightning.config import backbones, lightning_nodes
from mml_lightning.config.settings import Settings
from mml_lightning.utils.distributed import is_first_rank
from mml_lightning.utils.errors import UserError

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger, WandbLogger

log = logging.getLogger(__name__)

OUTCOME = ("epochs", "steps", "clips_per_s")
IDENTITY = (
    "name",
    "command",
    "overrides",
    "git_sha",
    "versions",
    "data_fingerprint",
    "fingerprint",
    "decoder",
    "peers",
)

SAID: set[str] = set()
STAGING = "WANDB_DATA_DIR"  # tables are staged there
OWN: dict[str, str] = {}  # what we set it to
"""What was said once and need not be said by every job of a sweep."""


def loggers(cfg: Settings, folder: Path, job_type: str) -> list[Logger]:
    """CSV below `<folder>/logs`, a W&B run with group, job type, tags and flat ablation keys, what the config calls.

    W&B is online when logged in, else offline below the run directory, said in one line.
    """
    from mml_lightning.training.csv_logger import MetricsLog

    found: list[Logger] = [MetricsLog(folder / "logs")]
    if cfg.logger.wandb:
        found.append(_wandb(cfg, folder, job_type))
    return [*found, *lightning_nodes.loggers(cfg)]


def ablation(cfg: Settings) -> dict[str, Any]:
    """Flat keys that a dashboard groups by without clicking."""
    flat = {
        "name": cfg.name,
        "setup": cfg.setup.name,
        "stage": cfg.stage.name,
        "modality": "+".join(cfg.modality),
        "backbone": backbones.label(cfg),
        "data": cfg.data.name,
        "objective": cfg.objective.name,
        "sampling": cfg.sampling.mode,
        "seed": cfg.seed,
    }
    return {f"ablation/{k}": v for k, v in (flat | {f"init_{m}": cfg.init.of(m) for m in cfg.modality}).items()}


def group_of(folder: Path) -> str:
    """What a run belongs to: its sweep or pipeline, which is the directory below `sweep` or `single`, or itself."""
    for parent in folder.parents:
        if parent.name in ("single", "sweep"):
            return folder.relative_to(parent).parts[0]
    return folder.name


def log_outcome(
    trainer_loggers: Sequence[Logger], metrics: Mapping[str, Any], result: Mapping[str, Any], folder: Path
) -> None:
    """Everything a table needs, where W&B looks for it: numbers in the summary, what the run was in the config, the
    scores of every class as tables `per_class/<split>`.

    Args:
        metrics: flat, as Lightning has them.
        result: the content of result.json.
        folder: of the run.
    """
    from pytorch_lightning.loggers import WandbLogger

    for logger in trainer_loggers:
        if isinstance(logger, WandbLogger) and is_first_rank():
            import wandb

            run = logger.experiment
            run.summary.update({key: float(value) for key, value in metrics.items()})
            run.summary.update({key: result[key] for key in OUTCOME if result.get(key) is not None})
            parameters = {name: peer["parameters"] for name, peer in result["peers"].items() if "parameters" in peer}
            run.summary.update({f"parameters/{name}": count for name, count in parameters.items()})
            run.config.update({"run": {key: result.get(key) for key in IDENTITY}}, allow_val_change=True)
            for file in sorted((folder / "predictions").glob("*_per_class.csv")):
                with file.open(encoding="utf-8", newline="") as handle:
                    head, *rows = list(csv.reader(handle))
                cells = [[row[0], *(float(cell) if cell else None for cell in row[1:])] for row in rows]
                key = f"per_class/{file.name.removesuffix('_per_class.csv')}"
                run.log({key: wandb.Table(columns=[*head], data=cells, allow_mixed_types=True)})


def close(cfg: Settings, failed: bool = False) -> None:
    """Finish the W&B run: one left open would swallow the next job of a sweep."""
    if cfg.logger.wandb:
        import wandb

        if wandb.run is not None:
            wandb.finish(exit_code=int(failed))


def preempted(cfg: Settings) -> None:
    """Tell W&B that the run will go on."""
    if cfg.logger.wandb:
        import wandb

        if wandb.run is not None:
            wandb.run.mark_preempting()


def _wandb(cfg: Settings, folder: Path, job_type: str) -> WandbLogger:
    import wandb
    from pytorch_lightning.loggers import WandbLogger

    if (settings := folder / "wandb" / "settings").exists():  # it would say where W&B sends the record and the key
        raise UserError(f"{settings} is not ours and would be read by W&B: delete it, or train without logger=wandb")
    offline = wandb_mode(cfg.logger.mode) == "offline"
    if offline:  # nobody to show a link to; WandbLogger's own settings come too late to be quiet
        wandb.setup(wandb.Settings(mode="offline", silent=True))
    if offline and "offline" not in SAID:
        SAID.add("offline")
        log.info("W&B is offline (not logged in): upload later with: wandb sync %s/wandb/offline-run-*", folder)
    if os.environ.get(STAGING) == OWN.get(STAGING):  # where nobody has chosen a place, not in the home directory
        os.environ[STAGING] = OWN[STAGING] = str(folder / "wandb")
    earlier = sorted(folder.glob("wandb/*run-*-*"), key=lambda path: path.stat().st_mtime)
    return WandbLogger(
        name=cfg.name,
        id=earlier[-1].name.rpartition("-")[2] if earlier else None,  # a resumed run goes on in its own record
        save_dir=str(folder),
        project=cfg.logger.project,
        entity=cfg.logger.entity,
        offline=offline,
        resume=None if offline else "allow",
        group=group_of(folder),
        job_type=job_type,
        tags=[cfg.setup.name, job_type, *cfg.tags],
        config={"config": cfg.plain()} | ablation(cfg),
        log_model=False,
    )


def wandb_mode(configured: str = "auto") -> str:
    """`configured`; for "auto" what WANDB_MODE says, else online when logged in and offline when not."""
    import wandb

    if configured != "auto":
        return configured
    said = os.environ.get("WANDB_MODE") or ("online" if wandb.api.api_key else "offline")
    return "offline" if said == "dryrun" else said  # the older word, which Lightning's logger leaves behind
