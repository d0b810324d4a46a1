"""What a run leaves behind: exported peers, scores, what was measured."""

from __future__ import annotations

import functools
import itertools
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mml_lightning.config import backbones
from mml_lightning.config.settings import Settings
from mml_lightning.runs.fingerprint import zoo_folder
from mml_lightning.runs.result import RunResult, now
from mml_lightning.training.cohort import Cohort
from mml_lightning.utils import progress
from mml_lightning.utils.distributed import is_first_rank
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.result_file import read_result, write_json
from mml_lightning.zoo.entries import publish
from mml_lightning.zoo.files import export_peer, load_peer, own_weights, weights_hash
from mml_lightning.zoo.fusions import FILE as FUSION_FILE
from mml_lightning.zoo.fusions import GATE, export_fusion, load_fusion

log = logging.getLogger(__name__)


def export(
    cfg: Settings,
    cohort: Cohort,
    origins: Mapping[str, Mapping[str, Any]],
    result: RunResult,
    made: Mapping[str, Any],
) -> None:
    """Leave every peer in the run directory, with where it came from inside the file; those of a whole run also in the
    zoo. Neither place loses a network: see :mod:`mml_lightning.zoo.entries` and :func:`make_room`.

    Args:
        made: `settings` and `recipe`, see :func:`settings`, and `limited`: what has cut the training short.
    """
    folder, entries = Path(cfg.paths.output_dir), {}
    fused = _fusion(cfg, cohort, result, made)
    for name, peer in cohort.peers.items():
        if name in cohort.frozen and not fused:  # it is what it was
            continue
        state = {key: value.detach().cpu() for key, value in own_weights(peer.state_dict()).items()}
        result.fields["peers"][name]["weights"] = weights_hash(state)
        entries[name] = {
            **cohort.hparams["peers"][name],
            "state_dict": state,
            "provenance": {
                "peer": name,
                "run": cfg.name,
                "stage": cfg.stage.name,
                "setup": cfg.setup.name,
                "backbone": str(backbones.of(cfg, cohort.modalities[name].name).name),
                "seed": cfg.seed,
                **{key: result.fields[key] for key in ("epochs", "steps", "fingerprint", "git_sha")},
                **{"planned_epochs": cfg.schedule.epochs, **_weights(cfg, result.fields)},
                "limited": list(made["limited"]),
                **({"phases": result.fields["phases"]} if result.fields.get("phases") else {}),
                "recipe": made["recipe"],
                "run_dir": str(folder),
                "sampling": cfg.plain("sampling"),
                "transforms": cfg.plain("transforms"),
                "metrics": metrics_of(name, result.fields["metrics"]),
                "origin": origins[name],
            },
        }
    joint = {"fusion": result.fields["fusion"]["weights"]} if fused else {}
    make_room(folder, {name: result.fields["peers"][name]["weights"] for name in entries} | joint)
    _write_weights(folder / "peers", entries, fused)
    if made["limited"] or not entries:
        return
    told = {**result.fields, "status": "completed", "finished": now(), "wall_s": result.elapsed()}
    told |= {"run_dir": str(folder), "settings": made["settings"]}
    kinds: dict[Path, list[str]] = {}  # networks of one backbone lie together
    for name in entries:
        kinds.setdefault(zoo_folder(cfg, cohort.modalities[name].name), []).append(name)
    places: dict[str, Path] = {}
    for home, names in kinds.items():
        write = functools.partial(_write, folder, {name: entries[name] for name in names}, told, fused)
        places |= dict.fromkeys(names, publish(home, result.fields["fingerprint"], told, write, names))
    result.fields["zoo"] = str(next(iter(places.values())))
    for name, place in places.items():
        result.fields["peers"][name]["zoo"] = str(place / f"{name}.pt")


def _weights(cfg: Settings, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Which weights of a run these are, where they are others than its last: their epoch and step are their own."""
    averaged = {"averaged": cfg.ema.decay} if cfg.ema.decay is not None and cfg.ema.weights == "averaged" else {}
    if cfg.checkpoint.export != "best":
        return averaged
    best = fields["checkpoint"]["best"]
    return {**averaged, "weights": "best", "epochs": best["epoch"], "steps": best["step"], "monitored": dict(best)}


def _fusion(cfg: Settings, cohort: Cohort, result: RunResult, made: Mapping[str, Any]) -> dict[str, Any]:
    """What the fusion of a run has learned, as it is exported; empty where it has learned nothing."""
    fusion, gate = cohort.fusion, cohort.gate if "gate" in cohort.learners else None
    if fusion is None or not {"fusion", "gate"} & set(cohort.learners):
        return {}
    state = {key: value.detach().cpu() for key, value in fusion.state_dict().items()}
    if gate is not None:
        state |= {f"{GATE}{key}": value.detach().cpu() for key, value in own_weights(gate.state_dict()).items()}
    told = {"name": cfg.fusion.name, "weights": weights_hash(state), "learned": fusion.weights_told()}
    result.fields["fusion"] = told
    where = {key: result.fields[key] for key in ("epochs", "steps", "fingerprint", "git_sha")}
    where |= {"run": cfg.name, "stage": cfg.stage.name, "seed": cfg.seed, "recipe": made["recipe"]}
    gated = {"gate": cohort.hparams["gate"]} if gate is not None else {}
    return {"state_dict": state, "arch": fusion.arch, **gated, "provenance": where}


def _write(
    run: Path,
    entries: Mapping[str, Mapping[str, Any]],
    told: Mapping[str, Any],
    fused: Mapping[str, Any],
    place: Path,
) -> None:
    """The files of an entry of the zoo."""
    _write_weights(place, entries, fused)
    for scores in sorted((run / "predictions").glob("*.npz")):
        (place / "predictions").mkdir(exist_ok=True)
        shutil.copyfile(scores, place / "predictions" / scores.name)  # for ensembles with networks of later runs
    write_json(place / "result.json", told)


def _write_weights(place: Path, entries: Mapping[str, Mapping[str, Any]], fused: Mapping[str, Any]) -> None:
    for name, entry in entries.items():
        export_peer(place / f"{name}.pt", entry)
    if fused:
        export_fusion(place, fused)


def make_room(folder: Path, weights: Mapping[str, str]) -> None:
    """Set the networks aside that an earlier start of the run has left, unless the new ones are equal:
    `peers_after_<n>_steps`.

    Args:
        weights: {peer, or "fusion" where it learns: hash of its new weights}.
    """
    have = {file.stem: file for file in sorted((folder / "peers").glob("*.pt"))}
    if not have:
        return
    steps = "some"
    try:
        earlier = {name: load_peer(file) for name, file in have.items()}
        found = {name: weights_hash(entry["state_dict"]) for name, entry in earlier.items()}
        if (beside := folder / "peers" / FUSION_FILE).is_file():
            found["fusion"] = weights_hash(load_fusion(beside)["state_dict"])
        if found == dict(weights):
            return
        steps = str(next(iter(earlier.values()))["provenance"].get("steps", steps))
    except UserError as error:
        log.warning("%s", error)
    names = (f"peers_after_{steps}_steps{'' if n == 1 else f'-{n}'}" for n in itertools.count(1))
    aside = next(folder / name for name in names if not (folder / name).exists())
    (folder / "peers").rename(aside)
    log.info("the earlier networks of this run are kept in %s", aside)


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
        f"{folder} already holds a run ({what}), which a new one would overwrite: choose another directory "
        "(leave out hydra.run.dir=, hydra.sweep.dir=, paths.output_dir=), or continue that run: resume=auto"
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
        log.warning(progress.describe_failures(sorted(failures.items()), f"{split}: not evaluated"))
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
        log.warning("%s: %d of %d videos evaluated (trainer.limit_%s_batches)", split, seen, of, loop or split)
    return {"videos": seen, "of": of}
