from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mml_lightning import transforms
from mml_lightning.transforms import Crop

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "mml_crops.json").read_text())
SCALES = (1.0, 0.875, 0.75, 0.66)

side_st = st.integers(1, 500)
policy_st = st.sampled_from(["code", "paper", "fixed"])
seed_st = st.integers(0, 10_000)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def places(crops: list[Crop]) -> list[tuple[int, int]]:
    return [(crop.x, crop.y) for crop in crops]


# Reference vectors of the published program


def test_all_crop_vectors():
    ran = 0
    for case in VECTORS["cases"]:
        width, height = case["image_w_h"]
        sizes = transforms.multi_scale_sizes(width, height, VECTORS["output"], VECTORS["scales"])
        # The vectors list the sizes from large to small; their order in the program shows in the draws.
        assert [list(size) for size in sorted(sizes, reverse=True)] == case["crop_sizes_w_h"]
        for draws in case["draws"]:
            rng = random.Random(draws["py_seed"])
            for expected in draws["draws_w_h_x_y"]:
                crop = transforms.draw_multi_scale_crop(
                    width, height, VECTORS["output"], VECTORS["scales"], rng, policy="code"
                )
                assert [crop.width, crop.height, crop.x, crop.y] == expected
                assert crop.output == (224, 224) and not crop.flip
                ran += 1
        crop = transforms.test_crops(width, height, short_side=256, output=256, crops=1)[0]
        assert list(crop.resize or (width, height)) == case["resize256_w_h"]
    assert (len(VECTORS["cases"]), ran) == (6, 72)


def test_offset_grid_vector():
    grid = transforms.offset_grid(340, 256, 224, 192, policy="code")
    assert [list(place) for place in grid] == VECTORS["offset_grid_340x256_crop224x192"]


def test_sizes_of_a_240_high_video_without_the_last_scale():
    assert len(transforms.multi_scale_sizes(320, 240, 224, SCALES)) == 10
    assert len(transforms.multi_scale_sizes(320, 240, 224, SCALES[:3])) == 7


def test_fixed_grid_reaches_the_far_edges():
    assert transforms.offset_grid(427, 240, 180, 158, policy="code")[3] == (244, 80)
    assert transforms.offset_grid(427, 240, 180, 158)[3] == (247, 82)


# Test crops


def test_centre_crop_rounds_half_to_even():
    (crop,) = transforms.test_crops(320, 240, short_side=256, output=224, crops=1)
    assert crop.resize == (341, 256) and (crop.x, crop.y, crop.width, crop.height) == (58, 16, 224, 224)
    assert crop.reference == (320, 240) and crop.output == (224, 224) and not crop.flip


def test_three_crops_follow_the_longer_side():
    assert places(transforms.test_crops(455, 256, short_side=256, output=256, crops=3)) == [(0, 0), (196, 0), (98, 0)]
    assert places(transforms.test_crops(256, 455, short_side=256, output=256, crops=3)) == [(0, 0), (0, 196), (0, 98)]


def test_five_and_ten_crops():
    five = transforms.test_crops(341, 256, short_side=256, output=224, crops=5)
    assert places(five) == [(0, 0), (116, 0), (0, 32), (116, 32), (58, 16)]
    assert not any(crop.flip for crop in five) and all(crop.resize is None for crop in five)
    ten = transforms.test_crops(341, 256, short_side=256, output=224, crops=10)
    assert places(ten) == [place for place in places(five) for _ in range(2)]
    assert [crop.flip for crop in ten] == [False, True] * 5


@given(side_st, side_st, st.integers(1, 40), st.integers(0, 40), st.sampled_from([1, 3, 5, 10]))
def test_views_fit(width, height, output, margin, crops):
    geometry = transforms.TestGeometry(output=output, short_side=output + margin, crops=crops)
    views = geometry.views(width, height)
    assert len(views) == crops
    for view in views:
        assert (view.width, view.height) == view.output == (output, output)
        assert min(view.resize or (width, height)) == output + margin


# Drawing


@given(st.integers(2, 500), st.integers(2, 500), st.integers(1, 300), policy_st, seed_st)
def test_drawn_box_lies_inside_the_frame(width, height, output, policy, seed):
    rng = random.Random(seed)
    for _ in range(5):
        crop = transforms.draw_multi_scale_crop(width, height, output, SCALES, rng, policy=policy)
        assert crop.x >= 0 and crop.x + crop.width <= width
        assert crop.y >= 0 and crop.y + crop.height <= height
        assert crop.output == (output, output)


def test_flip_is_drawn_last_and_only_if_possible():
    plain, flipping = random.Random(5), random.Random(5)
    one = transforms.TrainGeometry(224, SCALES, 0.0).draw(320, 240, plain)
    two = transforms.TrainGeometry(224, SCALES, 1.0).draw(320, 240, flipping)
    assert two.flip and not one.flip
    assert (one.x, one.y, one.width, one.height) == (two.x, two.y, two.width, two.height)
    assert plain.random() != flipping.random()
    flips = [transforms.TrainGeometry(224, SCALES, 0.5).draw(320, 240, plain).flip for _ in range(400)]
    assert 150 < sum(flips) < 250


def test_same_seed_same_geometry():
    draw = transforms.TrainGeometry(64, SCALES, 0.5).draw
    assert [draw(90, 70, random.Random(s)) for s in range(9)] == [draw(90, 70, random.Random(s)) for s in range(9)]


# Applying


def test_cut_without_resize_is_exact():
    clip = noise(3, 2, 20, 30)
    crop = Crop(4, 5, 10, 8, reference=(30, 20), output=(10, 8))
    assert torch.equal(transforms.apply(clip, crop), clip[:, :, 5:13, 4:14])


def test_resize_is_antialiased_bilinear_on_bytes():
    clip = noise(2, 3, 40, 60)
    crop = Crop(0, 0, 60, 40, reference=(60, 40), output=(15, 10))
    out = transforms.apply(clip, crop)
    assert out.dtype == torch.uint8 and out.shape == (2, 3, 10, 15)
    expected = torch.nn.functional.interpolate(clip.float(), size=(10, 15), mode="bilinear", antialias=True)
    assert (out.float() - expected).abs().max() <= 1
    # Without antialiasing shrunk noise would keep its full contrast.
    assert out.float().std() < 0.5 * clip.float().std()


def test_every_channel_is_resized_alike():
    clip = noise(3, 10, 24, 32)
    crop = Crop(3, 2, 20, 18, reference=(32, 24), output=(16, 16))
    channels = [transforms.apply(clip[:, c : c + 1], crop) for c in range(10)]
    assert torch.equal(transforms.apply(clip, crop), torch.cat(channels, 1))


def test_test_crop_is_resize_then_cut():
    clip = noise(2, 3, 24, 32)
    (crop,) = transforms.test_crops(32, 24, short_side=18, output=16, crops=1)
    frames = torch.nn.functional.interpolate(clip, size=(18, 24), mode="bilinear", antialias=True)
    assert torch.equal(transforms.apply(clip, crop), frames[:, :, 1:17, 4:20])


def test_views_of_one_clip_equal_single_crops():
    clip = noise(2, 3, 24, 36)
    crops = transforms.TestGeometry(output=12, short_side=16, crops=10).views(36, 24)
    views = transforms.apply_views(clip, crops)
    assert len(views) == 10
    assert all(torch.equal(view, transforms.apply(clip, crop)) for view, crop in zip(views, crops, strict=True))
    assert torch.equal(views[1], views[0].flip(-1))


@given(st.integers(8, 40), st.integers(8, 40), seed_st)
def test_flip_twice_is_identity(width, height, seed):
    clip = noise(2, 2, height, width, seed=seed)
    crop = Crop(0, 0, width, height, reference=(width, height), output=(width, height), flip=True)
    once = transforms.apply(clip, crop)
    assert torch.equal(once, clip.flip(-1)) and torch.equal(transforms.apply(once, crop), clip)


# Modalities stored at different resolutions


@given(side_st, side_st, st.integers(1, 40), side_st, side_st, seed_st, st.booleans())
def test_scaled_box_lies_inside(width, height, output, other_w, other_h, seed, testing):
    if testing:
        crop = transforms.TestGeometry(output, output + 3, 5).views(width, height)[seed % 5]
    else:
        crop = transforms.TrainGeometry(output, SCALES).draw(width, height, random.Random(seed))
    assert crop.scaled_to(width, height) == crop
    scaled = crop.scaled_to(other_w, other_h)
    assert scaled.reference == (other_w, other_h) and scaled.output == crop.output
    if crop.resize is None:
        assert abs(scaled.x / other_w - crop.x / width) <= 1 / other_w
        right, other_right = crop.x + crop.width, scaled.x + scaled.width
        assert abs(other_right / other_w - right / width) <= 1 / other_w


def test_scaled_box_is_exact_for_whole_factors():
    crop = Crop(105, 45, 180, 180, reference=(320, 240), output=(224, 224))
    assert crop.scaled_to(640, 480) == Crop(210, 90, 360, 360, reference=(640, 480), output=(224, 224))
    assert crop.scaled_to(640, 480).scaled_to(320, 240) == crop


def test_modalities_see_the_same_part_of_the_picture():
    """A smooth picture stored at two resolutions gives nearly the same crop."""
    coarse = torch.linspace(0, 255, 40 * 60).reshape(1, 1, 40, 60)
    fine = torch.nn.functional.interpolate(coarse, scale_factor=2.0, mode="bilinear")
    geometries = [transforms.TrainGeometry(16, SCALES, 0.5).draw(120, 80, random.Random(seed)) for seed in range(20)]
    geometries += transforms.TestGeometry(16, 20, 10).views(120, 80)
    for geometry in geometries:
        one = transforms.apply(fine.round().byte(), geometry).int()
        two = transforms.apply(coarse.round().byte(), geometry).int()
        assert one.shape == two.shape == (1, 1, 16, 16)
        assert (one - two).abs().max() <= 6


# Flow


def test_mirrored_flow_changes_the_sign_of_x_only():
    bound = 20
    flow = torch.rand(4, 10, 6, 8, generator=torch.Generator().manual_seed(0)) * 2 * bound - bound
    stored = ((flow + bound) / (2 * bound) * 255).round().byte()
    inverted = transforms.invert_x(stored)
    decoded = inverted.double() / 255 * 2 * bound - bound
    original = stored.double() / 255 * 2 * bound - bound
    torch.testing.assert_close(decoded[:, 0::2], -original[:, 0::2])
    assert torch.equal(inverted[:, 1::2], stored[:, 1::2])
    assert torch.equal(transforms.invert_x(inverted), stored)
    assert inverted.data_ptr() != stored.data_ptr()


# Errors


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Crop(0, 0, 9, 9, reference=(8, 9), output=(4, 4)), "leaves the 8x9 frame"),
        (lambda: Crop(-1, 0, 2, 2, reference=(8, 9), output=(4, 4)), "leaves"),
        (lambda: Crop(0, 0, 2, 2, reference=(8, 9), output=(0, 4)), "empty"),
        (lambda: Crop(0, 0, 2, 2, reference=(8, 9), output=(4, 4)).scaled_to(0, 3), "empty"),
        (lambda: transforms.TrainGeometry(0), "output"),
        (lambda: transforms.TrainGeometry(8, ()), "scales"),
        (lambda: transforms.TrainGeometry(8, (1.5,)), "scales"),
        (lambda: transforms.TrainGeometry(8, (1.0,), 2.0), "probability"),
        (lambda: transforms.TrainGeometry(8, (1.0,), policy="other"), "unknown policy"),
        (lambda: transforms.TestGeometry(256, 224), "raise short_side"),
        (lambda: transforms.TestGeometry(224, 256, 4), "1, 3, 5 or 10"),
        (lambda: transforms.multi_scale_sizes(0, 5, 4, SCALES), "empty"),
        (lambda: transforms.multi_scale_sizes(5, 5, 4, ()), "scales"),
        (lambda: transforms.offset_grid(5, 5, 4, 4, policy="other"), "unknown policy"),
        (lambda: transforms.test_crops(0, 5, short_side=8, output=8, crops=1), "empty"),
        (lambda: transforms.invert_x(noise(2, 3, 4, 4)), "channels x, y"),
        (lambda: transforms.invert_x(torch.zeros(2, 4, 4)), "uint8"),
        (lambda: transforms.apply(torch.zeros(2, 3, 4, 4), Crop(0, 0, 4, 4, (4, 4), (4, 4))), "uint8"),
    ],
)
def test_errors_name_the_fix(make, message):
    with pytest.raises(ValueError, match=message):
        make()
