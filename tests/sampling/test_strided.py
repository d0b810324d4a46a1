"""Strided clips: those of PySlowFast (`code`, `paper`) and ours (`fixed`)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mml_lightning import sampling
from mml_lightning.sampling.slowfast_code import span
from tests.sampling.starts import WINDOWS, support, train


def clamped(first: int, count: int, n: int = 8, stride: int = 8) -> tuple[int, ...]:
    return tuple(min(max(first + k * stride, 0), count - 1) for k in range(n))


def views(count, number, n=8, stride=8, policy="code", modality="RGB"):
    starts = sampling.test_starts(
        {modality: count}, WINDOWS, num_segments=n, uniform=0, strided=number, stride=stride, policy=policy
    )[modality]
    assert starts.dtype == np.int64
    return starts.tolist()


def validation(counts, policy, rng=None):
    return sampling.val_starts(counts, WINDOWS, num_segments=8, mode="strided", stride=8, policy=policy, rng=rng)


def test_spans():
    assert [span(n, stride) for n, stride in ((8, 8), (32, 2), (32, 4), (64, 2))] == [57, 63, 125, 127]


@pytest.mark.parametrize("policy", ["code", "paper"])
@pytest.mark.parametrize(
    ("count", "firsts"), [(100, range(44)), (58, range(2)), (57, range(1)), (56, range(-1, 1)), (30, range(-27, 1))]
)
def test_slowfast_training_starts_anywhere_even_before_a_short_video(policy, count, firsts):
    seen = support({"RGB": count}, 8, "strided", policy, stride=8)["RGB"]
    assert {tuple(row) for row in seen.tolist()} == {clamped(first, count) for first in firsts}


def test_slowfast_training_is_uniform():
    first = support({"RGB": 61}, 8, "strided", "code", draws=5000, stride=8)["RGB"][:, 0]
    assert np.bincount(first, minlength=5).min() > 850 and first.max() == 4


def test_slowfast_test_views():
    firsts = [0, 5, 10, 14, 19, 24, 29, 33, 38, 43]  # i 43 / 9
    assert views(100, 10) == [list(clamped(first, 100)) for first in firsts]
    # halves go to the even neighbour: 1/2 to 0, 3/2 to 2, 5/2 to 2
    assert [views(57 + slack, 3)[1][0] for slack in (1, 3, 5)] == [0, 2, 2]
    # too short: every view is the same, and repeats the last frame
    assert views(30, 3) == [[0, 8, 16, 24, 29, 29, 29, 29]] * 3
    assert views(1, 2) == [[0] * 8] * 2


def test_a_single_view_is_central_where_slowfast_divides_by_zero():
    assert [views(57 + slack, 1)[0][0] for slack in (0, 2, 43, 44)] == [0, 1, 22, 22]
    assert views(101, 1, policy="fixed")[0][0] == 22 and views(100, 1, policy="fixed")[0][0] == 21


def test_published_clips_place_all_modalities_by_one_number():
    seen = support({"RGB": 100, "RGBDiff": 100, "Flow": 99}, 8, "strided", "code", draws=500, stride=8)
    assert (seen["RGB"] == seen["RGBDiff"]).all()
    assert set((seen["RGB"] - seen["Flow"]).ravel()) == {0, 1}


@given(st.integers(1, 150), st.integers(1, 12), st.integers(1, 12), st.integers(1, 12))
def test_slowfast_views_follow_the_printed_rule(count, n, stride, number):
    slack = max(count - ((n - 1) * stride + 1), 0)
    firsts = [round(i * slack / (number - 1)) for i in range(number)] if number > 1 else [round(slack / 2)]
    assert views(count, number, n, stride) == [list(clamped(first, count, n, stride)) for first in firsts]


# Our rule


def test_fixed_strided_clips_use_all_places_of_the_window():
    flow = support({"Flow": 70}, 8, "strided", "fixed", stride=8)["Flow"]
    assert set(flow[:, 0]) == set(range(10))  # 70 - 5 + 1 starts, 56 of them between the first and the last
    assert (np.diff(flow, axis=1) == 8).all()
    assert views(70, 3, policy="fixed", modality="Flow") == [[9 * i // 2 + 8 * k for k in range(8)] for i in range(3)]


def test_fixed_strided_clips_shrink_where_slowfast_repeats_the_edge():
    assert views(30, 2, policy="fixed") == [[29 * k // 7 for k in range(8)]] * 2
    assert train({"RGB": 30}, 8, "strided", stride=8)["RGB"].tolist() == [29 * k // 7 for k in range(8)]


@given(st.integers(1, 200), st.integers(1, 20), st.integers(1, 12), st.integers(0, 9), st.sampled_from(list(WINDOWS)))
def test_fixed_strided_is_dense_with_the_stride_given(count, n, stride, seed, modality):
    counts, length = {modality: count}, n * stride
    strided = train(counts, n, "strided", seed=seed, stride=stride)
    dense = train(counts, n, "dense", seed=seed, dense_length=length)
    assert (strided[modality] == dense[modality]).all()
    options = {"num_segments": n, "uniform": 0, "dense_length": length, "stride": stride}
    placed = [sampling.test_starts(counts, WINDOWS, **options, **{mode: 3})[modality] for mode in ("strided", "dense")]
    assert (placed[0] == placed[1]).all()


# Validation


def test_validation_is_the_central_clip_and_random_only_in_the_program():
    for policy in ("fixed", "paper"):
        expected = {"fixed": 21, "paper": 22}[policy]  # 43 / 2 down; to even
        assert validation({"RGB": 100}, policy)["RGB"].tolist() == [list(range(expected, expected + 57, 8))]
    other = sampling.val_starts({"RGB": 100}, WINDOWS, num_segments=4, mode="strided", stride=3)["RGB"]
    assert other.tolist() == [[45, 48, 51, 54]]
    rng = np.random.default_rng(0)
    starts = [validation({"RGB": 100}, "code", rng)["RGB"] for _ in range(400)]
    assert {start.shape for start in starts} == {(1, 8)}
    assert {int(start[0, 0]) for start in starts} == set(range(44))
    with pytest.raises(ValueError, match="strided clips at random: pass rng"):
        validation({"RGB": 100}, "code")


def test_negative_numbers_of_clips_are_refused():
    with pytest.raises(ValueError, match="strided=-1: ask for at least one clip"):
        views(30, -1)
