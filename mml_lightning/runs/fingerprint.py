"""How a run is known again: identity, fingerprint of all that decides its weights, place in the zoo."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mml_lightning.config import backbones, balance, fusion, phases, targets
from mml_lightning.config.key_roles import (
    COSMETIC_DATA,
    COSMETIC_KEYS,
    COSMETIC_TRAINER,
    MACHINE_KEYS,
    TRAINER_OF_RECIPE,
)
from mml_lightning.config.lightning_nodes import STEERS
from mml_lightning.config.peers import COPY
from mml_lightning.config.revisions import revisions
from mml_lightning.config.settings import Settings
from mml_lightning.data.records.decoder import frames_reader
from mml_lightning.data.records.records import Dataset
from mml_lightning.zoo.aliases import KINETICS


def identity(cfg: Settings, overrides: Sequence[str], data: Dataset | None = None) -> dict[str, Any]:
    """What a table groups and labels runs by; without `data` as much of it as a config tells."""
    fields = {
        "name": cfg.name,
        **{group: _name(getattr(cfg, group).name) for group in ("stage", "objective", "setup", "data")},
        "backbone": backbones.label(cfg),
        "modality": list(cfg.modality),
        "views": _name(cfg.views.name),
        "evaluation": evaluation(cfg),
        "seed": cfg.seed,
        "overrides": list(overrides),
    }
    if data is not None:
        fields["data_fingerprint"] = data.fingerprint()
        fields["decoder"] = frames_reader(data, cfg.data.decoder)
    return fields


def _name(value: Any) -> str | None:
    """A name as text: a run that failed for a name that is none has a row in the tables too."""
    return None if value is None else str(value)


def own_backbone(cfg: Settings, modality: str) -> dict[str, str]:
    """What is told of a peer of a modality where those of a run have different networks."""
    names = backbones.names(cfg)
    return {"backbone": names[modality]} if len(set(names.values())) > 1 else {}


def origin_fields(where: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "init": where["init"],
        "origin": where["path"],
        "origin_fingerprint": (where.get("provenance") or {}).get("fingerprint"),
    }


def fingerprint(
    cfg: Settings, data: Dataset, provenance: Mapping[str, Mapping[str, Any]], changed: Sequence[str] = ()
) -> str:
    """Hash of all that decides the weights of a stage: config without cosmetics, data, the weights it starts from.

    Args:
        changed: settings that were others before a resume: the weights are those of no config alone.
    """
    found = hashed(decided(cfg, data, provenance))
    return hashed([found, list(changed)]) if changed else found


def hashed(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


def decided(cfg: Settings, data: Dataset, provenance: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    """All that decides the weights of a stage, in plain values: the config's part, and the fingerprint of the data."""
    values = config_that_decides_weights(cfg.plain())
    values["backbone"] = backbones.identity(values)
    if values["transforms"]["reduced_decode"] == "never":  # as all runs were when there was no such key
        values["transforms"] = {key: value for key, value in values["transforms"].items() if key != "reduced_decode"}
    if not values["objective"]["edges"] and not fusion.is_taught(values):
        # peers without lessons come out the same however many there are
        values["stage"] = {key: value for key, value in values["stage"].items() if key != "copies"}
        provenance = {name: where for name, where in provenance.items() if not COPY.search(name)}
    if not any(modality["source"] == "flow" for modality in values["modality"].values()):
        values.pop("flow")
    values["init"] = {name: identity_of_initial_weights(where) for name, where in provenance.items()} | {
        key: values["init"][key] for key in ("file", "new_head")
    }
    if cfg.balance.name == "gblend":  # wherever the runs lie that told them
        values["balance"] = {"name": "gblend", "weights": balance.blended(cfg, phases.names_of_peers(cfg))}
    if changed := revisions(cfg.plain(), data):
        values["revisions"] = changed
    return [values, data.fingerprint()]


def settings(
    cfg: Settings, data: Dataset, provenance: Mapping[str, Mapping[str, Any]], notes: Sequence[str] = ()
) -> dict[str, Any]:
    """What two runs must agree in if one is to stand for the other where an alias names it: as :func:`decided`, without
    the machine that it was made on (:data:`MACHINE_KEYS`), and with the whole recipe of the first weights.

    Args:
        notes: what sets the run apart from its config: limits, settings that a resume has changed.
    """
    values, told = decided(cfg, data, provenance)
    values["trainer"] = {key: value for key, value in values["trainer"].items() if key in TRAINER_OF_RECIPE}
    for key in MACHINE_KEYS:
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
    return f"weights:{told['content']}" if told.get("content") else identity_of_initial_weights(where)


def evaluation(cfg: Settings) -> dict[str, Any]:
    """How a run is measured: two results are comparable, and one may stand for the other, if this is equal."""
    trainer = {f"limit_{split}_batches": cfg.trainer.limit(split) for split in ("val", "test")}
    sizes = cfg.transforms
    frames: dict[str, Any] = {
        "num_segments": cfg.sampling.num_segments,
        **{"output": sizes.output, "short_side": sizes.short_side, "antialias": sizes.antialias},
    }
    if cfg.transforms.reduced_decode != "never":
        frames["reduced_decode"] = cfg.transforms.reduced_decode
    if (fused := fusion.identity(cfg)) is not None:
        frames["fusion"] = fused
    views, metrics = cfg.plain("views"), cfg.plain("metrics")
    if not views.get("segments"):  # as all views were when there was no such key
        views.pop("segments", None)
    return {"test": bool(cfg.test), "views": views, "frames": frames, "metrics": metrics, **trainer}


def identity_of_initial_weights(where: Mapping[str, Any]) -> str:
    """Which weights a peer starts from, wherever the file lies: those of a run by its fingerprint and peer, those of
    another project by the file's hash."""
    told = where.get("provenance") or {}
    if where["init"] == KINETICS:
        return f"{KINETICS}:{told['imported']['sha256']}"
    return f"{told['fingerprint']}:{told.get('peer')}" if told.get("fingerprint") else str(where["init"])


def config_that_decides_weights(values: Mapping[str, Any]) -> dict[str, Any]:
    """A plain config without what can't change weights; functions by their first names."""
    kept = {key: value for key, value in targets.with_first_names(values).items() if key not in COSMETIC_KEYS}
    for key in ("repeat", "sources"):  # as all runs were when there were no such keys
        if not kept.get(key):
            kept.pop(key, None)
    if declared := phases.identity(kept):
        kept["phases"] = declared
    else:  # as all runs were when there was no such key
        kept.pop("phases", None)
    if kept["trainer"].get("limit_epochs") is None:  # as all runs were when there was no such key
        kept["trainer"] = {key: value for key, value in kept["trainer"].items() if key != "limit_epochs"}
    if (kept.get("checkpoint") or {}).get("export") != "best":  # what is kept beside the last weights changes none
        kept.pop("checkpoint", None)
    mix = kept.get("mix") or {}
    if mix.get("mixup") is None and mix.get("cutmix") is None:  # as all runs were when there was no such key
        kept.pop("mix", None)
    if (kept.get("ema") or {}).get("decay") is None:
        kept.pop("ema", None)
    _without_defaults(kept)
    if (kept.get("balance") or {}).get("name", "none") == "none":  # as all runs were when there was no such key
        kept.pop("balance", None)
    if not fusion.is_taught(values):  # it is measured only
        kept.pop("fusion", None)
    if kept.get("loss") in (None, {"name": "cross_entropy", "label_smoothing": 0.0}):
        kept.pop("loss", None)
    if deciding := _callbacks_that_decide(values.get("callbacks") or {}):
        kept["callbacks"] = deciding
    if isinstance(edges := (kept.get("objective") or {}).get("edges"), list):
        kept["objective"] = {**kept["objective"], "edges": [_without_project(edge) for edge in edges]}
    for group, cosmetic in (("data", COSMETIC_DATA), ("trainer", COSMETIC_TRAINER)):
        kept[group] = {key: value for key, value in kept[group].items() if key not in cosmetic}
    return kept


LATER: dict[str, dict[str, Any]] = {
    "objective": {"labels": "all", "efficiency": None},
    "sampling": {"clips": 1, "val_clips": 1, "bn_per_clip": False},
}
"""Keys that groups have had since a later version, and what they were before."""


def _without_defaults(kept: dict[str, Any]) -> None:
    """Leave out :data:`LATER` keys that are as all runs were."""
    for group, usual in LATER.items():
        if isinstance(own := kept.get(group), Mapping):
            kept[group] = {key: value for key, value in own.items() if key not in usual or value != usual[key]}


WATCHERS = tuple(f"lightning.pytorch.callbacks.{name}" for name, steers in STEERS.items() if not steers)
"""Callbacks of Lightning that change no weight, by their first names."""


def _callbacks_that_decide(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a config calls as callbacks, but for those that are known to look on only."""
    called = {key: node for key, node in values.items() if isinstance(node, Mapping) and node.get(targets.TARGET)}
    named: dict[str, Any] = targets.with_first_names(called)
    return {key: node for key, node in named.items() if node[targets.TARGET] not in WATCHERS}


def _without_project(edge: Any) -> Any:
    """An edge without a learned map, as all were when there was no such key."""
    if not isinstance(edge, Mapping) or edge.get("project") is not False:
        return edge
    return {key: value for key, value in edge.items() if key != "project"}


def zoo_folder(cfg: Settings, modality: str) -> Path:
    """Where the networks of the peers of a modality lie, of a run and all that share its name and seed."""
    backbone = backbones.of(cfg, modality).name
    return Path(cfg.paths.zoo) / cfg.data.name / backbone / cfg.name / f"seed{cfg.seed}"
