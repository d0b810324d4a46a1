"""Flow as a picture: hues of the four directions, saturation of the speed."""

from __future__ import annotations

import colorsys
import math

import pytest
import torch

from mml_lightning.optical_flow.colours import LEAST, colour_wheel, fastest


def colour(x: float, y: float, full: float = 4.0) -> list[int]:
    return colour_wheel(torch.tensor([x, y]).view(2, 1, 1), full).flatten().tolist()


def test_no_motion_is_white_and_fast_motion_is_full() -> None:
    assert colour(0, 0) == [255, 255, 255]
    assert colour(4, 0) == colour(400, 0) == [255, 0, 0]
    assert colour(2, 0) == [255, 128, 128]


@pytest.mark.parametrize("degrees", range(0, 360, 15))
def test_hue_is_the_direction(degrees: int) -> None:
    angle = math.radians(degrees)
    found = colour(4 * math.cos(angle), 4 * math.sin(angle))
    expected = [255 * part for part in colorsys.hsv_to_rgb(degrees / 360, 1, 1)]
    assert found == pytest.approx(expected, abs=1)


def test_shapes_are_kept_and_outliers_do_not_set_the_scale() -> None:
    flow = torch.zeros(3, 2, 20, 20)
    flow[:, 0] = 2.0
    flow[0, 0, 0, 0] = 1000.0
    assert fastest(flow) == 2.0 and fastest(torch.zeros(2, 5, 5)) == LEAST
    assert colour_wheel(flow, 2.0).shape == (3, 3, 20, 20)
