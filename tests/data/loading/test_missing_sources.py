"""Records that lack a source by nature, in runs with missing=mask."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mml_lightning.data.loading.dataset import ClipDataset
from mml_lightning.data.loading.draws import FixedCrops, ValTemporalSampler
from mml_lightning.data.loading.images import Flow
from mml_lightning.data.loading.sources import SourceOpener
from mml_lightning.data.records.records import Head, Record
from mml_lightning.data.video.decode import NoSource
from mml_lightning.data.video.media import ImageSequence
from mml_lightning.modalities import Modality
from mml_lightning.transforms import TestGeometry as FixedGeometry
from tests.data.images import noise, write_flow, write_frames

RGB = Modality("rgb", "frames", 1, 3, [0.5], [0.25])
FLOW = Modality("flow", "flow", 1, 2, [0.5], [0.25])


def load(record: Record, modalities: Sequence[Modality], **options: Any) -> dict[str, Any]:
    dataset = ClipDataset(
        [record],
        modalities,
        {"label": Head(("a", "b", "c"), multi_label=True)},
        SourceOpener("pyav"),
        ValTemporalSampler(2, "uniform", 8, "fixed"),
        FixedCrops(FixedGeometry(16, 16)),
        seed=0,
        replace=False,
        missing="mask",
        **options,
    )
    return dataset[0, 0]


@pytest.fixture
def flow(tmp_path: Path) -> ImageSequence:
    folder = write_flow(tmp_path / "flow", "{axis}_{:05d}.png", noise(4, 2))
    return ImageSequence(folder, "{axis}_{:05d}.png", 4, 25.0, layout="flow_pair")


def test_a_video_with_flow_alone_takes_part_without_frames(flow: ImageSequence) -> None:
    sample = load(Record("v", {"flow": flow}, {"label": (1,)}), [RGB, FLOW])
    assert sample["present"] == {"rgb": False, "flow": True}
    assert sample["clips"]["rgb"].shape == (1, 2, 3, 16, 16) and not sample["clips"]["rgb"].any()


def test_frames_opened_for_their_clock_do_not_stand_in_for_flow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one frame no flow can be computed: the run on flow can't read this video, and says so."""
    frames = ImageSequence(write_frames(tmp_path / "v", "{:05d}.png", noise(1, 3)), "{:05d}.png", 1, 25.0)
    record = Record("v", {"frames": frames}, {"label": ()}, intervals={"label": ((1, 0.0, 1.0),)})

    def none(*given: Any) -> Any:
        raise NoSource("v: one frame")

    monkeypatch.setattr(Flow, "open", none)
    sample = load(record, [FLOW], clip_labels=True)
    assert "clips" not in sample and sample["failures"] == [("v", "v: it has none of the sources of the run (flow)")]
