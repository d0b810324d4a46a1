"""Enumerated ensembles against one at a time, sums of ranks, mistakes by hand. M networks, N videos, K classes."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mml_lightning.evaluation.metrics import DEFAULT, Scoring, ensemble, measure
from mml_lightning.evaluation.metrics.ensembles import (
    disagreement,
    measure_multi_label,
    measure_single_label,
    q_statistic,
    rank_sums,
    search_weights,
)


def networks(seed: int, count: int, videos: int, classes: int, levels: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities [M, N, K] and labels; few `levels` make ties."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(classes, (videos,), generator=generator)
    if levels:
        logits = torch.randint(levels, (count, videos, classes), generator=generator).double()
    else:
        logits = torch.randn(count, videos, classes, generator=generator, dtype=torch.float64)
        logits.scatter_add_(2, target[None, :, None].expand(count, -1, 1), torch.ones(count, videos, 1).double())
    return logits.log_softmax(-1), target


def in_blocks(scores: torch.Tensor, target: torch.Tensor, size: int = 7) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(scores[:, i : i + size], target[i : i + size]) for i in range(0, len(target), size)]


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), kind=st.sampled_from(["probs", "logits"]), classes=st.integers(2, 9))
def test_enumerated_is_one_at_a_time(seed: int, kind: str, classes: int) -> None:
    scores, target = networks(seed, 4, 23, classes)
    combos = [c for size in (1, 2, 3, 4) for c in itertools.permutations(range(4), size)][::3]
    weights = [1.0, 0.5, 2.0, 0.25]
    averaged = scores.exp() if kind == "probs" else scores
    found = measure_single_label(in_blocks(averaged, target), combos, weights).metrics
    for members, values in zip(combos, found, strict=True):
        mixed = ensemble([scores[m] for m in members], [weights[m] for m in members], kind)
        alone = measure({"": mixed}, target, False, DEFAULT)[""]
        del alone["loss"], alone["ece"]
        assert values == pytest.approx(alone, abs=1e-9), members
        assert list(values) == list(alone)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_ties_are_broken_as_everywhere(seed: int) -> None:
    """Whole numbers add up without rounding, so that equal classes stay equal."""
    scores, target = networks(seed, 3, 31, 7, levels=3)
    whole = (scores - scores[..., :1]).round()  # log-probabilities less a constant are logits
    combos = [(0,), (0, 1), (0, 1, 2)]
    found = measure_single_label(in_blocks(whole, target), combos).metrics
    for members, values in zip(combos, found, strict=True):
        alone = measure({"": whole[list(members)].sum(0)}, target, False, DEFAULT)[""]
        assert (values["top1"], values["top5"]) == pytest.approx((alone["top1"], alone["top5"]), abs=1e-9)


def test_which_network_is_right_and_the_size_of_blocks_does_not_show() -> None:
    scores, target = networks(1, 3, 40, 6)
    one = measure_single_label(in_blocks(scores, target, 40), [(0, 1), (0, 2)])
    many = measure_single_label(in_blocks(scores, target, 3), [(0, 1), (0, 2)])
    assert one.metrics == many.metrics and torch.equal(one.right, many.right)
    assert torch.equal(one.right, scores.argmax(-1) == target)
    with pytest.raises(ValueError, match="at least one video"):
        measure_single_label([], [(0, 1)])


def test_two_networks_of_several_labels_by_hand() -> None:
    """(.9, .6, .5, .1) and (.2, .7, .1, .6), the second and fourth right: the mean ranks them 1 0 3 2, so 5/6."""
    p = torch.tensor([[0.9, 0.6, 0.5, 0.1], [0.2, 0.7, 0.1, 0.6]], dtype=torch.float64)
    scores, target = p[:, :, None].log(), torch.tensor([0, 1, 0, 1])[:, None]
    found = measure_multi_label(list(scores), target, [(0,), (1,), (0, 1)], Scoring())
    assert [row["map"] for row in found] == pytest.approx([50, 100, 100 * 5 / 6])
    weighed = measure_multi_label(list(scores), target, [(0, 1)], Scoring(), [0.0, 1.0])
    assert weighed[0]["map"] == pytest.approx(100)


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    levels=st.integers(1, 6),
    seed=st.integers(0, 10**6),
)
def test_sums_of_ranks_are_those_of_the_positions_whatever_ties(sizes: list[int], levels: int, seed: int) -> None:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    combos = list(itertools.product(*(range(s, s + n) for s, n in zip(starts, sizes, strict=True))))
    generator = torch.Generator().manual_seed(seed)
    quality = torch.randint(levels, (len(combos),), generator=generator).double().tolist()
    sums = rank_sums(quality, combos, sum(sizes))
    total = len(combos) * (len(combos) - 1) / 2
    for start, size in zip(starts, sizes, strict=True):
        assert sum(sums[start : start + size]) == total


def test_sums_of_ranks_by_hand() -> None:
    combos = [(0, 2), (0, 3), (1, 2), (1, 3)]
    assert rank_sums([90.0, 70.0, 80.0, 60.0], combos, 4) == [0 + 2, 1 + 3, 0 + 1, 2 + 3]
    assert rank_sums([90.0, 80.0, 80.0, 60.0], combos, 4) == [1.5, 4.5, 1.5, 4.5]
    assert rank_sums([], [], 1) == [0.0]
    assert 13 * 11 * 6 * (13 * 11 * 6 - 1) // 2 == 367_653, "each column of the paper's Table 13"


def test_how_different_mistakes_are_by_hand() -> None:
    right = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0], [0, 0, 0, 1, 1, 1]], dtype=torch.bool)
    apart, q = disagreement(right), q_statistic(right)
    assert apart[0].tolist() == pytest.approx([0, 2 / 6, 1])
    assert float(q[0, 1]) == pytest.approx((2 * 2 - 1 * 1) / (2 * 2 + 1 * 1))
    assert (float(q[0, 0]), float(q[0, 2])) == (1.0, -1.0)
    always = torch.ones(2, 5, dtype=torch.bool)
    assert math.isnan(q_statistic(always)[0, 1]) and disagreement(always)[0, 1] == 0


@pytest.mark.parametrize("count", [2, 3, 4, 5])
@pytest.mark.parametrize("several", [False, True])
def test_searched_weights_are_no_worse_than_equal_ones_and_leave_out_a_useless_network(
    count: int, several: bool
) -> None:
    scores, target = networks(3, count, 60, 6)
    scores[-1] = (
        torch.randn(60, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).mul(3).log_softmax(-1)
    )
    if several:
        target = torch.nn.functional.one_hot(target, 6)
    averaged = scores if several else scores.exp()
    weights, value = search_weights(averaged, target, several, DEFAULT)
    assert sum(weights) == pytest.approx(1) and min(weights) >= 0
    mixed = ensemble(list(scores), [1.0] * count, "probs", several)
    equal = measure({"": mixed}, target, several, DEFAULT)[""]["map" if several else "top1"]
    assert value >= equal - 1e-9
    assert weights[-1] < 1 / count


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), count=st.integers(2, 4))
def test_the_quality_of_searched_weights_is_that_of_the_ensemble(seed: int, count: int) -> None:
    scores, target = networks(seed, count, 50, 5)
    weights, value = search_weights(scores.exp(), target, False, DEFAULT)
    (measured,) = measure_single_label(
        [(scores.exp(), target)], [tuple(range(count))], [w or 1e-30 for w in weights]
    ).metrics
    assert value == pytest.approx(measured["top1"])


def test_of_equal_weights_the_most_even_are_taken() -> None:
    scores, target = networks(5, 1, 20, 4)
    same = scores.exp().expand(3, -1, -1)
    assert search_weights(same, target, False, DEFAULT)[0] == pytest.approx([1 / 3] * 3)
    assert search_weights(same.repeat(2, 1, 1)[:4], target, False, DEFAULT)[0] == pytest.approx([1 / 4] * 4)
