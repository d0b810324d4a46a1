"""All that is told of one video: scores, a timeline, what changes without a modality, and what the networks look at.

The scores are those of a `Predictor`, as `mml predict` has them. Runs in the process of `worker.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import torch

from mml_lightning.config import data as config_data
from mml_lightning.config.compose import changed
from mml_lightning.config.settings import Settings
from mml_lightning.data.records.clock import length
from mml_lightning.data.records.records import Record, rows
from mml_lightning.data.records.windows import window_spans
from mml_lightning.data.video.decode import DecodeError
from mml_lightning.data.video.images import open_media
from mml_lightning.engine import clip_pictures, predict_files
from mml_lightning.engine.flow import flow_filler
from mml_lightning.engine.predict import Predictor, heads_of, networks_of
from mml_lightning.engine.predict_files import Part
from mml_lightning.engine.prediction import Prediction, Scores, main_output, predictions_of
from mml_lightning.engine.prediction_tables import as_dict, best_of
from mml_lightning.engine.process import set_up_process
from mml_lightning.evaluation.explain import grad_cam
from mml_lightning.evaluation.metrics import FUSED, pool_peers
from mml_lightning.fusion.fuse import present_as_gate
from mml_lightning.serve.asked import AUTO, Asked, Refused
from mml_lightning.serve.pictures import as_png, heat_pictures
from mml_lightning.training.cohort import Batch, Cohort
from mml_lightning.utils.errors import UserError

WINDOWS = 120  # of a timeline
PART_OF_VIDEO = 4  # windows that lie side by side in a video, of window=auto
UNKNOWN_RATE = 25.0  # frames per second of a video that tells none


class Analyst:
    """The networks of a run and its test videos.

    Args:
        ckpt, peers, views, overrides: as of :func:`mml_lightning.engine.predict.load_predictor`.
        most_seconds: that a video may last.

    Raises:
        UserError: nothing to load there, or a setting is wrong.
    """

    def __init__(
        self, ckpt: str, peers: Sequence[str] | None, views: str | None, overrides: Sequence[str], most_seconds: float
    ) -> None:
        cfg, entries = networks_of(ckpt, peers, [*overrides, *([f"views={views}"] if views else [])])
        cfg = changed(cfg, {"data.workers": 0, "data.cache": "none"})  # one video at a time, none twice
        set_up_process(cfg)
        self.predictor = Predictor.of(cfg, entries, heads_of(entries))
        self.ckpt, self.most_seconds = ckpt, most_seconds
        self.test, self.labels, self.untold = _test_split(cfg)

    def describe(self) -> dict[str, Any]:
        """What is served, plain values."""
        cfg = self.predictor.cfg
        return {
            "ckpt": self.ckpt,
            "peers": {name: modality.name for name, modality in self.predictor.modalities.items()},
            "heads": {
                head: {"classes": len(value.classes), "multi_label": value.multi_label}
                for head, value in self.predictor.heads.items()
            },
            "views": cfg.views.name,
            "segments": cfg.sampling.num_segments,
            "fusion": cfg.fusion.name,
            "test_videos": len(self.test),
            "no_test_videos": self.untold,
        }

    def test_videos(self) -> list[tuple[str, list[str]]]:
        """(id, labels) of each video of the test split."""
        return [(row.id, self._labels(row.target)) for row in rows(self.test)]

    def analyse(self, asked: Asked, upload: Path | None) -> dict[str, Any]:
        """The answer to a request, plain values.

        Args:
            upload: the file that was sent, alone in a folder of its own, where all that is made of it goes, too.

        Raises:
            Refused: it can't be read, lasts too long, or something asked for is not there.
        """
        record = self._record(asked, upload)
        predictor = self._of(asked.peers)
        if upload is not None:
            predictor = _keeping_nothing(predictor, upload.parent)
        name = asked.name if upload is not None else record.id
        try:
            answer = self._answer(predictor, record, name, asked)
        except (DecodeError, UserError) as error:
            raise _unreadable(str(error), record, name) from None
        return answer | {"labels": self._labels(record.target)}

    def _answer(self, predictor: Predictor, record: Record, name: str, asked: Asked) -> dict[str, Any]:
        told = self._length(predictor, record)
        cohort, batch, found = _measured(predictor, record)
        if found.error is not None:
            raise _unreadable(found.error, record, name)
        if not all(scores.top(1) for scores in found.heads.values()):
            raise _unreadable("none of the networks sees anything in it", record, name)
        answer = as_dict(Part(name, dataclasses.replace(record, span=None)), found, asked.topk) | told
        answer["main"] = {head: main_output(list(scores.log_scores)) for head, scores in found.heads.items()}
        answer["without"] = _without(predictor, cohort, found, asked.topk)
        if asked.window is not None:
            answer["windows"] = _timeline(predictor, record, told["seconds"], asked)
        if asked.pictures:
            answer["seen"] = _seen(predictor, cohort, batch, found, asked.of_class)
        return answer

    def _record(self, asked: Asked, upload: Path | None) -> Record:
        if upload is not None:
            return Record(str(upload), {"frames": upload}, {})
        if asked.video is None or asked.video >= len(self.test):
            raise Refused(HTTPStatus.NOT_FOUND, f"there is no test video {asked.video}; there are {len(self.test)}")
        return self.test[asked.video]

    def _of(self, peers: Sequence[str] | None) -> Predictor:
        """The networks that are asked for, in this order."""
        every = self.predictor
        if peers is None:
            return every
        unknown = [name for name in peers if name not in every.networks]
        if unknown or not peers or len(set(peers)) < len(peers):
            raise Refused(
                HTTPStatus.BAD_REQUEST,
                f"peer={','.join(peers)} must name some of {', '.join(every.networks)}, each once",
            )
        whole = set(peers) == set(every.networks)  # what only some are fused to is nothing the run has measured
        return dataclasses.replace(
            every,
            cfg=every.cfg if whole else changed(every.cfg, {"fusion.name": "none"}),
            networks={name: every.networks[name] for name in peers},
            modalities={name: every.modalities[name] for name in peers},
        )

    def _length(self, predictor: Predictor, record: Record) -> dict[str, Any]:
        """Seconds, frames and size of a video; the seconds are None where nothing tells them.

        Raises:
            DecodeError: it can't be opened.
            Refused: it lasts too long.
        """
        if "frames" not in record.media:
            return {"seconds": None, "frames": None, "size": None}
        decoder = record.decoder or predictor.cfg.data.decoder
        with open_media(record.media["frames"], decoder, False, config_data.indexes(predictor.cfg)) as video:
            seconds, frames, size = length(video), video.count, list(video.size)
        lasts = seconds or frames / UNKNOWN_RATE
        if lasts > self.most_seconds:
            raise Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the video lasts {lasts:.1f} s, --max-seconds allows {self.most_seconds:g}: cut it",
            )
        return {"seconds": round(seconds, 3) or None, "frames": frames, "size": size}

    def _labels(self, target: Mapping[str, Any]) -> list[str]:
        """Names of the labels that a test video has."""
        found = []
        for head, label in target.items():
            numbers = label if isinstance(label, tuple) else (label,)
            found += [self.labels[head][number] for number in numbers]
        return found


def _test_split(cfg: Settings) -> tuple[Sequence[Record], dict[str, tuple[str, ...]], str | None]:
    """Records, names of their labels, and why there are none. Nothing is made for it: a demo that is not there stays
    away."""
    root = cfg.get("data.root")
    if root is not None and not Path(str(root)).expanduser().is_dir():
        return (), {}, f"there is no {root}; say where the data of the run are: --set data.root=..."
    try:
        data = config_data.dataset(cfg, ["test"])
    except UserError as error:
        return (), {}, str(error)
    return data.splits["test"], {head: value.classes for head, value in data.heads.items()}, None


def _keeping_nothing(predictor: Predictor, folder: Path) -> Predictor:
    """Flow, and what is known of files, go to `folder`."""
    cfg = changed(predictor.cfg, {"paths.cache": str(folder / "cache")})
    flow = config_data.flow_cache(cfg, predictor.modalities)
    return dataclasses.replace(predictor, cfg=cfg, flow=flow)


def _unreadable(text: str, record: Record, name: str) -> Refused:
    """What was wrong with a video, by the name that whoever sent it knows."""
    for path in (record.media.get("frames"), record.id):
        text = text.replace(str(path), name)
    reason = text.removeprefix(f"{name}: ")
    return Refused(HTTPStatus.UNPROCESSABLE_ENTITY, f"{name} can't be scored: {reason}")


def _measured(predictor: Predictor, record: Record) -> tuple[Cohort, Batch, Prediction]:
    """The scores of one video, what they were collected in, and the batch that the networks were given."""
    data = predictor.videos("predict", [record])
    cohort, clips = predictor.cohort(data), predictor.clips(data)
    config_data.check_memory(predictor.cfg, {"test": clips}, 1)
    flow_filler(predictor.flow, {"test": clips}, 0)()
    (batch,) = predictor.measured(cohort, clips, workers=0)
    (found,) = predictions_of([record.id], cohort.scores)
    return cohort, dict(batch), found


def _timeline(predictor: Predictor, record: Record, seconds: float | None, asked: Asked) -> list[dict[str, Any]]:
    """Scores of the windows of a video, those of `mml predict --window`.

    Raises:
        Refused: there would be too many.
    """
    if record.span is not None or seconds is None:
        return []  # a part of a video, or one without times
    window = seconds / PART_OF_VIDEO if asked.window == AUTO else float(asked.window or 0)
    stride = asked.stride or window / 2
    count = seconds / stride
    if count > WINDOWS + 1 or len(window_spans(seconds, window, stride)) > WINDOWS:
        raise Refused(
            HTTPStatus.BAD_REQUEST, f"a timeline of {count:.0f} windows: {WINDOWS} are allowed, use a larger stride"
        )
    cut, parts = predict_files.windowed(predictor, [record], window, stride, lambda: None)
    found = predict_files.predictions(cut, parts, list(predict_files.batches(cut, parts, 0)))
    lines = (as_dict(part, one, asked.topk) for part, one in zip(parts, found, strict=True))
    return [{key: value for key, value in line.items() if key != "video"} for line in lines]


def _without(predictor: Predictor, cohort: Cohort, found: Prediction, count: int) -> dict[str, dict[str, Any]]:
    """{modality: {head: {output, classes, of_best}}}: the main output of the networks that look at something else, as
    if the video lacked the modality (nothing stands in for it), and what it gives the class that is best with it."""
    answer: dict[str, dict[str, Any]] = {}
    for modality in predictor.distinct:
        others = [name for name, one in predictor.modalities.items() if one.name != modality.name]
        for head, scores in found.heads.items():
            left = {name: scores.logits[name][None] for name in others if not scores.logits[name].isnan().any()}
            if not left:
                continue
            if cohort.fusion is not None and not cohort.fusion.takes_features:
                present = {name: torch.ones(1, dtype=torch.bool) for name in left}
                gate = present_as_gate(present, len(scores.logits[others[0]]))
                left |= {FUSED: cohort.fusion({name: {head: value} for name, value in left.items()}, gate)[head]}
            pooled = pool_peers(left, scores.multi_label, cohort.scoring)
            made = dataclasses.replace(scores, log_scores={name: value[0] for name, value in pooled.items()})
            output = main_output(list(pooled))
            told: dict[str, Any] = {"output": output, "classes": best_of(made, count, output)}
            told["of_best"] = float(made.probs(output)[scores.classes.index(scores.top(1)[0][0])])
            answer.setdefault(modality.name, {})[head] = told
    return answer


def _seen(
    predictor: Predictor, cohort: Cohort, batch: Batch, found: Prediction, of_class: str | None
) -> dict[str, Any]:
    """What the networks see in the first clip, and where that speaks for a class.

    Raises:
        Refused: there is no such class.
    """
    head, number = _class_of(found.heads, of_class)
    views = next(iter(batch["clips"].values())).shape[1]
    peers = {}
    for name, modality in predictor.modalities.items():
        peers[name] = {"modality": modality.name}
        if not bool(batch["present"][modality.name][0]):
            peers[name]["absent"] = f"the video has no {modality.name}"
            continue
        peers[name] |= _looked_at(predictor, cohort, name, batch["clips"][modality.name][0, 0], head, number)
    return {"clip": 1, "clips": views, "head": head, "class": found.heads[head].classes[number], "peers": peers}


def _looked_at(
    predictor: Predictor, cohort: Cohort, name: str, clip: torch.Tensor, head: str, number: int
) -> dict[str, Any]:
    """Of one network: pictures, the part of each frame, and Grad-CAM to lay over the pictures."""
    peer, modality = predictor.networks[name], predictor.modalities[name]
    if not clip_pictures.can_be_shown(modality, config_data.sources(predictor.cfg)[modality.source].pictured):
        return {"absent": f"{modality.name} is no picture"}
    shown = clip_pictures.pictures(clip, modality, dark=True)  # heat is laid over it
    told: dict[str, Any] = {"pictures": [as_png(image) for image in shown], "flow": clip_pictures.is_flow(modality)}
    given = modality(clip[None].to(next(peer.parameters()).device, copy=True)).to(cohort.dtype)
    try:
        cam = grad_cam(peer, given, [number], head)
    except ValueError as error:
        return told | {"unexplained": str(error)}
    heat = cam.heat(*shown.shape[:3])[0].float().cpu().numpy()
    shares = [round(share, 4) for share in cam.shares()[0].tolist()]
    return told | {"heat": [as_png(image) for image in heat_pictures(heat)], "parts": shares}


def _class_of(heads: Mapping[str, Scores], of_class: str | None) -> tuple[str, int]:
    """(head, index) of a class; of the best one of the main output where none is named."""
    if of_class is None:
        head, scores = next(iter(heads.items()))
        return head, scores.classes.index(scores.top(1)[0][0])
    for head, scores in heads.items():
        if of_class in scores.classes:
            return head, scores.classes.index(of_class)
    raise Refused(HTTPStatus.BAD_REQUEST, f"class={of_class} is none of the classes")
