from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mml_lightning import sampling

VECTORS = Path(__file__).parent / "vectors"
WINDOWS = {"RGB": 1, "Flow": 5, "RGBDiff": 6}
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
mode_st = st.sampled_from(["uniform", "dense", "random"])
seed_st = st.integers(0, 2**32 - 1)
clips_st = st.tuples(st.integers(0, 5), st.integers(0, 5)).filter(lambda pair: sum(pair) > 0)


def one_based(starts: np.ndarray) -> list:
    assert starts.dtype == np.int64
    return (starts + 1).tolist()


def train(counts, n, mode="uniform", *, seed=0, policy="fixed", dense_length=32, windows=WINDOWS):
    rng = np.random.default_rng(seed)
    return sampling.train_starts(
        counts, windows, num_segments=n, mode=mode, dense_length=dense_length, policy=policy, rng=rng
    )


def support(counts, n, mode, policy, draws=3000, windows=WINDOWS):
    rng = np.random.default_rng(1)
    rows = [
        sampling.train_starts(counts, windows, num_segments=n, mode=mode, policy=policy, rng=rng) for _ in range(draws)
    ]
    return {name: np.stack([row[name] for row in rows]) for name in counts}


def clips(count, n=8, modality="RGB", **options):
    return one_based(sampling.test_starts({modality: count}, WINDOWS, num_segments=n, **options)[modality])


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


# Paper against code against fixed: the numbered differences of the two sources


def test_d1_uniform_training_reaches_the_tail_only_beyond_code():
    seen = {policy: support({"RGB": 37}, 8, "uniform", policy)["RGB"] for policy in ("code", "paper", "fixed")}
    assert [sorted(set(seen["code"][:, j] + 1)) for j in (0, 7)] == [[1, 2, 3, 4], [29, 30, 31, 32]]
    for policy in ("paper", "fixed"):
        assert set(seen[policy].ravel()) == set(range(37))
        assert set(seen[policy][:, 0]) == {0, 1, 2, 3, 4} and seen[policy][:, 7].min() == 32


def test_d2_d4_dense_training_starts():
    first = {p: set(support({"RGB": 37}, 8, "dense", p)["RGB"][:, 0] + 1) for p in ("code", "paper", "fixed")}
    assert first["code"] == set(range(1, 6))
    # T' = 37 - 4 * 7 = 9 starts; the last one ends on the last frame.
    assert first["paper"] == first["fixed"] == set(range(1, 10))
    assert set(support({"RGB": 34}, 8, "dense", "code")["RGB"][:, 0] + 1) == {1, 2}
    # T = D + 1 never moves in the published program.
    assert set(support({"RGB": 33}, 8, "dense", "code")["RGB"][:, 0]) == {0}


def test_d3_only_paper_ignores_the_window():
    assert support({"Flow": 36}, 8, "uniform", "paper")["Flow"].max() == 35
    assert support({"Flow": 36}, 8, "uniform", "fixed")["Flow"].max() == 31
    assert clips(36, modality="Flow", policy="paper") == clips(36, policy="paper")
    assert clips(36, modality="Flow", policy="code") == clips(36, modality="Flow") == [[3, 7, 11, 15, 19, 23, 27, 31]]


def test_d5_single_dense_clip():
    assert clips(37, uniform=0, dense=1, policy="code") == [list(range(3, 32, 4))]
    assert clips(37, uniform=0, dense=1, policy="paper") == [list(range(5, 34, 4))]
    assert clips(37, uniform=0, dense=1) == [list(range(5, 34, 4))]
    assert clips(100, uniform=0, dense=1, policy="code")[0][0] == 35
    # T' = 10: start 10 / 2 in the paper, the middle of 0 .. 9 rounded down here.
    assert [clips(38, uniform=0, dense=1, policy=policy)[0][0] for policy in ("paper", "fixed")] == [6, 5]


def test_d6_several_dense_clips():
    assert [clip[0] for clip in clips(37, uniform=0, dense=3, policy="code")] == [1, 3, 6]
    assert [clip[0] for clip in clips(37, uniform=0, dense=3, policy="paper")] == [1, 5, 9]
    assert [clip[0] for clip in clips(37, uniform=0, dense=3)] == [1, 5, 9]
    # T' = 10: the paper's middle clip starts at 10 / 2, half way between the legal starts 0 and 9 is 4.
    assert [clip[0] for clip in clips(38, uniform=0, dense=3, policy="paper")] == [1, 6, 10]
    assert [clip[0] for clip in clips(38, uniform=0, dense=3)] == [1, 5, 10]
    assert clips(38, uniform=0, dense=2)[1][-1] == 38
    ten = clips(100, uniform=0, dense=10, dense_length=64, policy="code")
    assert [clip[0] for clip in ten] == list(range(1, 38, 4))


def test_d7_single_uniform_clip():
    half, zero = [3, 7, 12, 17, 21, 26, 31, 35], [1, 5, 10, 14, 19, 24, 28, 33]
    assert clips(37, policy="code") == clips(37) == [half]
    assert clips(37, policy="paper") == [zero]


def test_d8_any_number_of_uniform_clips():
    half, zero = [3, 7, 12, 17, 21, 26, 31, 35], [1, 5, 10, 14, 19, 24, 28, 33]
    assert clips(37, uniform=2, policy="code") == clips(37, uniform=2) == [half, zero]
    assert clips(37, uniform=2, policy="paper") == [zero, half]
    third = [zero, [2, 7, 11, 16, 21, 25, 30, 34], [4, 8, 13, 17, 22, 27, 31, 36]]
    assert clips(37, uniform=3, policy="paper") == third
    assert clips(37, uniform=3) == third[::-1]
    with pytest.raises(ValueError, match="at most 2"):
        clips(37, uniform=3, policy="code")


def test_d9_stride_shrinks_where_code_wraps():
    assert clips(7, uniform=0, dense=1, policy="code") == [[1, 5, 2, 6, 3, 7, 4, 1]]
    for policy in ("paper", "fixed"):
        assert clips(7, uniform=0, dense=1, policy=policy) == [[1, 1, 2, 3, 4, 5, 6, 7]]
        assert clips(20, uniform=0, dense=1, policy=policy) == [[1, 3, 6, 9, 11, 14, 17, 20]]


def test_d10_offsets_between_modalities():
    counts = {"RGBDiff": 37, "Flow": 36, "RGB": 37}
    seen = {policy: support(counts, 8, "uniform", policy, draws=300) for policy in ("code", "paper", "fixed")}
    assert (seen["code"]["RGBDiff"] != seen["code"]["RGB"]).any()
    assert (seen["paper"]["RGBDiff"] == seen["paper"]["RGB"]).all()
    assert set((seen["paper"]["RGB"] - seen["paper"]["Flow"]).ravel()) == {0, 1}
    assert (seen["fixed"]["RGB"] == support({"RGB": 37}, 8, "uniform", "fixed", draws=300)["RGB"]).all()
    assert set((seen["fixed"]["RGB"] - seen["fixed"]["Flow"]).ravel()) == set(range(6))  # a frame of the flow window


def test_d11_validation_of_short_videos():
    def val(count, policy):
        return one_based(sampling.val_starts({"RGB": count}, WINDOWS, num_segments=8, policy=policy)["RGB"])

    assert val(8, "code") == [[1] * 8]
    assert val(8, "paper") == val(8, "fixed") == [list(range(1, 9))]
    assert val(37, "code") == val(37, "fixed") == [[3, 7, 12, 17, 21, 26, 31, 35]]


def test_negative_published_starts_are_clamped_when_read():
    assert clips(2, modality="Flow", policy="code") == [[1, 1, 1, 1, 0, 0, 0, 0]]
    assert sampling.window_indices([-1, 0], 3, 2).tolist() == [[0, 0, 1], [0, 1, 1]]


# Properties of the fixed policy


@given(counts_st, segments_st, length_st, mode_st, seed_st)
def test_fixed_training(counts, n, length, mode, seed):
    starts = train(counts, n, mode, seed=seed, dense_length=length)
    assert list(starts) == list(counts)
    for name, count in counts.items():
        row, last = starts[name], max(0, count - WINDOWS[name])
        assert row.shape == (n,) and row.dtype == np.int64
        assert row.min() >= 0 and row.max() <= last and (np.diff(row) >= 0).all()
        items = sampling.window_indices(row, WINDOWS[name], count)
        assert items.min() >= 0 and items.max() < count
        if count >= WINDOWS[name]:
            assert (np.diff(items, axis=-1) == 1).all()


@given(st.integers(7, 300), segments_st, length_st, st.sampled_from(["uniform", "dense"]), seed_st, clips_st)
def test_the_frame_of_rgb_is_in_the_window_of_its_companions(count, n, length, mode, seed, number):
    """And rgb draws the same frames with and without them."""
    together = {"RGB": count, "Flow": count - 1, "RGBDiff": count}
    uniform, dense = number
    protocol = {"num_segments": n, "uniform": uniform, "dense": dense, "dense_length": length}
    for drawn, alone in (
        (
            train(together, n, mode, seed=seed, dense_length=length),
            train({"RGB": count}, n, mode, seed=seed, dense_length=length),
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


@given(counts_st, segments_st, length_st, mode_st, seed_st, st.sampled_from(["fixed", "paper"]))
def test_order_of_modalities_is_irrelevant(counts, n, length, mode, seed, policy):
    turned = dict(reversed(counts.items()))
    one = train(counts, n, mode, seed=seed, dense_length=length, policy=policy)
    two = train(turned, n, mode, seed=seed, dense_length=length, policy=policy)
    again = train(counts, n, mode, seed=seed, dense_length=length, policy=policy)
    for name in counts:
        assert one[name].tolist() == two[name].tolist() == again[name].tolist()


@given(counts_st, segments_st, length_st, clips_st)
def test_fixed_test_clips(counts, n, length, number):
    uniform, dense = number
    starts = sampling.test_starts(counts, WINDOWS, num_segments=n, uniform=uniform, dense=dense, dense_length=length)
    for name, count in counts.items():
        rows, last = starts[name], max(0, count - WINDOWS[name])
        assert rows.shape == (uniform + dense, n)
        assert rows.min() >= 0 and rows.max() <= last and (np.diff(rows, axis=1) >= 0).all()
        assert (np.diff(rows[:dense], axis=0) >= 0).all()
        if dense > 1 and (last + 1) > max(1, length // n) * (n - 1):
            assert rows[0, 0] == 0 and rows[dense - 1, -1] == last


@given(counts_st, segments_st, length_st, clips_st, st.sampled_from(["fixed", "paper"]), mode_st, seed_st)
def test_items_stay_inside_the_video(counts, n, length, number, policy, mode, seed):
    uniform, dense = number
    placed = sampling.test_starts(
        counts, WINDOWS, num_segments=n, uniform=uniform, dense=dense, dense_length=length, policy=policy
    )
    drawn = train(counts, n, mode, seed=seed, dense_length=length, policy=policy)
    checked = sampling.val_starts(counts, WINDOWS, num_segments=n, mode=mode, policy=policy)
    for name, count in counts.items():
        for starts in (placed[name], drawn[name], checked[name]):
            assert starts.min() >= 0 and starts.max() < count
            assert (np.diff(starts, axis=-1) >= 0).all()
        assert checked[name].shape == (1, n)


@given(st.integers(1, 30), st.integers(1, 10), st.sampled_from(["uniform", "dense"]))
def test_fixed_training_reaches_every_start(extra, n, mode):
    rng = np.random.default_rng(0)
    counts = {"RGB": extra + 5, "Flow": extra + 4}
    seen: set[int] = set()
    for _ in range(1000):
        row = sampling.train_starts(counts, WINDOWS, num_segments=n, mode=mode, dense_length=n, rng=rng)["RGB"]
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
        for mode in ("uniform", "dense", "random"):
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
        ({"mode": "sparse"}, "unknown mode"),
        ({"policy": "other"}, "unknown policy"),
        ({"rng": 3}, "default_rng"),
        ({"rng": 3, "mode": "dense"}, "default_rng"),
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
