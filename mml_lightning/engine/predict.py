"""Networks with all that stands between a video and its scores: how clips are drawn, cropped, prepared and pooled.

A :class:`Predictor` is made of what a run, a checkpoint, a zoo file or an alias holds (:func:`load_entries`). What
`eval.py` measures it measures with one; whoever only wants scores takes them from :meth:`Predictor.score`, for which no
run directory is written.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from mml_lightning.backbones.peer import Peer
from mml_lightning.backbones.registry import rebuild
from mml_lightning.config import backbones, training
from mml_lightning.config import data as config_data
from mml_lightning.config import peers as config_peers
from mml_lightning.config.settings import Settings
from mml_lightning.data.flow.cache import FlowCache
from mml_lightning.data.loading.dataset import ClipDataset
from mml_lightning.data.records.records import Dataset, Head, Record, rows
from mml_lightning.evaluation.score_collector import ScoreCollector
from mml_lightning.modalities import Modality
from mml_lightning.objectives.graph import Objective
from mml_lightning.runs.lineage import Lineage
from mml_lightning.training.cohort import Cohort
from mml_lightning.training.datamodule import VideoData
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.result_file import read_result
from mml_lightning.zoo.aliases import aliases, require_file, the_file
from mml_lightning.zoo.entries import homes
from mml_lightning.zoo.files import CHECKPOINT, checkpoint_entries, load_peer, warn_of_unfilled

log = logging.getLogger(__name__)

Entries = dict[str, dict[str, Any]]
"""What a zoo file holds, by peer: see :mod:`mml_lightning.zoo.files`."""


@dataclass(frozen=True)
class Predictor:
    """Networks of one set of classes, and how videos become their scores.

    Args:
        cfg: says how clips are drawn, cropped, loaded and pooled, and where networks are computed (`sampling`,
            `transforms`, `views`, `metrics`, `fusion`, `data`, `flow`, `step`, `trainer`).
        networks: by peer, as they were trained.
        modalities: what each of them looks at.
        heads: classes that are scored; the networks have them all.
        flow: where the flow of videos lies that bring none of their own; None where no network looks at flow.
    """

    cfg: Settings
    networks: Mapping[str, Peer]
    modalities: Mapping[str, Modality]
    heads: Mapping[str, Head]
    flow: FlowCache | None

    @classmethod
    def of(cls, cfg: Settings, entries: Mapping[str, Mapping[str, Any]], heads: Mapping[str, Head]) -> Predictor:
        """The networks of zoo entries.

        Raises:
            UserError: weights don't fit their network, a network lacks one of the `heads`, or `step` or `flow` is
                wrong.
        """
        check_classes(entries, heads, str(cfg.data.name))
        config_data.sources(cfg)  # their packages know how to prepare clips, and how to build networks
        chosen = {name: Modality(**entry["modality"]) for name, entry in entries.items()}
        flow = config_data.flow_cache(cfg, chosen)
        networks = {name: rebuilt(name, entry, cfg.sampling.num_segments) for name, entry in entries.items()}
        training.execution_settings(cfg).apply(networks)
        return cls(cfg, networks, chosen, dict(heads), flow)

    @property
    def distinct(self) -> list[Modality]:
        """The modalities, each once."""
        return list({modality.name: modality for modality in self.modalities.values()}.values())

    def videos(self, name: str, records: Sequence[Record]) -> Dataset:
        """Records, which need no label, as the test split of a data set."""
        return Dataset(name, {"test": records}, self.heads)

    def clips(self, data: Dataset, split: str = "test") -> ClipDataset:
        """How the videos of a split become samples: `views` say which clips and crops.

        Raises:
            UserError: sampling, transforms or views are wrong, or the videos lack a source.
        """
        measured = dataclasses.replace(data, splits={"test": data.splits[split]})  # `views` shape the test split
        return config_data.clip_datasets(self.cfg, measured, self.flow, self.distinct)["test"]

    def cohort(self, data: Dataset, split: str = "test") -> Cohort:
        """The networks as a LightningModule that is only measured, on a split.

        Raises:
            UserError: the scoring is wrong.
        """
        return Cohort(
            peers=self.networks,
            modalities=self.modalities,
            objective=Objective(list(self.networks)),
            plan=training.optimiser_plan(self.cfg, {}),
            ids={"test": [row.id for row in rows(data.splits[split])]},
            multi_label={head: value.multi_label for head, value in self.heads.items()},
            scoring=training.scoring(self.cfg),
            classes={head: value.classes for head, value in self.heads.items()},
            views=self.cfg.plain("views"),
            test_name=split,
            max_views=self.cfg.data.eval_batch_size,
            fusion=training.fusion(self.cfg, list(self.networks)),
        )

    def score(
        self, data: Dataset, split: str = "test", watched: Callable[[Iterable[Any]], Iterable[Any]] = iter
    ) -> dict[str, ScoreCollector]:
        """The scores of a split per head, those of `eval.py` to the bit: logits by video id and view, and what could
        not be read. One process on one device, whatever `trainer.devices`; nothing is written but flow.

        Args:
            watched: gets the batches and gives them back, to show how far it is.

        Raises:
            UserError: as :meth:`clips` and :meth:`cohort`.
        """
        settings = self.cfg.trainer
        fabric = Fabric(accelerator=settings.accelerator, devices=1, precision=settings.precision)  # type: ignore[arg-type]  # as it was typed
        cohort = self.cohort(data, split).eval()
        fabric.setup_module(cohort)  # on the device and in the precision of the run
        video = VideoData({"test": self.clips(data, split)}, config_data.loader_settings(self.cfg))
        cohort.on_test_epoch_start()
        with torch.inference_mode(), fabric.autocast():
            for number, batch in enumerate(watched(video.test_dataloader())):
                cohort.test_step(fabric.to_device(batch), number)
        return cohort.scores


def rebuilt(name: str, entry: Mapping[str, Any], segments: int) -> Peer:
    """The network of a zoo entry; what could surprise is said.

    Raises:
        UserError: its weights don't fit what is said of it.
    """
    try:
        net = rebuild(entry["arch"])
        net.load_state_dict(entry["state_dict"])
    except Exception as error:  # builders and load_state_dict raise many unrelated types
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{name}: its weights don't fit its description of the network ({reason})") from None
    warn_of_unfilled(name, entry["provenance"])
    trained = entry["provenance"].get("sampling", {}).get("num_segments", segments)
    if trained != segments:
        log.warning("%s was trained with %s segments, it is evaluated with %s", name, trained, segments)
    return net


def heads_of(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Head]:
    """The heads that zoo entries were trained for.

    Raises:
        UserError: there are no entries, one has no head, or they differ.
    """
    found: dict[str, dict[str, Head]] = {}
    for name, entry in entries.items():
        _require_head(name, entry)
        several = entry.get("multi_label") or {}
        found[name] = {h: Head(tuple(names), bool(several.get(h))) for h, names in entry["classes"].items()}
    if not found:
        raise UserError("there are no networks to predict with")
    first, heads = next(iter(found.items()))
    for name, other in found.items():
        if other != heads:
            raise UserError(f"{name} was trained on other classes than {first}: they can't be combined")
    return heads


def check_classes(entries: Mapping[str, Mapping[str, Any]], heads: Mapping[str, Head], data: str) -> None:
    """Args:
        data: name of the data set that has these `heads`.

    Raises:
        UserError: weights and data differ in their classes.
    """
    for name, entry in entries.items():
        _require_head(name, entry)
        for head, value in heads.items():
            have = entry["classes"].get(head, [])
            if len(have) != len(value.classes):
                raise UserError(
                    f"{name} was trained for {len(have)} classes, data={data} has {len(value.classes)}; "
                    "choose the data it was trained on (setup=, data=)"
                )
            if list(have) != list(value.classes):
                raise UserError(
                    f"{name} was trained for other class names than data={data} has; choose the data it was trained on"
                )


def _require_head(name: str, entry: Mapping[str, Any]) -> None:
    if not entry["classes"]:
        raise UserError(
            f"{name} is a trunk without a head; train one: train.py init.{entry['modality']['name']}=<file> "
            "init.new_head=true"
        )


def load_entries(cfg: Settings, overrides: Sequence[str], data: Callable[[], Dataset]) -> Entries:
    """The peers that `ckpt` names: a run directory, its checkpoint, a zoo file or an alias. Of an alias the settings of
    the trainer do not matter: nothing is trained here.

    Args:
        data: reads the records, for an alias.

    Raises:
        UserError: nothing to load there, or an alias of which there is nothing with the settings asked for.
    """
    given = str(cfg.plain("ckpt"))
    path = Path(given).expanduser()
    if path.is_dir():
        return {file.stem: load_peer(file) for file in peer_files(path, given)}
    if path.suffix == CHECKPOINT:
        return checkpoint_entries(path)
    if path.suffix == ".pt" or "/" in given:
        entry = load_peer(the_file(path))
        return {entry["provenance"].get("peer", path.stem): entry}
    table = aliases(cfg.plain("aliases"))
    if given.partition(":")[0] not in table:
        raise UserError(f"ckpt={given} is not a file, directory or alias; aliases are {sorted(table)}")
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


def backbone_label(cfg: Settings, entries: Entries, chosen: Mapping[str, Modality]) -> str:
    """The networks that are measured, by what their files say; files of earlier versions leave it to the config."""
    names = backbones.names(cfg, [m.name for m in chosen.values()])
    told = {m.name: entries[n]["provenance"].get("backbone") or names[m.name] for n, m in chosen.items()}
    return backbones.joined(told)


def peer_files(folder: Path, given: str) -> list[Path]:
    """The exported peers of a run: its own, those of the zoo for a reused step of a pipeline, or of a zoo folder."""
    result = read_result(folder) or {}
    places = homes(result) if result.get("reused") and result.get("zoo") else [folder]
    files = sorted((folder / "peers").glob("*.pt")) or sorted(file for place in places for file in place.glob("*.pt"))
    if files:
        return files
    if several := sorted(file.parent for file in folder.glob("[!.]*/*.pt") if file.parent.name != "peers"):
        listed = ", ".join(map(str, dict.fromkeys(several)))
        raise UserError(f"ckpt={given} holds several entries of the zoo; give one of them: {listed[:300]}")
    if result.get("pipeline"):
        steps = sorted(path.name for path in folder.glob("[0-9]*_*"))
        raise UserError(f"ckpt={given} is a pipeline; give one of its steps: {', '.join(steps)}")
    raise UserError(
        f"ckpt={given} holds no peers/*.pt: the run did not finish; continue it with train.py resume={given}"
    )
