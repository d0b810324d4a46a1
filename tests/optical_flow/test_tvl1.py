"""TV-L1: its error on motions that are known, its agreement with OpenCV, and what it must not depend on.

Shapes: P pairs, T frames, H height, W width. Thresholds are measured errors with a third to spare.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from mml_lightning.optical_flow import MOTIONS, PRESETS, Pair, TVL1Settings, synthetic_pair, tvl1_clip, tvl1_pairs
from mml_lightning.optical_flow import tvl1 as module

SIZE = (128, 170)
QUICK = TVL1Settings(levels=3, warps=2, inner=5)


@cache
def pair(motion: str, seed: int = 5) -> Pair:
    return synthetic_pair(MOTIONS[motion], *SIZE, seed=seed)


@cache
def solved(motion: str, preset: str) -> Tensor:
    """[H, W, 2]"""
    images = pair(motion)
    return tvl1_pairs(images.first[None, None], images.second[None, None], PRESETS[preset])[0].permute(1, 2, 0)


def opencv(motion: str, **changes: Any) -> Tensor:
    engine = cv2.optflow.DualTVL1OpticalFlow_create(**changes)  # type: ignore[attr-defined]
    return torch.from_numpy(engine.calc(pair(motion).first.numpy(), pair(motion).second.numpy(), None))


def clip(count: int = 4, height: int = 40, width: int = 56) -> Tensor:
    """Frames uint8 [T, 1, H, W] of a texture that moves by (2, 1) pixels per frame."""
    big = synthetic_pair(MOTIONS["zoom"], 80, 96).first
    return torch.stack([big[20 - i : 20 - i + height, 30 - 2 * i : 30 - 2 * i + width][None] for i in range(count)])


@pytest.mark.parametrize(
    ("preset", "motion", "bound"),
    [
        ("accurate", "translation", 0.020),
        ("accurate", "rotation", 0.075),
        ("accurate", "zoom", 0.097),
        ("accurate", "large", 0.016),
        ("accurate", "disc", 0.28),
        ("paper", "translation", 0.050),
        ("paper", "rotation", 0.100),
        ("paper", "zoom", 0.116),
        ("paper", "disc", 0.29),
        ("fast", "translation", 0.041),
        ("fast", "rotation", 0.053),
        ("fast", "zoom", 0.064),
        ("fast", "large", 0.039),
        ("fast", "disc", 0.33),
    ],
)
def test_error_of_known_motions(preset: str, motion: str, bound: float) -> None:
    assert pair(motion).error(solved(motion, preset)) < bound


@pytest.mark.parametrize("motion", ["translation", "rotation", "zoom"])
def test_paper_preset_is_opencv_s_default(motion: str) -> None:
    distance = (solved(motion, "paper") - opencv(motion)).norm(dim=-1)[pair(motion).valid]
    assert distance.mean() < 0.03


@pytest.mark.parametrize("motion", ["translation", "rotation", "zoom", "large"])
def test_accurate_preset_errs_no_more_than_opencv_at_half_scale(motion: str) -> None:
    reference = pair(motion).error(opencv(motion, scaleStep=0.5))
    assert pair(motion).error(solved(motion, "accurate")) <= 1.1 * reference  # "large" is a draw


def test_a_move_to_the_right_is_positive_x_and_down_positive_y() -> None:
    frames = clip()
    flow = tvl1_clip(frames, PRESETS["fast"])[..., 8:-8, 8:-8]
    assert flow.shape == (3, 2, 24, 40)
    assert flow.mean(dim=(0, 2, 3)).tolist() == pytest.approx([2.0, 1.0], abs=0.1)
    mirrored = tvl1_clip(frames.flip(-1), PRESETS["fast"])[..., 8:-8, 8:-8].flip(-1)
    assert mirrored.mean(dim=(0, 2, 3)).tolist() == pytest.approx([-2.0, 1.0], abs=0.1)


@pytest.mark.parametrize("settings", [QUICK, replace(QUICK, epsilon=0.02, outer=6, median=3, cubic=True, blend=1.0)])
@pytest.mark.parametrize("at_once", [None, 2, 64])
def test_a_pair_does_not_depend_on_its_batch(settings: TVL1Settings, at_once: int | None) -> None:
    frames = clip(5)
    frames[3:] = frames[3:].flip(-1)  # one pair is harder than the others, and would stop later
    alone = [tvl1_pairs(frames[i : i + 1], frames[i + 1 : i + 2], settings) for i in range(4)]
    assert torch.allclose(torch.cat(alone), tvl1_pairs(frames[:-1], frames[1:], settings), rtol=0, atol=1e-4)
    assert torch.allclose(torch.cat(alone), tvl1_clip(frames, settings, at_once), rtol=0, atol=1e-4)


def test_equal_input_gives_equal_flow_whatever_the_type() -> None:
    frames = clip()
    before = frames.clone()
    flow = tvl1_clip(frames, QUICK)
    assert torch.equal(flow, tvl1_clip(frames, QUICK)) and torch.equal(frames, before)
    assert torch.equal(flow, tvl1_clip(frames.float(), QUICK))
    assert torch.equal(flow, tvl1_clip(frames.to(torch.bfloat16), QUICK)), "whole grey levels fit in eight bits"
    assert torch.allclose(flow.double(), tvl1_clip(frames, QUICK, dtype=torch.float64), rtol=0, atol=1e-3)
    needs_grad = frames.float().requires_grad_()
    assert not tvl1_clip(needs_grad, QUICK).requires_grad


def test_threads_do_not_change_the_flow() -> None:
    images = pair("zoom")
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(tvl1_pairs(images.first[None, None], images.second[None, None], QUICK))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def test_the_image_that_stands_still_has_no_flow() -> None:
    assert tvl1_clip(clip(1).expand(3, -1, -1, -1), PRESETS["fast"]).abs().max() < 1e-4
    assert tvl1_clip(torch.full((2, 1, 20, 30), 90.0), PRESETS["paper"]).abs().max() < 1e-4


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 3), (17, 33)])
def test_images_of_any_size(size: tuple[int, int]) -> None:
    frames = torch.randint(0, 256, (3, 1, *size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    flow = tvl1_clip(frames, QUICK)
    assert flow.shape == (2, 2, *size) and flow.isfinite().all()


def test_the_iteration_compiles_without_a_break() -> None:
    flow = torch.zeros(2, 1, 20, 30)
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 1, 20, 30)).astype(np.float32))
    data = module.Linearised(values[:2], values[2:4], values[4], 0.02)
    compiled = torch.compile(module.iterate, fullgraph=True, backend="eager", dynamic=False)
    results = []
    for iterate in (module.iterate, compiled):
        state, found = module.State(flow), flow.clone()
        iterate(found, state, data, 0.25, 3)
        results.append(torch.cat([found.flatten(), state.dual.flatten()]))
    assert results[0].abs().max() > 0.01 and torch.allclose(*results, rtol=0, atol=1e-5)


def test_one_iteration_is_that_of_the_paper() -> None:
    """Against the update written as in Zach et al., in float64: thresholding in three cases, then u, then p."""
    rng = np.random.default_rng(1)
    height, width, tau, theta, lam = 6, 7, 0.25, 0.3, 0.15
    u, gradient, rest = rng.normal(size=(2, height, width)), rng.normal(size=(2, height, width)) * 5, rng.normal(size=1)
    gradient[:, 2, 3] = 0.01
    p = rng.uniform(-0.5, 0.5, size=(2, 2, height, width))  # [direction, part of u]
    p[0, ..., -1], p[1, :, -1] = 0, 0

    square = (gradient**2).sum(axis=0)
    rho = rest + (gradient * u).sum(axis=0)
    small, large = rho < -lam * theta * square, rho > lam * theta * square
    v = u + np.where(small, lam * theta, np.where(large, -lam * theta, -rho / square)) * gradient
    divergence = p[0] + p[1]
    divergence[..., 1:] -= p[0][..., :-1]
    divergence[:, 1:] -= p[1][:, :-1]
    expected = v + theta * divergence
    forward = np.zeros_like(p)
    forward[0, ..., :-1] = expected[..., 1:] - expected[..., :-1]
    forward[1, :, :-1] = expected[:, 1:] - expected[:, :-1]
    ratio = tau / theta
    dual = (p + ratio * forward) / (1 + ratio * np.hypot(forward[0], forward[1]))

    flow = torch.from_numpy(u * ratio)[:, None].clone()
    state = module.State(flow)
    state.dual.copy_(torch.from_numpy(p)[:, :, None])
    slope, scaled = torch.from_numpy(gradient)[:, None], torch.from_numpy(square)[None]
    data = module.Linearised(
        slope / (scaled * ratio), slope * ratio, torch.from_numpy(rest / square)[None], lam * theta
    )
    module.iterate(flow, state, data, tau, 1)
    assert np.allclose(flow[:, 0].numpy() / ratio, expected, atol=1e-12)
    assert np.allclose(state.dual[:, :, 0].numpy(), dual, atol=1e-12)
    assert small.any() and large.any() and not (small | large).all()


@pytest.mark.parametrize(
    "change", [{"tau": 0.3}, {"lam": 0.0}, {"scale": 1.0}, {"median": 4}, {"warps": 0}, {"lam": float("nan")}]
)
def test_settings_out_of_range(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(change))}=.* is out of the range"):
        TVL1Settings(**change)


def test_what_is_no_pair_or_clip() -> None:
    frames = clip()
    with pytest.raises(ValueError, match="two equal shapes"):
        tvl1_pairs(frames, frames[..., 1:], QUICK)
    with pytest.raises(ValueError, match="two frames or more"):
        tvl1_clip(frames[:1], QUICK)
    for dtype in (torch.bfloat16, torch.float16):
        with pytest.raises(ValueError, match="too imprecise"):
            tvl1_clip(frames, QUICK, dtype=dtype)
