"""Pictures of what is stored: the middle of a window, differences, and colours of motion."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mml_lightning.modalities import FLOW_BOUND, Modality
from mml_lightning.serve.pictures import flow_colours, heat_pictures, pictures

RGB = Modality("rgb", "frames", 1, 3, [0.5], [0.25])
DIFFERENCE = Modality("rgbdiff", "frames", 6, 3, [0.5], [0.25], prepare="difference")
FLOW = Modality("flow", "flow", 5, 2, [0.5], [0.25], flip="mirror_negate_x")


def stored(window: int, channels: int) -> torch.Tensor:
    """[T=2, L * c, 4, 6], item k of window t all 10 * k + t."""
    items = torch.arange(window)[None, :, None] * 10 + torch.arange(2)[:, None, None]
    return items.expand(2, window, channels).reshape(2, -1, 1, 1).expand(-1, -1, 4, 6).to(torch.uint8)


def test_frames_and_differences() -> None:
    clip = torch.randint(0, 256, (2, 3, 4, 6), dtype=torch.uint8)
    assert np.array_equal(pictures(RGB, clip), clip.permute(0, 2, 3, 1).numpy())
    shown = pictures(DIFFERENCE, stored(6, 3))
    assert shown is not None and shown.shape == (2, 4, 6, 3) and (shown == 128 + 5).all()


@pytest.mark.parametrize(
    "motion, colour",
    [
        ((3, 0), (255, 0, 0)),
        ((0, 3), (128, 255, 0)),
        ((-3, 0), (0, 255, 255)),
        ((0, -3), (128, 0, 255)),
        ((0, 0), (0, 0, 0)),
    ],
)
def test_colours_of_motion(motion: tuple[float, float], colour: tuple[int, int, int]) -> None:
    shown = flow_colours(np.broadcast_to(np.array(motion, np.float32), (1, 4, 6, 2)))
    assert np.abs(shown.astype(int) - colour).max() <= 5
    value = np.rint((np.array(motion) + FLOW_BOUND) * 255 / (2 * FLOW_BOUND))
    clip = torch.tensor(value, dtype=torch.uint8).repeat(5)[None, :, None, None].expand(2, -1, 4, 6)
    again = pictures(FLOW, clip)
    assert again is not None and np.abs(again.astype(int) - colour).max() <= (
        10 if any(motion) else 30
    )  # stored in steps of 0.16 px


def test_live_flow_is_shown_as_flow() -> None:
    live = Modality("liveflow", "frames", 6, 3, [0.5], [0.25], prepare="tvl1")
    picture = torch.randint(0, 256, (1, 3, 32, 40), dtype=torch.uint8)
    clip = torch.cat([picture.roll(k, 3) for k in range(6)], 1)  # moves to the right
    shown = pictures(live, clip)
    assert shown is not None and shown.shape == (1, 32, 40, 3)


def test_what_is_no_picture_has_none_and_heat_is_clear_where_nothing_is() -> None:
    assert pictures(RGB, torch.zeros(2, 16000, dtype=torch.int16)) is None
    assert pictures(Modality("depth", "depth", 1, 1), torch.zeros(2, 1, 4, 6, dtype=torch.uint8)) is None
    heat = heat_pictures(np.array([[[0.0, 0.5, 1.0]]]))
    assert heat.shape == (1, 1, 3, 4) and heat[0, 0, :, 3].tolist() == [0, 127, 255]
