"""What is predicted, confusions and suspect labels, against definitions written out and other implementations."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mml_lightning.evaluation.metrics import confusion_matrix, mistakes
from mml_lightning.evaluation.metrics.per_video import named_classes


def drawn(seed: int, videos: int, classes: int, ties: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(videos, classes, generator=generator, dtype=torch.float64)
    return (logits * 2).round() if ties else logits


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 7), st.booleans())
def test_with_one_label_it_is_the_confusion_matrix(seed: int, videos: int, classes: int, ties: bool) -> None:
    scores = drawn(seed, videos, classes, ties)
    target = torch.randint(classes, (videos,), generator=torch.Generator().manual_seed(seed + 1))
    hot = torch.nn.functional.one_hot(target, classes).bool()
    predicted = named_classes(scores, hot)
    assert torch.equal(predicted.int().argmax(dim=1), scores.argmax(dim=1)) and torch.equal(
        predicted.sum(dim=1), hot.sum(dim=1)
    )
    expected = confusion_matrix(scores, target)
    assert torch.equal(mistakes.co_occurrence(hot, predicted), expected)
    assert torch.equal(mistakes.swapped(hot, predicted), expected - expected.diagonal().diag())
    precision, recall = mistakes.precision_recall(hot, predicted)
    right = expected.diagonal().double()
    assert torch.equal(precision.nan_to_num(-1), (right / expected.sum(dim=0)).nan_to_num(-1))
    assert torch.equal(recall.nan_to_num(-1), (right / expected.sum(dim=1)).nan_to_num(-1))


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 6), st.booleans())
def test_several_labels_by_hand(seed: int, videos: int, classes: int, ties: bool) -> None:
    scores = drawn(seed, videos, classes, ties)
    hot = torch.rand(videos, classes, generator=torch.Generator().manual_seed(seed + 2)) > 0.6
    predicted = named_classes(scores, hot)
    both, swapped = mistakes.co_occurrence(hot, predicted), mistakes.swapped(hot, predicted)
    for i in range(classes):
        for j in range(classes):
            count = wrong = 0
            for n in range(videos):
                best = sorted(range(classes), key=lambda k, n=n: (-scores[n, k].item(), k))[: int(hot[n].sum())]
                count += bool(hot[n, i]) and j in best
                wrong += bool(hot[n, i]) and i not in best and j in best and not hot[n, j]
            assert (int(both[i, j]), int(swapped[i, j])) == (count, wrong)


def suspects_written_out(probs: list[list[float]], labels: list[int]) -> dict[int, int]:
    """Confident learning, equation by equation."""
    classes = len(probs[0])
    own = {k: [p[k] for p, label in zip(probs, labels, strict=True) if label == k] for k in range(classes)}
    level = {k: sum(values) / len(values) for k, values in own.items() if values}
    found = {}
    for n, (p, label) in enumerate(zip(probs, labels, strict=True)):
        confident = [k for k in level if p[k] >= level[k] or math.isclose(p[k], level[k], rel_tol=1e-12)]
        if confident and (best := max(confident, key=lambda k: p[k])) != label:
            found[n] = best
    return found


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(2, 40), st.integers(2, 6))
def test_suspects_are_those_of_the_paper(seed: int, videos: int, classes: int) -> None:
    scores = torch.log_softmax(2 * drawn(seed, videos, classes), dim=1)
    target = torch.randint(classes, (videos,), generator=torch.Generator().manual_seed(seed + 1))
    # two of a class at least: where one video sets its class's level, rounding decides
    target = torch.cat([target, target])
    scores = torch.cat([scores, torch.log_softmax(2 * drawn(seed + 3, videos, classes), dim=1)])
    rows, suggested, margin = mistakes.label_suspects(scores, target)
    expected = suspects_written_out(scores.exp().tolist(), target.tolist())
    assert dict(zip(rows.tolist(), suggested.tolist(), strict=True)) == expected
    assert margin.tolist() == sorted(margin.tolist(), reverse=True)


def test_a_label_that_was_turned_is_suspected_first() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(60) % 3
    logits = 3.0 * torch.nn.functional.one_hot(target, 3) + torch.randn(60, 3, generator=generator) / 2
    logits[17] *= 2  # a video of its class, and surely
    wrong = target.clone()
    wrong[17] = (target[17] + 1) % 3
    rows, suggested, _ = mistakes.label_suspects(torch.log_softmax(logits.double(), dim=1), wrong)
    assert rows[0] == 17 and suggested[0] == target[17]


def test_labels_that_were_added_and_taken_away_are_suspected_first() -> None:
    generator = torch.Generator().manual_seed(0)
    hot = torch.rand(80, 4, generator=generator) > 0.7
    logits = 6.0 * hot - 3 + torch.randn(80, 4, generator=generator) / 2
    given = hot.clone()
    added, taken = (~hot).nonzero()[5].tolist(), hot.nonzero()[7].tolist()
    logits[*added], logits[*taken] = -6.0, 6.0  # the network is sure
    given[*added], given[*taken] = True, False
    wrong, missing = mistakes.label_suspects_of_several(torch.nn.functional.logsigmoid(logits.double()), given)
    assert (int(wrong[0][0]), int(wrong[1][0])) == tuple(added)
    assert (int(missing[0][0]), int(missing[1][0])) == tuple(taken)


def test_a_class_that_nobody_has_is_suggested_to_nobody() -> None:
    scores = torch.log_softmax(torch.tensor([[0.0, 9, 0], [0, 9, 0], [9, 0, 0]]).double(), dim=1)
    _, suggested, _ = mistakes.label_suspects(scores, torch.tensor([0, 2, 0]))
    assert 1 not in suggested.tolist()
    given = torch.tensor([[1, 0, 0], [0, 0, 1], [1, 0, 0]]).bool()
    _, missing = mistakes.label_suspects_of_several(torch.nn.functional.logsigmoid(scores), given)
    assert 1 not in missing[1].tolist()


@pytest.mark.parametrize(
    ("better", "worse", "p"), [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 0.0625), (1, 9, 22 / 1024), (6, 6, 1.0)]
)
def test_sign_test_golden(better: int, worse: int, p: float) -> None:
    assert mistakes.sign_test(better, worse) == mistakes.sign_test(worse, better) == pytest.approx(p, rel=1e-12)


def test_sign_test_of_many_is_finite() -> None:
    assert 0 < mistakes.sign_test(4_800, 5_200) < 1e-4 and mistakes.sign_test(0, 20_000) == 0.0
