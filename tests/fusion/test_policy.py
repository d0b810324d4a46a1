"""AdaMML's policy: published sizes, what it looks at, and how it decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mml_lightning.backbones.cost import cost, parameter_count
from mml_lightning.backbones.mobilenet_v2 import MobileNetV2
from mml_lightning.backbones.recognizer import tsm_mobilenet_v2, tsm_resnet
from mml_lightning.fusion.gates import Look
from mml_lightning.fusion.policy import FrameTrunk, Policy, gumbel

CLASSES = {"label": 31}


def published(**options: Any) -> Policy:
    looks_at = {"rgb": "rgb", "audio": "audio"}
    return Policy(looks_at, {"rgb": 3, "audio": 1}, {"rgb": True, "audio": False}, **options)


def small(looks_at: dict[str, str] | None = None, **options: Any) -> Policy:
    torch.manual_seed(0)
    looks_at = looks_at or {"rgb": "rgb", "audio": "audio"}
    channels = {"rgb": 3, "audio": 1, "flow": 10, "rgbdiff": 15}
    settings = {"trunk": "tiny", "width": 4, "size": 16, "hidden": 12, "memory": 8, **options}
    used = set(looks_at.values())
    return Policy(looks_at, {m: channels[m] for m in used}, {m: m != "audio" for m in used}, **settings)


def look(videos: int = 3, views: int = 4, epoch: int | None = None, rounds: int = 0, seed: int = 1) -> Look:
    draw = torch.Generator().manual_seed(seed)
    clips = {
        "rgb": torch.randn(videos, views, 8, 3, 20, 20, generator=draw),
        "audio": torch.randn(videos, views, 8, 1, 16, 16, generator=draw),
    }
    seen = torch.ones(videos, dtype=torch.bool)
    return Look(clips, {"rgb": seen, "audio": seen}, [f"v{n}" for n in range(videos)], views, epoch, rounds)


def some(given: Look, rows: list[int]) -> Look:
    clips, present = ({key: value[rows] for key, value in one.items()} for one in (given.clips, given.present))
    return given._replace(clips=clips, present=present, ids=[given.ids[row] for row in rows])


def test_published_sizes() -> None:
    """Policy 16.25 M, main networks 25.83 M; multiply-adds of their convolutions as published."""
    assert parameter_count(published()) / 1e6 == pytest.approx(16.25, abs=0.005)
    rgb = tsm_resnet(50, shift=False, temporal_pool=3, num_classes=CLASSES)
    audio = tsm_mobilenet_v2(shift=False, in_channels=1, num_classes=CLASSES)
    assert (parameter_count(rgb) + parameter_count(audio)) / 1e6 == pytest.approx(25.83, abs=0.02)


@pytest.mark.parametrize(
    ("channels", "frames", "size", "expected"),
    [(3, 4, 160, 375_446_400), (1, 1, 256, 381_739_008), (15, 4, 160, 463_920_000), (15, 4, 224, 909_283_200)],
)
def test_published_costs_of_the_policy(channels: int, frames: int, size: int, expected: int) -> None:
    assert cost(FrameTrunk(channels), (1, frames, channels, size, size)).multiply_adds == expected


@pytest.mark.parametrize(("channels", "expected"), [(3, 14_135_984_128), (10, 16_338_911_232)])
def test_published_costs_of_the_main_networks(channels: int, expected: int) -> None:
    """Convolutions alone are counted there; ours has the linear layer, once for the one frame that is left."""
    net = tsm_resnet(50, shift=False, temporal_pool=3, in_channels=channels, num_classes=CLASSES)
    assert cost(net, (1, 8, channels, 224, 224)).multiply_adds == expected + 2048 * 31


def test_time_is_pooled_twice_in_a_policy_and_three_times_in_a_main_network() -> None:
    seen: list[Sequence[int]] = []
    trunk = FrameTrunk(3)
    trunk.net.features[-1].register_forward_hook(lambda _, __, out: seen.append(out.shape))
    assert trunk(torch.zeros(2, 4, 3, 32, 32)).shape == (2, 1280) and seen == [(2, 1280, 1, 1)]
    net = tsm_resnet("tiny", shift=False, temporal_pool=3, num_classes=CLASSES)
    assert net(torch.zeros(2, 8, 3, 32, 32)).features["map"].shape[:2] == (2, 1)


def test_time_is_pooled_before_the_first_blocks_of_64_and_of_160_channels() -> None:
    net: Any = MobileNetV2()
    widths = [block.conv[-2].out_channels for block in net.features[1:-1]]
    assert [widths.index(64) + 1, widths.index(160) + 1] == [7, 14]


def test_a_first_convolution_is_averaged_and_copied_as_published_or_rescaled() -> None:
    made = {}
    for rule in ("mean", "mean_rescaled"):
        torch.manual_seed(3)
        made[rule] = FrameTrunk(15, stem_rule=rule).net.features[0][0].weight
    torch.manual_seed(3)
    plain = FrameTrunk(3).net.features[0][0].weight.mean(1, keepdim=True).expand(-1, 15, -1, -1)
    torch.testing.assert_close(made["mean"], plain)
    torch.testing.assert_close(made["mean_rescaled"], plain / 5)


def test_temperature() -> None:
    assert small().temperature_at(0) == 5.0
    assert small().temperature_at(20) == pytest.approx(2.45198, abs=1e-5)


@pytest.mark.parametrize("options", [{}, {"feedback": "decision"}, {"feedback": "none"}, {"memory": 0}])
def test_decisions_are_0_or_1_and_every_part_learns(options: dict[str, Any]) -> None:
    policy = small(**options)
    chosen = policy(look(epoch=0))
    values = torch.stack(list(chosen.values()))
    assert values.shape == (2, 3, 4) and set(values.unique().tolist()) <= {0.0, 1.0}
    values.sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in policy.parameters())


def test_what_is_fed_back() -> None:
    """The LSTM of `logits` and `decision` is four wider than that of `none`; only `logits` carries their value."""
    widths = {f: small(feedback=f).lstm.input_size for f in ("logits", "decision", "none")}  # type: ignore[union-attr]
    assert widths == {"logits": 16, "decision": 16, "none": 12}
    assert small(memory=0).lstm is None
    seen: dict[str, list[Tensor]] = {"logits": [], "decision": []}
    for feedback, kept in seen.items():
        policy = small(feedback=feedback).eval()
        assert policy.lstm is not None
        policy.lstm.register_forward_pre_hook(lambda _, inputs, kept=kept: kept.append(inputs[0][:, 12:]))
        logits, decisions = policy.decide(look())
        assert not kept[0].any()
        torch.testing.assert_close(kept[2], (logits if feedback == "logits" else decisions)[:, 1].flatten(1))


def test_evaluation_by_argmax_says_the_same_whatever_stands_beside_a_video() -> None:
    policy, whole = small().eval(), look(6)
    torch.manual_seed(1)
    first = policy(whole)
    alone = Look(
        {m: c[4:5] for m, c in whole.clips.items()}, {p: s[4:5] for p, s in whole.present.items()}, ["v4"], 4, None
    )
    torch.manual_seed(2)
    for peer, used in policy(alone).items():
        assert torch.equal(used[0], first[peer][4])


def test_sampling_in_evaluation_is_keyed_by_seed_and_video() -> None:
    policy = small(eval_policy="sample").eval()
    videos = look(40)
    once, again = policy(videos), policy(videos)
    other = small(eval_policy="sample", seed=1).eval()(videos)
    argmax = small().eval()(videos)
    for peer in once:
        assert torch.equal(once[peer], again[peer])
        assert not torch.equal(once[peer], other[peer]) and not torch.equal(once[peer], argmax[peer])
    order = [3, 0, 7]
    for peer, used in policy(some(videos, order)).items():
        assert torch.equal(used, once[peer][order])


def test_gumbel_draws_from_softmax_whatever_the_temperature() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([0.0, 1.0]).expand(20000, 2)
    for temperature in (5.0, 0.1):
        assert float(gumbel(logits, temperature)[:, 1].mean()) == pytest.approx(0.731, abs=0.015)


def test_absent_modalities_take_no_part() -> None:
    """What stands in for them changes neither decisions nor batch norms."""
    found = []
    for filler in (0.0, 1e6):
        policy, given = small().train(), look(3, epoch=0)
        given = given._replace(present={"rgb": torch.ones(3).bool(), "audio": torch.tensor([True, False, True])})
        given.clips["audio"][1] = filler
        torch.manual_seed(5)
        chosen = policy(given)
        found.append([*chosen.values(), *(b for b in policy.buffers())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_proxy_is_matched_by_name() -> None:
    """The decision on flow is made from differences, whatever the order in which they are declared."""
    one = small({"rgb": "rgb", "flow": "rgbdiff"})
    other = small({"flow": "rgbdiff", "rgb": "rgb"})
    assert set(one.trunks) == set(other.trunks) == {"rgb", "rgbdiff"}
    assert one.heads.keys() == {"rgb", "flow"}
    torch.nn.init.constant_(one.heads["flow"].bias, 0.0)
    with torch.no_grad():
        one.heads["flow"].weight.zero_()
        one.heads["flow"].bias.copy_(torch.tensor([0.0, 9.0]))
        one.heads["rgb"].weight.zero_()
        one.heads["rgb"].bias.copy_(torch.tensor([9.0, 0.0]))
    clips = {"rgb": torch.randn(2, 3, 4, 3, 16, 16), "rgbdiff": torch.randn(2, 3, 4, 15, 16, 16)}
    seen = {"rgb": torch.ones(2).bool(), "flow": torch.ones(2).bool()}
    chosen = one.eval()(Look(clips, seen, ["a", "b"], 3, None))
    assert chosen["flow"].all() and not chosen["rgb"].any()


def test_batch_norms_see_a_segment_at_a_time_as_released_or_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for per_segment, rows in ((True, 3), (False, 12)):
        policy, sizes = small(bn_per_segment=per_segment).train(), []
        norm = next(m for m in policy.trunks["audio"].modules() if isinstance(m, nn.BatchNorm2d))
        norm.register_forward_hook(lambda _, inputs, __, sizes=sizes: sizes.append(len(inputs[0])))
        policy(look(epoch=0))
        assert set(sizes) == {rows}


@pytest.mark.parametrize("options", [{"feedback": "x"}, {"eval_policy": "x"}, {"trunk": "x"}])
def test_unknown_words_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="is unknown: use one of"):
        small(**options)
