"""What the page of a run's errors tells: chosen once, so that pictures are made of what it shows and of no more."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from mml_lightning.evaluation import errors
from mml_lightning.evaluation.errors import Case, Comparison, Judged
from mml_lightning.evaluation.metrics import ENSEMBLE, FUSED
from mml_lightning.evaluation.metrics.mistakes import co_occurrence
from mml_lightning.evaluation.predictions import Predictions


@dataclass(frozen=True)
class Findings:
    """The errors of one output of a run.

    Args:
        dump: scores of the run.
        name: the output that the page is about.
        most: cases of each list.
        against: the same output of another run (first) and of this one (second), and why that is another output or
            why some videos are left out.
    """

    dump: Predictions
    name: str
    most: int
    against: Comparison | None = None
    notes: Sequence[str] = field(default_factory=tuple)

    @cached_property
    def outputs(self) -> dict[str, Judged]:
        return errors.judge_all(self.dump)

    @cached_property
    def judged(self) -> Judged:
        return self.outputs[self.name] if self.name in self.outputs else errors.judge(self.dump, self.name)

    @cached_property
    def metrics(self) -> dict[str, dict[str, float]]:
        return self.dump.metrics()

    @cached_property
    def counts(self) -> Tensor:
        """Videos by label (rows) and predicted class (columns), int64 [K, K]."""
        return co_occurrence(self.judged.given, self.judged.predicted)

    @cached_property
    def confusions(self) -> list[tuple[int, int, int, list[str]]]:
        return errors.confusions(self.judged)

    @cached_property
    def mistakes(self) -> dict[str, list[Case]]:
        """The most confident ones, by what they are."""
        if not self.judged.several:
            return {"wrong class": errors.mistakes(self.judged, self.most)}
        return {
            "false positives": errors.false_positives(self.judged, self.most),
            "missed labels": errors.false_negatives(self.judged, self.most),
        }

    @cached_property
    def suspects(self) -> list[Case]:
        return errors.suspects(self.judged)

    @cached_property
    def shown_suspects(self) -> dict[str, list[Case]]:
        """The first ones, by what they may be."""
        wrong = [case for case in self.suspects if case.given is not None]
        missing = [case for case in self.suspects if case.given is None]
        found = {"labels that may be wrong": wrong[: self.most], "labels that may be missing": missing[: self.most]}
        return {what: cases for what, cases in found.items() if cases}

    @cached_property
    def pairs(self) -> list[Comparison]:
        """Every two outputs that have a video in common."""
        return [
            errors.compare(one, other, most=self.most)
            for one, other in itertools.combinations(self.outputs.values(), 2)
            if set(one.ids) & set(other.ids)
        ]

    @property
    def peers(self) -> list[Comparison]:
        """Of these the ones of two networks."""
        return [pair for pair in self.pairs if not {pair.first, pair.second} & {ENSEMBLE, FUSED}]

    @cached_property
    def _places(self) -> dict[str, dict[str, int]]:
        return {name: {video: row for row, video in enumerate(one.ids)} for name, one in self.outputs.items()}

    def right_about(self, video: str) -> str:
        """Which outputs predict all labels of a video."""
        rows = {name: self._places[name][video] for name in self.outputs if video in self._places[name]}
        right = [n for n, row in rows.items() if self.outputs[n].found[row] == self.outputs[n].given[row].sum()]
        return f"correct: {', '.join(right)}" if right else f"all wrong: {', '.join(rows)}"

    def labels(self, video: str) -> list[int]:
        """The labels of a video that the output is judged on."""
        row = self._places[self.name][video]
        return [int(k) for k in self.judged.plain[1][row].nonzero()[0]]

    def told(self, video: str) -> dict[str, Any]:
        """What each output predicts for a video, in columns."""
        columns: dict[str, Any] = {}
        for name, one in self.outputs.items():
            if video in self._places[name]:
                told = _told(one, self._places[name][video])
                columns |= {f"{name} {key}": value for key, value in told.items()}
        return columns

    def videos(self) -> list[str]:
        """Those that have a card on the page, the most important first: lists take turns."""
        lists: list[Sequence[Any]] = [*self.mistakes.values(), *self.shown_suspects.values()]
        for pair in [*([self.against] if self.against else []), *self.peers]:
            lists += [pair.first_right, pair.second_right]
        turns = itertools.chain.from_iterable(itertools.zip_longest(*lists))
        return list(dict.fromkeys(case.video for case in turns if case is not None))


def class_rows(found: Findings) -> list[dict[str, Any]]:
    """A row per class: videos, precision and recall of the output in percent, and of each output the accuracy
    or the average precision."""
    from mml_lightning.evaluation.metrics import by_class
    from mml_lightning.evaluation.metrics.mistakes import precision_recall

    judged, dump = found.judged, found.dump
    positives, columns = by_class(dump.pooled, dump.target, dump.multi_label, dump.scoring)
    precision, recall = precision_recall(judged.given, judged.predicted)
    measure = "average precision" if judged.several else "accuracy"
    return [
        {
            "class": name,
            "videos": int(positives[k]),
            "predicted": int(judged.predicted[:, k].sum()),
            "precision": _percent(precision[k]),
            "recall": _percent(recall[k]),
            **{f"{output} {measure}": _number(column[k]) for output, column in columns.items()},
        }
        for k, name in enumerate(judged.classes)
    ]


def video_rows(found: Findings, changes: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """A row per video of the split: its labels and, for each output, what is predicted, with probabilities; which label
    is suspected; what changed against the other run; and why it has no scores."""
    names = found.judged.classes
    suspicion: dict[str, list[str]] = {}
    for case in found.suspects:
        told = f"not {names[case.given]}" if case.given is not None else ""
        told = told if case.predicted is None else names[case.predicted]
        suspicion.setdefault(case.video, []).append(told)
    rows = []
    target = found.dump.target
    for place, video in enumerate(found.dump.ids):
        row = {"id": video, "label": "; ".join(names[k] for k in _labels(target[place])), **found.told(video)}
        rows.append(row | {"suspect label": "; ".join(suspicion.get(video, ()))})
        if changes is not None:
            rows[-1]["change"] = changes.get(video, "")
    scored = set(found.dump.ids)
    rows += [{"id": video, "error": why} for video, why in found.dump.unreadable.items() if video not in scored]
    return rows


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Columns in the order in which rows bring them; empty where there is nothing."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def confusion_rows(found: Findings) -> list[dict[str, Any]]:
    """A row per label and class that is predicted for one of its videos."""
    names, counts = found.judged.classes, found.counts
    pairs = counts.nonzero().tolist()
    return [{"label": names[i], "predicted": names[j], "videos": int(counts[i, j])} for i, j in pairs]


def _told(judged: Judged, row: int) -> dict[str, Any]:
    """What is predicted for a video."""
    predicted, given, probs = (values[row] for values in judged.plain)
    chosen = sorted(predicted.nonzero()[0].tolist(), key=lambda k: -probs[k])
    labels = given.nonzero()[0].tolist()
    found = int(predicted[labels].sum())
    return {
        "predicted": "; ".join(judged.classes[k] for k in chosen),
        "probability": "; ".join(f"{probs[k]:.4f}" for k in chosen),
        "label probability": "; ".join(f"{probs[k]:.4f}" for k in labels),
        "correct": f"{found} of {len(labels)}" if judged.several else found,
    }


def _labels(target: Tensor) -> list[int]:
    if target.ndim == 0:
        return [int(target)] if int(target) >= 0 else []
    return (target > 0).nonzero()[:, 0].tolist()


def _percent(share: Tensor) -> float | None:
    return _number(100 * share)


def _number(value: Tensor) -> float | None:
    number = float(value)
    return round(number, 4) if number == number else None
