"""Balance of peers that learn together: golden values of both rules."""

from __future__ import annotations

import math

import pytest
import torch

from mml_lightning.objectives.balance import Curve, blend_weights, modulate, modulation, true_class_scores


def test_the_peer_that_is_ahead_is_slowed_down() -> None:
    found = modulation({"rgb": 0.6, "flow": 0.2}, alpha=0.5)
    assert found == pytest.approx({"rgb": 1 - math.tanh(1.5), "flow": 1.0}) and found["rgb"] == pytest.approx(
        0.094852, 1e-5
    )
    three = modulation({"rgb": 0.6, "flow": 0.2, "audio": 0.4}, alpha=0.1)
    assert three == pytest.approx({"rgb": 1 - math.tanh(0.2), "flow": 1.0, "audio": 1.0}), "by the mean of the others"
    assert modulation({"rgb": 0.5, "flow": 0.5}, 1.0) == {"rgb": 1.0, "flow": 1.0}
    assert modulation({"rgb": 0.9, "flow": math.nan}, 1.0) == {"rgb": 1.0, "flow": 1.0}, "nobody to be ahead of"


def test_scores_are_probabilities_of_the_true_class() -> None:
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]], requires_grad=True)
    found = true_class_scores(logits, torch.tensor([0, 1]))
    torch.testing.assert_close(found, torch.tensor([0.75, 0.5]))
    assert not found.requires_grad


def test_noise_has_the_spread_of_the_gradient() -> None:
    torch.manual_seed(0)
    gradient = torch.randn(200, 100) * 3
    plain, noisy = gradient.clone(), gradient.clone()
    modulate(plain, 0.25, None)
    assert torch.equal(plain, gradient * 0.25)
    modulate(noisy, 0.25, torch.Generator().manual_seed(7))
    assert float((noisy - plain).std()) == pytest.approx(float(gradient.std()), rel=0.02)
    again = gradient.clone()
    modulate(again, 0.25, torch.Generator().manual_seed(7))
    assert torch.equal(again, noisy)
    single = torch.tensor([2.0])
    modulate(single, 0.5, torch.Generator().manual_seed(7))
    assert single.item() == 1.0, "one number has no spread"


def test_weights_of_gradient_blending() -> None:
    """rgb: G 1.0, O 0.5: 4; flow: G 0.5, O 0.5: 2; fused has not generalised."""
    curves = {
        "rgb": Curve((2.0, 0.5), (2.2, 1.2)),
        "flow": Curve((2.0, 1.0), (2.0, 1.5)),
        "fused": Curve((2.0, 0.1), (2.0, 2.1)),
    }
    assert blend_weights(curves) == pytest.approx({"rgb": 2 / 3, "flow": 1 / 3, "fused": 0.0})
    with pytest.raises(ValueError, match="rgb generalised without overfitting"):
        blend_weights({"rgb": Curve((2.0, 1.0), (2.0, 1.0))})
    with pytest.raises(ValueError, match="the validation loss of rgb did not fall"):
        blend_weights({"rgb": Curve((2.0, 1.0), (2.0, 3.0))})
