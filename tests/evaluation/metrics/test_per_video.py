"""What each video says of a network: equal to what the metrics of a split make of it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mml_lightning.evaluation.metrics.classification import target_rank
from mml_lightning.evaluation.metrics.per_video import labels, losses, named_classes, prior_loss


def make(several: bool, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [50, 6] with ties, and their target."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(-3, 4, (50, 6), generator=generator).double()
    target = torch.randint(6, (50,), generator=generator)
    return logits, (torch.rand(50, 6, generator=generator) < 0.4).long() if several else target


def test_one_label_is_found_where_its_class_is_first() -> None:
    logits, target = make(False)
    found = (named_classes(logits, target) & labels(target, 6)).any(dim=1)
    assert torch.equal(found, target_rank(logits, target) == 0) and 0 < found.sum() < 50


@pytest.mark.parametrize("seed", range(3))
def test_as_many_classes_are_named_as_the_video_has_labels(seed: int) -> None:
    logits, target = make(True, seed)
    named = named_classes(logits, target)
    assert torch.equal(named.sum(dim=1), target.sum(dim=1))
    for row, chosen in zip(logits, named, strict=True):
        if chosen.any() and not chosen.all():
            assert row[chosen].min() >= row[~chosen].max()


def test_losses_are_those_of_training() -> None:
    logits, target = make(False)
    assert torch.allclose(losses(logits.log_softmax(dim=1), target), F.cross_entropy(logits, target, reduction="none"))
    logits, hot = make(True)
    expected = F.binary_cross_entropy_with_logits(logits, hot.double(), reduction="none").mean(dim=1)
    assert torch.allclose(losses(F.logsigmoid(logits), hot), expected)


def test_loss_of_a_network_that_knows_the_frequencies_alone() -> None:
    target = torch.arange(50) % 5
    assert prior_loss(target, 5) == pytest.approx(torch.tensor(5.0).log().item())
    hot = F.one_hot(target, 5)
    scores = hot.double().mean(dim=0).expand(50, -1)
    assert prior_loss(hot, 5) == pytest.approx(float(F.binary_cross_entropy(scores, hot.double())))
