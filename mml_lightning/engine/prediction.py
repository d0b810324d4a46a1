"""What networks say of one video. Legend: V views (clips x crops), K classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mml_lightning.evaluation.metrics import ENSEMBLE, FUSED
from mml_lightning.evaluation.predictions import Predictions
from mml_lightning.evaluation.score_collector import ScoreCollector
from mml_lightning.utils.errors import UserError


def main_output(outputs: Sequence[str]) -> str:
    """Which of several outputs is meant where none is named: the fused one, else the ensemble, else the first."""
    return next((name for name in (FUSED, ENSEMBLE) if name in outputs), outputs[0])


@dataclass(frozen=True)
class Scores:
    """Of one head.

    Args:
        classes: names of the K classes.
        logits: {peer or "fused": float32 [V, K]}, before any activation; NaN where the video lacks its modality.
        log_scores: {output: float64 [K]}, logs of probabilities, pooled over the views: of each peer, "fused", and
            "ensemble" where there are several peers.
        multi_label: whether a video may have several of the classes: probabilities of their own, which don't sum to 1.
    """

    classes: tuple[str, ...]
    logits: Mapping[str, Tensor]
    log_scores: Mapping[str, Tensor]
    multi_label: bool

    def top(self, count: int = 5, output: str | None = None) -> list[tuple[str, float]]:
        """(class, probability) of the best `count` classes, best first; of equal ones the first class.

        Args:
            output: a peer, "fused" or "ensemble"; :func:`main_output` by default.

        Raises:
            UserError: there is no such output.
        """
        chosen = self.log_scores[self._named(output)]
        if chosen.isnan().any():
            return []  # the video lacks its modality
        best = torch.sort(chosen, descending=True, stable=True).indices[: max(0, count)]
        return [(self.classes[k], float(chosen[k].exp())) for k in best.tolist()]

    def probs(self, output: str | None = None) -> Tensor:
        """float64 [K]; arguments as of :meth:`top`."""
        return self.log_scores[self._named(output)].exp()

    def _named(self, output: str | None) -> str:
        name = main_output(list(self.log_scores)) if output is None else output
        if name not in self.log_scores:
            raise UserError(f"there is no output {name}; use one of {', '.join(self.log_scores)}")
        return name


@dataclass(frozen=True)
class Prediction:
    """Scores of one video by head. With one head :meth:`top`, :attr:`logits` and :attr:`probs` are its own.

    Args:
        video: what the video is called.
        heads: empty where the video can't be read.
        error: why it can't be read, or which network gives no finite scores.
        damage: what is lost of a video that could be read in part.
    """

    video: str
    heads: Mapping[str, Scores]
    error: str | None = None
    damage: str | None = None

    def top(self, count: int = 5, output: str | None = None) -> list[tuple[str, float]]:
        """See :meth:`Scores.top`."""
        return self._only.top(count, output)

    @property
    def logits(self) -> Mapping[str, Tensor]:
        """{peer: float32 [V, K]}"""
        return self._only.logits

    @property
    def probs(self) -> Tensor:
        """float64 [K] of the main output."""
        return self._only.probs()

    @property
    def classes(self) -> tuple[str, ...]:
        return self._only.classes

    @property
    def _only(self) -> Scores:
        if not self.heads:
            raise UserError(f"{self.video} has no scores: {self.error}")
        if len(self.heads) != 1:
            raise UserError(f"there are several heads: use .heads[name], with one of {', '.join(self.heads)}")
        return next(iter(self.heads.values()))


def predictions_of(ids: Sequence[str], collected: Mapping[str, ScoreCollector]) -> list[Prediction]:
    """What was collected of each video, in the order of `ids`."""
    failures = {v: why for scores in collected.values() for v, why in scores.failures.items()}
    damaged = {v: loss for scores in collected.values() for v, loss in scores.damaged.items()}
    dumps = {head: dump for head, scores in collected.items() if (dump := scores.dump()) is not None}
    places = {head: {video: row for row, video in enumerate(dump.ids)} for head, dump in dumps.items()}
    found = []
    for video in ids:
        heads = {h: scores_of(d, places[h][video]) for h, d in dumps.items() if video in places[h]}
        error = failures.get(video) or (None if heads else "it was not read")
        found.append(Prediction(video, heads, error, damaged.get(video)))
    return found


def scores_of(dump: Predictions, row: int) -> Scores:
    """One video of a dump."""
    return Scores(
        dump.classes,
        {peer: value[row] for peer, value in dump.logits.items()},
        {output: value[row] for output, value in dump.pooled.items()},
        dump.multi_label,
    )
