"""The errors of a run from its score dump: mistakes, confusions, suspect labels, and how two outputs differ.

judged = judge(predictions.load("predictions/test.npz"), "rgb")
mistakes(judged)[:20]          # the most confident ones first

Legend: N videos, K classes. An output is a peer, the fused output or the ensemble.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from mml_lightning.evaluation.metrics import labelled
from mml_lightning.evaluation.metrics import mistakes as arithmetic
from mml_lightning.evaluation.metrics.per_video import labels, named_classes
from mml_lightning.evaluation.predictions import Predictions, common
from mml_lightning.utils.errors import UserError


@dataclass(frozen=True)
class Judged:
    """One output on the labelled videos that it has scores of.

    Args:
        name: of the output.
        ids: of the N videos.
        classes: names of the K classes.
        several: whether a video may have several labels.
        scores: log-probabilities or log-sigmoids, float64 [N, K].
        given: the labels, bool [N, K].
    """

    name: str
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    several: bool
    scores: Tensor
    given: Tensor

    @cached_property
    def predicted(self) -> Tensor:
        """bool [N, K]: the best classes of each video, as many as it has labels."""
        return named_classes(self.scores, self.given)

    @cached_property
    def plain(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Predictions and labels, bool, and probabilities, [N, K] each, for what looks at one video after the other."""
        return self.predicted.numpy(), self.given.numpy(), self.scores.exp().numpy()

    @cached_property
    def found(self) -> Tensor:
        """How many labels of each video are predicted, int64 [N]."""
        return (self.given & self.predicted).sum(dim=1)

    @property
    def wrong(self) -> int:
        """Videos with a label that is not predicted."""
        return int((self.found < self.given.sum(dim=1)).sum())

    def probability(self, row: int, k: int) -> float:
        return float(self.scores[row, k].exp())

    def on(self, ids: Sequence[str]) -> Judged:
        """The same for some of its videos, in the order of `ids`."""
        if tuple(ids) == self.ids:
            return self  # what it has computed stays
        place = {video: row for row, video in enumerate(self.ids)}
        rows = torch.tensor([place[video] for video in ids], dtype=torch.int64)
        return Judged(self.name, tuple(ids), self.classes, self.several, self.scores[rows], self.given[rows])


@dataclass(frozen=True)
class Case:
    """Something to look at: a video labelled `given` for which `predicted` is predicted, with the probabilities of
    both. Where several labels are judged one by one, one of the two is None: in a missed label, a false positive."""

    video: str
    given: int | None
    predicted: int | None
    p_given: float | None
    p_predicted: float | None


@dataclass(frozen=True)
class Contrast:
    """A label that one output predicts and the other misses, the probabilities that both give it, and, where a video
    has one label, the class that the other predicts."""

    video: str
    label: int
    p_right: float
    p_wrong: float
    predicted: int | None


@dataclass(frozen=True)
class Comparison:
    """Two outputs on the videos that both have scores of.

    Args:
        first, second: their names.
        videos: how many.
        both, only_first, only_second, neither: labels that are predicted; with one label per video, videos.
        better, worse: ids of the videos for which the second predicts more, or fewer, of the labels than the first.
        p: of the exact sign test of how many those are.
        first_right, second_right: labels that only one of them predicts, the largest difference of probability first.
        gained: per class the recall of the second less that of the first, in points, best first; classes without a
            label are left out.
    """

    first: str
    second: str
    videos: int
    both: int
    only_first: int
    only_second: int
    neither: int
    better: list[str]
    worse: list[str]
    p: float
    first_right: list[Contrast]
    second_right: list[Contrast]
    gained: list[tuple[str, float]]


def judge(dump: Predictions, name: str) -> Judged:
    """An output of a dump.

    Raises:
        UserError: there is no such output, or it has no scores of a labelled video.
    """
    if name not in dump.pooled:
        raise UserError(f"there is no output {name}; use one of {', '.join(dump.pooled)}")
    scores = dump.pooled[name]
    rows = (labelled(dump.target) & ~scores.isnan().any(dim=1)).nonzero()[:, 0]
    if not len(rows):
        raise UserError(
            f"no video of {dump.split} has both a label and scores of {name}: there is nothing to be wrong about; "
            "give another --split or --peer"
        )
    given = labels(dump.target[rows], len(dump.classes))
    ids = tuple(dump.ids[row] for row in rows.tolist())
    return Judged(name, ids, dump.classes, dump.multi_label, scores[rows], given)


def judge_all(dump: Predictions) -> dict[str, Judged]:
    """The outputs that have scores of labelled videos."""
    known = labelled(dump.target)
    return {name: judge(dump, name) for name, s in dump.pooled.items() if (known & ~s.isnan().any(dim=1)).any()}


def mistakes(judged: Judged, most: int | None = None) -> list[Case]:
    """Videos (of one label each) for which another class is predicted, the most probable first."""
    wrong = judged.predicted & ~judged.given
    rows, classes = arithmetic.ranked(judged.scores, wrong, most)
    return [_case(judged, row, int(judged.given[row].int().argmax()), k) for row, k in _pairs(rows, classes)]


def false_positives(judged: Judged, most: int) -> list[Case]:
    """False positives: (video, class) that is no label, the most probable first."""
    entries = arithmetic.ranked(judged.scores, ~judged.given, most)
    return [_case(judged, row, None, k) for row, k in _pairs(*entries)]


def false_negatives(judged: Judged, most: int) -> list[Case]:
    """Labels that are not predicted, the least probable first."""
    entries = arithmetic.ranked(-judged.scores, judged.given & ~judged.predicted, most)
    return [_case(judged, row, k, None) for row, k in _pairs(*entries)]


def suspects(judged: Judged) -> list[Case]:
    """Labels that may be wrong, by confident learning: see :func:`metrics.mistakes.label_suspects` and, where videos
    may have several labels, :func:`metrics.mistakes.label_suspects_of_several`. There first those that may be wrong
    (`predicted` is None), then those that may be missing (`given` is None)."""
    if judged.several:
        wrong, missing = arithmetic.label_suspects_of_several(judged.scores, judged.given)
        return [_case(judged, row, k, None) for row, k in _pairs(*wrong)] + [
            _case(judged, row, None, k) for row, k in _pairs(*missing)
        ]
    target = judged.given.int().argmax(dim=1)
    rows, suggested, _ = arithmetic.label_suspects(judged.scores, target)
    return [_case(judged, row, int(target[row]), k) for row, k in _pairs(rows, suggested)]


def confusions(judged: Judged) -> list[tuple[int, int, int, list[str]]]:
    """(label, class predicted instead, number of videos, their ids, most probable first), most frequent first."""
    counts = arithmetic.swapped(judged.given, judged.predicted)
    pairs = arithmetic.ranked(counts, counts > 0)
    missed, extra = judged.given & ~judged.predicted, judged.predicted & ~judged.given
    found = []
    for i, j in _pairs(*pairs):
        rows = (missed[:, i] & extra[:, j]).nonzero()[:, 0]
        rows = rows[judged.scores[rows, j].argsort(descending=True, stable=True)]
        found.append((i, j, len(rows), [judged.ids[row] for row in rows.tolist()]))
    return found


def compare(first: Judged, second: Judged, names: tuple[str, str] | None = None, most: int | None = None) -> Comparison:
    """Two outputs of equal labels on the videos that both have scores of.

    Args:
        names: that they are called by; default: their own.
        most: contrasts each way.

    Raises:
        UserError: they have no video in common.
    """
    kept = set(second.ids)
    ids = [video for video in first.ids if video in kept]
    if not ids:
        raise UserError(f"{first.name} and {second.name} have scores of no common video")
    a, b = first.on(ids), second.on(ids)
    given = a.given
    right = {"a": given & a.predicted, "b": given & b.predicted}
    only_a, only_b = right["a"] & ~right["b"], right["b"] & ~right["a"]
    better, worse = (
        [ids[row] for row in moved.nonzero()[:, 0].tolist()] for moved in (b.found > a.found, b.found < a.found)
    )
    count = given.sum(dim=0)
    delta = 100 * (right["b"].sum(dim=0) - right["a"].sum(dim=0)).double() / count
    gained = [(name, float(delta[k])) for k, name in enumerate(a.classes) if count[k]]
    return Comparison(
        *(names or (first.name, second.name)),
        videos=len(ids),
        both=int((right["a"] & right["b"]).sum()),
        only_first=int(only_a.sum()),
        only_second=int(only_b.sum()),
        neither=int((given & ~right["a"] & ~right["b"]).sum()),
        better=better,
        worse=worse,
        p=arithmetic.sign_test(len(better), len(worse)),
        first_right=_contrasts(a, b, only_a, most),
        second_right=_contrasts(b, a, only_b, most),
        gained=sorted(gained, key=lambda one: -one[1]),
    )


def on_common(dumps: Mapping[str, Predictions]) -> tuple[list[Predictions], dict[str, list[str]]]:
    """Dumps, by what they are called in messages, on the videos that all have, and {name: ids that it alone has}.

    Raises:
        UserError: classes or labels differ, or no video is in all of them.
    """
    shared = common(list(dumps.values()), list(dumps))
    return [replace(dump.take(shared.ids), target=shared.target) for dump in dumps.values()], dict(shared.alone)


def _contrasts(right: Judged, wrong: Judged, chosen: Tensor, most: int | None) -> list[Contrast]:
    entries = arithmetic.ranked(right.scores.exp() - wrong.scores.exp(), chosen, most)
    return [
        Contrast(
            right.ids[row],
            k,
            right.probability(row, k),
            wrong.probability(row, k),
            None if right.several else int(wrong.predicted[row].int().argmax()),
        )
        for row, k in _pairs(*entries)
    ]


def _case(judged: Judged, row: int, given: int | None, predicted: int | None) -> Case:
    told = [None if k is None else judged.probability(row, k) for k in (given, predicted)]
    return Case(judged.ids[row], given, predicted, *told)


def _pairs(rows: Tensor, classes: Tensor) -> list[tuple[int, int]]:
    return list(zip(rows.tolist(), classes.tolist(), strict=True))
