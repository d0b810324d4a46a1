"""Pictures of what is stored: the middle of a window, differences, colours of motion, spectrograms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mml_lightning.engine.clip_pictures import can_be_shown, pictures
from mml_lightning.modalities import FLOW_BOUND, Modality

RGB = Modality("rgb", "frames", 1, 3, [0.5], [0.25])
DIFFERENCE = Modality("rgbdiff", "frames", 6, 3, [0.5], [0.25], prepare="difference")
FLOW = Modality("flow", "flow", 5, 2, [0.5], [0.25], flip="mirror_negate_x")


def stored(window: int, channels: int) -> torch.Tensor:
    """[T=2, L * c, 4, 6], item k of window t all 10 * k + t."""
    items = torch.arange(window)[None, :, None] * 10 + torch.arange(2)[:, None, None]
    return items.expand(2, window, channels).reshape(2, -1, 1, 1).expand(-1, -1, 4, 6).to(torch.uint8)


def test_frames_and_differences() -> None:
    clip = torch.randint(0, 256, (2, 3, 4, 6), dtype=torch.uint8)
    assert np.array_equal(pictures(clip, RGB), clip.permute(0, 2, 3, 1).numpy())
    shown = pictures(stored(6, 3), DIFFERENCE)
    assert shown.shape == (2, 4, 6, 3) and (np.abs(shown.astype(int) - 128 - 5) <= 1).all()


@pytest.mark.parametrize(
    "motion, colour",
    [((3, 0), (255, 0, 0)), ((0, 3), (128, 255, 0)), ((-3, 0), (0, 255, 255)), ((0, -3), (128, 0, 255))],
)
def test_colours_of_motion(motion: tuple[float, float], colour: tuple[int, int, int]) -> None:
    value = np.rint((np.array(motion) + FLOW_BOUND) * 255 / (2 * FLOW_BOUND))
    clip = torch.tensor(value, dtype=torch.uint8).repeat(5)[None, :, None, None].expand(2, -1, 4, 6)
    for dark in (False, True):  # stored in steps of 0.16 px
        assert np.abs(pictures(clip, FLOW, dark).astype(int) - colour).max() <= 10


def test_what_stands_still_is_white_or_black() -> None:
    clip = torch.full((1, 10, 4, 6), 128, dtype=torch.uint8)
    assert pictures(clip, FLOW).min() >= 225 and pictures(clip, FLOW, dark=True).max() <= 30


def test_live_flow_is_shown_as_flow() -> None:
    live = Modality("liveflow", "frames", 6, 3, [0.5], [0.25], prepare="tvl1")
    picture = torch.randint(0, 256, (1, 3, 32, 40), dtype=torch.uint8)
    clip = torch.cat([picture.roll(k, 3) for k in range(6)], 1)  # moves to the right
    assert pictures(clip, live).shape == (1, 32, 40, 3)


def test_sound_is_its_spectrogram() -> None:
    audio = Modality("audio", "audio", 1, 1, prepare="log_stft")
    low = (8000 * np.sin(2 * np.pi * 500 * np.arange(30720) / 24000)).astype(np.int16)
    shown = pictures(torch.from_numpy(np.stack([low, low])), audio)
    assert shown.shape == (2, 256, 256, 3) and shown[0, :, 128].argmax() // 3 > 240, "low tones are at the bottom"


def test_what_has_no_colours_is_not_shown() -> None:
    assert can_be_shown(RGB, True) and not can_be_shown(RGB, False)
    assert not can_be_shown(Modality("depth", "depth", 1, 1), True)
