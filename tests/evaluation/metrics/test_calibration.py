"""Calibration: a published value, torchmetrics as referee, and the house's own metric."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from mml_lightning.evaluation.metrics import DEFAULT, measure
from mml_lightning.evaluation.metrics.calibration import BINS, decisions, reliability


def test_the_published_value() -> None:
    scores = torch.tensor([[2, 0], [0, 1], [3, 0], [0.2, 0]]).double().log_softmax(dim=1)
    assert 100 * reliability(*decisions(scores, torch.tensor([0, 1, 1, 0]))).error == pytest.approx(44.7721, abs=1e-4)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [0.1, 1, 30])  # the last: probabilities of 1
def test_it_is_the_ece_of_a_run(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = (scale * torch.randn(60, 7, generator=generator)).double().log_softmax(dim=1)
    target = torch.randint(7, (60,), generator=generator)
    found = reliability(*decisions(scores, target))
    assert found.error == pytest.approx(measure({"net": scores}, target, False, DEFAULT)["net"]["ece"], abs=1e-6)
    assert found.count.sum() == 60 and len(found.count) == BINS


@pytest.mark.parametrize("seed", range(5))
def test_several_labels_are_as_torchmetrics_counts_binary_decisions(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(40, 6, generator=generator).double()
    target = (torch.rand(40, 6, generator=generator) < 0.3).long()
    said, right = decisions(torch.nn.functional.logsigmoid(logits), target)
    expected = binary_calibration_error(logits.sigmoid().flatten(), target.flatten(), n_bins=BINS)
    assert reliability(said, right).error == pytest.approx(float(expected), abs=1e-6)


def test_bins_tell_what_is_said_and_what_comes_true() -> None:
    said = torch.tensor([0.0, 0.05, 0.91, 0.95, 1.0], dtype=torch.float64)
    found = reliability(said, torch.tensor([False, True, True, True, False]), bins=10)
    assert found.count.tolist() == [2, 0, 0, 0, 0, 0, 0, 0, 0, 3]
    assert found.accuracy[[0, 9]].tolist() == pytest.approx([0.5, 2 / 3])
    assert found.confidence[[0, 9]].tolist() == pytest.approx([0.025, 2.86 / 3])
    assert found.accuracy[1:9].isnan().all()
