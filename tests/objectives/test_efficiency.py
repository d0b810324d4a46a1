"""The price of using peers: the published example, what has a gradient, and correctness of videos."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mml_lightning.objectives.efficiency import PUBLISHED, Efficiency, is_correct

PEERS = ["rgb", "audio"]


def rates(first: list[float], second: list[float]) -> dict[str, torch.Tensor]:
    return {"rgb": torch.tensor(first, requires_grad=True), "audio": torch.tensor(second, requires_grad=True)}


def test_golden_value() -> None:
    """Two videos, the first right at rates .6 and .8: (.36 + .05 * .64) / 2 + 10 / 2."""
    value = Efficiency(PEERS)(rates([0.6, 0.3], [0.8, 1.0]), torch.tensor([True, False]))
    assert float(value.mean()) == pytest.approx(5.196)


def test_gamma_has_no_gradient_and_a_wrong_video_teaches_nothing() -> None:
    grads = []
    for gamma in (0.0, 10.0):
        own = rates([0.6, 0.3], [0.8, 1.0])
        Efficiency(PEERS, gamma=gamma)(own, torch.tensor([True, False])).mean().backward()
        grads.append(torch.stack([own[peer].grad for peer in PEERS]))  # type: ignore[misc]
    assert torch.equal(*grads)
    assert bool((grads[0][:, 0] > 0).all()) and not grads[0][:, 1].any()


def test_the_mean_penalty_does_not_ask_what_is_right() -> None:
    penalty = Efficiency(PEERS, penalty="mean")
    right, wrong = (penalty(rates([0.6, 0.3], [0.8, 1.0]), torch.tensor([r, r])) for r in (True, False))
    assert torch.equal(right, wrong) and float(right[0]) == pytest.approx(0.6 + 0.05 * 0.8)


@pytest.mark.parametrize(("peers", "weights"), [(sorted(p), w) for p, w in PUBLISHED.items()])
def test_published_weights_are_found_by_name(peers: list[str], weights: dict[str, float]) -> None:
    assert Efficiency(peers).weights == weights == Efficiency(list(reversed(peers))).weights


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"penalty": "x"}, "is unknown"),
        ({"weights": {"rgb": 1.0}}, "a weight for each peer"),
        ({"weights": {"rgb": 1.0, "flow": 1.0}}, "a weight for each peer"),
        ({"weights": {"rgb": 1.0, "audio": -1}}, "must be a number from 0 on"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Efficiency(PEERS, **options)


def test_unknown_peers_need_weights() -> None:
    with pytest.raises(ValueError, match="a weight for each peer"):
        Efficiency(["rgb", "boxes"])


def test_a_video_is_right_where_its_best_class_is_a_true_one() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 1.0]])
    assert is_correct(logits, torch.tensor([1, 2])).tolist() == [True, False]
    assert is_correct(logits, torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])).tolist() == [True, False]
