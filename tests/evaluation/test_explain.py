"""Grad-CAM and saliency in time: networks whose decisive pixels are known, and every builder of ours."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mml_lightning.backbones.execution import set_memory_format
from mml_lightning.backbones.peer import Peer, PeerOutput
from mml_lightning.backbones.recognizer import tsm_efficientnet_lite0, tsm_mobilenet_v2, tsm_resnet
from mml_lightning.backbones.recognizer3d import video_resnet
from mml_lightning.evaluation.explain import GradCam, grad_cam, occlusion

CLASSES = {"label": 3}


class Red(nn.Module):
    """Two maps a frame: how red and how green it is, at half the size."""

    feature_dim = 2

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 2, 2, stride=2, bias=False)
        self.conv1.weight.data.zero_()
        self.conv1.weight.data[0, 0] = self.conv1.weight.data[1, 1] = 0.25

    def forward(self, frames: Tensor) -> Tensor:
        return self.conv1(frames).relu()


class Known(Peer):
    """Class 0 speaks of red, class 1 of green."""

    def __init__(self, used: bool = False) -> None:
        super().__init__(Red(), {"label": 2})
        self.used = used  # whether logits are computed from the very map that is returned
        head: Any = self.heads["label"]
        head.weight.data.copy_(torch.eye(2))

    def forward(self, clip: Tensor) -> PeerOutput:
        rows = self.net(clip.flatten(0, 1))
        maps = rows.unflatten(0, clip.shape[:2])
        pooled = maps.mean((1, 3, 4)) if self.used else rows.mean((2, 3)).unflatten(0, clip.shape[:2]).mean(1)
        return PeerOutput(self.classify(pooled), {"pooled": pooled, "map": maps})


@pytest.mark.parametrize("used", [False, True])
def test_the_decisive_pixels_are_found(used: bool) -> None:
    clip = torch.zeros(2, 4, 3, 8, 8)
    clip[0, 1, 0, 2:4, 4:6] = 1  # red, frame 1
    clip[0, 3, 1] = 1  # green, everywhere in frame 3
    clip[1, 2, 0, :, :4] = 1
    network = Known(used).eval().requires_grad_(False)
    found = grad_cam(network, clip, [0, 0], "label")
    assert found.cam.nonzero()[found.cam.nonzero()[:, 0] == 0].tolist() == [[0, 1, 1, 2]]
    assert found.shares().tolist() == [[0, 1, 0, 0], [0, 0, 1, 0]]
    heat = found.heat(4, 8, 8)
    assert heat.shape == (2, 4, 8, 8) and heat.amax((1, 2, 3)).tolist() == [1, 1]
    assert heat[0, 1].argmax() in (2 * 8 + 4, 2 * 8 + 5, 3 * 8 + 4, 3 * 8 + 5) and heat[1, 2, :, 6:].max() < 1e-6
    assert grad_cam(network, clip, torch.tensor([1, 1]), "label").shares().tolist() == [[0, 0, 0, 1], [0, 0, 0, 0]]
    hidden = occlusion(network, clip, [0, 0], "label")
    assert hidden.shape == (2, 4) and (hidden[0, 1] > 0) and (hidden[1, 2] > 0)
    assert hidden[0, 2] < 0  # red is shown twice then
    assert all(parameter.grad is None for parameter in network.parameters())


BUILDERS: dict[str, Callable[..., Peer]] = {
    "tsm": lambda **k: tsm_resnet("tiny", width=8, **k),
    "tsn": lambda **k: tsm_resnet("tiny", shift=False, width=8, **k),
    "pooled in time": lambda **k: tsm_resnet("tiny", temporal_pool=True, width=8, **k),
    "non-local": lambda **k: tsm_resnet(50, nonlocal_blocks=True, width=4, **k),
    "mobilenet": tsm_mobilenet_v2,
    "efficientnet": tsm_efficientnet_lite0,
    "i3d": lambda **k: video_resnet("i3d", "tiny", width=8, **k),
    "slow": lambda **k: video_resnet("slow", "tiny", width=8, **k),
}


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("name", BUILDERS)
def test_pooled_maps_and_a_linear_head_have_a_closed_form(name: str, last: bool) -> None:
    """There the gradient to each channel is its weight over the number of places, so that the parts of the frames add
    up to the logit, and the cam is the map weighted by the head."""
    torch.manual_seed(0)
    network = BUILDERS[name](in_channels=3, num_classes=CLASSES).eval()
    clip, classes = torch.randn(2, 4, 3, 32, 32), torch.tensor([2, 0])
    set_memory_format(network, "channels_last" if last else "contiguous")
    with torch.inference_mode():  # as where scores are made
        found = grad_cam(network, clip, classes, "label")
    output = network(clip)
    maps, head = output.features["map"].detach(), network.heads["label"]
    assert torch.allclose(found.logit, output.logits["label"][[0, 1], classes], atol=1e-5)
    assert torch.allclose(found.frames.sum(1) + head.bias[classes], found.logit, atol=1e-4)
    weights = head.weight[classes] / (maps.shape[1] * maps.shape[3] * maps.shape[4])
    expected = torch.einsum("bd,btdhw->bthw", weights, maps).relu()
    assert torch.allclose(found.cam, expected, atol=1e-5 * max(1.0, expected.max().item()))
    assert found.heat(4, 32, 32).shape == (2, 4, 32, 32)
    falls = occlusion(network, clip, classes, "label")
    assert torch.isfinite(falls).all() and falls.abs().max() > 0


def test_a_clip_does_not_depend_on_its_company() -> None:
    torch.manual_seed(0)
    network, clip = BUILDERS["tsm"](num_classes=CLASSES).eval(), torch.randn(3, 4, 3, 32, 32)
    together, alone = grad_cam(network, clip, [0, 1, 2], "label"), grad_cam(network, clip[1:2], [1], "label")
    assert torch.allclose(together.cam[1:2], alone.cam, atol=1e-6)
    assert torch.allclose(together.frames[1:2], alone.frames, atol=1e-6)


def test_what_can_not_be_explained_is_refused() -> None:
    network, clip = BUILDERS["tsm"](num_classes=CLASSES), torch.randn(1, 4, 3, 32, 32)
    for explain in (grad_cam, occlusion):
        with pytest.raises(ValueError, match="training mode"):
            explain(network, clip, [0], "label")
    with pytest.raises(ValueError, match="one frame"):
        occlusion(network.eval(), clip[:, :1], [0], "label")

    class Apart(Known):
        def forward(self, clip: Tensor) -> PeerOutput:
            output = super().forward(clip)
            return PeerOutput(output.logits, {"map": torch.ones_like(output.features["map"])})

    with pytest.raises(ValueError, match="do not depend on the feature map"):
        grad_cam(Apart().eval(), clip, [0], "label")
    blind = copy.deepcopy(network)
    blind.stop_gradient_at_heads()
    with pytest.raises(ValueError, match="do not depend on the feature map"):
        grad_cam(blind, clip, [0], "label")


def test_nothing_that_speaks_for_a_class_is_zero_and_no_nan() -> None:
    found = GradCam(torch.zeros(1), torch.zeros(1, 2, 3, 3), -torch.ones(1, 2))
    assert found.heat(4, 8, 8).sum() == 0 and found.shares().sum() == 0
