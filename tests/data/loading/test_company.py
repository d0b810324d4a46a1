"""A sample of a modality is the same alone and in any company: frames, crop, mirroring, label, replacement."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mml_lightning.data.flow.cache import FlowCache, FlowSettings
from mml_lightning.data.loading.dataset import ClipDataset
from mml_lightning.data.loading.draws import (
    FixedCrops,
    RandomCrop,
    TrainTemporalSampler,
    ValTemporalSampler,
    ViewsTemporalSampler,
)
from mml_lightning.data.loading.sources import SourceOpener
from mml_lightning.data.records.records import Head, Record
from mml_lightning.data.video.media import ImageSequence
from mml_lightning.modalities import Modality
from mml_lightning.transforms import JitterGeometry, TrainGeometry
from mml_lightning.transforms import TestGeometry as FixedGeometry
from tests.data.images import noise, write_flow, write_frames
from tests.data.videos import damaged, moving, write_video

RGB = Modality("rgb", "frames", 1, 3)
DIFF = Modality("rgbdiff", "frames", 6, 3, prepare="difference")
FLOW = Modality("flow", "flow", 5, 2, flip="mirror_negate_x")
LONG = Modality("long", "flow", 9, 2, flip="mirror_negate_x")
ALL = (RGB, FLOW, DIFF, LONG)
COMPANIES = [names for size in range(1, 5) for names in combinations(ALL, size)]
CROPS: dict[str, Any] = {
    "multiscale": RandomCrop(TrainGeometry(32, (1.0, 0.875, 0.75, 0.66), 0.5)),
    "jitter": RandomCrop(JitterGeometry(32, (36, 44))),
    "fixed": FixedCrops(FixedGeometry(32, 40, 3)),
}


def dataset(
    records: Sequence[Record], company: Sequence[Modality], opener: SourceOpener, **changes: Any
) -> ClipDataset:
    fields: dict[str, Any] = {
        "starts": TrainTemporalSampler(4, "random", 12, "fixed", 3),
        "geometries": CROPS["multiscale"],
        "seed": 3,
        "replace": True,
        "mirrored": {"label": {0: 1, 1: 0}},
    }
    return ClipDataset(records, company, {"label": Head(("left", "right", "up"))}, opener, **(fields | changes))


def assert_same_in_all_companies(
    records: Sequence[Record], opener: SourceOpener, epochs: int = 3, **changes: Any
) -> None:
    seen: dict[tuple[str, int], tuple[torch.Tensor, torch.Tensor, int]] = {}
    for company in COMPANIES:
        data = dataset(records, company, opener, **changes)
        for epoch in range(epochs):
            sample = data[epoch, 0]
            for name, clip in sample["clips"].items():
                first = seen.setdefault((name, epoch), (clip, sample["target"]["label"], sample["index"]))
                where = (name, epoch, [modality.name for modality in company])
                assert torch.equal(clip, first[0]) and torch.equal(sample["target"]["label"], first[1]), where
                assert sample["index"] == first[2], where
    assert len({key[0] for key in seen}) == 4


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, SourceOpener]:
    """A video of which flow is computed."""
    folder = tmp_path_factory.mktemp("company")
    path = write_video(folder / "v.mp4", moving(30, 2, 1))
    cache = FlowCache(folder / "flow", FlowSettings(preset="ultrafast"))
    return Record("v", {"frames": path}, {"label": 0}), SourceOpener("decord", cache)


@pytest.mark.parametrize("mode", ["uniform", "dense", "random", "strided"])
@pytest.mark.parametrize("crops", ["multiscale", "jitter"])
def test_training(video: tuple[Record, SourceOpener], mode: Any, crops: str) -> None:
    starts = TrainTemporalSampler(4, mode, 12, "fixed", 3)
    assert_same_in_all_companies([video[0]], video[1], starts=starts, geometries=CROPS[crops])


def test_a_draw_per_modality(video: tuple[Record, SourceOpener]) -> None:
    assert_same_in_all_companies([video[0]], video[1], shared=False)


def test_a_part_of_a_video(video: tuple[Record, SourceOpener]) -> None:
    part = Record("v", video[0].media, {"label": 0}, span=(0.5, 2.0))
    assert_same_in_all_companies([part], video[1])


@pytest.mark.parametrize("policy", ["fixed", "paper", "code"])
def test_evaluation(video: tuple[Record, SourceOpener], policy: Any) -> None:
    for starts in (ViewsTemporalSampler(4, 2, 2, 12, policy, 2, 3), ValTemporalSampler(4, "uniform", 12, policy)):
        fields = {"starts": starts, "geometries": CROPS["fixed"], "replace": False}
        assert_same_in_all_companies([video[0]], video[1], epochs=1, **fields)


@pytest.mark.parametrize("crops", sorted(CROPS))
def test_flow_that_is_stored_in_another_size(tmp_path: Path, crops: str) -> None:
    """Its crop is the part of the picture that the frames would show, whether they are looked at or not."""
    frames = write_frames(tmp_path / "frames", "{:05d}.png", noise(30, 3, 90, 61))
    flow = write_flow(tmp_path / "flow", "{axis}_{:05d}.png", noise(29, 2, 61, 41))
    media = {
        "frames": ImageSequence(frames, "{:05d}.png", 30, 10.0),
        "flow": ImageSequence(flow, "{axis}_{:05d}.png", 29, 10.0, layout="flow_pair"),
    }
    record = Record("v", media, {"label": 0})
    assert_same_in_all_companies([record], SourceOpener("pyav"), geometries=CROPS[crops], epochs=6)


def test_the_one_that_replaces_an_unreadable_video(tmp_path: Path, video: tuple[Record, SourceOpener]) -> None:
    bad = Record(
        "bad", {"frames": damaged("text", Path(str(video[0].media["frames"])), tmp_path / "bad.mp4")}, {"label": 2}
    )
    others = [Record(f"v{n}", video[0].media, {"label": n % 2}) for n in range(4)]
    assert_same_in_all_companies([bad, *others], video[1])


def test_a_video_that_lacks_flow_shows_what_it_shows_without_it(tmp_path: Path) -> None:
    single = Record("v", {"frames": write_video(tmp_path / "v.mp4", moving(1, 1, 1))}, {"label": 0})
    opener = SourceOpener("decord", FlowCache(tmp_path / "flow", FlowSettings(preset="ultrafast")))
    alone, together = (dataset([single], company, opener, missing="mask")[0, 0] for company in ((RGB,), (RGB, FLOW)))
    assert together["present"] == {"rgb": True, "flow": False}
    assert torch.equal(alone["clips"]["rgb"], together["clips"]["rgb"])
    assert np.array_equal(alone["target"]["label"], together["target"]["label"])
