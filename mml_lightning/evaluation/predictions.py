"""Score dumps: the per-view logits of a split by video id, from which every number can be computed again.

Legend: N videos, V views, K classes. A dump is an .npz that loads without pickle: `ids` [N], `target` [N] or [N, K]
(-1: label unknown), `classes` [K], `logits/<peer>` float32 [N, V, K] (NaN: the peer has not seen the video), and
`meta`, a JSON text.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mml_lightning.evaluation.metrics import DEFAULT, Scoring, by_class, labelled, measure, pool_peers
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.files import check_unpacked, write_atomically
from mml_lightning.utils.foreign import parse_json

SCHEMA = 2
EMPTY_TEXT = {
    "drop": "they are excluded from the mean",
    "zero": "their average precision counts as 0",
    "nan": "the mean over classes is therefore not a number",
}


@dataclass(frozen=True)
class Predictions:
    """Scores of one split and one head.

    Args:
        ids: of the videos that have scores, in the order of the split.
        target: int64 [N], or multi-hot [N, K]; -1 where the label is unknown.
        logits: {peer: float32 [N, V, K]}.
        classes: names of the K classes.
        split: "val", "test".
        scoring: how the run that wrote it came to its numbers.
        unreadable: ids of the split without scores, with reasons.
        views: the `views` of the run, for the record.
        weights: of the peers in the ensemble; 1 where a peer is not named.
        videos: how many the split has; None in dumps that don't say.
    """

    ids: tuple[str, ...]
    target: Tensor
    logits: Mapping[str, Tensor]
    classes: tuple[str, ...]
    multi_label: bool = False
    split: str = "test"
    scoring: Scoring = DEFAULT
    unreadable: Mapping[str, str] = field(default_factory=dict)
    views: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    videos: int | None = None

    @property
    def skipped(self) -> int:
        """Videos of the split that were neither measured nor found unreadable: a run that was told to stop early."""
        return 0 if self.videos is None else self.videos - len(set(self.ids) | set(self.unreadable))

    @cached_property
    def pooled(self) -> dict[str, Tensor]:
        """{peer or "ensemble": log-scores float64 [N, K]}, see :func:`mml_lightning.evaluation.metrics.pool_peers`."""
        return pool_peers(self.logits, self.multi_label, self.scoring, self.weights)

    def metrics(self) -> dict[str, dict[str, float]]:
        """{peer: {metric: value}}, see :func:`metrics.measure`; empty without a labelled video."""
        return measure(self.pooled, self.target, self.multi_label, self.scoring)

    def notes(self) -> list[str]:
        """What the metrics leave out: videos without a known label, and classes that no video has."""
        known = labelled(self.target)
        if not known.all():
            text = f"{self.split}: {int((~known).sum())} of {len(self.ids)} videos have no label: not counted"
            return [text] if not known.any() else [text, *self._empty()]
        return self._empty()

    def _empty(self) -> list[str]:
        positives, _ = by_class(self.pooled, self.target, self.multi_label, self.scoring)
        empty = [name for name, count in zip(self.classes, positives.tolist(), strict=True) if count == 0]
        if not empty:
            return []
        counted = EMPTY_TEXT[self.scoring.empty_class if self.multi_label else "drop"]
        return [
            f"{self.split}: {len(empty)} of {len(self.classes)} classes have no video, first {empty[0]!r}; {counted}"
        ]

    def save(self, path: Path) -> None:
        """Write the .npz, whole or not at all."""
        meta = {
            "schema": SCHEMA,
            "multi_label": self.multi_label,
            "split": self.split,
            "scoring": asdict(self.scoring),
            "unreadable": dict(self.unreadable),
            "videos": self.videos,
            "views": dict(self.views),
        }
        arrays = {f"logits/{peer}": value.numpy() for peer, value in self.logits.items()} | {
            "ids": np.array(self.ids),
            "target": self.target.numpy(),
            "classes": np.array(self.classes),
            "meta": np.array(json.dumps(meta)),
        }
        with write_atomically(path, "wb") as handle:
            np.savez_compressed(handle, **arrays)  # type: ignore[arg-type]

    def save_by_class(self, path: Path) -> None:
        """CSV: class, number of labelled videos, and per peer its accuracy or average precision in percent, empty
        where no video has the class."""
        positives, columns = by_class(self.pooled, self.target, self.multi_label, self.scoring)
        rows: list[list[Any]] = [["class", "videos", *columns]]
        for k, name in enumerate(self.classes):
            values = [float(column[k]) for column in columns.values()]
            rows.append([name, int(positives[k]), *(round(value, 4) if value == value else "" for value in values)])
        with write_atomically(path, newline="") as handle:
            csv.writer(handle).writerows(rows)

    def rows(self, ids: Sequence[str]) -> Tensor:
        """Where these videos stand, int64 [len(ids)]."""
        place = {video: row for row, video in enumerate(self.ids)}
        return torch.tensor([place[video] for video in ids], dtype=torch.int64)

    def take(self, ids: Sequence[str]) -> Predictions:
        """The same for some of its videos, in the order of `ids`."""
        rows = self.rows(ids)
        logits = {peer: value[rows] for peer, value in self.logits.items()}
        return replace(self, ids=tuple(ids), target=self.target[rows], logits=logits)


def load(path: Path) -> Predictions:
    """Read a dump.

    Raises:
        UserError: no file, or not a score dump.
    """
    try:
        check_unpacked(path, times=200)
        with np.load(path, allow_pickle=False) as saved:
            arrays = {key: saved[key] for key in saved.files}
        meta = parse_json(str(arrays["meta"])) if "meta" in arrays else {}  # the first dumps have none
        logits = {key.partition("/")[2]: torch.from_numpy(arrays[key]) for key in arrays if key.startswith("logits/")}
        target = torch.from_numpy(arrays["target"])
        count = next(iter(logits.values())).shape[-1]
        return _checked(
            ids=tuple(arrays["ids"].tolist()),
            target=target,
            logits=logits,
            classes=tuple(arrays["classes"].tolist() if "classes" in arrays else map(str, range(count))),
            multi_label=bool(meta.get("multi_label", target.ndim == 2)),
            split=meta.get("split", "val" if path.stem.startswith("val") else "test"),
            scoring=Scoring(**meta.get("scoring", {})),
            unreadable=meta.get("unreadable", {}),
            views=meta.get("views", {}),
            videos=meta.get("videos"),
        )
    except FileNotFoundError:
        raise UserError(f"no score dump {path}; a finished run has predictions/<split>.npz") from None
    except Exception as error:  # damaged archives raise many unrelated types
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is not a score dump of this program ({type(error).__name__}: {reason})") from None


def _checked(**fields: Any) -> Predictions:
    """A dump whose parts fit together.

    Raises:
        ValueError: they don't.
    """
    dump = Predictions(**fields)
    videos, classes = len(dump.ids), len(dump.classes)
    if len(set(dump.ids)) < videos or not all(isinstance(video, str) for video in dump.ids):
        raise ValueError("its ids are not unique")
    if any(
        v.ndim != 3 or not v.is_floating_point() or (len(v), v.shape[2]) != (videos, classes) or not v.shape[1]
        for v in dump.logits.values()
    ):
        raise ValueError("its logits are not [videos, views, classes]")
    if dump.target.shape != ((videos, classes) if dump.multi_label else (videos,)):
        raise ValueError("its target does not match the shape of its labels")
    if not dump.multi_label and (
        dump.target.is_floating_point() or not -1 <= dump.target.min() <= dump.target.max() < classes
    ):
        raise ValueError("its target has other classes")
    return dump


@dataclass(frozen=True)
class Common:
    """The videos that several dumps share: `ids` in the order of the first, their `target`, and `alone`, {name: ids
    that this dump has and another lacks}."""

    ids: tuple[str, ...]
    target: Tensor
    alone: Mapping[str, list[str]]


def common(dumps: Sequence[Predictions], names: Sequence[str]) -> Common:
    """What dumps have in common, joined by video id; a label that one does not know is taken from the next.

    Raises:
        UserError: classes or labels differ, or no video is in all of them.
    """
    first = dumps[0]
    for dump, name in zip(dumps[1:], names[1:], strict=True):
        if (dump.classes, dump.multi_label) != (first.classes, first.multi_label):
            raise UserError(f"{names[0]} and {name} have different classes; only dumps of one dataset can be joined")
    shared = set(first.ids).intersection(*(dump.ids for dump in dumps[1:]))
    kept = [video for video in first.ids if video in shared]
    if not kept:
        raise UserError(f"no video is in all of {', '.join(names)}; give dumps of one split")
    target = first.target[first.rows(kept)]
    for dump, name in zip(dumps[1:], names[1:], strict=True):
        other = dump.target[dump.rows(kept)]
        known, told = labelled(target), labelled(other)
        differ = (target != other).reshape(len(kept), -1).any(dim=1) & known & told
        if differ.any():
            video = kept[int(differ.int().argmax())]
            raise UserError(f"{names[0]} and {name} label video {video} differently; give dumps of one dataset")
        target = torch.where(known if target.ndim == 1 else known[:, None], target, other)
    alone = {name: [v for v in dump.ids if v not in shared] for dump, name in zip(dumps, names, strict=True)}
    return Common(tuple(kept), target, {name: ids for name, ids in alone.items() if ids})


def join(dumps: Sequence[Predictions], names: Sequence[str]) -> tuple[Predictions, dict[str, list[str]]]:
    """One dump of the peers of several, joined by video id in the order of the first, and {name: ids that this dump has
    and another lacks}. Peers of one name become `1:rgb`, `2:rgb`, after the place of their dump.

    Raises:
        UserError: classes or labels differ, or no video is in all of them.
    """
    shared = common(dumps, names)
    taken = [dump.take(shared.ids) for dump in dumps]
    peers = [peer for dump in dumps for peer in dump.logits]
    logits = {
        (peer if peers.count(peer) == 1 else f"{number}:{peer}"): value
        for number, dump in enumerate(taken, start=1)
        for peer, value in dump.logits.items()
    }
    unreadable = {video: reason for dump in dumps for video, reason in dump.unreadable.items()}
    joined = replace(taken[0], target=shared.target, logits=logits, unreadable=unreadable)
    return joined, dict(shared.alone)
