"""A trained network on frames that come one by one: the clips of its run, a step at a time.

Legend: S crops of a frame, W items of a window, T steps, N frames that a mean is over, K classes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mml_lightning.backbones.peer import Peer
from mml_lightning.backbones.streaming import FrameStream, check_streamable
from mml_lightning.config import data as config_data
from mml_lightning.config import training
from mml_lightning.data.flow.cache import FlowSettings
from mml_lightning.data.loading.images import LiveFlow
from mml_lightning.data.records.records import Record
from mml_lightning.data.video.decode import NoSource, VideoReader
from mml_lightning.data.video.images import open_media
from mml_lightning.data.video.live import CAMERA, Camera, FileSteps, Step, Steps, by_clock, open_camera
from mml_lightning.engine.predict import Predictor
from mml_lightning.engine.prediction import Scores, scores_of
from mml_lightning.evaluation.predictions import Predictions
from mml_lightning.modalities import Modality
from mml_lightning.sampling import test_starts, window_indices
from mml_lightning.utils.errors import UserError

PICTURED = ("frames", "flow")  # sources that a stream of frames has


@dataclass(frozen=True)
class Said:
    """What the network says with one step.

    Args:
        step: what it looked at.
        frame: by head, of this step alone.
        mean: by head, of the mean logits of the last N steps.
        seconds: from the arrival of the frame until this was known.
    """

    step: Step
    frame: Mapping[str, Scores]
    mean: Mapping[str, Scores]
    seconds: float


class VideoStream:
    """The only network of a predictor, on the crops of its views. Other videos need another one.

    Args:
        size: width and height of the frames.

    Raises:
        UserError: there are several networks, it looks at later frames or at what a stream has not, or flow of its
            engine can't be had pair by pair.
    """

    def __init__(self, predictor: Predictor, size: tuple[int, int]) -> None:
        self.predictor = predictor
        self.name, self.modality, net = only(predictor)
        check(predictor)
        self.stream = FrameStream(net, int(predictor.cfg.sampling.num_segments))
        self.size, self.fabric = size, predictor.fabric()
        self.fabric.setup_module(self.stream.net)
        self.scoring = training.scoring(predictor.cfg)
        clips = predictor.clips(predictor.videos("stream", [Record("stream", {"frames": Path("stream")}, {})]))
        self.kind = clips.kinds[self.modality.name]
        self.crops = clips.geometries(*size, random.Random(0))
        self._flow: dict[int, np.ndarray] = {}

    def told(self, ckpt: str) -> list[str]:
        """What it does, and what of its run a stream can't have, a line each."""
        cfg, segments = self.predictor.cfg, int(self.predictor.cfg.sampling.num_segments)
        crops = f"{len(self.crops)} crop{'s' if len(self.crops) > 1 else ''} of a frame"
        lines = [f"{self.name} of {ckpt}: {crops}, scores of the mean over the last {segments} steps"]
        clips = cfg.views.clips
        if clips > 1:
            lines.append(f"views={cfg.views.name} has {clips} clips of a video: a stream is one, which goes on")
        return lines

    def warm_up(self) -> None:
        """Let libraries choose their kernels, which makes a first step slow; nothing of it stays."""
        items = np.arange(self.modality.window)
        black = np.zeros((*self.size[::-1], 3), np.uint8)
        frames = dict.fromkeys(range(len(items) + int(self.modality.source == "flow")), black)
        self.say(Step(items, frames, None, 0.0))
        self.stream.reset()
        self._flow = {}

    def say(self, step: Step) -> Said:
        """Raises:
        DecodeError: the frames are too small for flow.
        """
        clip = self.kind.cut(
            self._source(step), [self.modality], {self.modality.name: step.items[None, None]}, self.crops
        )
        with torch.inference_mode(), self.fabric.autocast():
            prepared = self.modality(self.fabric.to_device(clip[self.modality.name]))
            found = self.stream.push(prepared[:, 0])
        frame, mean = self._scores(found.frame), self._scores(found.mean)
        return Said(step, frame, mean, time.monotonic() - step.arrived)

    def _source(self, step: Step) -> _Held:
        frames = _Held(step.frames)
        if self.modality.source == "frames":
            return frames
        assert self.predictor.flow is not None
        live = LiveFlow(frames, self.predictor.flow.settings, self.name)
        wanted = dict.fromkeys(step.items.tolist())
        self._flow = {item: self._flow[item] if item in self._flow else live.frames([item])[0] for item in wanted}
        return _Held(self._flow)

    def _scores(self, logits: Mapping[str, Tensor]) -> dict[str, Scores]:
        """By head, of logits [S, K], pooled over the crops as the views are."""
        made = {}
        for head, value in self.predictor.heads.items():
            shape = (1, len(value.classes)) if value.multi_label else (1,)
            dump = Predictions(
                ids=("stream",),
                target=torch.full(shape, -1.0) if value.multi_label else torch.full(shape, -1),
                logits={self.name: logits[head].float().cpu()[None]},
                classes=value.classes,
                multi_label=value.multi_label,
                split="stream",
                scoring=self.scoring,
            )
            made[head] = scores_of(dump, 0)
        return made


class _Held:
    """Pictures at hand, by number, as an open source."""

    fps, times = 0.0, None

    def __init__(self, held: Mapping[int, np.ndarray]) -> None:
        self.held, self.count = held, len(held)
        height, width = next(iter(held.values())).shape[:2]
        self.size = (width, height)

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        return np.stack([self.held[int(index)] for index in indices])


def check(predictor: Predictor) -> None:
    """Raises:
    UserError: as :class:`VideoStream`.
    """
    name, _, net = only(predictor)
    try:
        check_streamable(net)
    except ValueError as error:
        raise UserError(f"{name} can't be streamed: {error}") from None


def only(predictor: Predictor) -> tuple[str, Modality, Peer]:
    """Name, modality and network of the only peer, which looks at frames or at flow of pairs of them.

    Raises:
        UserError: there are several, or it looks at something else.
    """
    if len(predictor.networks) > 1:
        raise UserError(f"there are several networks, {', '.join(predictor.networks)}: choose one with --peer")
    ((name, net),) = predictor.networks.items()
    modality = predictor.modalities[name]
    if modality.source not in PICTURED:
        raise UserError(
            f"{name} looks at {modality.source}, and a stream has frames: choose another network with --peer"
        )
    if modality.source == "flow" and _flow(predictor).engine().fields is None:
        raise UserError(
            f"{name} looks at flow of flow.algorithm={_flow(predictor).algorithm}, which reads whole files: train it "
            "with another engine, such as flow=dis"
        )
    return name, modality, net


def _flow(predictor: Predictor) -> FlowSettings:
    assert predictor.flow is not None, "a network of flow comes with its settings"
    return predictor.flow.settings


@dataclass(frozen=True)
class Opened:
    """Steps of a source, the (width, height) of its frames, and what was chosen for the user, a line each."""

    steps: Steps
    size: tuple[int, int]
    told: list[str]


@contextmanager
def opened(
    predictor: Predictor, source: str, every: int | None = None, fps: float | None = None, realtime: bool = False
) -> Iterator[Opened]:
    """A video file or `camera:N` as steps of the predictor's network.

    Args:
        every: frames from one step to the next; fps: steps per second; by default as in training.
        realtime: a file is shown at its own pace; a camera always is.

    Raises:
        UserError: no such file or camera, or the spacing can't be had of it. DecodeError: the file can't be read.
    """
    _, modality, _ = only(predictor)
    more = int(modality.source == "flow")
    if source.startswith(CAMERA):
        every = every if every or fps else _training_step(predictor, source)
        camera = Camera(capture := open_camera(source), modality.window, more, every, fps)
        size = int(capture.get(3)), int(capture.get(4))  # CAP_PROP_FRAME_WIDTH and _HEIGHT
        yield Opened(camera, size, [f"{source}: {_rhythm(every, fps)}; late frames are dropped"])
        return
    path = Path(source).expanduser()
    if not path.is_file():
        what = "a folder, and a stream is of one video" if path.is_dir() else "no such file"
        raise UserError(f"{source}: {what}; SOURCE is a video file or camera:0")
    cfg = predictor.cfg
    decoder = _flow(predictor).decoder if more else cfg.data.decoder
    with open_media(path, decoder, indexes=config_data.indexes(cfg)) as video:
        if video.count <= more:
            raise NoSource(f"{source}: it has one frame and flow needs two")
        items, told = _items(predictor, modality, video, video.count - more, every, fps)
        told = f"{source}: {video.count} frames, {video.fps:g} a second; {told}"
        notes = [f"{source} is damaged: {loss}" for loss in [getattr(video, "notes", {}).get("damaged")] if loss]
        yield Opened(FileSteps(video, items, more, realtime), video.size, [*notes, told])


def _items(
    predictor: Predictor, modality: Modality, video: VideoReader, count: int, every: int | None, fps: float | None
) -> tuple[np.ndarray, str]:
    """Items [T, W] of the steps of a video with `count` of them, and how they were chosen."""
    cfg, window = predictor.cfg, modality.window
    if fps is not None:
        if video.times is None:
            raise UserError("nothing tells when its frames are shown: use --every in place of --fps")
        if 0 < video.fps < fps:
            raise UserError(f"--fps {fps:g} is more than the {video.fps:g} frames a second of the video: use --every 1")
        starts = np.minimum(by_clock(video.times, fps), max(0, count - window))
        return window_indices(starts, window, count), _rhythm(None, fps)
    if every is not None or cfg.sampling.mode != "uniform":
        guessed = f", as in training (sampling.mode={cfg.sampling.mode})" if every is None else ""
        every = every or _training_step(predictor, "")
        starts = np.arange(0, max(1, count - window + 1), every)
        return window_indices(starts, window, count), _rhythm(every, None) + guessed
    starts = _clip(predictor, modality, count)
    told = (
        f"{len(starts)} steps spread over the whole video, as in training (sampling.mode=uniform); --every or --fps "
        "look at more"
    )
    return window_indices(starts, window, count), told


def _clip(predictor: Predictor, modality: Modality, count: int) -> np.ndarray:
    """Where the windows of the unshifted uniform clip begin, [T]: the one of `views=center`."""
    cfg = predictor.cfg
    name, segments = modality.name, int(cfg.sampling.num_segments)
    try:
        made = test_starts({name: count}, {name: modality.window}, num_segments=segments, policy=cfg.views.policy)
    except ValueError as error:
        raise UserError(str(error)) from None
    starts: np.ndarray = made[name][0]
    return starts


def _training_step(predictor: Predictor, source: str) -> int:
    """Frames from one segment of a training clip to the next.

    Raises:
        UserError: it depends on how long a video is, and a camera has no end.
    """
    sampling = predictor.cfg.sampling
    if sampling.mode in ("strided", "segments"):
        return int(sampling.stride)
    if sampling.mode == "uniform":
        raise UserError(
            f"{source}: the network was trained on {sampling.num_segments} frames spread over whole videos, which "
            "tells no rate: give --fps (steps a second) or --every"
        )
    return max(1, int(sampling.dense_length) // int(sampling.num_segments))


def _rhythm(every: int | None, fps: float | None) -> str:
    if fps is not None:
        return f"{fps:g} steps a second"
    return "a step with each frame" if every == 1 else f"a step with every {every}{ordinal(every or 0)} frame"


def ordinal(number: int) -> str:
    """The ending of 2nd, 3rd, 11th.

    >>> [f"{n}{ordinal(n)}" for n in (2, 3, 11, 21)]
    ['2nd', '3rd', '11th', '21st']
    """
    return "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
