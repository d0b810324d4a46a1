"""Grad-CAM and saliency in time: networks whose decisive pixels are known, and every builder of ours."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mml_lightning.backbones.execution import set_memory_format
from mml_lightning.backbones.peer import Peer, PeerOutput
from mml_lightning.backbones.recognizer import tsm_efficientnet_lite0, tsm_mobilenet_v2, tsm_resnet
from mml_lightning.backbones.recognizer3d import video_resnet
from mml_lightning.data.demo.scenes import plan
from mml_lightning.engine.predict import load_predictor
from mml_lightning.evaluation.explain import GradCam, grad_cam, occlusion
from tests.conftest import SIZES
from tests.evaluation.cam_on_demo import measured, things

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


def test_a_trained_network_looks_at_what_tells_the_class() -> None:
    """Noise, and in one of four corners a patch whose colour is the class: after some steps the cam of the right class
    lies on it, far more than its area would have."""
    torch.manual_seed(3)
    colours = torch.tensor([[6.0, 0, 0], [0, 6, 0], [0, 0, 6]])

    def batch(count: int) -> tuple[Tensor, Tensor, Tensor]:
        clip, places = torch.randn(count, 2, 3, 64, 64), torch.zeros(count, 2, 64, 64, dtype=torch.bool)
        labels = torch.randint(0, 3, (count,))
        for n, (row, column) in enumerate(torch.randint(0, 2, (count, 2)).tolist()):
            places[n, :, 32 * row + 8 : 32 * row + 24, 32 * column + 8 : 32 * column + 24] = True
            clip[n] += colours[labels[n]].view(3, 1, 1) * places[n][:, None]
        return clip, labels, places.float().flatten(1)

    network = tsm_resnet("tiny", width=8, dropout=0.0, num_classes=CLASSES)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(50):
        clip, labels, _ = batch(16)
        loss = nn.functional.cross_entropy(network(clip).logits["label"], labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    clip, labels, places = batch(64)
    network.eval()
    assert (network(clip).logits["label"].argmax(1) == labels).float().mean() > 0.9
    heat = grad_cam(network, clip, labels, "label").heat(2, 64, 64).flatten(1)
    some = heat.sum(1) > 0  # a class may be told by what speaks against the others alone
    share = (heat * places).sum(1)[some] / heat.sum(1)[some]
    assert some.sum() > 32 and share.mean() > 1.5 * places.mean()
    assert (share > places.mean()).float().mean() > 0.75


@pytest.mark.slow
def test_the_measurement_on_the_demo_finds_the_things(trained: Path, demo: Path) -> None:
    videos = [video for video in plan(0, **SIZES) if video.split == "test"][:2]
    mask = things(videos[0])
    assert mask.shape == (videos[0].frames, videos[0].height, videos[0].width) and 0.01 < mask.mean() < 0.4
    overrides = ["data.cache=none", f"paths.cache={demo / 'cache'}"]
    found = measured(load_predictor(trained, overrides=overrides), videos, demo / "data")
    assert set(found) == {"rgb", "flow"}
    for one in found.values():
        assert one["videos"] <= 2 and 0 < one["area_of_things"] < 40 and 0 <= one["on_things"] <= 100
