"""Accuracy on training batches against counting."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mml_lightning.training.accuracy import accuracies


def test_of_every_peer_over_the_samples_it_has_seen() -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0], [torch.nan, torch.nan]])
    outputs = {"rgb": SimpleNamespace(logits={"label": logits}), "flow": SimpleNamespace(logits={"label": -logits})}
    target = {"label": torch.tensor([1, 0, 0, 1])}
    present = {"rgb": torch.tensor([True, True, True, False]), "flow": torch.tensor([False] * 4)}
    found = {name: (float(value), rows) for name, value, rows in accuracies(outputs, target, present)}
    assert found == {"rgb/top1": (pytest.approx(200 / 3), 3)}


def test_several_heads_and_several_labels_per_video() -> None:
    logits = {"verb": torch.tensor([[1.0, 2.0]]), "tags": torch.tensor([[1.0, 2.0]])}
    target = {"verb": torch.tensor([1]), "tags": torch.tensor([[1, 0]])}
    assert [
        (name, float(value)) for name, value, _ in accuracies({"rgb": SimpleNamespace(logits=logits)}, target, None)
    ] == [("rgb/verb/top1", 100.0)]
