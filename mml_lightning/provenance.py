"""What a run leaves behind and how it is recognised again: identity, fingerprint, exported peers, scores."""

from __future__ import annotations

import hashlib
import itertools
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
from mml_lightning.entries import publish
from mml_lightning.errors import UserError
from mml_lightning.process import is_first_rank
from mml_lightning.results import RunResult, now, read_result, write_json
from mml_lightning.revisions import revisions
from mml_lightning.weights import KINETICS
from mml_lightning.zoo import export_peer, load_peer, weights_hash

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
    *("cache", "cache_mb", "first_frame"),
    *("train", "test", "classes", "frames", "flow", "absent", "empty"),  # lists and folders of Charades
)
COSMETIC_TRAINER = ("accelerator", "num_threads", "limit_test_batches", "limit_val_batches", "validations")
# Where and how a stage was computed, not what: an alias takes a network whatever these were.
MACHINE = ("step", "placement", "flow.on_the_fly")
TRAINER_OF_RECIPE = ("accumulate_grad_batches", "precision")  # of `trainer` all else is the machine, or a limit
COPY = re.compile(r"_\d+$")  # ends the names of further networks of a modality


def export(
    cfg: DictConfig,
    cohort: Cohort,
    origins: Mapping[str, Mapping[str, Any]],
    result: RunResult,
    made: Mapping[str, Any],
) -> None:
    """Leave every peer in the run directory, with where it came from inside the file; those of a whole run also in the
    zoo. Neither place loses a network: see :mod:`mml_lightning.entries` and :func:`make_room`.

    Args:
        made: `settings` and `recipe`, see :func:`settings`, and `limited`: what has cut the training short.
    """
    folder, entries = Path(cfg.paths.output_dir), {}
    for name, peer in cohort.peers.items():
        if name in cohort.frozen:  # it is what it was
            continue
        state = {key: value.detach().cpu() for key, value in peer.state_dict().items()}
        result.fields["peers"][name]["weights"] = weights_hash(state)
        entries[name] = {
            **cohort.hparams["peers"][name],
            "state_dict": state,
            "provenance": {
                "peer": name,
                "run": cfg.name,
                "stage": cfg.stage.name,
                "setup": cfg.setup.name,
                "seed": cfg.seed,
                **{key: result.fields[key] for key in ("epochs", "steps", "fingerprint", "git_sha")},
                "planned_epochs": cfg.schedule.epochs,
                "limited": list(made["limited"]),
                "recipe": made["recipe"],
                "run_dir": str(folder),
                "sampling": nodes.plain(cfg.sampling),
                "transforms": nodes.plain(cfg.transforms),
                "metrics": metrics_of(name, result.fields["metrics"]),
                "origin": origins[name],
            },
        }
    make_room(folder, {name: result.fields["peers"][name]["weights"] for name in entries})
    for name, entry in entries.items():
        export_peer(folder / "peers" / f"{name}.pt", entry)
    if made["limited"] or not entries:
        return
    told = {**result.fields, "status": "completed", "finished": now(), "wall_s": result.elapsed()}
    told |= {"run_dir": str(folder), "settings": made["settings"]}

    def write(place: Path) -> None:
        for name, entry in entries.items():
            export_peer(place / f"{name}.pt", entry)
        for scores in sorted((folder / "predictions").glob("*.npz")):
            (place / "predictions").mkdir(exist_ok=True)
            shutil.copyfile(scores, place / "predictions" / scores.name)  # for ensembles with networks of later runs
        write_json(place / "result.json", told)

    place = publish(zoo_folder(cfg), result.fields["fingerprint"], told, write)
    result.fields["zoo"] = str(place)
    for name in entries:
        result.fields["peers"][name]["zoo"] = str(place / f"{name}.pt")


def make_room(folder: Path, weights: Mapping[str, str]) -> None:
    """Set the networks aside that an earlier start of the run has left, unless the new ones are equal:
    `peers_after_<n>_steps`.

    Args:
        weights: {peer: hash of its new weights}.
    """
    have = {file.stem: file for file in sorted((folder / "peers").glob("*.pt"))}
    if not have:
        return
    steps = "some"
    try:
        earlier = {name: load_peer(file) for name, file in have.items()}
        if {name: weights_hash(entry["state_dict"]) for name, entry in earlier.items()} == dict(weights):
            return
        steps = str(next(iter(earlier.values()))["provenance"].get("steps", steps))
    except UserError as error:
        log.warning("%s", error)
    names = (f"peers_after_{steps}_steps{'' if n == 1 else f'-{n}'}" for n in itertools.count(1))
    aside = next(folder / name for name in names if not (folder / name).exists())
    (folder / "peers").rename(aside)
    log.info("the networks that this run had before are kept in %s", aside)


def refuse_occupied(folder: Path) -> None:
    """Raises:
    UserError: a run has begun in `folder`; a new one there would replace its networks or checkpoints.
    """
    told = read_result(folder) or {}
    holds = [*folder.glob("peers/*.pt"), *folder.glob("checkpoints/*.ckpt")]
    if not holds and told.get("status") != "completed":
        return
    what = f"{told['name']}, {told.get('status')}" if told.get("name") else holds[0].name
    raise UserError(
        f"{folder} holds a run already ({what}), which a new one would replace: choose another directory "
        "(leave out hydra.run.dir=, hydra.sweep.dir=, paths.output_dir=), or go on with that run: resume=auto"
    )


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


def damaged(cohort: Cohort) -> dict[str, str]:
    """Videos of the split just measured that were measured as far as they decode, with what is lost."""
    return {video: loss for scores in cohort.scores.values() for video, loss in sorted(scores.damaged.items())}


def measured(cohort: Cohort, split: str, loop: str | None = None) -> dict[str, int]:
    """How many videos of the split just measured have scores, `of` how many; a part is said.

    Args:
        loop: of Lightning that measured it, whose limit holds; `split` is that of its name.
    """
    scores = next(iter(cohort.scores.values()))
    dump, of = scores.dump(), len(scores.ids)
    seen = len(dump.ids) if dump else 0
    if dump and dump.skipped and is_first_rank():
        log.warning("%s: %d of %d videos measured (trainer.limit_%s_batches)", split, seen, of, loop or split)
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


def fingerprint(
    cfg: DictConfig, data: Dataset, provenance: Mapping[str, Mapping[str, Any]], changed: Sequence[str] = ()
) -> str:
    """Hash of all that decides the weights of a stage: config without cosmetics, data, the weights it starts from.

    Args:
        changed: settings that were others before a resume: the weights are those of no config alone.
    """
    found = hashed(decided(cfg, data, provenance))
    return hashed([found, list(changed)]) if changed else found


def hashed(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


def decided(cfg: DictConfig, data: Dataset, provenance: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    """All that decides the weights of a stage, in plain values: the config's part, and the fingerprint of the data."""
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
    if changed := revisions(nodes.plain(cfg), data):
        values["revisions"] = changed
    return [values, data.fingerprint()]


def settings(
    cfg: DictConfig, data: Dataset, provenance: Mapping[str, Mapping[str, Any]], notes: Sequence[str] = ()
) -> dict[str, Any]:
    """What two runs must agree in if one is to stand for the other where an alias names it: as :func:`decided`, without
    the machine that it was made on (:data:`MACHINE`), and with the whole recipe of the first weights.

    Args:
        notes: what sets the run apart from its config: limits, settings that a resume has changed.
    """
    values, told = decided(cfg, data, provenance)
    values["trainer"] = {key: value for key, value in values["trainer"].items() if key in TRAINER_OF_RECIPE}
    for key in MACHINE:
        group, _, name = key.partition(".")
        if name:
            values[group] = {k: v for k, v in values.get(group, {}).items() if k != name}
        else:
            values.pop(group, None)
    if not values.get("flow"):
        values.pop("flow", None)
    starts = {name: recipe_of(where) for name, where in provenance.items() if name in values["init"]}
    values["init"] |= starts
    kept = {**values, "data_fingerprint": told, **({"notes": list(notes)} if notes else {})}
    plain: dict[str, Any] = json.loads(json.dumps(kept, default=str))  # as it reads back
    return plain


def recipe_of(where: Mapping[str, Any]) -> str:
    """As :func:`start_of`, by the recipe of an earlier run where it tells one, and by the weights themselves of a file
    that no run has made."""
    told = where.get("provenance") or {}
    if told.get("recipe"):
        return f"{told['recipe']}:{told.get('peer')}"
    return f"weights:{told['content']}" if told.get("content") else start_of(where)


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
    if kept["trainer"].get("limit_epochs") is None:  # as all runs were when there was no such key
        kept["trainer"] = {key: value for key, value in kept["trainer"].items() if key != "limit_epochs"}
    for group, cosmetic in (("data", COSMETIC_DATA), ("trainer", COSMETIC_TRAINER)):
        kept[group] = {key: value for key, value in kept[group].items() if key not in cosmetic}
    return kept


def zoo_folder(cfg: DictConfig) -> Path:
    """Where the entries of a run and all that share its name and seed lie."""
    return Path(cfg.paths.zoo) / cfg.data.name / cfg.backbone.name / cfg.name / f"seed{cfg.seed}"
