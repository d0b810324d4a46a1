"""The worked examples of the published program (MML, a descendant of TSM): `policy=code`, frames counted from 1."""

from __future__ import annotations

import numpy as np
import pytest

from mml_lightning import sampling
from tests.sampling.starts import WINDOWS, clips, one_based, support

BOTH = [4, 5, 9, 16, 18, 24, 26, 32]


def every(first: int, step: int, number: int = 8) -> list[int]:
    return list(range(first, first + step * number, step))


def drawn(counts, mode, seed):
    starts = sampling.train_starts(
        counts, WINDOWS, num_segments=8, mode=mode, policy="code", rng=np.random.RandomState(seed)
    )
    return [one_based(row) for row in starts.values()]


@pytest.mark.parametrize(
    ("counts", "mode", "seeds"),
    [
        ({"RGB": 37}, "uniform", ([[1, 8, 10, 13, 20, 24, 28, 32]], [[2, 8, 9, 13, 20, 22, 28, 30]])),
        ({"RGB": 37}, "dense", ([every(5, 4)], [every(4, 4)])),
        ({"RGB": 37}, "random", ([every(1, 4)], [BOTH])),
        ({"RGB": 20}, "dense", ([[1, 5, 9, 13, 17, 1, 5, 9]],) * 2),
        ({"RGB": 8}, "uniform", ([every(1, 1)],) * 2),
        ({"RGB": 7}, "uniform", ([[1] * 8],) * 2),
        ({"RGBDiff": 12}, "uniform", ([[1, 2, 4, 4, 4, 4, 5, 6]], [[1, 1, 2, 4, 4, 5, 6, 6]])),
        (
            {"RGB": 37, "Flow": 36},
            "uniform",
            (
                [[2, 9, 11, 14, 21, 25, 29, 33], [1, 8, 10, 13, 20, 24, 28, 32]],
                [[3, 9, 10, 14, 21, 23, 29, 31], [2, 8, 9, 13, 20, 22, 28, 30]],
            ),
        ),
        ({"RGB": 37, "Flow": 36}, "random", ([every(5, 4), every(4, 4)], [BOTH, BOTH])),
        (
            {"RGB": 37, "Flow": 30},
            "random",
            (
                [every(8, 4), every(1, 4)],
                [[8, 11, 15, 18, 20, 23, 27, 29], [1, 4, 8, 11, 13, 16, 20, 22]],
            ),
        ),
    ],
)
def test_training(counts, mode, seeds):
    for seed, expected in enumerate(seeds):
        assert drawn(counts, mode, seed) == expected


def test_three_modalities_drift_apart():
    counts = {"RGBDiff": 37, "Flow": 36, "RGB": 37}
    assert [rows[:3] for rows in drawn(counts, "uniform", 0)] == [[2, 9, 11], [1, 8, 10], [2, 9, 11]]
    assert [rows[:3] for rows in drawn(counts, "uniform", 1)] == [[3, 9, 10], [2, 8, 9], [2, 8, 9]]


def test_support_of_training():
    uniform = support({"RGB": 37}, 8, "uniform", "code")["RGB"] + 1
    assert [sorted(set(uniform[:, j])) for j in range(8)] == [every(4 * j + 1, 1, 4) for j in range(8)]
    assert set(support({"RGB": 37}, 8, "dense", "code")["RGB"][:, 0] + 1) == {1, 2, 3, 4, 5}
    assert set(support({"RGB": 34}, 8, "dense", "code")["RGB"][:, 0] + 1) == {1, 2}
    flow = support({"Flow": 11}, 8, "uniform", "code")["Flow"] + 1
    assert (np.diff(flow, axis=1) >= 0).all() and set(flow.ravel()) == set(range(1, 8))


def test_of_equal_modalities_the_first_decides_about_the_window():
    frames_first = support({"RGB": 9, "RGBDiff": 9}, 8, "uniform", "code", draws=200)["RGBDiff"]
    assert set(frames_first.ravel()) == set(range(8))  # past 9 - 6: these windows repeat the last frame
    windows_first = support({"RGBDiff": 9, "RGB": 9}, 8, "uniform", "code", draws=200)["RGB"]
    assert set(windows_first.ravel()) == set(range(4))


@pytest.mark.parametrize(
    ("modality", "count", "n", "expected"),
    [
        ("RGB", 37, 8, [3, 7, 12, 17, 21, 26, 31, 35]),
        ("RGB", 100, 8, [7, 19, 32, 44, 57, 69, 82, 94]),
        ("RGB", 9, 8, [1, 2, 3, 4, 6, 7, 8, 9]),
        ("RGB", 8, 8, [1] * 8),
        ("Flow", 36, 8, every(3, 4)),
        ("RGBDiff", 37, 8, every(3, 4)),
        ("Flow", 12, 8, [1] * 8),
        ("Flow", 13, 8, [1, 2, 3, 4, 6, 7, 8, 9]),
        ("RGBDiff", 14, 8, [1, 2, 3, 4, 6, 7, 8, 9]),
        ("RGB", 37, 16, [2, 4, 6, 9, 11, 13, 16, 18, 20, 22, 25, 27, 29, 32, 34, 36]),
    ],
)
def test_validation(modality, count, n, expected):
    for mode in ("uniform", "random"):
        starts = sampling.val_starts({modality: count}, WINDOWS, num_segments=n, mode=mode, policy="code")
        assert one_based(starts[modality]) == [expected]


def first_frames(count, dense, **options):
    return [clip[0] for clip in clips(count, uniform=0, dense=dense, policy="code", **options)]


def test_test_clips_of_ordinary_videos():
    half, zero = [3, 7, 12, 17, 21, 26, 31, 35], [1, 5, 10, 14, 19, 24, 28, 33]
    assert clips(37, uniform=2, dense=1, policy="code") == [every(3, 4), half, zero]
    assert [first_frames(37, k) for k in (1, 2, 3)] == [[3], [1, 6], [1, 3, 6]]
    assert first_frames(37, 10) == [1, 1, 2, 2, 3, 3, 4, 4, 5, 6]
    assert [first_frames(100, k) for k in (1, 2)] == [[35], [1, 69]]
    tsm = clips(100, uniform=0, dense=10, dense_length=64, policy="code")
    assert tsm == [every(first, 8) for first in range(1, 38, 4)]
    assert clips(36, modality="Flow", uniform=2, policy="code") == [every(3, 4), every(1, 4)]
    assert first_frames(36, 2, modality="Flow") == [1, 5]


def test_test_clips_of_short_videos():
    def both(count):
        return clips(count, uniform=1, dense=1, policy="code")

    assert both(8)[0] == [1, 5] * 4
    assert both(7) == [[1, 5, 2, 6, 3, 7, 4, 1], [1, 2, 3, 4, 4, 5, 6, 7]]
    assert both(5) == [[1, 5, 4, 3, 2, 1, 5, 4], [1, 1, 2, 3, 3, 4, 5, 5]]
    assert clips(6, modality="Flow", policy="code") == [[1, 1, 1, 1, 2, 2, 2, 2]]
    assert clips(4, modality="Flow", policy="code") == [[1] * 8]
    assert clips(2, modality="Flow", policy="code") == [[1, 1, 1, 1, 0, 0, 0, 0]]
    wrapped = clips(37, uniform=0, dense=10, dense_length=64, policy="code")
    assert wrapped == [[1, 9, 17, 25, 33, 4, 12, 20]] * 10


@pytest.mark.parametrize(("uniform", "dense"), [(1, 0), (2, 0), (0, 3), (1, 3), (2, 3)])
def test_clips_per_crop(uniform, dense):
    """Flags of the program: none, twice, dense, random, random and twice; dense clips come first."""
    rows = clips(37, uniform=uniform, dense=dense, policy="code")
    assert len(rows) == uniform + dense
    assert rows[:dense] == [every(first, 4) for first in (1, 3, 6)][:dense]
    assert [row[0] for row in rows[dense:]] == [3, 1][:uniform]
