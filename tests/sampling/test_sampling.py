from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mml_lightning import sampling
from tests.sampling.starts import WINDOWS, clips, one_based, support, train

VECTORS = Path(__file__).parents[1] / "vectors"
MODES = {"uniform": "uniform", "dense": "dense", "random(50/50)": "random"}
CLIPS = {
    "uniform1": (1, 0),
    "uniform2(twice)": (2, 0),
    "dense1": (0, 1),
    "dense2": (0, 2),
    "dense10": (0, 10),
    "dense1+uniform1(random)": (1, 1),
    "dense1+uniform2(random,twice)": (2, 1),
    "dense2+uniform2(random,twice)": (2, 2),
}

counts_st = st.dictionaries(st.sampled_from(sorted(WINDOWS)), st.integers(1, 120), min_size=1)
segments_st = st.integers(1, 20)
length_st = st.integers(1, 80)
stride_st = st.integers(1, 12)
mode_st = st.sampled_from(["uniform", "dense", "random", "strided"])
seed_st = st.integers(0, 2**32 - 1)
clips_st = st.tuples(*[st.integers(0, 5)] * 3).filter(lambda numbers: sum(numbers) > 0)


# Reference vectors of the published program


def replay(vector: dict) -> None:
    n = vector["N"]
    if vector["split"] == "train":
        counts = dict(zip(vector["modalities"], vector["T"], strict=True))
        starts = sampling.train_starts(
            counts,
            WINDOWS,
            num_segments=n,
            mode=MODES[vector["strategy"]],
            dense_length=vector["dense_length"],
            policy="code",
            rng=np.random.RandomState(vector["seed"]),
        )
        assert list(starts) == vector["modalities"]
        assert [one_based(starts[name]) for name in vector["modalities"]] == vector["indices"], vector
        return
    name, counts = vector["modality"], {vector["modality"]: vector["T"]}
    if vector["split"] == "val":
        assert vector["strategy"] == "uniform"
        starts = sampling.val_starts(counts, WINDOWS, num_segments=n, policy="code")
        assert one_based(starts[name]) == [vector["indices"]], vector
        return
    assert vector["split"] == "test"
    uniform, dense = CLIPS[vector["strategy"]]
    starts = sampling.test_starts(
        counts,
        WINDOWS,
        num_segments=n,
        uniform=uniform,
        dense=dense,
        dense_length=vector["dense_length"],
        policy="code",
    )
    assert one_based(starts[name]) == vector["clips"], vector


def test_all_reference_vectors():
    vectors = json.loads((VECTORS / "mml_sampling.json").read_text())["sampling"]
    ran = {"train": 0, "val": 0, "test": 0}
    for vector in vectors:
        replay(vector)
        ran[vector["split"]] += 1
    assert ran == {"train": 111, "val": 15, "test": 185}


def test_no_reference_vector_is_missing():
    """All files of vectors, so that a copy that lost some can't pass."""
    files = ("mml_sampling", "mml_channel_order", "mml_crops", "temporal_shift")
    starts, channels, crops, shifts = (json.loads((VECTORS / f"{name}.json").read_text()) for name in files)
    draws = [draw for case in crops["cases"] for seed in case["draws"] for draw in seed["draws_w_h_x_y"]]
    assert (len(starts["sampling"]), len(channels["cases"]), len(shifts)) == (311, 8, 3)
    assert (len(crops["cases"]), len(draws), len(crops["offset_grid_340x256_crop224x192"])) == (6, 72, 13)


def test_reference_windows():
    """Starts and windows together give the stacked channels of the published loader."""
    cases = json.loads((VECTORS / "mml_channel_order.json").read_text())["cases"]
    images = {
        "RGB": lambda i: [i, i + 50, i + 100],
        "RGBDiff": lambda i: [i, i + 50, i + 100],
        "Flow": lambda i: [i, i + 100],
    }
    for case in cases:
        counts = {name: case["T"][name] for name in case["modalities"]}
        # Of two equal modalities the published loader reads one list and appends each image twice in a row.
        twice = 1 + (len(counts) < len(case["modalities"]))
        rng = np.random.RandomState(case["seed"])
        starts = sampling.train_starts(counts, WINDOWS, num_segments=case["N"], mode="uniform", policy="code", rng=rng)
        windows = {name: sampling.window_indices(starts[name], WINDOWS[name], counts[name]) for name in counts}
        channels = [
            value
            for segment in range(case["N"])
            for name in counts
            for item in windows[name][segment]
            for _ in range(twice)
            for value in images[name](int(item) + 1)
        ]
        assert channels == case["channel_values"], case["modalities"]
    assert len(cases) == 8


def test_code_dense_validation_is_random_and_one_draw_per_modality():
    counts = {"RGB": 40, "Flow": 39}
    rng, same = np.random.RandomState(3), np.random.RandomState(3)
    starts = sampling.val_starts(counts, WINDOWS, num_segments=8, mode="dense", policy="code", rng=rng)
    for name, count in counts.items():
        assert starts[name].tolist() == [list(range(int(same.randint(count - 32)), 40, 4))[:8]]
    with pytest.raises(ValueError, match="rng"):
        sampling.val_starts(counts, WINDOWS, num_segments=8, mode="dense", policy="code")


def test_code_rejects_what_the_program_rejects():
    with pytest.raises(ValueError, match="policy='fixed'"):
        train({"Flow": 4}, 3, policy="code")
    assert train({"Flow": 4}, 3)["Flow"].tolist() == [0, 0, 0]


def test_negative_published_starts_are_clamped_when_read():
    assert clips(2, modality="Flow", policy="code") == [[1, 1, 1, 1, 0, 0, 0, 0]]
    assert sampling.window_indices([-1, 0], 3, 2).tolist() == [[0, 0, 1], [0, 1, 1]]


# Properties of the fixed policy


@pytest.mark.parametrize(
    ("mode", "rgb", "flow"),
    [
        ("uniform", [8, 16, 26, 38, 61, 74, 83, 97], [8, 16, 25, 36, 58, 71, 79, 92]),
        ("dense", [46, 50, 54, 58, 62, 66, 70, 74], [43, 47, 51, 55, 59, 63, 67, 71]),  # .637 of 72 and of 67 places
        ("random", [4, 14, 26, 48, 62, 71, 85, 95], [4, 13, 24, 46, 59, 67, 80, 90]),
    ],
)
def test_fixed_draws_stay_as_they_are(mode, rgb, flow):
    """Published numbers of this package hang on them: whoever changes them changes `config.revisions`, too."""
    starts = train({"RGB": 100, "Flow": 99}, 8, mode)
    assert (one_based(starts["RGB"]), one_based(starts["Flow"])) == (rgb, flow)


@given(counts_st, segments_st, length_st, stride_st, mode_st, seed_st)
def test_fixed_training(counts, n, length, stride, mode, seed):
    starts = train(counts, n, mode, seed=seed, dense_length=length, stride=stride)
    assert list(starts) == list(counts)
    for name, count in counts.items():
        row, last = starts[name], max(0, count - WINDOWS[name])
        assert row.shape == (n,) and row.dtype == np.int64
        assert row.min() >= 0 and row.max() <= last and (np.diff(row) >= 0).all()
        items = sampling.window_indices(row, WINDOWS[name], count)
        assert items.min() >= 0 and items.max() < count
        if count >= WINDOWS[name]:
            assert (np.diff(items, axis=-1) == 1).all()


@given(st.integers(7, 300), segments_st, length_st, stride_st, mode_st, seed_st, clips_st)
def test_the_frame_of_rgb_is_in_the_window_of_its_companions(count, n, length, stride, mode, seed, number):
    """And rgb draws the same frames with and without them."""
    together = {"RGB": count, "Flow": count - 1, "RGBDiff": count}
    uniform, dense, strided = number
    protocol = {"num_segments": n, "dense_length": length, "stride": stride}
    protocol |= {"uniform": uniform, "dense": dense, "strided": strided}
    for drawn, alone in (
        (
            train(together, n, mode, seed=seed, dense_length=length, stride=stride),
            train({"RGB": count}, n, mode, seed=seed, dense_length=length, stride=stride),
        ),
        (
            sampling.test_starts(together, WINDOWS, **protocol),
            sampling.test_starts({"RGB": count}, WINDOWS, **protocol),
        ),
    ):
        assert (drawn["RGB"] == alone["RGB"]).all()
        for name, frames in (("Flow", 6), ("RGBDiff", 6)):  # five pairs are six frames
            ahead = drawn["RGB"] - drawn[name]
            assert ahead.min() >= 0 and ahead.max() < frames


@given(counts_st, segments_st, length_st, stride_st, mode_st, seed_st, st.sampled_from(["fixed", "paper"]))
def test_order_of_modalities_is_irrelevant(counts, n, length, stride, mode, seed, policy):
    turned = dict(reversed(counts.items()))
    one = train(counts, n, mode, seed=seed, dense_length=length, stride=stride, policy=policy)
    two = train(turned, n, mode, seed=seed, dense_length=length, stride=stride, policy=policy)
    again = train(counts, n, mode, seed=seed, dense_length=length, stride=stride, policy=policy)
    for name in counts:
        assert one[name].tolist() == two[name].tolist() == again[name].tolist()


@given(counts_st, segments_st, length_st, stride_st, clips_st)
def test_fixed_test_clips(counts, n, length, stride, number):
    uniform, dense, strided = number
    starts = sampling.test_starts(
        counts,
        WINDOWS,
        num_segments=n,
        uniform=uniform,
        dense=dense,
        strided=strided,
        dense_length=length,
        stride=stride,
    )
    for name, count in counts.items():
        rows, last = starts[name], max(0, count - WINDOWS[name])
        assert rows.shape == (uniform + dense + strided, n)
        assert rows.min() >= 0 and rows.max() <= last and (np.diff(rows, axis=1) >= 0).all()
        assert (np.diff(rows[:dense], axis=0) >= 0).all() and (np.diff(rows[uniform + dense :], axis=0) >= 0).all()
        if dense > 1 and (last + 1) > max(1, length // n) * (n - 1):
            assert rows[0, 0] == 0 and rows[dense - 1, -1] == last


@given(counts_st, segments_st, length_st, stride_st, clips_st, st.sampled_from(["fixed", "paper"]), mode_st, seed_st)
def test_items_stay_inside_the_video(counts, n, length, stride, number, policy, mode, seed):
    uniform, dense, strided = number
    placed = sampling.test_starts(
        counts,
        WINDOWS,
        num_segments=n,
        uniform=uniform,
        dense=dense,
        strided=strided,
        dense_length=length,
        stride=stride,
        policy=policy,
    )
    drawn = train(counts, n, mode, seed=seed, dense_length=length, stride=stride, policy=policy)
    checked = sampling.val_starts(counts, WINDOWS, num_segments=n, mode=mode, policy=policy)
    for name, count in counts.items():
        for starts in (placed[name], drawn[name], checked[name]):
            assert starts.min() >= 0 and starts.max() < count
            assert (np.diff(starts, axis=-1) >= 0).all()
        assert checked[name].shape == (1, n)


@given(st.integers(1, 30), st.integers(1, 10), st.sampled_from(["uniform", "dense", "strided"]))
def test_fixed_training_reaches_every_start(extra, n, mode):
    rng = np.random.default_rng(0)
    counts = {"RGB": extra + 5, "Flow": extra + 4}
    seen: set[int] = set()
    for _ in range(1000):
        row = sampling.train_starts(counts, WINDOWS, num_segments=n, mode=mode, dense_length=n, stride=1, rng=rng)[
            "RGB"
        ]
        seen.update(row.tolist())
    if mode == "uniform" or n <= extra:
        assert seen == set(range(extra + 5))


@given(st.integers(1, 12), st.integers(1, 40))
def test_short_videos_repeat_evenly(count, n):
    repeats = np.bincount(np.array(clips(count, n)[0]) - 1, minlength=count)
    if count <= n:
        assert repeats.max() - repeats.min() <= 1 and repeats.min() >= 1


def test_random_mode_is_a_fair_coin():
    rows = support({"RGB": 200}, 8, "random", "fixed", draws=2000)["RGB"]
    dense = (np.diff(rows, axis=1) == 4).all(axis=1).mean()
    assert 0.45 < dense < 0.55


def test_returned_arrays_are_independent():
    starts = train({"RGB": 30, "Flow": 29}, 4)
    starts["RGB"][:] = -7
    assert starts["Flow"].min() >= 0


def test_legacy_and_new_generators_both_work():
    for rng in (np.random.RandomState(0), np.random.default_rng(0)):
        for mode in ("uniform", "dense", "random", "strided"):
            for policy in ("code", "paper", "fixed"):
                starts = sampling.train_starts({"RGB": 50}, WINDOWS, num_segments=4, mode=mode, policy=policy, rng=rng)
                assert starts["RGB"].dtype == np.int64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counts": {"RGB": 0}}, "drop this video"),
        ({"counts": {}}, "at least one modality"),
        ({"counts": {"audio": 9}}, "add it to windows"),
        ({"windows": {"RGB": 0}}, "at least 1"),
        ({"num_segments": 0}, "num_segments"),
        ({"dense_length": 0}, "dense_length"),
        ({"stride": 0}, "stride is 0"),
        ({"mode": "sparse"}, "unknown mode"),
        ({"policy": "other"}, "unknown policy"),
        ({"rng": 3}, "default_rng"),
        ({"rng": 3, "mode": "dense"}, "default_rng"),
        ({"rng": 3, "mode": "strided"}, "default_rng"),
    ],
)
def test_errors_name_the_fix(change, message):
    arguments = {
        "counts": {"RGB": 9},
        "windows": WINDOWS,
        "num_segments": 4,
        "mode": "uniform",
        "rng": np.random.default_rng(0),
    }
    with pytest.raises(ValueError, match=message):
        sampling.train_starts(**(arguments | change))


def test_no_clip_and_empty_windows_are_errors():
    with pytest.raises(ValueError, match="at least one clip"):
        clips(9, uniform=0)
    with pytest.raises(ValueError, match="unknown mode"):
        sampling.val_starts({"RGB": 9}, WINDOWS, num_segments=2, mode="sparse")
    for window, count in ((0, 4), (1, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            sampling.window_indices([0], window, count)
