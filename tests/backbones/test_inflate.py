"""2-D weights into 3-D networks: a still clip gets the answer of its frame."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mml_lightning.backbones import inflate_state, resnet, resnet3d
from mml_lightning.backbones.inflate import inflate_kernel
from mml_lightning.backbones.stem import convert_state


def image_net(depth="tiny"):
    torch.manual_seed(3)
    net = resnet(depth)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.running_mean, 0, 0.2)
    return net.double().eval()


@pytest.mark.parametrize("kind, depth", [("i3d", "tiny"), ("slow", "tiny"), ("c2d", "tiny"), ("i3d", 50)])
def test_a_still_clip_gets_the_answer_of_its_frame(kind, depth):
    image, clip_net = image_net(depth), resnet3d(kind, depth, temporal_pool=False).double().eval()
    told = inflate_state(image.state_dict(), clip_net.state_dict())
    assert not told.unfit and not told.unknown and not told.missing
    clip_net.load_state_dict(told.state)
    frame = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        # borders see zeros instead of frames: I3D-50 looks 11 frames each way, beyond them all is still
        frames = 27 if depth == 50 else 11
        volume = clip_net(frame[:, :, None].expand(-1, -1, frames, -1, -1))
        torch.testing.assert_close(volume[:, :, frames // 2], image(frame))


def test_what_became_of_every_entry():
    state = dict(image_net().state_dict())
    with torch.device("meta"):
        target = resnet3d("i3d", "tiny", nonlocal_blocks=True).state_dict()
    target["fc.weight"], state["fc.weight"] = torch.zeros(7, 3), torch.zeros(10, 3)
    state["extra"] = torch.zeros(1)
    told = inflate_state(state, target)
    kernels = [name for name, value in state.items() if value.ndim == 4]
    assert list(told.inflated) == kernels and told.unfit == ("fc.weight",) and told.unknown == ("extra",)
    assert set(told.copied) == set(state) - set(kernels) - {"fc.weight", "extra"}
    assert set(told.missing) == {name for name in target if name.startswith("nonlocals.")} | {"fc.weight"}
    assert {name: value.shape for name, value in told.state.items()} == {
        name: target[name].shape for name in (*told.inflated, *told.copied)
    }


def test_a_2d_network_of_3d_convolutions_is_inflated_too():
    flat = resnet3d("c2d", "tiny")
    target = resnet3d("i3d", "tiny").state_dict()
    told = inflate_state(flat.state_dict(), target)
    assert not told.unfit and not told.missing
    inflated = {"conv1.weight", "layer1.0.conv1.weight", "layer2.0.conv1.weight", "layer3.0.conv1.weight"}
    assert inflated == set(told.inflated)
    torch.testing.assert_close(told.state["conv1.weight"].sum(2), flat.conv1.weight.detach()[:, :, 0])
    back = inflate_state(target, flat.state_dict())
    assert set(back.unfit) == inflated, "k_t > 1 is no 2-D network"


@pytest.mark.parametrize("channels", [2, 10])
def test_stem_of_another_modality(channels):
    """Inflation, then the mean over input channels: the same as the other way round."""
    state = image_net().state_dict()
    with torch.device("meta"):
        target = resnet3d("i3d", "tiny", in_channels=channels).state_dict()
    assert "conv1.weight" in inflate_state(state, target).unfit
    told = inflate_state(state, target, stem="conv1.weight")
    after = convert_state(told.state, "conv1.weight", channels)["conv1.weight"]
    assert after.shape == target["conv1.weight"].shape
    before = inflate_kernel(convert_state(state, "conv1.weight", channels)["conv1.weight"], 5)
    torch.testing.assert_close(after, before)
