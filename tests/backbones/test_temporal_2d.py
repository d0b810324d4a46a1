from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mml_lightning.backbones import TemporalShift, rebuild, tsm_resnet
from mml_lightning.backbones.resnet import SPECS
from mml_lightning.backbones.temporal_2d import FrameNonLocal, TemporalPool, nonlocal_places


def tiny(**options):
    torch.manual_seed(0)
    return tsm_resnet("tiny", **{"num_classes": {"label": 5}, **options})


def lively(net):
    """Heads that answer and non-local blocks that do something."""
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight)
        if isinstance(module, nn.BatchNorm3d):
            nn.init.ones_(module.weight)
    return net.eval()


def test_temporal_pooling_takes_the_maximum_of_three_neighbours():
    rows = torch.tensor([5.0, 1, 2, 9, 3, 4, 7, 0])[:, None, None, None]
    # Two videos of four frames: (0|5 1), (1 2 9) and (|3 4), (4 7 0); nothing crosses from one to the other.
    assert TemporalPool(4)(rows).flatten().tolist() == [5, 9, 4, 7]
    assert TemporalPool(8)(rows).flatten().tolist() == [5, 9, 9, 7]
    with pytest.raises(ValueError, match="not whole videos of 3"):
        TemporalPool(3)(rows)


@given(videos=st.integers(1, 3), frames=st.integers(1, 9))
def test_pooled_videos_do_not_mix(videos, frames):
    x = torch.randn(videos * frames, 2, 1, 1)
    pool = TemporalPool(frames)
    together = pool(x)
    assert len(together) == videos * pool.frames_out(frames) == videos * ((frames + 1) // 2)
    alone = torch.cat([pool(part) for part in x.split(frames)])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("frames", [1, 2, 5, 8])
@torch.no_grad()
def test_a_pooling_network_answers_each_video_alone(frames):
    """In eval mode as well, and for any number of frames: the number of rows halves, the number of videos does not."""
    net = lively(tiny(temporal_pool=True, nonlocal_blocks=True))
    clip = torch.randn(3, frames, 3, 32, 32)
    out = net(clip)
    assert out.logits["label"].shape == (3, 5) and out.features["map"].shape[:2] == (3, (frames + 1) // 2)
    alone = torch.cat([net(video[None]).logits["label"] for video in clip])
    torch.testing.assert_close(out.logits["label"], alone, rtol=1e-4, atol=1e-4)


def test_later_stages_shift_among_the_frames_that_are_left():
    net = tiny(temporal_pool=True, nonlocal_blocks=True).eval()
    net(torch.randn(1, 7, 3, 32, 32))
    told = {name: m.n_segments for name, m in net.net.named_modules() if isinstance(m, (TemporalShift, FrameNonLocal))}
    assert {n for name, n in told.items() if name.startswith("layer1")} == {7}
    assert {n for name, n in told.items() if not name.startswith("layer1")} == {4}
    assert sum(name.startswith("nonlocals") for name in told) == 2


def test_pooling_adds_no_tensor_and_is_rebuilt():
    pooling, plain = tiny(temporal_pool=True), tiny()
    assert pooling.state_dict().keys() == plain.state_dict().keys()
    assert isinstance(rebuild(pooling.arch).net.temporal_pool, TemporalPool)
    old = {key: value for key, value in plain.arch.items() if key not in ("temporal_pool", "nonlocal_blocks")}
    assert rebuild(old).arch == plain.arch  # files from before there was a choice


def test_size_with_nonlocal_blocks():
    with torch.device("meta"):
        net = tsm_resnet(50, nonlocal_blocks=True, num_classes={"label": 174})
    assert sum(p.numel() for p in net.parameters()) == 31_223_022
    assert list(net.net.nonlocals) == ["layer2_0", "layer2_2", "layer3_0", "layer3_2", "layer3_4"]


@pytest.mark.parametrize("depth", [spec for spec in SPECS if spec != 152])
def test_no_stage_is_cut_at_any_depth(depth):
    with torch.device("meta"):
        plain, more = tsm_resnet(depth), tsm_resnet(depth, nonlocal_blocks=True)
    assert [len(stage) for stage in more.net.stages] == [len(stage) for stage in plain.net.stages]
    extra = more.state_dict().keys() - plain.state_dict().keys()
    assert plain.state_dict().keys() < more.state_dict().keys()
    assert extra and all(name.startswith("net.nonlocals.") for name in extra)


@pytest.mark.parametrize(
    "layers, layer2, layer3",
    [
        ((1, 1, 1, 1), (0,), (0,)),
        ((2, 2, 2, 2), (0, 1), (0, 1)),
        ((3, 4, 6, 3), (0, 2), (0, 2, 4)),
        ((3, 4, 23, 3), (0, 2), (0, 7, 14)),
        ((3, 8, 36, 3), (0, 4), (0, 12, 24)),
    ],
)
def test_places_are_evenly_spaced(layers, layer2, layer3):
    assert nonlocal_places(layers) == {"layer2": layer2, "layer3": layer3}


@torch.no_grad()
def test_new_nonlocal_blocks_are_the_identity_and_others_look_across_frames():
    net = tiny(shift=False, nonlocal_blocks=True).eval()
    nn.init.normal_(net.heads["label"].weight)
    plain = tiny(shift=False).eval()
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if "nonlocals" not in k})
    clip = torch.randn(2, 4, 3, 32, 32)
    changed = clip.clone()
    changed[:, 3] += 1
    assert torch.equal(net(clip).logits["label"], plain(clip).logits["label"])
    assert torch.equal(net(clip).features["map"][:, 0], net(changed).features["map"][:, 0])
    lively(net)
    assert not torch.equal(net(clip).features["map"][:, 0], net(changed).features["map"][:, 0])


@torch.no_grad()
def test_a_nonlocal_block_does_not_know_the_order_of_frames():
    block = lively(FrameNonLocal(8, 4))
    x = torch.randn(4, 8, 6, 6)
    order = [2, 0, 3, 1]
    torch.testing.assert_close(block(x)[order], block(x[order]), rtol=1e-4, atol=1e-5)


def test_copies_are_told_apart():
    net = tiny(temporal_pool=True, nonlocal_blocks=True).eval()
    twin = copy.deepcopy(net)
    net(torch.randn(1, 8, 3, 32, 32))
    twin(torch.randn(1, 3, 3, 32, 32))
    assert net.net.temporal_pool.n_segments == 8 and twin.net.temporal_pool.n_segments == 3


def test_gradients_reach_the_zero_initialised_gain():
    net = tiny(nonlocal_blocks=True, temporal_pool=True)
    net(torch.randn(2, 4, 3, 32, 32)).logits["label"].square().sum().backward()
    assert all(block.norm.weight.grad.abs().sum() > 0 for block in net.net.nonlocals.values())
