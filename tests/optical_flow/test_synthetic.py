"""Synthetic pairs: their flow is the motion they were asked for, and the images agree with it."""

from __future__ import annotations

import pytest
import torch

from mml_lightning.optical_flow import MOTIONS, Motion, synthetic_pair
from mml_lightning.optical_flow.warping import warp

SIZE = (96, 128)


@pytest.mark.parametrize("name", MOTIONS)
def test_second_image_at_the_flow_is_the_first(name: str) -> None:
    pair = synthetic_pair(MOTIONS[name], *SIZE, noise=0.0)
    images = torch.stack([pair.first, pair.second])[:, None].double()
    moved, _ = warp(images[1:], pair.flow.permute(2, 0, 1)[:, None].double(), cubic=True)
    still = (images[0, 0] - images[1, 0])[pair.valid].abs().mean()
    difference = (images[0, 0] - moved[0, 0])[pair.valid].abs()
    assert pair.valid.float().mean() > 0.3
    # behind the disc the background comes into sight: no flow explains it
    assert difference.median() < 1.0 and difference.mean() < still / (2 if name == "disc" else 8)


def test_flow_of_the_formulas() -> None:
    assert synthetic_pair(Motion(shift=(3.4, -2.1)), *SIZE).flow[5, 7].tolist() == pytest.approx([3.4, -2.1])
    zoom = synthetic_pair(Motion(zoom=1.04), *SIZE).flow
    assert zoom[0, 0].tolist() == pytest.approx([-63.5 * 0.04, -47.5 * 0.04])
    turn = synthetic_pair(Motion(degrees=90.0), *SIZE).flow  # clockwise: the right end goes down
    right = turn[47, 127] + torch.tensor([63.5, -0.5])
    assert right.tolist() == pytest.approx([0.5, 63.5], abs=1e-4)
    disc = synthetic_pair(Motion(shift=(1.0, 0.0), disc=(-4.0, 2.0)), *SIZE).flow
    assert disc[48, 64].tolist() == [-4.0, 2.0] and disc[5, 5].tolist() == pytest.approx([1.0, 0.0])


def test_seed_makes_the_texture_and_the_noise() -> None:
    one, again, other = (synthetic_pair(MOTIONS["zoom"], *SIZE, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.first, again.first) and torch.equal(one.second, again.second)
    assert (one.first.float() - other.first.float()).abs().mean() > 10
    clean = synthetic_pair(MOTIONS["zoom"], *SIZE, seed=3, noise=0.0)
    assert (one.first.float() - clean.first.float()).std() == pytest.approx(1.5, abs=0.1)


def test_error_is_the_mean_length_over_measured_pixels() -> None:
    pair = synthetic_pair(Motion(shift=(30.0, 0.0)), *SIZE)
    assert pair.error(pair.flow) == 0.0
    assert pair.error(pair.flow + torch.tensor([3.0, -4.0])) == pytest.approx(5.0, abs=1e-5)
    outside = torch.where(pair.valid[..., None], pair.flow, 1e6)
    assert pair.error(outside) == 0.0
    assert pair.valid[:, 16:-31].any() and not pair.valid[:, -31:].any(), "what leaves the image is not measured"
