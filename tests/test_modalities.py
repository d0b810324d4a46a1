"""From uint8 windows to what a network sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mml_lightning import modalities
from mml_lightning.modalities import Modality
from tests.data.videos import texture

RGB = Modality("rgb", "frames", 1, 3, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
FLOW = Modality("flow", "flow", 5, 2, [0.5], [0.226], flip="mirror_negate_x")
LIVEFLOW = Modality("liveflow", "frames", 6, 3, [0.5], [0.226], prepare="tvl1")
RGBDIFF = Modality("rgbdiff", "frames", 6, 3, prepare="difference")


def clip(*values: int) -> torch.Tensor:
    """One channel per value, [C, 1, 1]."""
    return torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1)


def test_channels_the_network_sees() -> None:
    assert (RGB.channels, FLOW.channels, RGBDIFF.channels) == (3, 10, 15)


def test_normalise_golden_values() -> None:
    assert RGB(clip(0, 128, 255)).flatten().tolist() == pytest.approx([-2.117904, 0.205182, 2.64], abs=1e-5)
    flow = FLOW(clip(*[0, 255] * 5)).flatten().tolist()
    assert flow == pytest.approx([-2.212389, 2.212389] * 5, abs=1e-5)


def test_statistics_repeat_frame_by_frame() -> None:
    window = Modality("clip", "frames", 2, 3, [0.0, 0.5, 1.0], [1.0, 0.5, 0.25])
    assert window(clip(255, 255, 255, 0, 0, 0)).flatten().tolist() == pytest.approx([1, 1, 0, 0, -1, -4])


def test_difference_is_next_minus_present_in_time_order() -> None:
    two = Modality("diff", "frames", 3, 2, prepare="difference")
    found = two(clip(10, 100, 30, 90, 255, 0)).flatten() * 255
    assert found.tolist() == pytest.approx([20, -10, 225, -90], abs=1e-4)


def test_difference_ignores_the_mean_and_divides_by_the_std() -> None:
    scaled = Modality("diff", "frames", 2, 1, [0.3], [0.5], prepare="difference")
    assert scaled(clip(0, 51)).item() == pytest.approx(0.4)


@given(st.integers(1, 2), st.integers(2, 6), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_difference_equals_the_loop(batch: int, window: int, channels: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 256, (batch, 4, window * channels, 2, 3), dtype=np.uint8)
    modality = Modality("diff", "frames", window, channels, [0.2] * channels, [0.4] * channels, prepare="difference")
    found = modality(torch.from_numpy(values)).numpy()
    frames = values.astype(np.float64) / 255 / 0.4
    for step in range(window - 1):
        for channel in range(channels):
            a, b = (frames[:, :, (step + i) * channels + channel] for i in (0, 1))
            assert np.allclose(found[:, :, step * channels + channel], b - a, atol=1e-5)
    assert found.shape[2] == modality.channels


@pytest.mark.parametrize("modality", [RGB, FLOW, RGBDIFF])
def test_shape_type_and_input_survive(modality: Modality) -> None:
    given_clip = torch.randint(0, 256, (2, 3, 4, modality.window * modality.item_channels, 5, 6), dtype=torch.uint8)
    before = given_clip.clone()
    found = modality(given_clip)
    assert found.shape == (2, 3, 4, modality.channels, 5, 6) and found.dtype == torch.float32
    assert torch.equal(given_clip, before)
    assert torch.equal(modality(given_clip[1]), found[1])


def test_single_precision_is_enough() -> None:
    values = clip(*range(256))
    single = Modality("x", "frames", 256, 1, [0.485], [0.229])(values).double().flatten()
    exact = (torch.arange(256, dtype=torch.float64) / 255 - 0.485) / 0.229
    assert (single - exact).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"prepare": "whiten"},
            r"prepare='whiten' is unknown; use one of \['difference', 'log_mel', 'log_mel_small', 'log_stft', ",
        ),
        ({"flip": "rotate"}, "flip='rotate' is unknown"),
        ({"window": 0}, "window=0 is too short for prepare=normalise"),
        ({"window": 1, "prepare": "difference"}, "window=1 is too short for prepare=difference"),
        ({"mean": [0.1, 0.2]}, "mean needs 1 or 3 numbers"),
        ({"std": []}, "std needs 1 or 3 numbers"),
        ({"std": [1.0, 0.0, 1.0]}, r"std=\[1.0, 0.0, 1.0\] must be positive"),
    ],
)
def test_wrong_declarations_are_one_line(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^modality rgb: {message}"):
        Modality(**({"name": "rgb", "source": "frames", "window": 1, "item_channels": 3} | changes))


# ------------------------------------------------------------------------------------------------ flow on the device


def moved(count: int, dx: int, dy: int) -> torch.Tensor:
    """Window of RGB frames of a pattern that moves by (dx, dy) pixels, uint8 [3 * count, 64, 80]."""
    pattern = torch.from_numpy(texture(80, 64)).permute(2, 0, 1)
    return torch.cat([pattern.roll((dy * k, dx * k), dims=(1, 2)) for k in range(count)])


def pixels(prepared: torch.Tensor) -> torch.Tensor:
    """Flow in pixels, [..., P, 2, H, W], inside of the border where the pattern wraps."""
    flow = (prepared * LIVEFLOW.std[0] + LIVEFLOW.mean[0] - 0.5) * 40
    return flow.unflatten(-3, (-1, 2))[..., 12:-12, 12:-12]


def test_liveflow_is_the_motion_of_the_window() -> None:
    assert LIVEFLOW.channels == 10
    clips = torch.stack([moved(6, 2, -1), moved(6, -1, 2)])[:, None]  # [B, T, C, H, W]
    found = LIVEFLOW(clips)
    assert found.shape == (2, 1, 10, 64, 80) and found.dtype == torch.float32
    means = pixels(found).median(dim=-1)[0].median(dim=-1)[0]
    assert means[0, 0] == pytest.approx(np.tile([2.0, -1.0], (5, 1)), abs=0.1)
    assert means[1, 0] == pytest.approx(np.tile([-1.0, 2.0], (5, 1)), abs=0.1)


def test_liveflow_of_mirrored_frames_has_inverted_x() -> None:
    clip_ = moved(2, 3, 1)
    two = Modality("liveflow", "frames", 2, 3, [0.5], [0.226], prepare="tvl1")
    plain, mirrored = pixels(two(clip_)), pixels(two(clip_.flip(-1))).flip(-1)
    assert torch.allclose(plain[0, 0], -mirrored[0, 0], atol=0.15) and torch.allclose(
        plain[0, 1], mirrored[0, 1], atol=0.15
    )


def test_liveflow_does_not_depend_on_autocast_or_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = torch.stack([moved(3, 2, -1), moved(3, 1, 1)])
    three = Modality("liveflow", "frames", 3, 3, [0.5], [0.226], prepare="tvl1")
    expected = three(clips)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(three(clips), expected)
    monkeypatch.setitem(modalities.PAIRS_AT_ONCE, "cpu", 3)
    assert torch.allclose(three(clips), expected, atol=1e-4)
    assert torch.allclose(three(clips[1:]), expected[1:], atol=1e-4)


@pytest.mark.parametrize("change", [{"item_channels": 2}, {"flip": "mirror_negate_x"}])
def test_tvl1_takes_frames(change: dict) -> None:
    with pytest.raises(ValueError, match="prepare=tvl1 takes frames"):
        Modality(**{"name": "x", "source": "frames", "window": 6, "item_channels": 3, "prepare": "tvl1"} | change)
