"""What a run leaves behind and how it is recognised again: identity, fingerprint, exported peers, scores."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mml_lightning import build, plan
from mml_lightning.cohort import Cohort
from mml_lightning.data.decode import decoder_version
from mml_lightning.data.records import Dataset
from mml_lightning.process import is_first_rank
from mml_lightning.results import RunResult, write_json
from mml_lightning.zoo import export_peer

log = logging.getLogger(__name__)

COSMETIC = (
    "paths",
    "logger",
    "callbacks",
    "name",
    "tags",
    "resume",
    "pipeline",
    "aliases",
    "test",
    "views",
    "experiment",
)


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
    return {
        "init": where["init"],
        "origin": where["path"],
        "origin_fingerprint": (where.get("provenance") or {}).get("fingerprint"),
    }


def fingerprint(cfg: DictConfig, data: Dataset, provenance: Mapping[str, Mapping[str, Any]]) -> str:
    """Hash of all that decides the weights of a stage: its config without cosmetics, its data, the weights it starts from."""
    values = build.plain(cfg)
    for key in COSMETIC:
        values.pop(key, None)
    for key in ("reader", "root", "index", "workers", "eval_batch_size"):  # the data fingerprint speaks for the files
        values["data"].pop(key, None)
    values["init"] = {
        name: (where.get("provenance") or {}).get("fingerprint") or where["init"] for name, where in provenance.items()
    }
    text = json.dumps([values, data.fingerprint()], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def zoo_folder(cfg: DictConfig) -> Path:
    return Path(cfg.paths.zoo) / cfg.data.name / cfg.backbone.name / cfg.name / f"seed{cfg.seed}"
