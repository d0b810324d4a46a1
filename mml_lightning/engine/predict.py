"""Networks with all that stands between a video and its scores: how clips are drawn, cropped, prepared and pooled.

A :class:`Predictor` is made of what a run, a checkpoint, a zoo file or an alias holds (:func:`load_predictor`). What
`eval.py` measures it measures with one; whoever only wants scores takes them from :meth:`Predictor.predict`, for which
no run directory is written.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException

from mml_lightning.backbones.peer import Peer
from mml_lightning.config import backbones, plugins, training
from mml_lightning.config import data as config_data
from mml_lightning.config import peers as config_peers
from mml_lightning.config.settings import Settings
from mml_lightning.data.flow.cache import FlowCache
from mml_lightning.data.loading.dataset import ClipDataset
from mml_lightning.data.records.records import Dataset, Head, Record, rows
from mml_lightning.engine import fusions, load
from mml_lightning.engine.flow import flow_filler
from mml_lightning.engine.prediction import Prediction, predictions_of
from mml_lightning.evaluation.score_collector import ScoreCollector
from mml_lightning.fusion.fuse import Fusion
from mml_lightning.fusion.gates import Gate
from mml_lightning.modalities import Modality
from mml_lightning.objectives.graph import Objective
from mml_lightning.runs.lineage import Lineage
from mml_lightning.training.cohort import Cohort
from mml_lightning.training.datamodule import VideoData
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.program import command
from mml_lightning.utils.result_file import read_result
from mml_lightning.zoo.aliases import aliases, require_file, the_file
from mml_lightning.zoo.entries import homes
from mml_lightning.zoo.files import CHECKPOINT, checkpoint_entries, load_peer, warn_of_unfilled
from mml_lightning.zoo.fusions import load_with_fusion

log = logging.getLogger(__name__)

FEW = 8  # videos

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
        heads: classes that are scored; the networks have them all. flow: where that of videos without their own lies.
        fusion, gate: how the outputs of all are fused, and which are used where; None: not at all, not learned.
    """

    cfg: Settings
    networks: Mapping[str, Peer]
    modalities: Mapping[str, Modality]
    heads: Mapping[str, Head]
    flow: FlowCache | None
    fusion: Fusion | None = None
    gate: Gate | None = None

    @classmethod
    def of(cls, cfg: Settings, entries: Mapping[str, Mapping[str, Any]], heads: Mapping[str, Head]) -> Predictor:
        """The networks of zoo entries.

        Raises:
            UserError: weights don't fit their network, a network lacks one of the `heads`, or `step` or `flow` is
                wrong.
        """
        check_classes(entries, heads, str(cfg.data.name))
        kinds = config_data.sources(cfg)  # their packages know how to prepare clips, and how to build networks
        chosen = {n: plugins.stored_modality(n, entry["modality"], cfg.trusted) for n, entry in entries.items()}
        for name, modality in chosen.items():
            if modality.source not in kinds:
                raise UserError(
                    f"{name} looks at {modality.source}, a kind of source that is not known here ({', '.join(kinds)}): "
                    f"type sources.{modality.source} and trusted as for its training, docs/code.md"
                )
        flow = config_data.flow_cache(cfg, chosen)
        networks = {
            name: rebuilt(name, entry, cfg.sampling.num_segments, cfg.trusted) for name, entry in entries.items()
        }
        training.execution_settings(cfg).apply(networks)
        return cls(cfg, networks, chosen, dict(heads), flow, *fusions.learned(cfg, entries, networks, heads, chosen))

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
            **fusions.joint(self.cfg, list(self.networks), self.fusion, self.gate),
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
        cohort = self.cohort(data, split)
        for _ in self.measured(cohort, self.clips(data, split), watched):
            pass
        return cohort.scores

    def measured(
        self,
        cohort: Cohort,
        clips: ClipDataset,
        watched: Callable[[Iterable[Any]], Iterable[Any]] = iter,
        workers: int | None = None,
    ) -> Iterator[Mapping[str, Any]]:
        """Each batch of `clips`, when `cohort` has measured it: its scores are in `cohort.scores`.

        Args:
            workers: in place of `data.workers`.

        Raises:
            UserError: there is no such device here.
        """
        loading, fabric = config_data.loader_settings(self.cfg), self.fabric()
        cohort.eval()
        fabric.setup_module(cohort)  # on the device and in the precision of the run
        if workers is not None:
            loading = dataclasses.replace(loading, workers=workers)
        video = VideoData({"test": clips}, loading)
        cohort.on_test_epoch_start()
        for number, batch in enumerate(watched(video.test_dataloader())):
            with torch.inference_mode(), fabric.autocast():
                cohort.test_step(fabric.to_device(batch), number)
            yield batch

    def fabric(self) -> Fabric:
        """One device in the precision of the run.

        Raises:
            UserError: there is no such device here.
        """
        settings = self.cfg.trainer
        try:
            return Fabric(accelerator=settings.accelerator, devices=1, precision=settings.precision)  # type: ignore[arg-type]  # as it was typed
        except (MisconfigurationException, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:160]
            raise UserError(
                f"trainer.accelerator={settings.accelerator}: {reason}; use trainer.accelerator=cpu"
            ) from None

    def predict(self, videos: str | Path | Sequence[str | Path]) -> Any:
        """What the networks say of a video file: a :class:`~mml_lightning.engine.prediction.Prediction`; of several
        files a list of them, in which those that can't be read say why (`error`). Flow is computed on the way.

        The scores are those of `eval.py` on the same list, to the bit. In other company the last bits may differ
        (docs/predict.md).

        Raises:
            UserError: a single file can't be read, there is none, or the networks look at what no file has.
        """
        if isinstance(videos, str | Path):
            only: Prediction = self.predict([videos])[0]
            if only.error is not None:
                raise UserError(only.error)
            return only
        names = [str(video) for video in videos]
        records = [Record(name, {"frames": Path(name).expanduser()}, {}) for name in dict.fromkeys(names)]
        if not records:
            raise UserError("there is no video to predict")
        data = self.videos("predict", records)
        cohort, clips = self.cohort(data), self.clips(data)
        flow_filler(self.flow, {"test": clips}, self.cfg.data.workers)()
        for _ in self.measured(cohort, clips, workers=self.workers_for(len(records))):
            pass
        found = {one.video: one for one in predictions_of([record.id for record in records], cohort.scores)}
        return [found[name] for name in names]

    def batch_size(self, clips: ClipDataset) -> int:
        """Videos of a batch: those of :class:`VideoData`."""
        return max(1, int(self.cfg.data.eval_batch_size) // clips.views)

    def workers_for(self, videos: int) -> int:
        """Processes that read so many videos: none where starting them would take longer than reading."""
        return 0 if videos <= FEW else int(self.cfg.data.workers)


def load_predictor(
    path: str | Path, peers: Sequence[str] | None = None, views: str | None = None, overrides: Sequence[str] = ()
) -> Predictor:
    """The networks of a run directory, a checkpoint, a zoo file or an alias, ready for :meth:`Predictor.predict`.

    Clips are drawn and cropped as the run did, which is told beside the weights (as for `eval.py`), or else in them.

    Args:
        peers: which of the networks; all by default.
        views: an option of conf/views in place of the run's own.
        overrides: settings as typed for `eval.py`, such as `trainer.accelerator=cpu` or `trusted=[my_package]`.

    Raises:
        UserError: nothing to load there, no such peer, or a setting is wrong.
    """
    cfg, entries = networks_of(str(path), peers, [*overrides, *([f"views={views}"] if views else [])])
    return Predictor.of(cfg, entries, heads_of(entries))


def networks_of(ckpt: str, peers: Sequence[str] | None, words: Sequence[str]) -> tuple[Settings, Entries]:
    """Settings and zoo entries for :meth:`Predictor.of`; arguments and errors as of :func:`load_predictor`."""
    cfg, typed, told = load.settings(ckpt, words, peers)
    found = load_entries(cfg, typed, lambda: config_data.dataset(cfg, [cfg.split]))
    entries = load.chosen(found, peers, ckpt)
    if not told:
        cfg = load.as_trained(cfg, entries, words)
    return load.without_fusion_of_others(cfg, entries, found), entries


def rebuilt(name: str, entry: Mapping[str, Any], segments: int, trusted: Sequence[str] = ()) -> Peer:
    """The network of a zoo entry; what could surprise is said.

    Raises:
        UserError: its weights don't fit what is said of it.
    """
    try:
        net = plugins.network(entry["arch"], trusted)
        net.load_state_dict(entry["state_dict"])
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
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
            f"{name} is a trunk without a head; train one: {command()} init.{entry['modality']['name']}=<file> "
            "init.new_head=true"
        )


def load_entries(cfg: Settings, overrides: Sequence[str], data: Callable[[], Dataset]) -> Entries:
    """The peers that `ckpt` names: a run directory, its checkpoint, a zoo file or an alias. Of an alias the settings of
    the trainer do not matter: nothing is trained here.

    Args:
        data: reads the records, for an alias.

    Raises:
        UserError: nothing to load there, or an alias of which there is nothing with the settings asked for, or the
            networks were trained with another temporal shift.
    """
    entries = _load_entries(cfg, overrides, data)
    load.refuse_other_shift(entries, overrides)
    return entries


def _load_entries(cfg: Settings, overrides: Sequence[str], data: Callable[[], Dataset]) -> Entries:
    given = str(cfg.plain("ckpt"))
    path = Path(given).expanduser()
    if path.is_dir():
        return {file.stem: load_with_fusion(file) for file in peer_files(path, given)}
    if path.suffix == CHECKPOINT:
        return checkpoint_entries(path)
    if path.suffix == ".pt" or "/" in given:
        entry = load_peer(the_file(path))
        return {entry["provenance"].get("peer", path.stem): entry}
    table = aliases(cfg.plain("aliases"))
    if given.partition(":")[0] not in table:
        raise UserError(f"ckpt={given} is not a file, directory or alias; aliases are {sorted(table)}")
    kept = [item for item in config_peers.shared(cfg, overrides) if not item.startswith(("ckpt=", "split="))]
    lineage = Lineage(cfg, overrides, data, ["trainer"], command("eval"))
    entries = {}
    for modality in cfg.modality:
        origin = config_peers.resolve(cfg, kept, given, modality)
        require_file(origin, "ckpt")
        file = lineage.found(origin, "ckpt").path
        assert file is not None, "an alias names a file"
        if file.stem in entries:
            raise UserError(f"ckpt={given} is one network, {file.stem}; use modality=[{file.stem}], or ckpt=own")
        entries[file.stem] = load_with_fusion(file)
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
        f"ckpt={given} holds no peers/*.pt: the run did not finish; continue it with {command()} resume={given}"
    )
