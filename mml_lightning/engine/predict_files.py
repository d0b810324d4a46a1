"""Scores of named videos, with what makes them: batch after batch, so that a second start goes on where one stopped."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mml_lightning.config import data as config_data
from mml_lightning.config import training
from mml_lightning.config.compose import changed
from mml_lightning.data.loading.dataset import ClipDataset
from mml_lightning.data.records.records import Record
from mml_lightning.data.records.windows import windows
from mml_lightning.data.video import file_sizes
from mml_lightning.data.video.images import open_media
from mml_lightning.data.video.media import files_that_identify, to_plain
from mml_lightning.engine.flow import flow_filler
from mml_lightning.engine.journal import Batch
from mml_lightning.engine.predict import Predictor
from mml_lightning.engine.prediction import Prediction, scores_of
from mml_lightning.evaluation.predictions import Predictions
from mml_lightning.training.cohort import Cohort
from mml_lightning.zoo.files import own_weights, weights_hash


@dataclass(frozen=True)
class Part:
    """What gets scores: a whole video, or a window of the one called `video`."""

    video: str
    record: Record

    @property
    def span(self) -> tuple[float, float] | None:
        """Seconds (or frames) of a part of a video."""
        return self.record.span


def whole(records: Sequence[Record]) -> list[Part]:
    return [Part(record.id, record) for record in records]


def windowed(
    predictor: Predictor, records: Sequence[Record], window: float, stride: float, advance: Callable[[], None]
) -> tuple[Predictor, list[Part]]:
    """The windows of all records, and the predictor for them: a window is as long as it is said.

    Raises:
        UserError: as :func:`mml_lightning.data.records.windows.windows`.
    """
    cfg = changed(predictor.cfg, {"data.span_margin": 0.0})
    store = config_data.indexes(cfg)

    def look(record: Record) -> Any:
        with open_media(record.media["frames"], record.decoder or cfg.data.decoder, False, store) as video:
            return video

    parts = [Part(video, one) for video, one in windows(records, window, stride, look, advance)]
    return dataclasses.replace(predictor, cfg=cfg), parts


def identity(predictor: Predictor, parts: Sequence[Part], **more: Any) -> dict[str, Any]:
    """Plain values that decide scores: weights, settings, videos by name, part and size of the file."""
    cfg = predictor.cfg
    states = {name: own_weights(net.state_dict()) for name, net in predictor.networks.items()}
    if predictor.fusion is not None and predictor.fusion.learned:
        states["fusion"] = predictor.fusion.state_dict()
    if predictor.gate is not None:
        states["gate"] = predictor.gate.state_dict()
    keys = ("sampling", "transforms", "views", "metrics", "fusion")
    settings = {key: cfg.plain(key) for key in keys}
    settings["data"] = {k: cfg.get(f"data.{k}") for k in ("decoder", "span_margin", "missing", "eval_batch_size")}
    settings["device"] = {"accelerator": cfg.trainer.accelerator, "precision": str(cfg.trainer.precision)}
    settings["flow"] = predictor.flow.settings.key() if predictor.flow is not None else None
    names = [files_that_identify(to_plain(part.record.media["frames"])) for part in parts]
    sizes = iter(file_sizes.sizes(itertools.chain.from_iterable(names), "the videos"))
    told = [[p.record.id, p.span, [next(sizes) for _ in own]] for p, own in zip(parts, names, strict=True)]
    return {
        "weights": {name: weights_hash(state) for name, state in states.items()},
        "modalities": {name: dataclasses.asdict(one) for name, one in predictor.modalities.items()},
        "settings": settings,
        **more,
        "videos": {"number": len(parts), "list": hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]},
    }


def batches(predictor: Predictor, parts: Sequence[Part], done: int) -> Iterator[Batch]:
    """What is measured of `parts` from number `done` on, batch by batch; a batch holds the same videos wherever the
    start began. Flow that is missing is computed first.

    Raises:
        UserError: what loads or computes is set wrongly, or there is too little memory.
    """
    records = [part.record for part in parts[done:]]
    data = predictor.videos("predict", records)
    cohort, clips = predictor.cohort(data), predictor.clips(data)
    config_data.check_memory(predictor.cfg, {"test": clips}, 1)
    flow_filler(predictor.flow, {"test": clips}, predictor.cfg.data.workers)()
    size, ids = predictor.batch_size(clips), [record.id for record in records]
    first = 0
    for _ in predictor.measured(cohort, clips, workers=predictor.workers_for(len(records))):
        yield _batch(cohort, clips, first, ids[first : first + size])
        first += size


def _batch(cohort: Cohort, clips: ClipDataset, first: int, ids: Sequence[str]) -> Batch:
    """The scores that a batch has added to what is collected."""
    made = Batch(len(ids))
    for head, scores in cohort.scores.items():
        measured = {int(row) for row in (scores.index[-1].tolist() if scores.index else [])}
        for place, video in enumerate(ids, first):
            if place in measured:
                logits = {peer: value[place].numpy().copy() for peer, value in scores.kept.items()}
                made.logits.setdefault(video, {})[head] = logits  # type: ignore[index]
            if video in scores.failures:
                made.failures[video] = scores.failures[video]
            if video in scores.damaged:
                made.damaged[video] = scores.damaged[video]
    return made


def dumps(predictor: Predictor, found: Sequence[Batch]) -> dict[str, Predictions]:
    """The scores of batches by head; heads of which nothing could be measured are absent."""
    made = {}
    for head, value in predictor.heads.items():
        rows = [(video, of[head]) for batch in found for video, of in batch.logits.items() if head in of]
        if not rows:
            continue
        peers = list(rows[0][1])
        failures = {video: why for batch in found for video, why in batch.failures.items()}
        shape = (len(rows), len(value.classes)) if value.multi_label else (len(rows),)
        made[head] = Predictions(
            ids=tuple(video for video, _ in rows),
            target=torch.full(shape, -1.0) if value.multi_label else torch.full(shape, -1),
            logits={peer: torch.from_numpy(np.stack([of[peer] for _, of in rows])) for peer in peers},
            classes=value.classes,
            multi_label=value.multi_label,
            split="predict",
            scoring=training.scoring(predictor.cfg),
            unreadable=failures,
            views=predictor.cfg.plain("views"),
            videos=sum(batch.videos for batch in found),
        )
    return made


def predictions(predictor: Predictor, parts: Sequence[Part], found: Sequence[Batch]) -> list[Prediction]:
    """What was found of each part, in order."""
    made = dumps(predictor, found)
    places = {head: {video: row for row, video in enumerate(dump.ids)} for head, dump in made.items()}
    failures = {video: why for batch in found for video, why in batch.failures.items()}
    damaged = {video: loss for batch in found for video, loss in batch.damaged.items()}
    return [
        Prediction(
            one,
            (heads := {head: scores_of(dump, places[head][one]) for head, dump in made.items() if one in places[head]}),
            failures.get(one) or (None if heads else "it was not read"),
            damaged.get(one),
        )
        for one in (part.record.id for part in parts)
    ]
