"""Flow computed for the drawn windows equals what the cache holds, to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mml_lightning.data.flow.cache import FlowCache, FlowSettings
from mml_lightning.data.loading.dataset import ClipDataset
from mml_lightning.data.loading.draws import RandomCrop, TrainTemporalSampler
from mml_lightning.data.loading.images import LiveFlow
from mml_lightning.data.loading.sources import SourceOpener
from mml_lightning.data.records.records import Head, Record
from mml_lightning.data.video.decode import DecodeError, NoSource
from mml_lightning.data.video.images import ImageReader
from mml_lightning.data.video.media import ImageSequence
from mml_lightning.modalities import Modality
from mml_lightning.transforms import TrainGeometry
from mml_lightning.utils.errors import UserError
from tests.data.videos import moving, record, texture, write_video
from tests.tiny import write_images

ENGINES: dict[str, dict[str, Any]] = {
    "dis": {"preset": "ultrafast"},
    "farneback": {"preset": "default"},
    "tvl1": {"preset": "fast", "parameters": {"inner": 4}},
    "tvl1_opencv": {"preset": "half", "parameters": {"InnerIterations": 3, "OuterIterations": 1}},
}
FLOW = Modality("flow", "flow", 5, 2, flip="mirror_negate_x")
RGB = Modality("rgb", "frames", 1, 3)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    folder = tmp_path_factory.mktemp("long")
    frames = [np.roll(texture(96, 80, 3), (k * k // 9, -2 * k), axis=(0, 1)) for k in range(26)]
    return [
        record(write_video(folder / "a.mp4", frames)),
        record(write_video(folder / "b.webm", moving(15, 3, -2)), span=(0.2, 0.9)),
        record(write_video(folder / "c.mp4", moving(4, 1, 1))),  # shorter than a window: pairs repeat
    ]


def clips(rows: list[Record], cache: FlowCache, modalities: list[Modality], decoder: str) -> list[torch.Tensor]:
    dataset = ClipDataset(
        rows,
        modalities,
        {"label": Head(("a", "b"))},
        SourceOpener(decoder, cache),
        TrainTemporalSampler(3, "uniform", 8, "fixed"),
        RandomCrop(TrainGeometry(32, (1.0, 0.75), 0.5)),
        seed=0,
        replace=False,
    )
    return [dataset[epoch, index]["clips"]["flow"] for epoch in range(3) for index in range(len(rows))]


@pytest.mark.parametrize(
    ("algorithm", "modalities"), [*((algorithm, [FLOW]) for algorithm in ENGINES), ("dis", [RGB, FLOW])]
)
def test_clips_are_those_of_the_cache(
    rows: list[Record], tmp_path: Path, algorithm: str, modalities: list[Modality]
) -> None:
    cached, live = (FlowSettings(algorithm, **ENGINES[algorithm], on_the_fly=fly) for fly in (False, True))
    assert cached.key() == live.key()
    expected = clips(rows, FlowCache(tmp_path / "cached", cached), modalities, "decord")
    found = clips(rows, FlowCache(tmp_path / "live", live), modalities, "decord")
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    assert expected[0].float().std() > 1
    assert not (tmp_path / "live").exists()


def test_flow_keeps_its_reader_beside_frames_of_another(rows: list[Record], tmp_path: Path) -> None:
    live = FlowCache(tmp_path, FlowSettings(preset="ultrafast", decoder="pyav", on_the_fly=True))
    with SourceOpener("decord", live).open(rows[0], ["frames", "flow"]) as sources:
        flow = sources["flow"]
        assert isinstance(flow, LiveFlow) and flow.video is not sources["frames"]
    same = FlowCache(tmp_path, FlowSettings(preset="ultrafast", on_the_fly=True))
    with SourceOpener("decord", same).open(rows[0], ["frames", "flow"]) as sources:
        flow = sources["flow"]
        assert isinstance(flow, LiveFlow) and flow.video is sources["frames"]
        assert (flow.count, flow.size, flow.fps) == (25, (96, 80), 12.0)


def test_nothing_is_missing_and_one_frame_has_no_flow(videos: dict[str, Path], tmp_path: Path) -> None:
    live = FlowCache(tmp_path, FlowSettings(preset="ultrafast", on_the_fly=True))
    assert live.missing([record(videos["moving"])]) == []
    opener = SourceOpener("decord", live)
    with pytest.raises(NoSource, match="one frame"), opener.open(record(videos["single"]), ["flow"]):
        pass
    with opener.open(record(videos["single"]), ["frames", "flow"], skip_absent=True) as sources:
        assert list(sources) == ["frames"]


def test_frames_too_small_name_the_video(tmp_path: Path) -> None:
    images = tmp_path / "images"
    write_images(images, "{:05d}.png", 3, size=(2, 2))
    live = LiveFlow(ImageReader(ImageSequence(images, "{:05d}.png", 3)), FlowSettings(), "small")
    with pytest.raises(DecodeError, match=r"^small: flow\.algorithm=dis failed: "):
        live.frames([0])


@pytest.mark.parametrize(
    ("values", "message"),
    [({"algorithm": "mv", "preset": "default"}, "reads whole files"), ({"device": "cuda"}, "flow.device=cpu")],
)
def test_what_can_t_be_done_on_the_fly(values: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        FlowSettings(**values, on_the_fly=True)
