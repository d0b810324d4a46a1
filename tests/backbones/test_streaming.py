"""A stream of frames gives what the same network gives for the clip of these frames."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mml_lightning.backbones import tsm_efficientnet_lite0, tsm_mobilenet_v2, tsm_resnet, video_resnet
from mml_lightning.backbones.execution import set_memory_format
from mml_lightning.backbones.recognizer import Recognizer
from mml_lightning.backbones.streaming import FrameStream

HEADS = {"verb": 3, "noun": 4}
NETWORKS = {
    "tiny": lambda **options: tsm_resnet("tiny", **{"shift_div": 4, **options}),
    "tiny, whole blocks": lambda **options: tsm_resnet("tiny", shift_place="block", **options),
    "resnet18": lambda **options: tsm_resnet(18, **options),
    "resnet50": lambda **options: tsm_resnet(50, **options),
    "mobilenet_v2": tsm_mobilenet_v2,
    "efficientnet_lite0": tsm_efficientnet_lite0,
}


def made(name: str = "tiny", **options: Any) -> Recognizer:
    """Weights for which neither the shift nor the head can hide, and logits of a usual size."""
    torch.manual_seed(0)
    net = NETWORKS[name](**{"shift": "online", "num_classes": HEADS, **options})
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.1)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():  # statistics of these frames: no map fades on its way
        net.train()(torch.randn(2, 4, net.in_channels, 32, 32))
    return net.eval()


def streamed(net: Recognizer, clip: Tensor, average: int | None = None) -> list[Any]:
    stream = FrameStream(net, clip.shape[1] if average is None else average)
    return [stream.push(frame) for frame in clip.unbind(1)]


def offline(net: Recognizer, clip: Tensor) -> dict[str, Tensor]:
    with torch.inference_mode():
        return net(clip).logits


@pytest.mark.parametrize("name", NETWORKS)
def test_the_mean_of_a_stream_is_the_network_on_the_clip(name: str) -> None:
    net, clip = made(name), torch.randn(2, 4, 3, 32, 32)
    set_memory_format(net)
    whole, pushed = offline(net, clip), streamed(net, clip)
    backwards = offline(net, clip.flip(1))
    for head, logits in whole.items():
        size = float(logits.abs().max())
        assert size > 1e-3
        assert (pushed[-1].mean[head] - logits).abs().max() <= 1e-5 * size
        assert (backwards[head] - logits).abs().max() > 1e-3 * size, "the order of frames matters"


@settings(max_examples=15, deadline=None)
@given(
    frames=st.integers(1, 6),
    streams=st.integers(1, 3),
    average=st.integers(1, 6),
    channels=st.sampled_from([3, 10]),
    shift=st.sampled_from(["online", False]),
)
def test_any_length_average_and_number_of_streams(
    frames: int, streams: int, average: int, channels: int, shift: Any
) -> None:
    net = made(shift=shift, in_channels=channels).double()
    clip = torch.randn(streams, frames, channels, 16, 16, dtype=torch.float64)
    pushed = streamed(net, clip, average)
    for seen, one in enumerate(pushed, 1):
        each = torch.stack([other.frame["verb"] for other in pushed[:seen]])
        torch.testing.assert_close(offline(net, clip[:, :seen])["verb"], each.mean(0), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(one.mean["verb"], each[-average:].mean(0))


def test_no_frame_changes_what_was_said_before() -> None:
    net, clip = made(), torch.randn(1, 5, 3, 32, 32)
    other = torch.cat([clip[:, :3], torch.randn(1, 2, 3, 32, 32)], 1)
    one, two = streamed(net, clip), streamed(net, other)
    assert [torch.equal(a.frame["verb"], b.frame["verb"]) for a, b in zip(one, two, strict=True)] == [True] * 3 + [
        False
    ] * 2


def test_reset_begins_anew_and_the_network_stays_as_it_was() -> None:
    net, clip = made().train(), torch.randn(1, 3, 3, 32, 32)
    before, modes = copy.deepcopy(net.state_dict()), [module.training for module in net.modules()]
    stream = FrameStream(net, 3)
    first = [stream.push(frame).mean["noun"] for frame in clip.unbind(1)]
    stream.reset()
    assert all(
        torch.equal(stream.push(frame).mean["noun"], mean) for frame, mean in zip(clip.unbind(1), first, strict=True)
    )
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert {id(p) for p in stream.net.parameters()} == {id(p) for p in net.parameters()}, "weights are shared"


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (lambda: tsm_resnet("tiny", num_classes=HEADS), r"next frame: train it with backbone\.net\.shift=online"),
        (lambda: tsm_mobilenet_v2(num_classes=HEADS), r"next frame: train it with backbone\.net\.shift=online"),
        (lambda: tsm_resnet("tiny", False, temporal_pool=True, num_classes=HEADS), "temporal pooling look"),
        (lambda: tsm_resnet("tiny", False, nonlocal_blocks=True, num_classes=HEADS), "non-local blocks look"),
        (lambda: video_resnet("slow", "tiny", num_classes=HEADS), "sees a clip as a whole"),
    ],
)
def test_what_looks_at_later_frames_is_refused(net: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        FrameStream(net(), 8)


def test_wrong_frames_are_refused() -> None:
    stream = FrameStream(made(), 2)
    stream.push(torch.randn(1, 3, 32, 32))
    for frame in (torch.randn(2, 3, 32, 32), torch.randn(1, 3, 48, 32)):
        with pytest.raises(ValueError, match=r"reset\(\) before another video"):
            stream.push(frame)
    with pytest.raises(ValueError, match="check its modality"):
        stream.push(torch.randn(1, 10, 32, 32))
    with pytest.raises(ValueError, match="1 frame or more"):
        FrameStream(made(), 0)


@pytest.mark.parametrize("options", [{"temporal_pool": True}, {"nonlocal_blocks": True}])
def test_an_online_network_has_nothing_that_looks_ahead(options: dict[str, bool]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} looks at later frames"):
        tsm_resnet("tiny", "online", **options)
    with pytest.raises(ValueError, match="use true, false or online"):
        tsm_resnet("tiny", "onlin")
