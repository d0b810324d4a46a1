"""Recognisers on 3-D trunks: what they return, and the sliding head at evaluation."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mml_lightning.backbones import rebuild, video_resnet
from mml_lightning.backbones.recognizer3d import mean_probability_logits

HEADS = {"label": 4, "verb": 3}


def tiny(**options):
    values = {"kind": "i3d", "depth": "tiny", "width": 8, "num_classes": HEADS, **options}
    return video_resnet(**values)


def randomise(net):
    """Blocks start as no-ops and statistics as those of nothing: give all of them something to say."""
    torch.manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, 0, 0.2)
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    for head in net.heads.values():
        nn.init.normal_(head.weight, 0, 0.5)
    return net


def test_what_is_returned():
    net = tiny(dropout=0.0).eval()
    out = net(torch.randn(2, 6, 3, 32, 48))
    assert {name: tuple(z.shape) for name, z in out.logits.items()} == {"label": (2, 4), "verb": (2, 3)}
    assert out.features["map"].shape == (2, 3, 64, 2, 3) and out.features["pooled"].shape == (2, 64)
    torch.testing.assert_close(out.features["pooled"], out.features["map"].mean((1, 3, 4)))
    head = net.heads["label"]
    torch.testing.assert_close(out.logits["label"], head(out.features["pooled"]))


def test_frames_are_the_time_of_the_volume():
    net = randomise(tiny()).eval()
    clip = torch.randn(1, 4, 3, 32, 32)
    volume = net.net(clip.permute(0, 2, 1, 3, 4))
    assert torch.equal(net(clip).features["map"], volume.transpose(1, 2))
    assert not torch.allclose(net(clip).logits["label"], net(clip.flip(1)).logits["label"])


def test_features_are_before_dropout_and_gradients_reach_everything():
    net = randomise(tiny(dropout=0.5, nonlocal_blocks=True)).train()
    out = net(torch.randn(2, 4, 3, 64, 64))
    assert not torch.equal(out.logits["label"], net.heads["label"](out.features["pooled"]))
    sum(z.square().sum() for z in out.logits.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_sliding_equals_a_classifier_at_every_position(activation):
    net = randomise(tiny(eval_pool="sliding", activation=activation, crop=32, frames=4)).double().eval()
    clip = torch.randn(2, 4, 3, 48, 64, dtype=torch.float64)  # map 2 x 3 x 4, window 2 x 2 x 2: 1 x 2 x 3 positions
    out = net(clip)
    volume = out.features["map"]
    assert volume.shape == (2, 2, 64, 3, 4)
    probabilities = []
    for top in range(2):
        for left in range(3):
            window = volume[:, :, :, top : top + 2, left : left + 2].mean((1, 3, 4))
            logits = net.heads["label"](window)
            probabilities.append(logits.softmax(-1) if activation == "softmax" else logits.sigmoid())
    mean = torch.stack(probabilities).mean(0)
    logits = out.logits["label"]
    torch.testing.assert_close(logits.softmax(-1) if activation == "softmax" else logits.sigmoid(), mean)
    torch.testing.assert_close(out.features["pooled"], volume.mean((1, 3, 4)))


def test_sliding_along_time():
    net = randomise(tiny(eval_pool="sliding", crop=32, frames=4)).double().eval()
    clip = torch.randn(1, 8, 3, 32, 32, dtype=torch.float64)  # four steps, windows of two: three positions
    out = net(clip)
    windows = out.features["map"].unfold(1, 2, 1).mean((3, 4, 5))
    expected = net.heads["verb"](windows).softmax(-1).mean(1).log()
    torch.testing.assert_close(out.logits["verb"], expected)


def test_logits_are_plain_where_nothing_slides():
    """A frozen teacher is in eval mode in a training step; what it teaches must be logits of the global pooling."""
    torch.manual_seed(0)
    sliding = randomise(tiny(eval_pool="sliding", activation="sigmoid", crop=32, frames=4, dropout=0.0))
    plain = tiny(dropout=0.0)
    plain.load_state_dict(sliding.state_dict())
    same, larger = torch.randn(2, 4, 3, 32, 32), torch.randn(2, 4, 3, 48, 48)
    sliding.eval(), plain.eval()
    assert torch.equal(sliding(same).logits["label"], plain(same).logits["label"])
    assert torch.equal(sliding(same[:, :2]).logits["label"], plain(same[:, :2]).logits["label"])
    assert not torch.allclose(sliding(larger).logits["label"], plain(larger).logits["label"])
    sliding.train(), plain.train()
    torch.testing.assert_close(sliding(larger).logits["label"], plain(larger).logits["label"])


@pytest.mark.parametrize("crop, size, grid", [(224, 256, 4), (224, 224, 1), (112, 128, 4), (112, 112, 1)])
def test_positions_at_the_usual_sizes(crop, size, grid):
    with torch.device("meta"):
        net = video_resnet("i3d", 50, eval_pool="sliding", crop=crop, frames=8).eval()
        seen = []
        net.heads["label"].register_forward_pre_hook(lambda m, inputs: seen.append(tuple(inputs[0].shape)))
        net(torch.empty(1, 8, 3, size, size))
    assert seen == [(1, 2048) if grid == 1 else (1, grid, 2048)]


@given(st.integers(1, 6), st.floats(0.1, 60), st.sampled_from(["softmax", "sigmoid"]), st.integers(0, 99))
def test_mean_probability_logits(positions, scale, activation, seed):
    logits = scale * torch.randn(2, positions, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mean = mean_probability_logits(logits, activation)
    assert mean.shape == (2, 5) and mean.isfinite().all()
    if activation == "softmax":
        torch.testing.assert_close(mean.softmax(-1), logits.softmax(-1).mean(1))
    else:
        torch.testing.assert_close(mean.sigmoid(), logits.sigmoid().mean(1))
    if positions == 1:
        assert torch.equal(mean, logits[:, 0])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"in_channels": 10, "kind": "slow", "nonlocal_blocks": True, "attention": "dot_product"},
        {"eval_pool": "sliding", "activation": "sigmoid", "crop": 32, "frames": 4, "temporal_pool": False},
    ],
)
def test_arch_rebuilds_the_network(options):
    net = randomise(tiny(**options)).eval()
    other = rebuild(pickle.loads(pickle.dumps(net.arch))).eval()
    assert other.arch == net.arch and net.arch["builder"] == "video_resnet"
    other.load_state_dict(net.state_dict())
    clip = torch.randn(1, 4, net.in_channels, 64, 64)
    assert torch.equal(other(clip).logits["label"], net(clip).logits["label"])


def test_one_seed_gives_every_modality_the_same_network_but_for_the_stem():
    nets = []
    for channels in (3, 10):
        torch.manual_seed(0)
        nets.append(tiny(in_channels=channels))
    rgb, flow = (net.state_dict() for net in nets)
    assert [key for key in rgb if not torch.equal(rgb[key], flow[key])] == ["net.conv1.weight"]
    mean = rgb["net.conv1.weight"].mean(1, keepdim=True)
    torch.testing.assert_close(flow["net.conv1.weight"], mean.expand(-1, 10, -1, -1, -1))


def test_export_sees_plain_operations():
    net = randomise(tiny(eval_pool="sliding", crop=32, frames=4)).eval()
    clip = torch.randn(1, 4, 3, 48, 48)
    exported = torch.export.export(net, (clip,)).module()
    torch.testing.assert_close(exported(clip).logits["label"], net(clip).logits["label"])


def test_errors_name_the_fix():
    with pytest.raises(ValueError, match=r"\[B, T, 3, H, W\]"):
        tiny()(torch.randn(2, 4, 10, 16, 16))
    with pytest.raises(ValueError, match="global, sliding"):
        tiny(eval_pool="mean")
    with pytest.raises(ValueError, match="softmax, sigmoid"):
        tiny(activation="relu")
    with pytest.raises(ValueError, match="use 2 or more, or kind=slow"):
        tiny(frames=1)
    with pytest.raises(ValueError, match="eval_pool=sliding needs the size"):
        tiny(eval_pool="sliding")
    with pytest.raises(ValueError, match="plain word"):
        tiny(num_classes={"type.of": 3})
