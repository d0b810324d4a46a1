"""Steps of files and cameras: which frames, when, and what is dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mml_lightning.data.video.decode import open_video
from mml_lightning.data.video.live import Camera, FileSteps, by_clock, open_camera
from mml_lightning.utils.errors import UserError
from tests.data.videos import moving, write_video

FRAMES = 12


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("live") / "v.mp4"
    write_video(path, moving(FRAMES, 2, 1))  # 12 frames a second
    return path


class Clock:
    """Time that passes when somebody sleeps or works."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("more", [0, 1])
def test_steps_hold_the_frames_of_their_items(video: Path, more: int) -> None:
    items = np.array([[0, 1, 2], [2, 3, 4], [7, 8, 9], [9, 10, 10]])
    with open_video(video, "pyav") as reader:
        whole = np.stack(list(reader.stream()))
    with open_video(video, "pyav") as reader:
        for step, expected in zip(FileSteps(reader, items, more), items, strict=True):
            assert step.items.tolist() == expected.tolist()
            assert sorted(step.frames) == sorted({*expected.tolist(), *(expected + more).tolist()})
            assert all(np.array_equal(frame, whole[index]) for index, frame in step.frames.items())
            assert step.seconds == pytest.approx((expected[-1] + more) / 12)


@pytest.mark.parametrize(
    ("work", "taken"), [(0.0, [*range(12)]), (0.05, [*range(12)]), (0.2, [0, 2, 4, 7, 9, 11]), (9.0, [0, 11])]
)
def test_late_steps_are_dropped_and_counted(video: Path, work: float, taken: list[int]) -> None:
    clock = Clock()
    with open_video(video, "pyav") as reader:
        steps = FileSteps(reader, np.arange(FRAMES)[:, None], realtime=True, clock=clock, sleep=clock.sleep)
        found = []
        for step in steps:
            assert step.arrived == pytest.approx(step.items[0] / 12) and clock() >= step.arrived - 1e-9
            found.append(int(step.items[0]))
            clock.sleep(work)
    assert found == taken and steps.dropped == FRAMES - len(taken)


def test_no_pace_without_times(video: Path) -> None:
    with open_video(video, "pyav") as reader:
        reader.times = None
        with pytest.raises(UserError, match="leave out --realtime"):
            FileSteps(reader, np.zeros((1, 1), int), realtime=True)


@pytest.mark.parametrize("window, more", [(1, 0), (3, 1)])
@pytest.mark.parametrize("rate", [{"every": 1}, {"every": 3}])
def test_a_camera_gives_the_newest_frames_in_a_row(video: Path, window: int, more: int, rate: dict[str, int]) -> None:
    """OpenCV reads the file as it reads a camera: as fast as it is asked, and to its end."""
    camera = Camera(cv2.VideoCapture(str(video)), window, more, **rate)
    with open_video(video, "pyav") as reader:
        whole = np.stack(list(reader.stream())).astype(int)
    steps, newest = list(camera), []
    for step in steps:
        first = int(step.items[0])
        assert step.items.tolist() == [*range(first, first + window)]
        assert sorted(step.frames) == [*range(first, first + window + more)]
        assert all(np.abs(frame - whole[index]).mean() < 12 for index, frame in step.frames.items()), "red is red"
        newest.append(max(step.frames))
    due = {index // rate["every"] for index in range(window + more - 1, FRAMES)}
    assert newest == sorted(set(newest)) and len(steps) >= 1 and len(steps) + camera.dropped == len(due)


def test_a_camera_that_gives_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no frames"):
        list(Camera(cv2.VideoCapture(str(tmp_path / "none.mp4"))))

    class Failing:
        def read(self) -> Any:
            raise RuntimeError("unplugged")

        def release(self) -> None: ...

    with pytest.raises(UserError, match="the camera fails: unplugged"):
        list(Camera(Failing()))


@pytest.mark.parametrize("word", ["camera:", "camera:x", "camera:-1", "camera:987"])
def test_no_such_camera(word: str) -> None:
    with pytest.raises(UserError, match=r"camera:0|finds no such camera"):
        open_camera(word)


@given(count=st.integers(1, 60), rate=st.floats(1, 60), share=st.floats(0.05, 1))
def test_frames_by_the_clock_are_those_on_display(count: int, rate: float, share: float) -> None:
    times, fps = np.arange(count) / rate, rate * share
    shown = by_clock(times, fps)
    assert shown[0] == 0 and shown[-1] < count and (np.diff(shown) >= 0).all()
    for tick, index in enumerate(shown):
        assert times[index] <= tick / fps + 2e-6
        assert index + 1 == count or times[index + 1] > tick / fps


def test_golden_frames_by_the_clock() -> None:
    assert by_clock(np.arange(9) / 24, 10).tolist() == [0, 2, 4, 7]
    assert by_clock([0, 0.1, 0.9, 1.0], 4).tolist() == [0, 1, 1, 1, 3]
    assert by_clock([0.0], 30).tolist() == [0]
