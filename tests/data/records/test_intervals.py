"""Timed labels: which classes a stretch of a video has, and which a training clip gets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mml_lightning.data.flow.cache import FlowCache, FlowSettings
from mml_lightning.data.loading.dataset import ClipDataset
from mml_lightning.data.loading.draws import FixedCrops, RandomCrop, TrainTemporalSampler, ViewsTemporalSampler
from mml_lightning.data.loading.sources import SourceOpener
from mml_lightning.data.records.intervals import classes_between, intervals_of_frames
from mml_lightning.data.records.records import Head, Record
from mml_lightning.modalities import Modality
from mml_lightning.sampling import independent
from mml_lightning.transforms import TestGeometry as FixedGeometry
from mml_lightning.transforms import TrainGeometry
from mml_lightning.utils.errors import UserError
from tests.data.videos import FPS, numbers

RGB = Modality("rgb", "frames", 1, 3)
DIFF = Modality("rgbdiff", "frames", 6, 3, prepare="difference")
FLOW = Modality("flow", "flow", 5, 2, flip="mirror_negate_x")
HEADS = {"label": Head(("a", "b", "c", "d", "e"), multi_label=True)}
# at 12 frames a second: a on frames 0 to 6, b on 12 alone, c on 20 and on, d on no frame, and b again from 18 on
ACTIONS = ((0, 0.0, 0.5), (1, 0.96, 1.04), (2, 1.65, 9.0), (3, 0.51, 0.58), (1, 1.5, 1.5))


# ------------------------------------------------------------------------------------------------ the rule


@pytest.mark.parametrize(
    ("first", "last", "inclusive", "exclusive"),
    [
        (0, 0, (0,), (0,)),
        (0, 23, (0, 1, 2), (0, 1, 2)),
        (6, 6, (0,), ()),  # 6 / 12 s is the very end of a
        (7, 11, (), ()),  # d lies between two frames
        (7, 12, (1,), (1,)),
        (13, 17, (), ()),
        (13, 18, (1,), ()),  # an interval without length holds at its moment, or never
        (18, 20, (1, 2), (2,)),
    ],
)
def test_classes_of_a_stretch_by_hand(
    first: int, last: int, inclusive: tuple[int, ...], exclusive: tuple[int, ...]
) -> None:
    assert classes_between(ACTIONS, first, last, 12.0) == inclusive
    assert classes_between(ACTIONS, first, last, 12.0, "exclusive") == exclusive


def test_charades_frames_at_24_a_second_by_hand() -> None:
    # "c092 11.90 21.20;c147 0.00 12.60": frame k (from 1) is shown at (k - 1) / 24 s
    actions = ((92, 11.9, 21.2), (147, 0.0, 12.6))
    assert 285 / 24 < 11.9 < 286 / 24 and 302 / 24 < 12.6 < 303 / 24
    assert classes_between(actions, 0, 285, 24) == (147,)
    assert classes_between(actions, 285, 286, 24) == (92, 147)
    assert classes_between(actions, 302, 302, 24) == (92, 147)
    assert classes_between(actions, 303, 359, 24) == (92,)  # a clip of 8 x 8 spans 57 frames
    assert classes_between(actions, 509, 600, 24) == ()


@given(st.lists(st.frozensets(st.integers(0, 4)), min_size=1, max_size=40), st.sampled_from([24.0, 25.0, 30000 / 1001]))
def test_frame_labels_survive_as_intervals(labels: list[frozenset[int]], fps: float) -> None:
    intervals = intervals_of_frames(labels, fps)
    for ends in ("inclusive", "exclusive"):
        for frame, present in enumerate(labels):
            assert classes_between(intervals, frame, frame, fps, ends) == tuple(sorted(present))
    assert all(0 <= start < end for _, start, end in intervals)


def test_intervals_of_frames_by_hand() -> None:
    labels = [frozenset({3}), frozenset({3, 1}), frozenset(), frozenset({3})]
    assert intervals_of_frames(labels, 10.0) == ((1, 0.05, 0.15), (3, 0.0, 0.15), (3, 0.25, 0.35))


def test_wrong_stretches_are_refused() -> None:
    for first, last in ((-1, 0), (3, 2)):
        with pytest.raises(ValueError, match="not a valid range"):
            classes_between(ACTIONS, first, last, 12)
    with pytest.raises(ValueError, match="frame rate is 0"):
        classes_between(ACTIONS, 0, 1, 0)


# ------------------------------------------------------------------------------------------------ clips


def dataset(path: Path, **changes: Any) -> ClipDataset:
    """One video of 24 counted frames, and its actions; the label of the video has class e, which no interval has."""
    video = Record("v", {"frames": path}, {"label": (0, 1, 2, 4)}, intervals={"label": ACTIONS})
    fields: dict[str, Any] = {
        "records": [video],
        "modalities": (RGB,),
        "heads": HEADS,
        "opener": SourceOpener("decord"),
        "starts": TrainTemporalSampler(3, "dense", 6, "fixed"),
        "geometries": RandomCrop(TrainGeometry(32, (1.0,), 0.0)),
        "seed": 0,
        "replace": True,
        "clip_labels": True,
    }
    return ClipDataset(**(fields | changes))


def shown(sample: dict[str, Any], modality: Modality = RGB) -> np.ndarray:
    windows = sample["clips"][modality.name].unflatten(2, (modality.window, modality.item_channels))
    return numbers(windows, (-1, -2, -3))


def multi_hot(classes: tuple[int, ...]) -> torch.Tensor:
    return torch.tensor([float(k in classes) for k in range(5)])


def test_a_training_clip_has_the_labels_of_its_stretch(videos: dict[str, Path]) -> None:
    data = dataset(videos["vp9"])
    seen = []
    for epoch in range(30):
        sample = data[epoch, 0]
        frames = shown(sample)
        # frames in between count too: hand-made from the list above ACTIONS
        stretch = range(frames.min(), frames.max() + 1)
        expected = {0} if min(stretch) <= 6 else set()
        expected |= {1} if {12, 18} & set(stretch) else set()
        expected |= {2} if max(stretch) >= 20 else set()
        target = sample["target"]["label"]
        assert target.dtype == torch.float32 and torch.equal(target, multi_hot(tuple(expected)))
        seen.append(tuple(sorted(expected)))
        assert sample["failures"] == [], "a clip in which nothing happens is kept"
    assert () in seen and (0,) in seen and len(set(seen)) >= 4


def test_frames_between_the_sampled_ones_count(videos: dict[str, Path]) -> None:
    """Frames 9 and 15 are shown, b happens on frame 12 alone."""

    def starts(counts: Any, windows: Any, rng: Any) -> dict[str, np.ndarray]:
        return {name: np.array([[9, 15]]) for name in counts}

    sample = dataset(videos["vp9"], starts=starts)[0, 0]
    assert shown(sample)[..., 0].tolist() == [[9, 15]]
    assert torch.equal(sample["target"]["label"], multi_hot((1,)))


def test_evaluation_and_plain_records_keep_the_label_of_the_video(videos: dict[str, Path]) -> None:
    views = {"starts": ViewsTemporalSampler(3, 2, 0, 6, "fixed"), "geometries": FixedCrops(FixedGeometry(32, 40, 3))}
    measured = dataset(videos["vp9"], clip_labels=False, replace=False, **views)[0, 0]
    assert torch.equal(measured["target"]["label"], multi_hot((0, 1, 2, 4)))
    data = dataset(videos["vp9"])
    plain = dataset(videos["vp9"], records=[replace(data.records[0], intervals={})])[0, 0]
    assert torch.equal(plain["target"]["label"], multi_hot((0, 1, 2, 4)))


def test_heads_without_intervals_keep_theirs(videos: dict[str, Path]) -> None:
    video = dataset(videos["vp9"]).records[0]
    both = replace(video, target={"label": (4,), "scene": 2})
    heads = {**HEADS, "scene": Head(("kitchen", "hall", "garage"))}
    sample = dataset(videos["vp9"], records=[both], heads=heads)[0, 0]
    assert sample["target"]["scene"] == 2 and sample["target"]["label"][4] == 0


def test_labels_do_not_depend_on_the_company(videos: dict[str, Path], tmp_path: Path) -> None:
    cache = FlowCache(tmp_path, FlowSettings(preset="ultrafast"))
    alone = dataset(videos["vp9"])
    together = dataset(videos["vp9"], modalities=(DIFF, FLOW, RGB), opener=SourceOpener("decord", cache))
    for epoch in range(8):
        assert torch.equal(alone[epoch, 0]["target"]["label"], together[epoch, 0]["target"]["label"])


@pytest.mark.parametrize("mode", ["uniform", "dense", "random", "strided"])
@pytest.mark.parametrize("policy", ["fixed", "code"])
def test_a_wide_modality_has_the_labels_that_it_has_in_company(
    videos: dict[str, Path], tmp_path: Path, mode: Any, policy: Any
) -> None:
    """Those of the frames that rgb is shown, whether rgb is there or not; not where the program makes clips depend on
    the company."""
    opener = SourceOpener("decord", FlowCache(tmp_path, FlowSettings(preset="ultrafast")))
    starts, free = TrainTemporalSampler(3, mode, 6, policy, 3), independent(mode, policy)
    fields = {"opener": opener, "starts": starts, "independent": free}
    together = dataset(videos["vp9"], modalities=(DIFF, FLOW, RGB), **fields)
    differ = 0
    for modality in (DIFF, FLOW, RGB):
        alone = dataset(videos["vp9"], modalities=(modality,), **fields)
        for epoch in range(12):
            one, other = alone[epoch, 0], together[epoch, 0]
            differ += not torch.equal(one["target"]["label"], other["target"]["label"])
            differ += not torch.equal(one["clips"][modality.name], other["clips"][modality.name])
    assert (differ == 0) is free


def test_the_narrowest_clip_decides_where_draws_depend_on_the_company(videos: dict[str, Path]) -> None:
    def starts(counts: Any, windows: Any, rng: Any) -> dict[str, np.ndarray]:
        return {name: np.array([[7]]) for name in counts}

    own, alone = ({"starts": starts, "independent": free} for free in (False, True))
    wide, narrow = (dataset(videos["vp9"], modalities=(m,), **own)[0, 0] for m in (DIFF, RGB))
    assert shown(wide, DIFF).max() == 12
    assert torch.equal(wide["target"]["label"], multi_hot((1,)))
    assert torch.equal(narrow["target"]["label"], multi_hot(()))
    free = dataset(videos["vp9"], modalities=(DIFF,), **alone)[0, 0]
    assert torch.equal(free["target"]["label"], narrow["target"]["label"])


def test_flow_alone_takes_its_time_from_the_frames(videos: dict[str, Path], tmp_path: Path) -> None:
    cache = FlowCache(tmp_path, FlowSettings(preset="ultrafast"))
    sample = dataset(videos["vp9"], modalities=(FLOW,), opener=SourceOpener("decord", cache))[0, 0]
    assert set(sample["clips"]) == {"flow"} and sample["failures"] == []


def test_a_mirrored_clip_maps_its_labels(videos: dict[str, Path]) -> None:
    flipped = RandomCrop(TrainGeometry(32, (1.0,), 1.0))
    swapped = {"label": {0: 3, 3: 0}}
    for epoch in range(6):
        before = dataset(videos["vp9"])[epoch, 0]["target"]["label"]
        after = dataset(videos["vp9"], geometries=flipped, mirrored=swapped)[epoch, 0]["target"]["label"]
        assert torch.equal(after, before[[3, 1, 2, 0, 4]])


def test_other_frame_rates_move_the_labels(videos: dict[str, Path], tmp_path: Path) -> None:
    from tests.data.videos import counted, write_video

    def starts(counts: Any, windows: Any, rng: Any) -> dict[str, np.ndarray]:
        return {name: np.array([[12]]) for name in counts}

    assert FPS == 12
    slow = write_video(tmp_path / "slow.mp4", counted(24), fps=6)
    assert torch.equal(dataset(videos["vp9"], starts=starts)[0, 0]["target"]["label"], multi_hot((1,)))
    assert torch.equal(dataset(slow, starts=starts)[0, 0]["target"]["label"], multi_hot((2,)))  # 2 s


def test_unknown_ends_are_refused(videos: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="interval_ends='open' is unknown"):
        dataset(videos["vp9"], interval_ends="open")
