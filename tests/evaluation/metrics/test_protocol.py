"""From per-view logits to the reported numbers, against plain counts. Shapes: N videos, V views, K classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_accuracy

from mml_lightning.evaluation.metrics import (
    Scoring,
    by_class,
    class_accuracy,
    labelled,
    measure,
    pool_peers,
)
from mml_lightning.evaluation.metrics.video_metrics import TopKAccuracy

PLAIN = Scoring()


def top_k_accuracy(scores: torch.Tensor, target: torch.Tensor, k: int = 1) -> float:
    metric = TopKAccuracy(k)
    metric.update(scores, target)
    return float(metric.compute()) / 100


def one(scores: torch.Tensor, target: torch.Tensor, **choices: Any) -> dict[str, float]:
    return measure({"rgb": scores}, target, target.ndim == 2, Scoring(**choices))["rgb"]


def test_accuracies_against_a_plain_count() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(200, 8, generator=generator).double().log_softmax(-1)
    target = torch.randint(0, 7, (200,), generator=generator)  # class 7 is absent: it is in no mean
    found = one(scores, target)
    hit = scores.argsort(dim=1, descending=True).numpy() == target.numpy()[:, None]
    assert list(found) == ["top1", "top5", "mean_class", "loss", "ece"]
    assert found["top1"] == pytest.approx(100 * hit[:, 0].mean(), rel=1e-14)
    assert found["top5"] == pytest.approx(100 * hit[:, :5].any(axis=1).mean(), rel=1e-14)
    per_class = [100 * hit[target.numpy() == k, 0].mean() for k in range(7)]
    assert found["mean_class"] == pytest.approx(np.mean(per_class), rel=1e-14)
    assert found["loss"] == pytest.approx(float(-scores[torch.arange(200), target].mean()), rel=1e-14)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 60), classes=st.integers(2, 9), k=st.integers(1, 9))
def test_accuracies_equal_torchmetrics_without_ties(seed: int, n: int, classes: int, k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores, target = torch.rand(n, classes, generator=generator), torch.randint(0, classes, (n,), generator=generator)
    k = min(k, classes)
    theirs = multiclass_accuracy(scores, target, num_classes=classes, top_k=k, average="micro")
    assert top_k_accuracy(scores, target, k) == pytest.approx(float(theirs), rel=1e-6)
    both = class_accuracy(scores, target).nan_to_num(0.0).float()
    torch.testing.assert_close(both, multiclass_accuracy(scores, target, num_classes=classes, average="none"))


def test_tied_classes_rank_by_their_number() -> None:
    tied, last = torch.zeros(6, 6), torch.arange(6)
    assert top_k_accuracy(tied, last) == pytest.approx(1 / 6), "a network that says nothing is right by chance"
    assert [top_k_accuracy(tied, last, k) for k in (2, 5, 6)] == pytest.approx([2 / 6, 5 / 6, 1])


def test_five_classes_have_no_top5() -> None:
    assert "top5" not in one(torch.randn(6, 5).log_softmax(-1), torch.zeros(6, dtype=torch.int64))
    assert "top5" in one(torch.randn(6, 6).log_softmax(-1), torch.zeros(6, dtype=torch.int64))


def multi_label(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(50, 4, generator=generator).double().log()
    target = (torch.rand(50, 4, generator=generator) < 0.3).float()
    target[:, 3] = 0  # without a positive
    target[0] = 0  # a video without a label
    return scores, target


def plain_precisions(scores: torch.Tensor, target: torch.Tensor, classes: int = 3) -> list[float]:
    precisions = []
    for k in range(classes):
        ranked = target[scores[:, k].argsort(descending=True), k].numpy()
        precisions.append((ranked.cumsum() / np.arange(1, len(ranked) + 1))[ranked == 1].mean())
    return precisions


def test_mean_average_precisions_against_a_plain_computation() -> None:
    scores, target = multi_label()
    found, precisions = one(scores, target), plain_precisions(scores, target)
    assert list(found) == ["map", "map_weighted", "map_samples"]
    assert found["map"] == pytest.approx(100 * np.mean(precisions))
    weights = target.sum(dim=0)[:3].numpy()
    assert found["map_weighted"] == pytest.approx(100 * np.average(precisions, weights=weights))
    assert one(scores, target, empty_class="zero")["map"] == pytest.approx(75 * np.mean(precisions))
    assert np.isnan(one(scores, target, empty_class="nan")["map"])


def test_the_official_rule_leaves_out_videos_without_a_label() -> None:
    scores, target = multi_label()
    scores[0] = 0.0  # the surest of all: a false positive of the grouped rule
    kept = target.any(dim=1)
    assert int((~kept).sum()) > 1
    found = one(scores, target, ap="sequential")
    assert found["map"] == pytest.approx(100 * np.mean(plain_precisions(scores[kept], target[kept])))
    assert found["map"] > one(scores, target)["map"]


def test_numbers_per_class() -> None:
    scores, target = multi_label()
    positives, columns = by_class({"rgb": scores}, target, True, PLAIN)
    assert positives.tolist() == target.sum(dim=0).int().tolist()
    np.testing.assert_allclose(columns["rgb"][:3], [100 * p for p in plain_precisions(scores, target)])
    assert columns["rgb"][3].isnan()
    single = torch.eye(3).double().log_softmax(-1)
    positives, columns = by_class({"rgb": single}, torch.tensor([0, 0, 2]), False, PLAIN)
    assert positives.tolist() == [2, 0, 1]
    np.testing.assert_allclose(columns["rgb"], [50.0, np.nan, 100.0])


def test_unknown_labels_are_in_no_metric() -> None:
    scores, target = torch.eye(3).double().log_softmax(-1), torch.tensor([0, -1, 1])
    assert labelled(target).tolist() == [True, False, True]
    assert one(scores, target)["top1"] == 50.0
    assert measure({"rgb": scores}, torch.full((3,), -1), False, PLAIN) == {}
    several = torch.tensor([[1.0, 0.0, 0.0], [-1.0, -1.0, -1.0], [0.0, 0.0, 1.0]])
    assert one(scores, several) == one(scores[[0, 2]], several[[0, 2]])


def test_peers_are_measured_on_what_they_have_seen() -> None:
    rgb, flow = torch.tensor([[[5.0, 0.0]], [[0.0, 5.0]]]), torch.tensor([[[9.0, 0.0]], [[9.0, 0.0]]])
    flow[1] = torch.nan
    pooled = pool_peers({"rgb": rgb, "flow": flow}, False, PLAIN)
    found = measure(pooled, torch.tensor([0, 1]), False, PLAIN)
    assert {peer: values["top1"] for peer, values in found.items()} == {"rgb": 100, "flow": 100, "ensemble": 100}


def test_choices_reach_the_numbers() -> None:
    """Two views and two peers that disagree under every choice."""
    rgb = torch.tensor([[[9.0, 0.0, 0.0], [0.0, 5.0, 0.0], [0.0, 5.0, 0.0]]])
    best = {p: int(pool_peers({"rgb": rgb}, False, Scoring(pooling=p))["rgb"].argmax()) for p in ("logits", "probs")}
    assert best == {"logits": 1, "probs": 1}
    assert int(pool_peers({"rgb": rgb}, False, Scoring(pooling="max"))["rgb"].argmax()) == 0
    peers = {"rgb": torch.tensor([[[30.0, 0.0, 0.0]]]), "flow": torch.tensor([[[0.0, 4.0, 0.0]]])}
    shares = {"rgb": 0.45, "flow": 0.55}
    picks = {
        k: int(pool_peers(peers, False, Scoring(ensemble=k), shares)["ensemble"].argmax()) for k in ("logits", "probs")
    }
    assert picks == {"logits": 0, "probs": 1}, "a mean of logits follows the network with the large ones"
    assert "ensemble" not in pool_peers({"rgb": rgb}, False, PLAIN)
    with pytest.raises(ValueError, match="weights name 'audio'; the peers are"):
        pool_peers(peers, False, PLAIN, {"audio": 1.0})


@pytest.mark.parametrize(
    "choice",
    [{"pooling": "sum"}, {"ensemble": "max"}, {"ap": "micro"}, {"empty_class": "skip"}],
    ids=lambda choice: next(iter(choice)),
)
def test_unknown_choices_are_named_by_their_key(choice: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=rf"\.{next(iter(choice))}='{next(iter(choice.values()))}' is unknown"):
        Scoring(**choice)
