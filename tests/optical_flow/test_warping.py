"""Pyramids, derivatives, warps and medians. Shapes: P images, H height, W width."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from mml_lightning.optical_flow.warping import gradient, median, pyramid, resize_field, warp


@pytest.mark.parametrize(
    ("size", "levels", "scale", "sizes"),
    [
        ((256, 340), 5, 0.5, [(256, 340), (128, 170), (64, 85), (32, 42), (16, 21)]),
        ((100, 50), 3, 0.8, [(100, 50), (80, 40), (64, 32)]),
        ((40, 90), 5, 0.5, [(40, 90), (20, 45)]),
        ((5, 3), 5, 0.5, [(5, 3)]),
    ],
)
def test_pyramid_halts_above_16_pixels(size: tuple, levels: int, scale: float, sizes: list) -> None:
    images = pyramid(torch.full((2, 1, *size), 7.0), levels, scale)
    assert [tuple(image.shape[-2:]) for image in images] == sizes
    assert all(torch.allclose(image, torch.tensor(7.0)) for image in images)


def test_gradient_of_a_ramp_is_its_slope() -> None:
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing="ij")
    found = gradient((3 * x - 2 * y)[None])[..., 1:-1, 1:-1]
    assert torch.equal(found[0], torch.full_like(found[0], 3.0))
    assert torch.equal(found[1], torch.full_like(found[1], -2.0))


def test_resized_field_is_in_pixels_of_the_new_size() -> None:
    field = torch.tensor([3.0, -2.0]).view(2, 1, 1, 1).expand(2, 1, 10, 20).contiguous()
    found = resize_field(field, (20, 30))
    assert found[0].unique().tolist() == pytest.approx([4.5]) and found[1].unique().tolist() == pytest.approx([-4.0])
    assert resize_field(field, (10, 20)) is field


@pytest.mark.parametrize("cubic", [False, True])
def test_warp_reads_where_the_flow_points(cubic: bool) -> None:
    images = torch.rand(2, 3, 12, 17, dtype=torch.float64)
    field = torch.tensor([2.0, -1.0], dtype=torch.float64).view(2, 1, 1, 1).expand(2, 2, 12, 17)
    found, inside = warp(images, field, cubic)
    assert torch.allclose(found[..., 1:, :-2], images[..., :-1, 2:])
    assert inside[:, 1:, :-2].all() and not inside[:, 0].any() and not inside[..., -2:].any()


@given(st.sampled_from([3, 5, 7]), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_median_is_that_of_a_sort(side: int, height: int, width: int, seed: int) -> None:
    field = torch.from_numpy(np.random.default_rng(seed).integers(0, 9, (2, 2, height, width)).astype(np.float32))
    around = F.pad(field, (side // 2,) * 4, mode="replicate")
    expected = around.unfold(-2, side, 1).unfold(-2, side, 1).flatten(-2).median(dim=-1).values
    assert torch.equal(median(field, side), expected)
