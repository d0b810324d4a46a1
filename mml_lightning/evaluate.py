"""Measure trained peers with any views: what `eval.py` does."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from mml_lightning import build, process, provenance, run
from mml_lightning.backbones.recognizer import Recognizer, rebuild
from mml_lightning.cohort import Cohort
from mml_lightning.data.records import Dataset
from mml_lightning.errors import UserError
from mml_lightning.loaders import VideoData
from mml_lightning.modalities import Modality
from mml_lightning.objectives.graph import Objective
from mml_lightning.results import RunResult, nested_metrics
from mml_lightning.weights import Alias, require, resolve
from mml_lightning.zoo import load_peer

log = logging.getLogger(__name__)

Entries = dict[str, dict[str, Any]]


def evaluate(cfg: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """Measure `ckpt` on `split` with `views`; returns the content of result.json."""
    process.set_up_process(cfg)
    if cfg.split not in ("val", "test"):
        raise UserError(f"split={cfg.split!r} is unknown; use val or test")
    entries = load_entries(cfg, overrides)
    data = build.dataset(cfg)
    check_classes(entries, data)
    chosen = {name: Modality(**entry["modality"]) for name, entry in entries.items()}
    cache = build.flow_cache(cfg, chosen)
    distinct = list({modality.name: modality for modality in chosen.values()}.values())
    viewed = build.clip_datasets(cfg, data, cache, distinct)
    shaped = viewed.get("test")
    if shaped is None:
        raise UserError("the data have no test split to take the views from")
    dataset = dataclasses.replace(shaped, records=list(data.splits[cfg.split]))
    cohort = scoring_cohort(cfg, entries, chosen, data)
    folder = Path(cfg.paths.output_dir)
    process.say(
        [f"measuring {', '.join(entries)} on {len(dataset)} {cfg.split} videos of {data.name}, views {cfg.views.name}"]
    )
    result = RunResult(
        folder,
        process.is_first_rank(),
        **provenance.identity(cfg, data, overrides) | {"stage": "eval", "modality": [m.name for m in distinct]},
    )
    result.fields["peers"] = {
        n: {"modality": chosen[n].name, "init": str(cfg.ckpt), "origin": str(cfg.ckpt)} for n in entries
    }
    result.write()
    try:
        video = VideoData(
            {"test": dataset},
            build.loader_settings(cfg),
            lambda: run.fill_flow(cache, {"test": dataset}, cfg.data.workers),
        )
        trainer = run.make_trainer(cfg, folder, len(dataset))
        trainer.test(cohort, datamodule=video, verbose=False)
        provenance.save_scores(cohort, folder / "predictions", cfg.split)
        result.fields |= {
            "metrics": nested_metrics(trainer.callback_metrics),
            "unreadable": provenance.unreadable(cohort),
        }
    except BaseException as error:
        result.finish("failed", f"{type(error).__name__}: {error}")
        raise
    result.finish("completed")
    process.say_result(result.fields)
    return result.fields


def load_entries(cfg: DictConfig, overrides: Sequence[str]) -> Entries:
    """The peers that `ckpt` names: a run directory, its checkpoint, a zoo file or an alias.

    Raises:
        UserError: nothing to load there.
    """
    given = str(cfg.ckpt)
    path = Path(given).expanduser()
    if path.is_dir():
        files = sorted((path / "peers").glob("*.pt")) or sorted(path.glob("*.pt"))
        if not files:
            raise UserError(
                f"ckpt={given} holds no peers/*.pt: the run did not finish; continue it with resume={given}"
            )
        return {file.stem: load_peer(file) for file in files}
    if path.suffix == ".ckpt":
        return checkpoint_entries(path)
    if path.suffix == ".pt" or "/" in given:
        return {path.stem: load_peer(path)}
    table = {name: Alias(a["run"], a["peer"], tuple(a["make"])) for name, a in build.plain(cfg.aliases).items()}
    zoo = Path(cfg.paths.zoo) / cfg.data.name / cfg.backbone.name
    if given not in table:
        raise UserError(f"ckpt={given} is no file, no directory and no alias; aliases are {sorted(table)}")
    entries = {}
    for modality in cfg.modality:
        origin = resolve(given, modality, "", table, zoo, [], cfg.seed)
        require(origin, modality)
        assert origin.path is not None
        entries[origin.path.stem] = load_peer(origin.path)
    return entries


def checkpoint_entries(path: Path) -> Entries:
    """The peers inside a checkpoint of a run, with the descriptions stored beside their weights."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        described = content["hyper_parameters"]["peers"]
        state = content["state_dict"]
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except Exception as error:  # torch.load raises many unrelated types for damaged files
        raise UserError(f"{path} is not a readable checkpoint of a run ({type(error).__name__})") from None
    entries = {}
    for name, entry in described.items():
        prefix = f"peers.{name}."
        weights = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        entries[name] = {**entry, "state_dict": weights, "provenance": {}}
    return entries


def check_classes(entries: Mapping[str, Mapping[str, Any]], data: Dataset) -> None:
    """Raises:
    UserError: weights and data differ in their classes.
    """
    for name, entry in entries.items():
        for head, value in data.heads.items():
            have = entry["classes"].get(head, [])
            if len(have) != len(value.classes):
                raise UserError(
                    f"{name} was trained for {len(have)} classes, data={data.name} has {len(value.classes)}; "
                    "choose the data it was trained on (setup=, data=)"
                )
            if list(have) != list(value.classes):
                raise UserError(
                    f"{name} was trained for other class names than data={data.name} has; choose the data it was trained on"
                )


def scoring_cohort(cfg: DictConfig, entries: Entries, chosen: Mapping[str, Modality], data: Dataset) -> Cohort:
    """A cohort that is only measured."""
    nets: dict[str, Recognizer] = {}
    for name, entry in entries.items():
        nets[name] = rebuild(entry["arch"])
        nets[name].load_state_dict(entry["state_dict"])
        trained = entry["provenance"].get("sampling", {}).get("num_segments", cfg.sampling.num_segments)
        if trained != cfg.sampling.num_segments:
            log.warning(
                "%s was trained with %s segments, it is measured with %s", name, trained, cfg.sampling.num_segments
            )
    return Cohort(
        peers=nets,
        modalities=chosen,
        objective=Objective(list(nets)),
        plan=build.optimiser_plan(cfg, {}),
        ids={"test": [record.id for record in data.splits[cfg.split]]},
        multi_label={head: value.multi_label for head, value in data.heads.items()},
        pooling=cfg.views.pooling,
        test_name=cfg.split,
    )
