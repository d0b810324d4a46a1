"""What a network gets wrong, and labels that may be wrong themselves. Legend: N videos, K classes.

Labels are `given` and classes `predicted`, bool [N, K] each. Predicted are the best classes of a video, as many as it
has labels (:func:`.per_video.named_classes`): no threshold has to be chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor

Entries = tuple[Tensor, Tensor]
"""Rows and classes, int64 [D] each."""


def co_occurrence(given: Tensor, predicted: Tensor) -> Tensor:
    """Videos with label i for which class j is predicted, int64 [K, K]. With one label per video the confusion
    matrix."""
    return (given.double().T @ predicted.double()).long()


def swapped(given: Tensor, predicted: Tensor) -> Tensor:
    """Videos whose label i is missed and for which class j, which they lack, is predicted, int64 [K, K]. With one label
    per video the confusion matrix without its diagonal."""
    return co_occurrence(given & ~predicted, predicted & ~given)


def precision_recall(given: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor]:
    """Precision and recall of each class from 0 to 1, float64 [K] each; NaN where no video counts."""
    right = (given & predicted).sum(dim=0).double()
    return right / predicted.sum(dim=0), right / given.sum(dim=0)


def label_suspects(scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Videos whose one label may be wrong, by confident learning (Northcutt, Jiang and Chuang, JAIR 70, 2021): a class
    is *confident* of a video if its probability reaches the mean probability of that class over the videos labelled
    with it; a video is suspect if the most probable of its confident classes is not its label.

    Scores must be of a network that was not trained on these videos.

    Args:
        scores: log-probabilities [N, K].
        target: int64 [N].

    Returns:
        Rows and suggested classes, int64 [S], and the margins by which they are ranked, float64 [S]: probability of the
        suggested class less that of the label, largest first.
    """
    probs = scores.exp()
    own = probs.gather(1, target[:, None])[:, 0]
    count = torch.bincount(target, minlength=scores.shape[1])
    level = torch.zeros(scores.shape[1], dtype=probs.dtype).index_add_(0, target, own) / count  # NaN: reached by none
    confident = probs.masked_fill(~(probs >= level), -1.0)
    best, suggested = confident.max(dim=1)
    rows = ((best >= 0) & (suggested != target)).nonzero()[:, 0]
    margin = best[rows] - own[rows]
    order = margin.argsort(descending=True, stable=True)
    return rows[order], suggested[rows][order], margin[order]


def label_suspects_of_several(scores: Tensor, given: Tensor) -> tuple[Entries, Entries]:
    """Labels that may be wrong, and labels that may be missing, where a video may have several: :func:`label_suspects`
    of each class against all others (Thyagarajan, Snorrason, Northcutt and Mueller, 2022).

    Args:
        scores: log-sigmoids [N, K].

    Returns:
        Wrong ones, the least probable first, and missing ones, the most probable first.
    """
    yes, no = scores.exp(), -scores.expm1()
    level_yes = (yes * given).sum(dim=0) / given.sum(dim=0)  # NaN of a class that nobody has: reached by none
    level_no = (no * ~given).sum(dim=0) / (~given).sum(dim=0)
    sure_yes = (yes >= level_yes) & ~((no >= level_no) & (no > yes))
    sure_no = (no >= level_no) & ~((yes >= level_yes) & (yes >= no))
    return ranked(-scores, given & sure_no), ranked(scores, ~given & sure_yes)


def ranked(scores: Tensor, chosen: Tensor, most: int | None = None) -> Entries:
    """The chosen entries of [N, K], highest score first, of equal ones the first video; at most so many."""
    rows, classes = chosen.nonzero(as_tuple=True)
    order = scores[rows, classes].argsort(descending=True, stable=True)[:most]
    return rows[order], classes[order]


def sign_test(better: int, worse: int) -> float:
    """Two-sided probability that videos which differ fall at least so unevenly if each were as likely to get better as
    worse: the exact binomial test; with one label per video McNemar's (Psychometrika 12, 1947)."""
    total, term, tail = better + worse, 1, 0
    for i in range(min(better, worse) + 1):
        tail += term
        term = term * (total - i) // (i + 1)
    return min(1.0, 2 * tail / 2**total)
