"""What a run leaves behind and how it is recognised again: identity, fingerprint, exported peers, scores."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mml_lightning import nodes, plan
from mml_lightning.cohort import Cohort
from mml_lightning.data.images import frames_reader
from mml_lightning.data.records import Dataset
from mml_lightning.files import copy_atomically
from mml_lightning.process import is_first_rank
from mml_lightning.results import RunResult, read_result, write_json
from mml_lightning.weights import KINETICS
from mml_lightning.zoo import export_peer

log = logging.getLogger(__name__)

# What can't change the weights of a stage: keys of the config, of its `data` (their fingerprint speaks for the files)
# and of its `trainer`.
COSMETIC = (
    "paths",
    "logger",
    "callbacks",
    "name",
    "tags",
    "resume",
    "resume_force",
    "pipeline",
    "aliases",
    "test",
    "views",
    "metrics",
    "experiment",
    "step",
    "seeds",
    "tables",
    "catalogue",
    "loading",
    "placement",
    "trusted",
)
COSMETIC_DATA = (
    *("reader", "root", "index", "videos", "workers", "eval_batch_size", "max_bad_share", "quarantine"),
    *("cache", "cache_mb"),
    *("train", "test", "classes", "frames", "flow", "absent", "empty"),  # lists and folders of Charades
)
COSMETIC_TRAINER = ("accelerator", "num_threads", "limit_test_batches", "limit_val_batches", "validations")
COPY = re.compile(r"_\d+$")  # ends the names of further networks of a modality


def export(cfg: DictConfig, cohort: Cohort, provenance: Mapping[str, Any], result: RunResult) -> None:
    """Leave every peer in the run directory and in the zoo, with where it came from inside the file."""
    zoo = zoo_folder(cfg)
    warn_of_replacement(zoo, result)
    for name, peer in cohort.peers.items():
        if name in cohort.frozen:  # it is what it was
            continue
        entry = {
            **cohort.hparams["peers"][name],
            "state_dict": {key: value.detach().cpu() for key, value in peer.state_dict().items()},
            "provenance": {
                "peer": name,
                "run": cfg.name,
                "stage": cfg.stage.name,
                "setup": cfg.setup.name,
                "seed": cfg.seed,
                "epochs": cfg.schedule.epochs,
                "fingerprint": result.fields["fingerprint"],
                "sampling": nodes.plain(cfg.sampling),
                "transforms": nodes.plain(cfg.transforms),
                "metrics": metrics_of(name, result.fields["metrics"]),
                "git_sha": result.fields["git_sha"],
                "origin": provenance[name],
            },
        }
        export_peer(Path(cfg.paths.output_dir) / "peers" / f"{name}.pt", entry)
        shared = export_peer(zoo / f"{name}.pt", entry)
        result.fields["peers"][name]["zoo"] = str(shared)
    for scores in sorted((Path(cfg.paths.output_dir) / "predictions").glob("*.npz")):
        copy_atomically(scores, zoo / "predictions" / scores.name)  # for ensembles with networks of later runs
    result.fields["zoo"] = str(zoo)
    write_json(zoo / "result.json", {**result.fields, "status": "completed", "wall_s": result.elapsed()})


def metrics_of(peer: str, metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A peer's part of the metrics of a result, {split: {metric: x}}; {split: {head: {metric: x}}} of several heads."""
    found: dict[str, Any] = {}
    for split, by_peer in metrics.items():
        for key, values in by_peer.items():
            head, _, name = key.rpartition("/")
            if name == peer and head:
                found.setdefault(split, {})[head] = values
            elif name == peer:
                found[split] = values
    return found


def warn_of_replacement(zoo: Path, result: RunResult) -> None:
    """The zoo holds one network per name and seed. Runs that differ in what the name does not tell replace each other
    there (each keeps its own in its directory), which is right when a run is repeated, but must not go unnoticed."""
    old = read_result(zoo)
    if old is None or old.get("fingerprint") == result.fields["fingerprint"]:
        return
    then, now = (
        {item for item in fields.get("overrides") or () if not item.startswith(("seed=", *COSMETIC))}
        for fields in (old, result.fields)
    )
    differ = []
    if then != now:
        before, after = (" ".join(sorted(items)) or "defaults" for items in (then - now, now - then))
        differ.append(f"other settings ({before}; now {after})")
    if old.get("data_fingerprint") != result.fields.get("data_fingerprint"):
        differ.append("other data")
    log.warning(
        "zoo: %s held the networks of a run with %s; they are replaced. To keep both, give one of the runs a name=...",
        zoo,
        " and ".join(differ) or "other first weights or config files",
    )


def save_scores(cohort: Cohort, folder: Path, split: str) -> None:
    """Per-view logits by video id, predictions/<split>.npz, and the numbers of every class beside it,
    <split>_per_class.csv (files of each head, if there are several)."""
    if not is_first_rank():
        return
    for head, scores in cohort.scores.items():
        dump = scores.dump()
        if dump is None:
            continue
        name = split if len(cohort.scores) == 1 else f"{split}_{head}"
        dump.save(folder / f"{name}.npz")
        dump.save_by_class(folder / f"{name}_per_class.csv")
        for line in dump.notes():
            log.info(line)


def unreadable(cohort: Cohort, split: str) -> dict[str, str]:
    """Videos of the split just measured that could not be read, with reasons: they are in no metric."""
    failures = {video: reason for scores in cohort.scores.values() for video, reason in scores.failures.items()}
    if failures and is_first_rank():
        log.warning(plan.describe_failures(sorted(failures.items()), f"{split}: not measured"))
    return failures


def measured(cohort: Cohort, split: str) -> dict[str, int]:
    """How many videos of the split just measured have scores, `of` how many; a part is said."""
    scores = next(iter(cohort.scores.values()))
    dump, of = scores.dump(), len(scores.ids)
    seen = len(dump.ids) if dump else 0
    if dump and dump.skipped and is_first_rank():
        log.warning("%s: %d of %d videos measured (trainer.limit_%s_batches)", split, seen, of, split)
    return {"videos": seen, "of": of}


def identity(cfg: DictConfig, overrides: Sequence[str], data: Dataset | None = None) -> dict[str, Any]:
    """What a table groups and labels runs by; without `data` as much of it as a config tells."""
    fields = {
        "name": cfg.name,
        "stage": cfg.stage.name,
        "objective": cfg.objective.name,
        "setup": cfg.setup.name,
        "data": cfg.data.name,
        "backbone": cfg.backbone.name,
        "modality": list(cfg.modality),
        "views": cfg.views.name,
        "evaluation": evaluation(cfg),
        "seed": cfg.seed,
        "overrides": list(overrides),
    }
    if data is not None:
        fields["data_fingerprint"] = data.fingerprint()
        fields["decoder"] = frames_reader(data, cfg.data.decoder)
    return fields


def record_failure(cfg: DictConfig, overrides: Sequence[str], error: BaseException) -> None:
    """A job of a sweep that failed before it began has a row in the table too, with its reason."""
    folder = Path(cfg.paths.output_dir)
    if is_first_rank() and read_result(folder) is None:
        result = RunResult(folder, True, **identity(cfg, overrides))
        result.__exit__(type(error), error, None)


def discard_unstarted(folder: Path) -> None:
    """Remove the directory that Hydra made for a run which a mistake kept from starting; whatever began is kept."""
    inside = {path.name for path in folder.glob("*")} if folder.is_dir() else set()
    if is_first_rank() and inside <= {".hydra", ".lock", "train.log", "eval.log", "run.log"}:
        shutil.rmtree(folder, ignore_errors=True)


def origin_fields(where: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "init": where["init"],
        "origin": where["path"],
        "origin_fingerprint": (where.get("provenance") or {}).get("fingerprint"),
    }


def fingerprint(cfg: DictConfig, data: Dataset, provenance: Mapping[str, Mapping[str, Any]]) -> str:
    """Hash of all that decides the weights of a stage: config without cosmetics, data, the weights it starts from."""
    values = decisive(nodes.plain(cfg))
    if values["transforms"]["reduced_decode"] == "never":  # as all runs were when there was no such key
        values["transforms"] = {key: value for key, value in values["transforms"].items() if key != "reduced_decode"}
    if not values["objective"]["edges"]:
        # peers without lessons come out the same however many there are
        values["stage"] = {key: value for key, value in values["stage"].items() if key != "copies"}
        provenance = {name: where for name, where in provenance.items() if not COPY.search(name)}
    if not any(modality["source"] == "flow" for modality in values["modality"].values()):
        values.pop("flow")
    values["init"] = {name: start_of(where) for name, where in provenance.items()} | {
        key: values["init"][key] for key in ("file", "new_head")
    }
    text = json.dumps([values, data.fingerprint()], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def evaluation(cfg: DictConfig) -> dict[str, Any]:
    """How a run is measured: two results are comparable, and one may stand for the other, if this is equal."""
    trainer = {key: cfg.trainer[key] for key in ("limit_val_batches", "limit_test_batches")}
    frames = {"num_segments": cfg.sampling.num_segments}
    frames |= {key: cfg.transforms[key] for key in ("output", "short_side", "antialias")}
    if cfg.transforms.reduced_decode != "never":
        frames["reduced_decode"] = cfg.transforms.reduced_decode
    views, metrics = nodes.plain(cfg.views), nodes.plain(cfg.metrics)
    return {"test": bool(cfg.test), "views": views, "frames": frames, "metrics": metrics, **trainer}


def start_of(where: Mapping[str, Any]) -> str:
    """Which weights a peer starts from, wherever the file lies: those of a run by its fingerprint and peer, those of
    another project by the file's hash."""
    told = where.get("provenance") or {}
    if where["init"] == KINETICS:
        return f"{KINETICS}:{told['imported']['sha256']}"
    return f"{told['fingerprint']}:{told.get('peer')}" if told.get("fingerprint") else str(where["init"])


def decisive(values: Mapping[str, Any]) -> dict[str, Any]:
    """A plain config without what can't change weights."""
    kept = {key: value for key, value in values.items() if key not in COSMETIC}
    if not kept.get("repeat"):
        kept.pop("repeat", None)
    for group, cosmetic in (("data", COSMETIC_DATA), ("trainer", COSMETIC_TRAINER)):
        kept[group] = {key: value for key, value in kept[group].items() if key not in cosmetic}
    return kept


def zoo_folder(cfg: DictConfig) -> Path:
    return Path(cfg.paths.zoo) / cfg.data.name / cfg.backbone.name / cfg.name / f"seed{cfg.seed}"
