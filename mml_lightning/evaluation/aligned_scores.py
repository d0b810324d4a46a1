"""Scores of several networks on the videos that all of them have, seed by seed.

Legend: S seeds, N videos, K classes. A label counts as found if its class is among the n best of a video with n labels.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from mml_lightning.evaluation.ensemble_members import EnsembleMember, join
from mml_lightning.evaluation.metrics import Scoring, ensemble, pool_views
from mml_lightning.evaluation.metrics.bootstrap import Bootstrap, Sampled
from mml_lightning.evaluation.metrics.per_video import labels, losses, named_classes
from mml_lightning.evaluation.predictions import Predictions
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.plain_text import some_videos


@dataclass(frozen=True)
class RunScores:
    """Scores of one network by one run.

    Args:
        name: of the run, for messages.
        peer: which peer of its dumps.
        val: scores of the validation split.
        test: of the test split; None where the run has none.
        train_loss: of the last epoch, in nats; None where it is unknown.
    """

    name: str
    peer: str
    val: Predictions
    test: Predictions | None = None
    train_loss: float | None = None


@dataclass(frozen=True)
class Network:
    """A network, and the runs that differ in nothing but its seed, one per seed and in their order.

    Args:
        name: unique.
        modality: what it looks at.
        runs: S of them.
        inside: name of the joint run that it is a peer of; "" where it was trained alone.
    """

    name: str
    modality: str
    runs: Sequence[RunScores]
    inside: str = ""


@dataclass(frozen=True)
class AlignedScores:
    """Networks on the labelled videos of a split that all of them have scores for: `scores` are pooled log-scores
    {name: float64 [S, N, K]}."""

    ids: tuple[str, ...]
    target: Tensor
    scores: Mapping[str, Tensor]
    scoring: Scoring
    notes: list[str]

    @property
    def multi_label(self) -> bool:
        return self.target.ndim == 2

    @property
    def metric(self) -> str:
        return "map" if self.multi_label else "top1"

    @cached_property
    def luck(self) -> Bootstrap:
        return Bootstrap(len(self.ids), len(next(iter(self.scores.values()))))

    @cached_property
    def wanted(self) -> Tensor:
        """Labels of each video, the same for every seed, [S, N]."""
        first = next(iter(self.scores.values()))
        return labels(self.target, first.shape[2]).sum(dim=1).expand(len(first), -1)

    @cached_property
    def named(self) -> dict[str, Tensor]:
        """bool [S, N, K], see :func:`named_classes`."""
        return {name: torch.stack([named_classes(one, self.target) for one in s]) for name, s in self.scores.items()}

    @cached_property
    def found(self) -> dict[str, Tensor]:
        """bool [S, N, K], the labels that each network finds."""
        return {name: named & labels(self.target, named.shape[2]) for name, named in self.named.items()}

    @cached_property
    def qualities(self) -> dict[str, Sampled]:
        """:meth:`quality` of every network."""
        return {name: self.quality(scores) for name, scores in self.scores.items()}

    def quality(self, scores: Tensor) -> Sampled:
        """Top-1 or mean average precision of `scores` [S, N, K], in percent."""
        if self.multi_label:
            scoring = self.scoring
            return self.luck.mean_average_precision(scores, self.target, scoring.ap, scoring.empty_class)
        right = torch.stack([(named_classes(one, self.target) & labels(self.target, one.shape[1])) for one in scores])
        return self.luck.mean(100.0 * right.any(dim=2))

    def losses(self, name: str) -> Tensor:
        """Loss of each video, [S, N]."""
        return torch.stack([losses(one, self.target) for one in self.scores[name]])

    def fused(self, names: Sequence[str], weights: Sequence[Sequence[float]]) -> Tensor:
        """Ensemble of networks, weighted per seed, [S, N, K]."""
        fused = []
        for seed, own in enumerate(weights):
            parts = [self.scores[name][seed] for name in names]
            fused.append(ensemble(parts, own, self.scoring.ensemble, self.multi_label))
        return torch.stack(fused)

    def keep(self, mask: Tensor) -> AlignedScores:
        """On some of its videos."""
        ids = tuple(itertools.compress(self.ids, mask.tolist()))
        return replace(self, ids=ids, target=self.target[mask], scores={n: s[:, mask] for n, s in self.scores.items()})


def align(networks: Sequence[Network], split: str) -> AlignedScores | None:
    """The networks on a split, "val" or "test"; None where a run has no scores of it.

    Raises:
        UserError: classes or labels differ, there is no common video, none has a label, or scores are infinite.
    """
    members = []
    for network in networks:
        for run in network.runs:
            dump = run.val if split == "val" else run.test
            if dump is None:
                return None
            members.append(EnsembleMember(f"{network.name} of {run.name}", dump, run.peer))
    joined = join(members, intersect=True)
    scoring = members[0].dump.scoring
    scores: dict[str, Tensor] = {}
    pooled = (
        pool_views(member.logits[rows], scoring.pooling, joined.multi_label)
        for member, rows in zip(joined.members, joined.rows, strict=True)
    )
    for network in networks:
        own = torch.stack(list(itertools.islice(pooled, len(network.runs))))
        if own.isnan().any():  # what a network has not seen is left out already
            raise UserError(f"{network.name} has infinite scores of {split}: it diverged in training; leave it out")
        scores[network.name] = own
    lacking = [f"{split}: {name} lacks {some_videos(ids)}: not counted" for name, ids in joined.missing.items()]
    notes = [*lacking, *(f"{split}: {note}" for note in joined.notes)]
    return AlignedScores(joined.ids, joined.target, scores, scoring, notes)
