"""Frames one step after another: of a file in its order, or at its own pace; of a camera as they come.

Legend: W items that a step looks at, T steps, H height, W width.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mml_lightning.data.video.decode import VideoReader
from mml_lightning.utils.errors import UserError

CAMERA = "camera:"


@dataclass(frozen=True)
class Step:
    """What a network looks at at one time.

    Args:
        items: numbers of its items in the source, int64 [W]; an item of flow has the number of its first frame.
        frames: {number: RGB uint8 [H, W, 3]}, those that its items need.
        seconds: when its last frame is shown, from the first one of the source; None where nothing tells.
        arrived: clock when that frame was at hand, or was to be shown in real time.
    """

    items: np.ndarray
    frames: Mapping[int, np.ndarray]
    seconds: float | None
    arrived: float


class Steps(Protocol):
    """Steps in order. `dropped` counts those that were left out because they were late."""

    @property
    def dropped(self) -> int: ...

    def __iter__(self) -> Iterator[Step]: ...


class FileSteps:
    """Steps of an open video. Each frame is read once.

    Args:
        items: of each step, int64 [T, W], first steps first.
        more: frames that an item needs after its own: 1 of flow, else 0.
        realtime: a step comes when its last frame is shown, and is dropped if the next one is due by then.
        clock, sleep: of this machine, in seconds.

    Raises:
        UserError: in real time, and nothing tells when frames are shown.
    """

    def __init__(
        self,
        video: VideoReader,
        items: np.ndarray,
        more: int = 0,
        realtime: bool = False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        if realtime and video.times is None:
            raise UserError("nothing tells when its frames are shown: leave out --realtime")
        self.video, self.items, self.more, self.realtime = video, items, more, realtime
        self.clock, self.sleep, self.dropped = clock, sleep, 0
        self._held: dict[int, np.ndarray] = {}

    def __iter__(self) -> Iterator[Step]:
        """Raises:
        DecodeError: a frame can't be read.
        """
        begun = self.clock()
        for number, items in enumerate(self.items):
            seconds = self._seconds(items)
            if self.realtime and seconds is not None:
                following = self._seconds(self.items[number + 1]) if number + 1 < len(self.items) else None
                if following is not None and self.clock() >= begun + following:
                    self.dropped += 1
                    continue
                self.sleep(max(0.0, begun + seconds - self.clock()))
            frames = self._frames(items)
            arrived = begun + seconds if self.realtime and seconds is not None else self.clock()
            yield Step(items, frames, seconds, arrived)

    def _seconds(self, items: np.ndarray) -> float | None:
        return None if self.video.times is None else float(self.video.times[int(items[-1]) + self.more])

    def _frames(self, items: np.ndarray) -> dict[int, np.ndarray]:
        wanted = np.union1d(items, items + self.more).tolist()
        new = [index for index in wanted if index not in self._held]
        read = self.video.frames(new) if new else ()
        held = {**self._held, **dict(zip(new, read, strict=True))}
        self._held = {index: held[index] for index in wanted}
        return self._held


class Camera:
    """Steps of a camera: a thread takes every frame as it comes, and a step looks at the newest ones.

    Args:
        capture: what gives the frames, an open `cv2.VideoCapture`.
        window: W. more: as of :class:`FileSteps`.
        every: frames from one step to the next; fps: or steps per second.
    """

    def __init__(
        self, capture: Any, window: int = 1, more: int = 0, every: int | None = None, fps: float | None = None
    ) -> None:
        self.capture, self.window, self.span, self.every, self.fps = capture, window, window + more, every or 1, fps
        self._ring: deque[tuple[int, float, np.ndarray]] = deque(maxlen=self.span)
        self._news = threading.Condition()
        self._due, self._last, self._taken = 0, -1, 0  # steps that were due, place of the last, steps that were taken
        self._open, self._fault = True, ""

    @property
    def dropped(self) -> int:
        with self._news:
            return max(0, self._due - self._taken)

    def __iter__(self) -> Iterator[Step]:
        """Raises:
        UserError: the camera gives nothing.
        """
        thread = threading.Thread(target=self._take, daemon=True)
        thread.start()
        seen, begun = 0, None
        try:
            while True:
                with self._news:
                    self._news.wait_for(lambda: self._due > seen or not self._open)  # noqa: B023  # at once
                    if self._due == seen:
                        break
                    seen, shown = self._due, list(self._ring)
                    self._taken += 1
                begun = shown[0][1] if begun is None else begun
                frames = {number: frame for number, _, frame in shown}
                arrived = shown[-1][1]
                yield Step(np.array([number for number, *_ in shown[: self.window]]), frames, arrived - begun, arrived)
            if not seen:
                raise UserError(self._fault or "the camera gives no frames: see whether another program uses it")
        finally:
            self._open = False
            thread.join()
            self.capture.release()

    def _take(self) -> None:
        """Until the camera ends: each frame into the ring; whether a step is due with it."""
        number, begun = 0, time.monotonic()
        while self._open:
            try:
                good, frame = self.capture.read()
            except Exception as error:  # of a driver
                good, self._fault = False, f"the camera fails: {' '.join(str(error).split())[:160]}"
            at = time.monotonic()
            with self._news:
                if good:
                    self._ring.append((number, at, np.ascontiguousarray(frame[..., ::-1])))  # OpenCV has blue first
                    place = number // self.every if self.fps is None else int((at - begun) * self.fps)
                    if len(self._ring) == self.span and place > self._last:
                        self._last, self._due = place, self._due + 1
                    number += 1
                else:
                    self._open = False
                self._news.notify()


def open_camera(source: str) -> Any:
    """The `cv2.VideoCapture` of `camera:0`.

    Raises:
        UserError: it is no number, or there is no such camera.
    """
    import cv2

    word = source.removeprefix(CAMERA)
    if not word.isdecimal():
        raise UserError(f"{source}: name a camera by its number, such as camera:0")
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # its own lines name no fix
    try:
        capture = cv2.VideoCapture(int(word))
    except cv2.error as error:
        raise UserError(f"{source} can't be opened: {' '.join(str(error).split())[:160]}") from None
    finally:
        cv2.utils.logging.setLogLevel(level)
    if not capture.isOpened():
        raise UserError(f"{source}: OpenCV finds no such camera here; plug it in, or name another one or a file")
    return capture


def by_clock(times: Sequence[float] | np.ndarray, fps: float) -> np.ndarray:
    """The frames on display `fps` times a second, int64 [T], from 0 on, of frames that are shown at `times` (seconds,
    rising from 0)."""
    shown = np.asarray(times, dtype=np.float64)
    ticks = np.arange(int(np.floor(shown[-1] * fps + 1e-6)) + 1) / fps
    return np.asarray(np.searchsorted(shown, ticks + 1e-6, "right") - 1)
