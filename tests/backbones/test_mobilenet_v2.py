from __future__ import annotations

import pytest
import torch
from torch import nn

from mml_lightning.backbones import MobileNetV2, TemporalShift, rebuild, tsm_mobilenet_v2
from mml_lightning.backbones.mobilenet_v2 import add_inverted_residual_shift
from mml_lightning.backbones.pretrained import imagenet_weights
from mml_lightning.zoo.aliases import Origin
from mml_lightning.zoo.init import load_initial_weights

SHIFTED = [3, 5, 6, 8, 9, 10, 12, 13, 15, 16]


def test_size_of_the_published_network():
    with torch.device("meta"):
        net = tsm_mobilenet_v2(num_classes={"label": 27})
    assert sum(p.numel() for p in net.parameters()) == 2_258_459


def test_shapes_of_the_table():
    trunk = MobileNetV2().eval()
    shapes = {}
    for index, block in enumerate(trunk.features):
        block.register_forward_hook(lambda _, inputs, out, index=index: shapes.update({index: tuple(out.shape[1:])}))
    with torch.no_grad():
        trunk(torch.zeros(1, 3, 224, 224))
    assert [shapes[index] for index in (0, 1, 3, 6, 10, 13, 16, 17, 18)] == [
        (32, 112, 112),
        (16, 112, 112),
        (24, 56, 56),
        (32, 28, 28),
        (64, 14, 14),
        (96, 14, 14),
        (160, 7, 7),
        (320, 7, 7),
        (1280, 7, 7),
    ]


def test_the_shift_stands_in_ten_blocks_before_the_expansion():
    net = tsm_mobilenet_v2()
    shifted = [
        i for i, block in enumerate(net.net.features) if any(isinstance(m, TemporalShift) for m in block.modules())
    ]
    assert shifted == SHIFTED
    assert all(isinstance(net.net.features[index].conv[0], TemporalShift) for index in shifted)
    names = set(net.state_dict())
    assert "net.features.3.conv.0.net.0.weight" in names and "net.features.4.conv.0.0.weight" in names
    with pytest.raises(ValueError, match="already has a temporal shift"):
        add_inverted_residual_shift(net.net)
    assert not any(isinstance(m, TemporalShift) for m in tsm_mobilenet_v2(shift=False).modules())


def test_frames_meet_only_with_the_shift():
    torch.manual_seed(0)
    clip = torch.randn(1, 4, 3, 64, 64)
    changed = clip.clone()
    changed[:, 3] = 0
    for shift in (True, False):
        net = tsm_mobilenet_v2(shift).eval()
        with torch.no_grad():
            for module in net.modules():
                if isinstance(module, nn.Conv2d):  # by fan-in, so that the signal reaches the end
                    module.weight.normal_(0, (2 / module.weight[0].numel()) ** 0.5)
            first, second = (net(x).features["map"][:, 0] for x in (clip, changed))
        assert torch.equal(first, second) is not shift


def test_stem_follows_the_modality_and_the_network_is_rebuilt():
    torch.manual_seed(0)
    rgb = tsm_mobilenet_v2(num_classes={"label": 3})
    torch.manual_seed(0)
    flow = tsm_mobilenet_v2(in_channels=10, num_classes={"label": 3})
    assert flow.in_channels == 10 and flow.stem_name == "net.features.0.0"
    differing = [k for k, v in rgb.state_dict().items() if not torch.equal(v, flow.state_dict()[k])]
    assert differing == ["net.features.0.0.weight"]
    again = rebuild(flow.arch)
    again.load_state_dict(flow.state_dict())
    assert again.arch == flow.arch
    with pytest.raises(ValueError, match="is not"):
        flow(torch.zeros(1, 2, 3, 32, 32))


def test_imagenet_weights_of_torchvisions_names(tmp_path):
    torch.manual_seed(0)
    source = tsm_mobilenet_v2(shift=False)
    state = {k.removeprefix("net."): v for k, v in source.state_dict().items() if k.startswith("net.")}
    file = tmp_path / "mobilenet_v2.pth"
    torch.save({**state, "classifier.1.weight": torch.zeros(1000, 1280), "classifier.1.bias": torch.zeros(1000)}, file)
    assert imagenet_weights("mobilenet_v2", file).keys() == state.keys()
    torch.manual_seed(1)
    net = tsm_mobilenet_v2(in_channels=10, num_classes={"label": 3})
    depth = net.net.pretrained
    where = load_initial_weights(net, Origin("imagenet"), "flow", "flow", {"label": ["a", "b", "c"]}, depth, str(file))
    assert where["fresh_head"] is True
    stem = source.state_dict()["net.features.0.0.weight"]
    torch.testing.assert_close(net.state_dict()["net.features.0.0.weight"][:, 7], stem.mean(1))
    assert torch.equal(
        net.state_dict()["net.features.3.conv.0.net.0.weight"], source.state_dict()["net.features.3.conv.0.0.weight"]
    )
    torch.save({k: v for k, v in state.items() if not k.startswith("features.18")}, file)
    with pytest.raises(ValueError, match="does not fit mobilenet_v2"):
        imagenet_weights("mobilenet_v2", file)
