"""The crops of the SlowFast family, training and test, and resizing without antialiasing."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mml_lightning import transforms
from mml_lightning.transforms import Crop, JitterGeometry

side_st = st.integers(1, 500)
seed_st = st.integers(0, 10_000)


class Answers(random.Random):
    """A generator that gives prepared answers and keeps the questions."""

    def __init__(self, *answers: float) -> None:
        super().__init__(0)
        self.answers, self.asked = list(answers), []

    def uniform(self, a: float, b: float) -> float:
        self.asked.append((a, b))
        return self.answers.pop(0)

    def randint(self, a: int, b: int) -> int:
        self.asked.append((a, b))
        return int(self.answers.pop(0))


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def places(crops: list[Crop]) -> list[tuple[int, int]]:
    return [(crop.x, crop.y) for crop in crops]


# Training


@pytest.mark.parametrize(("policy", "missed"), [("code", 1), ("paper", 1), ("fixed", 0)])
def test_inverse_uniform_draws_side_then_y_then_x(policy, missed):
    rng = Answers(1 / 300.4, 7, 11)
    crop = JitterGeometry(224, (256, 340), flip=0.0, policy=policy).draw(320, 240, rng)
    assert crop == Crop(11, 7, 224, 224, reference=(320, 240), output=(224, 224), resize=(400, 300), antialias=False)
    assert rng.asked == [(1 / 340, 1 / 256), (0, 300 - 224 - missed), (0, 400 - 224 - missed)]


def test_uniform_jitter_draws_whole_sides_and_takes_every_place():
    for policy in ("code", "fixed"):
        rng = Answers(300, 76, 176)
        crop = JitterGeometry(224, (256, 320), inverse=False, flip=0.0, policy=policy).draw(320, 240, rng)
        assert (crop.resize, crop.x, crop.y) == ((400, 300), 176, 76)
        assert rng.asked == [(256, 320), (0, 76), (0, 176)]


def test_inverse_uniform_favours_small_sides():
    def sides(inverse):
        geometry, rng = JitterGeometry(224, (256, 340), inverse=inverse), random.Random(0)
        return [min(geometry.draw(640, 480, rng).resize) for _ in range(4000)]

    whole, inverse = sides(False), sides(True)
    assert set(whole) == set(range(256, 341)) and min(inverse) == 256 and max(inverse) == 340
    # P(s < 292) = (1/256 - 1/291.5) / (1/256 - 1/340) = 0.493; of whole sides it is 36 / 85
    assert abs(sum(side < 292 for side in inverse) / 4000 - 0.493) < 0.025
    assert abs(sum(side < 292 for side in whole) / 4000 - 36 / 85) < 0.025


def test_a_frame_of_the_drawn_size_is_not_resized():
    crop = JitterGeometry(224, (256, 256)).draw(455, 256, random.Random(0))
    assert crop.resize is None and 0 <= crop.x <= 455 - 224
    portrait = JitterGeometry(224, (256, 256)).draw(240, 320, random.Random(0))
    assert portrait.resize == (256, 341)


def test_a_frame_as_large_as_the_crop_has_one_place():
    for policy in ("code", "fixed"):
        crop = JitterGeometry(224, (224, 224), policy=policy).draw(240, 240, random.Random(0))
        assert (crop.x, crop.y, crop.resize) == (0, 0, (224, 224))


def test_the_last_place_is_reached_by_fixed_only():
    for policy, last in (("code", 2), ("fixed", 3)):
        geometry, rng = JitterGeometry(5, (8, 8), policy=policy), random.Random(0)
        drawn = [geometry.draw(8, 8, rng) for _ in range(300)]
        assert {crop.x for crop in drawn} == {crop.y for crop in drawn} == set(range(last + 1))


@given(side_st, side_st, st.integers(1, 60), st.integers(0, 40), st.integers(0, 40), st.booleans(), seed_st)
def test_drawn_crops_fit(width, height, output, margin, spread, inverse, seed):
    low = output + margin
    for policy in ("code", "fixed"):
        geometry = JitterGeometry(output, (low, low + spread), inverse=inverse, policy=policy)
        crop = geometry.draw(width, height, random.Random(seed))
        assert low <= min(crop.resize or (width, height)) <= low + spread
        assert crop.output == (crop.width, crop.height) == (output, output)
        assert crop == geometry.draw(width, height, random.Random(seed))


def test_flip_is_drawn_last():
    plain = JitterGeometry(8, (10, 12), flip=0.0).draw(30, 20, random.Random(3))
    flipped = JitterGeometry(8, (10, 12), flip=1.0).draw(30, 20, random.Random(3))
    assert flipped.flip and places([plain]) == places([flipped]) and plain.resize == flipped.resize
    drawn = [JitterGeometry(8, (10, 12)).draw(30, 20, random.Random(s)).flip for s in range(400)]
    assert 150 < sum(drawn) < 250


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 400))
def test_long_side_is_cut_down(width, height, short):
    exact, floats = (transforms.scaled_size(width, height, short, policy) for policy in ("fixed", "code"))
    longer = max(width, height) * short // min(width, height)
    assert sorted(exact) == sorted((short, longer)) if min(width, height) != short else exact == (width, height)
    assert max(exact) - 1 <= max(floats) <= max(exact)
    assert (exact[0] >= exact[1]) == (width >= height) or exact[0] == exact[1]


def test_the_float_ratio_of_the_program_can_lose_a_pixel():
    lost = [
        (long, short, side)
        for long, short, side in ((a, b, s) for a in range(90, 110) for b in range(80, 90) for s in (256, 270, 340))
        if math.floor(long / short * side) != long * side // short
    ]
    long, short, side = lost[0]
    assert transforms.scaled_size(long, short, side, "code")[0] == long * side // short - 1
    assert transforms.scaled_size(long, short, side)[0] == long * side // short


# Test crops


def test_three_slowfast_crops():
    """At 0, ceil((D - 256) / 2) and D - 256 of the longer side D."""
    landscape = transforms.test_crops(455, 256, short_side=256, output=256, crops=3, rule="slowfast")
    assert places(landscape) == [(0, 0), (100, 0), (199, 0)]
    portrait = transforms.test_crops(256, 455, short_side=256, output=256, crops=3, rule="slowfast")
    assert places(portrait) == [(0, 0), (0, 100), (0, 199)]
    smaller = transforms.test_crops(341, 256, short_side=256, output=224, crops=3, rule="slowfast")
    assert places(smaller) == [(0, 16), (59, 16), (117, 16)]
    (centre,) = transforms.test_crops(341, 256, short_side=256, output=224, crops=1, rule="slowfast")
    assert (centre.x, centre.y) == (59, 16)


def test_three_tsm_crops_lie_along_the_width():
    def three(width, height, output, rule):
        return places(transforms.test_crops(width, height, short_side=256, output=output, crops=3, rule=rule))

    assert three(455, 256, 256, "tsm") == three(455, 256, 256, "fixed") == [(0, 0), (196, 0), (98, 0)]
    # the program's three crops of a portrait frame are one
    assert three(256, 455, 256, "tsm") == [(0, 98)] * 3
    assert three(256, 455, 224, "tsm") == [(0, 114), (32, 114), (16, 114)]
    assert three(256, 455, 256, "fixed") == [(0, 0), (0, 196), (0, 98)]


@given(side_st, side_st, st.integers(1, 40), st.integers(0, 40), st.sampled_from([1, 3]))
def test_slowfast_views_fit(width, height, output, margin, crops):
    views = transforms.TestGeometry(output, output + margin, crops, "slowfast", False).views(width, height)
    assert len(views) == crops and not any(view.flip or view.antialias for view in views)


# Resizing


def test_antialiasing_is_the_choice_of_the_crop():
    clip = noise(2, 3, 40, 60)
    whole = {"reference": (60, 40), "output": (15, 10)}
    for antialias in (True, False):
        crop = Crop(0, 0, 60, 40, antialias=antialias, **whole)
        expected = torch.nn.functional.interpolate(clip.float(), size=(10, 15), mode="bilinear", antialias=antialias)
        assert (transforms.apply(clip, crop).float() - expected).abs().max() <= 1.01
    sharp, smooth = (transforms.apply(clip, Crop(0, 0, 60, 40, antialias=a, **whole)).float().std() for a in (0, 1))
    assert sharp > 1.4 * smooth


def test_frames_resized_both_ways_are_kept_apart():
    clip = noise(1, 1, 40, 60)
    crops = [
        transforms.test_crops(60, 40, short_side=10, output=10, crops=1, antialias=antialias)[0]
        for antialias in (True, False)
    ]
    views = transforms.apply_views(clip, crops)
    assert not torch.equal(*views)
    assert all(torch.equal(view, transforms.apply(clip, crop)) for view, crop in zip(views, crops, strict=True))


def test_multi_scale_crops_can_do_without_antialiasing():
    for antialias in (True, False):
        geometry = transforms.TrainGeometry(32, antialias=antialias)
        assert geometry.draw(90, 70, random.Random(0)).antialias is antialias


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: JitterGeometry(224, (200, 340)), "from output=224 up"),
        (lambda: JitterGeometry(224, (340, 256)), "smallest and the largest"),
        (lambda: JitterGeometry(224, (256,)), "smallest and the largest"),
        (lambda: JitterGeometry(0, (256, 320)), "jitter"),
        (lambda: JitterGeometry(flip=2.0), "probability"),
        (lambda: JitterGeometry(policy="other"), "unknown policy"),
        (lambda: JitterGeometry().draw(0, 5, random.Random(0)), "empty"),
        (lambda: transforms.TestGeometry(rule="mine"), "fixed, tsm, slowfast"),
        (lambda: transforms.TestGeometry(crops=10, rule="slowfast"), "use 1 or 3 with crop_rule slowfast"),
    ],
)
def test_errors_name_the_fix(make, message):
    with pytest.raises(ValueError, match=message):
        make()
