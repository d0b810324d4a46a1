"""Non-local blocks: the formula position by position, the identity at the start, where they stand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mml_lightning.backbones import NonLocal, resnet3d


def randomised(attention: str, scale: bool = True) -> NonLocal:
    torch.manual_seed(0)
    block = NonLocal(6, attention=attention, scale=scale).double().eval()
    nn.init.normal_(block.norm.weight)
    for conv in (block.theta, block.phi, block.g, block.out):
        nn.init.normal_(conv.bias)
    return block


@pytest.mark.parametrize("attention, scale", [("softmax", True), ("softmax", False), ("dot_product", True)])
def test_every_position_is_a_weighted_sum_over_all(attention, scale):
    block = randomised(attention, scale)
    x = torch.randn(2, 6, 3, 4, 6, dtype=torch.float64)
    actual = block(x)

    def linear(conv, vector):
        return conv.weight.flatten(1) @ vector + conv.bias

    pooled = torch.nn.functional.max_pool3d(x, (1, 2, 2))
    places = [(t, h, w) for t in range(3) for h in range(2) for w in range(3)]
    for where in [(0, 0, 0), (2, 3, 5), (1, 2, 0)]:
        query = linear(block.theta, x[1, :, *where])
        products = torch.stack([query @ linear(block.phi, pooled[1, :, *place]) for place in places])
        weights = (products / (3**0.5 if scale else 1)).softmax(0) if attention == "softmax" else products / len(places)
        value = sum(w * linear(block.g, pooled[1, :, *place]) for w, place in zip(weights, places, strict=True))
        out = linear(block.out, value) / (1 + block.norm.eps) ** 0.5 * block.norm.weight
        torch.testing.assert_close(actual[1, :, *where], x[1, :, *where] + out)


def test_a_new_block_is_the_identity_and_learns():
    block = NonLocal(4)
    x = torch.randn(2, 4, 2, 4, 4)
    out = block(x)
    assert torch.equal(out, x)
    out.square().sum().backward()
    assert block.norm.weight.grad.abs().sum() > 0


def test_places_in_i3d():
    with torch.device("meta"):
        net = resnet3d("i3d", 50, nonlocal_blocks=True)
        order = []
        for name, module in net.named_modules():
            if name.count(".") == 1 and name.startswith(("layer", "nonlocals")):
                module.register_forward_hook(lambda m, i, o, n=name: order.append(n))
        net(torch.empty(1, 3, 4, 64, 64))
    assert list(net.nonlocals) == ["layer2_1", "layer2_3", "layer3_1", "layer3_3", "layer3_5"]
    for name in net.nonlocals:
        stage, index = name.split("_")
        assert order[order.index(f"nonlocals.{name}") - 1] == f"{stage}.{index}"
    assert {key for key in net.state_dict() if key.startswith("nonlocals.layer2_1.")} == {
        f"nonlocals.layer2_1.{part}"
        for part in (
            *(f"{conv}.{kind}" for conv in ("theta", "phi", "g", "out") for kind in ("weight", "bias")),
            *(f"norm.{kind}" for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
        )
    }


def test_errors_name_the_fix():
    with pytest.raises(ValueError, match="softmax or dot_product"):
        NonLocal(4, attention="gaussian")
