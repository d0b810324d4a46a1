"""Measure trained peers with any views: what `eval.py` does."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mml_lightning.backbones.peer import Peer
from mml_lightning.backbones.registry import rebuild
from mml_lightning.config import data as config_data
from mml_lightning.config import instantiate, limits, training, values
from mml_lightning.config import peers as config_peers
from mml_lightning.data.records.records import Dataset, rows
from mml_lightning.engine import flow, process, train
from mml_lightning.engine import trainer as engine_trainer
from mml_lightning.modalities import Modality
from mml_lightning.objectives.graph import Objective
from mml_lightning.runs import export, fingerprint, tracking
from mml_lightning.runs import result as runs_result
from mml_lightning.runs.lineage import Lineage
from mml_lightning.runs.result import RunResult, nested_metrics
from mml_lightning.training import checkpoints
from mml_lightning.training.cohort import Cohort
from mml_lightning.training.datamodule import VideoData
from mml_lightning.utils import distributed, ranks
from mml_lightning.utils import process as utils_process
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.result_file import read_result
from mml_lightning.zoo.aliases import aliases, require_file, the_file
from mml_lightning.zoo.files import CHECKPOINT, checkpoint_entries, load_peer, warn_of_unfilled

log = logging.getLogger(__name__)

Entries = dict[str, dict[str, Any]]


def evaluate(cfg: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """Measure `ckpt` on `split` with `views`; returns the content of result.json."""
    values.check_values(cfg)
    process.set_up_process(cfg)
    if cfg.split not in ("val", "test"):
        raise UserError(f"split={cfg.split!r} is unknown; use val or test")
    if not limits.measures(cfg, "test"):
        raise UserError("trainer.limit_test_batches=0: nothing would be measured; raise it, or set it to null")
    folder = Path(cfg.paths.output_dir)
    if any((folder / name).is_dir() for name in ("peers", checkpoints.FOLDER)):
        raise UserError(f"{folder} holds a training run, whose numbers these would replace: choose another directory")
    read = functools.cache(lambda: config_data.dataset(cfg, [cfg.split]))
    entries = load_entries(cfg, overrides, read)
    data = read()
    check_classes(entries, data)
    chosen = {name: Modality(**entry["modality"]) for name, entry in entries.items()}
    cache = config_data.flow_cache(cfg, chosen)
    distinct = list({modality.name: modality for modality in chosen.values()}.values())
    measured = dataclasses.replace(data, splits={"test": data.splits[cfg.split]})  # `views` shape the test split
    datasets = config_data.clip_datasets(cfg, measured, cache, distinct)
    cohort = scoring_cohort(cfg, entries, chosen, data)
    trainer = engine_trainer.make_trainer(cfg, folder, [], job_type="eval")
    config_data.check_memory(cfg, datasets, trainer.world_size // trainer.num_nodes)
    train.check_measuring(cfg, trainer, datasets)
    utils_process.say(
        [
            f"measuring {', '.join(entries)} on {len(datasets['test'])} {cfg.split} videos of {data.name}, "
            f"views {cfg.views.name}; output {folder}"
        ]
    )
    known = fingerprint.identity(cfg, overrides, data) | {"stage": "eval", "modality": [m.name for m in distinct]}
    peers = {n: {"modality": m.name, "init": str(cfg.ckpt), "origin": str(cfg.ckpt)} for n, m in chosen.items()}
    known |= {"weights": {name: entry["provenance"].get("fingerprint") for name, entry in entries.items()}}
    with RunResult(folder, distributed.is_first_rank(), **known, peers=peers) as result:
        filler = flow.flow_filler(cache, datasets, cfg.data.workers)
        datasets = {split: dataclasses.replace(one, seen=data.seen(cfg.split)) for split, one in datasets.items()}
        video = VideoData(datasets, config_data.loader_settings(cfg), filler)
        with train.interruptible(trainer), ranks.blamed():
            trainer.test(cohort, datamodule=video, verbose=False)
        export.save_scores(cohort, folder / "predictions", cfg.split)
        result.fields |= {
            "metrics": nested_metrics(trainer.callback_metrics),
            "unreadable": {cfg.split: export.unreadable(cohort, cfg.split)},
            "damaged": {cfg.split: export.damaged(cohort)},
            "measured": {cfg.split: export.measured(cohort, cfg.split, "test")},
        }
        result.fields["limited"] = [
            *(f"{name}: {why}" for name, entry in entries.items() for why in entry["provenance"].get("limited") or ()),
            *limits.measured(cfg, result.fields["measured"], result.fields["unreadable"], "test"),
        ]
        tracking.log_outcome(trainer.loggers, trainer.callback_metrics, result.fields, folder)
        if not result.fields["metrics"]:
            utils_process.say([f"no label of {cfg.split} is known; mml score {folder} writes submissions"])
    runs_result.say_result(result.fields)
    return result.fields


def load_entries(cfg: DictConfig, overrides: Sequence[str], data: Callable[[], Dataset]) -> Entries:
    """The peers that `ckpt` names: a run directory, its checkpoint, a zoo file or an alias. Of an alias the settings of
    the trainer do not matter: nothing is trained here.

    Args:
        data: reads the records, for an alias.

    Raises:
        UserError: nothing to load there, or an alias of which there is nothing with the settings asked for.
    """
    given = str(cfg.ckpt)
    path = Path(given).expanduser()
    if path.is_dir():
        return {file.stem: load_peer(file) for file in peer_files(path, given)}
    if path.suffix == CHECKPOINT:
        return checkpoint_entries(path)
    if path.suffix == ".pt" or "/" in given:
        entry = load_peer(the_file(path))
        return {entry["provenance"].get("peer", path.stem): entry}
    table = aliases(instantiate.to_container(cfg.aliases))
    if given.partition(":")[0] not in table:
        raise UserError(f"ckpt={given} is no file, no directory and no alias; aliases are {sorted(table)}")
    kept = [item for item in config_peers.shared(cfg, overrides) if not item.startswith(("ckpt=", "split="))]
    lineage = Lineage(cfg, overrides, data, ["trainer"], "python eval.py")
    entries = {}
    for modality in cfg.modality:
        origin = config_peers.resolve(cfg, kept, given, modality)
        require_file(origin, "ckpt")
        file = lineage.found(origin, "ckpt").path
        assert file is not None, "an alias names a file"
        if file.stem in entries:
            raise UserError(f"ckpt={given} is one network, {file.stem}; use modality=[{file.stem}], or ckpt=own")
        entries[file.stem] = load_peer(file)
    return entries


def peer_files(folder: Path, given: str) -> list[Path]:
    """The exported peers of a run: its own, those of the zoo for a reused step of a pipeline, or of a zoo folder."""
    result = read_result(folder) or {}
    reused = Path(str(result["zoo"])) if result.get("reused") and result.get("zoo") else folder
    files = sorted((folder / "peers").glob("*.pt")) or sorted(reused.glob("*.pt"))
    if files:
        return files
    if several := sorted(file.parent for file in folder.glob("[!.]*/*.pt") if file.parent.name != "peers"):
        places = ", ".join(map(str, dict.fromkeys(several)))
        raise UserError(f"ckpt={given} holds several entries of the zoo; give one of them: {places[:300]}")
    if result.get("pipeline"):
        steps = sorted(path.name for path in folder.glob("[0-9]*_*"))
        raise UserError(f"ckpt={given} is a pipeline; give one of its steps: {', '.join(steps)}")
    raise UserError(
        f"ckpt={given} holds no peers/*.pt: the run did not finish; continue it with train.py resume={given}"
    )


def check_classes(entries: Mapping[str, Mapping[str, Any]], data: Dataset) -> None:
    """Raises:
    UserError: weights and data differ in their classes.
    """
    for name, entry in entries.items():
        if not entry["classes"]:
            raise UserError(
                f"{name} is a trunk without a head; train one: train.py init.{entry['modality']['name']}=<file> "
                "init.new_head=true"
            )
        for head, value in data.heads.items():
            have = entry["classes"].get(head, [])
            if len(have) != len(value.classes):
                raise UserError(
                    f"{name} was trained for {len(have)} classes, data={data.name} has {len(value.classes)}; "
                    "choose the data it was trained on (setup=, data=)"
                )
            if list(have) != list(value.classes):
                raise UserError(
                    f"{name} was trained for other class names than data={data.name} has; "
                    "choose the data it was trained on"
                )


def scoring_cohort(cfg: DictConfig, entries: Entries, chosen: Mapping[str, Modality], data: Dataset) -> Cohort:
    """A cohort that is only measured."""
    nets: dict[str, Peer] = {}
    for name, entry in entries.items():
        try:
            nets[name] = rebuild(entry["arch"])
            nets[name].load_state_dict(entry["state_dict"])
        except Exception as error:  # builders and load_state_dict raise many unrelated types
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{name}: its weights and what is said of its network don't fit ({reason})") from None
        warn_of_unfilled(name, entry["provenance"])
        trained = entry["provenance"].get("sampling", {}).get("num_segments", cfg.sampling.num_segments)
        if trained != cfg.sampling.num_segments:
            log.warning(
                "%s was trained with %s segments, it is measured with %s", name, trained, cfg.sampling.num_segments
            )
    training.execution_settings(cfg).apply(nets)
    return Cohort(
        peers=nets,
        modalities=chosen,
        objective=Objective(list(nets)),
        plan=training.optimiser_plan(cfg, {}),
        ids={"test": [row.id for row in rows(data.splits[cfg.split])]},
        multi_label={head: value.multi_label for head, value in data.heads.items()},
        scoring=training.scoring(cfg),
        classes={head: value.classes for head, value in data.heads.items()},
        views=instantiate.to_container(cfg.views),
        test_name=cfg.split,
        max_views=cfg.data.eval_batch_size,
    )
