"""Average precision against scikit-learn and the official rule written as a loop. Shapes: N videos, K classes."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from mml_lightning.evaluation.metrics import (
    average_precision,
    mean_average_precision,
    sample_average_precision,
    unlabelled_last,
    weighted_average_precision,
)


def data(seed: int, n: int, k: int, levels: int | None = None, share: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores [n, k], of few distinct levels (many ties) or continuous, and multi-hot targets."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n, k)) if levels is None else rng.integers(0, levels, size=(n, k)) / 2
    return torch.from_numpy(scores.astype(np.float64)), torch.from_numpy((rng.random((n, k)) < share).astype(np.int64))


def official(scores: np.ndarray, target: np.ndarray) -> float:
    """AP of one class: walk down a stable sort; at every hit, add the precision so far."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])  # Python sorts stably
    hits, total = 0, 0.0
    for place, i in enumerate(order, start=1):
        if target[i]:
            hits += 1
            total += hits / place
    return total / hits if hits else math.nan


def referee(scores: np.ndarray, target: np.ndarray) -> float:
    return float(average_precision_score(target, scores)) if target.any() else math.nan


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6), n=st.integers(1, 40), k=st.integers(1, 5), levels=st.sampled_from([None, 1, 2, 3, 9])
)
def test_both_rules_equal_their_references_ties_or_not(seed: int, n: int, k: int, levels: int | None) -> None:
    scores, target = data(seed, n, k, levels)
    for rule, reference in (("grouped", referee), ("sequential", official)):
        expected = [reference(scores[:, c].numpy(), target[:, c].numpy()) for c in range(k)]
        np.testing.assert_allclose(average_precision(scores, target, rule).numpy(), expected, rtol=1e-12, atol=0)


def test_four_tied_videos_of_which_two_are_positive() -> None:
    tied, target = torch.zeros(4, 1), torch.tensor([[1], [0], [1], [0]])
    assert float(average_precision(tied, target, "grouped")) == 0.5
    assert float(average_precision(tied, target, "sequential")) == pytest.approx(5 / 6, abs=1e-15)  # (1 + 2/3) / 2


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_without_ties_the_rules_are_one(seed: int) -> None:
    scores, target = data(seed, 30, 4)
    found = [average_precision(scores, target, rule) for rule in ("grouped", "sequential")]
    torch.testing.assert_close(*found, rtol=1e-12, atol=0, equal_nan=True)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), rule=st.sampled_from(["grouped", "sequential"]))
def test_only_the_order_of_scores_counts(seed: int, rule: str) -> None:
    scores, target = data(seed, 25, 3, levels=6)
    torch.testing.assert_close(
        average_precision(scores, target, rule), average_precision((scores * 3).exp() - 7, target, rule), equal_nan=True
    )


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_the_grouped_rule_ignores_the_order_of_the_videos(seed: int) -> None:
    scores, target = data(seed, 25, 3, levels=4)
    order = torch.from_numpy(np.random.default_rng(seed + 1).permutation(25))
    torch.testing.assert_close(
        average_precision(scores, target), average_precision(scores[order], target[order]), equal_nan=True
    )


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), rule=st.sampled_from(["grouped", "sequential"]))
def test_values_lie_between_nothing_and_a_perfect_order(seed: int, rule: str) -> None:
    scores, target = data(seed, 20, 3, levels=5)
    target[0] = 1
    found = average_precision(scores, target, rule)
    assert (found > 0).all() and (found <= 1).all()
    assert (average_precision(target.double(), target, rule) == 1).all()


def test_videos_without_a_label_change_nothing_under_the_official_rule() -> None:
    scores, target = data(3, 40, 5, levels=4)
    target[::3] = 0
    kept = target.any(dim=1)
    assert not kept.all()
    behind = average_precision(unlabelled_last(scores, target), target, "sequential")
    torch.testing.assert_close(behind, average_precision(scores[kept], target[kept], "sequential"), rtol=0, atol=0)
    assert (behind >= average_precision(scores, target, "sequential")).all()


def test_a_labelled_video_without_scores_is_a_late_hit() -> None:
    scores, target = torch.tensor([[2.0], [-torch.inf], [1.0]]), torch.tensor([[1], [1], [0]])
    assert float(average_precision(scores, target, "sequential")) == pytest.approx((1 + 2 / 3) / 2)


def test_classes_without_a_positive_are_dropped_nothing_or_zero() -> None:
    per_class, positives = torch.tensor([0.5, torch.nan, 1.0], dtype=torch.float64), torch.tensor([3, 0, 1])
    assert mean_average_precision(per_class, "drop") == 0.75
    assert mean_average_precision(per_class, "zero") == 0.5
    assert math.isnan(mean_average_precision(per_class, "nan"))
    assert weighted_average_precision(per_class, positives, "drop") == (3 * 0.5 + 1.0) / 4
    assert weighted_average_precision(per_class, positives, "zero") == (3 * 0.5 + 1.0) / 4
    assert math.isnan(weighted_average_precision(per_class, positives, "nan"))
    whole = torch.tensor([0.5, 1.0], dtype=torch.float64)
    assert {mean_average_precision(whole, empty) for empty in ("drop", "zero", "nan")} == {0.75}


def test_sample_wise_precision_is_the_mean_over_labelled_videos_of_a_rank_over_classes() -> None:
    scores, target = data(5, 30, 8, share=0.4)
    target[4] = 0  # no label: in no mean
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = [referee(scores[i].numpy(), target[i].numpy()) for i in range(30) if target[i].any()]
    assert sample_average_precision(scores, target) == pytest.approx(np.mean(rows), rel=1e-12)


def test_half_precision_would_make_ties_and_is_refused() -> None:
    scores, target = torch.tensor([[5.0001], [5.0002]]), torch.tensor([[0], [1]])
    assert float(average_precision(scores, target)) == 1.0
    rounded = scores.half()
    assert rounded[0] == rounded[1]
    with pytest.raises(ValueError, match="use float32 or float64"):
        average_precision(rounded, target)


def test_mistakes_are_named() -> None:
    scores, target = data(0, 4, 2)
    with pytest.raises(ValueError, match=r"metrics\.ap='median' is unknown"):
        average_precision(scores, target, "median")
    with pytest.raises(ValueError, match=r"metrics\.empty_class='skip' is unknown"):
        mean_average_precision(scores[0], "skip")
    with pytest.raises(ValueError, match="must both be"):
        average_precision(scores, target[:, 0])
    with pytest.raises(ValueError, match="NaN"):
        average_precision(scores.masked_fill(scores > 0, torch.nan), target)
