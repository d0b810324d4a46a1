"""What lists say before a run starts: videos in training and measurement, flow of another length than its frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mml_lightning.data.records.checks import check_flow_lengths, expected_flow, warn_of_doubles
from mml_lightning.data.records.records import Dataset, FrameSpan, Head, Record
from mml_lightning.data.video.media import ImageSequence
from mml_lightning.utils.errors import UserError

SPLITS = ("train", "val", "test")


def dataset(**splits: list[Record]) -> Dataset:
    return Dataset("mine", splits, {"label": Head(("a", "b"))})


def video(id: str, file: str, **more: Any) -> Record:
    return Record(id, {"frames": Path(file)}, {"label": 0}, **more)


def pair(id: str, frames: int, flow: int, fps: float = 0.0, flow_fps: float = 0.0) -> Record:
    media = {
        "frames": ImageSequence(Path("rgb", id), "{:05d}.jpg", frames, fps),
        "flow": ImageSequence(Path("flow", id), "{axis}_{:05d}.jpg", flow, flow_fps, layout="flow_pair"),
    }
    return Record(id, media, {"label": 0})


@pytest.mark.parametrize(
    ("train", "val", "double"),
    [
        (video("a", "x.mp4"), video("b", "y.mp4"), False),
        (video("a", "x.mp4"), video("b", "x.mp4"), True),
        (video("a", "x.mp4"), video("a", "y.mp4"), True),
        (video("a", "x.mp4", span=(0.0, 1.0)), video("b", "x.mp4", span=(1.0, 2.0)), False),
        (video("a", "x.mp4", span=(0.0, 1.0)), video("b", "x.mp4", span=(0.0, 1.0)), True),
        (video("a", "x.mp4", span=(0.0, 1.0)), video("b", "x.mp4", span=(0.9, 2.0)), True),
        (video("a", "x.mp4", span=(0.0, 1.0)), video("b", "x.mp4"), True),
        (video("a", "x.mp4", span=(0.0, 1.0)), video("a", "x.mp4", span=(1.0, 2.0)), False),
        (video("a", "x.mp4", span=FrameSpan(0, 9)), video("b", "x.mp4", span=FrameSpan(10, 20)), False),
        (video("a", "x.mp4", span=FrameSpan(0, 9)), video("b", "x.mp4", span=FrameSpan(9, 20)), True),
        (pair("a", 9, 8), pair("b", 9, 8), False),
        (pair("a", 9, 8), pair("a", 7, 6), True),
        (pair("a", 9, 8), Record("b", pair("a", 9, 8).media, {"label": 1}), True),
    ],
)
def test_doubles(train: Record, val: Record, double: bool, caplog: pytest.LogCaptureFixture) -> None:
    other = video("c", "z.mp4")
    data = dataset(train=[other, train], val=[val], test=[val])
    assert warn_of_doubles(data, SPLITS) == double
    said = [line for line in caplog.messages if "1 of 2 training videos are in val or test too" in line]
    assert len(said) == len(caplog.messages) == double
    assert not double or "first a (val)" in said[0]
    assert warn_of_doubles(data, ("val", "test")) == 0  # a measurement alone can't tell


def test_doubles_of_test_alone(caplog: pytest.LogCaptureFixture) -> None:
    both = [video("a", "x.mp4"), video("b", "y.mp4")]
    assert warn_of_doubles(dataset(train=both, val=[video("c", "z.mp4")], test=both), SPLITS) == 2
    assert "2 of 2 training videos" in caplog.text and "first a (test)" in caplog.text


@pytest.mark.parametrize(
    ("frames", "rates", "pairs"), [(20, (0, 0), 19), (20, (10, 5), 10), (73, (24, 24), 72), (20, (10, 0), 19)]
)
def test_expected_flow(frames: int, rates: tuple[float, float], pairs: int) -> None:
    assert expected_flow(frames, *rates) == pairs


def test_flow_of_another_length(caplog: pytest.LogCaptureFixture) -> None:
    right = [pair("a", 73, 72), pair("b", 73, 71), pair("c", 73, 73), pair("d", 73, 36, 24.0, 12.0)]
    mixed = [video("e", "x.mp4"), Record("f", {"flow": right[0].media["flow"]}, {"label": 0})]  # nothing to compare
    assert check_flow_lengths(dataset(train=[*right, *mixed]), SPLITS) == 0 and not caplog.messages
    short = pair("g", 73, 40)
    assert check_flow_lengths(dataset(train=right, val=[short]), SPLITS) == 1
    assert caplog.messages == [
        "data=mine: flow of 1 of 5 videos does not match their frames, first val/g (73 frames, 40 pairs of "
        "flow, 72 expected); recompute it, or fix its list"
    ]
    assert check_flow_lengths(dataset(train=right, val=[short]), ("train",)) == 0
    assert check_flow_lengths(dataset(train=[right[0], short]), SPLITS) == 1  # half of them
    with pytest.raises(UserError, match=r"flow of 2 of 3 videos .*first train/g \(73 frames, 40 pairs"):
        check_flow_lengths(dataset(train=[short, pair("h", 73, 75), right[0]]), SPLITS)
