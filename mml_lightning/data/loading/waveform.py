"""A source that is sound: windows of samples around the frames that the other modalities look at.

Its items are those of the frames, in the video's own time, so that one temporal draw places sound and pictures alike.

Legend: V views, T segments, L samples of a window.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mml_lightning.audio import SPECTROGRAMS, Spectrogram
from mml_lightning.data.loading.images import Frames
from mml_lightning.data.loading.kinds import Kind, Opening, OpenSource, Size
from mml_lightning.data.loading.ram_cache import RamCache
from mml_lightning.data.records.clock import clock, frames_of
from mml_lightning.data.records.records import Record
from mml_lightning.data.video.decode import DecodeError, NoSource
from mml_lightning.data.video.media import Media
from mml_lightning.data.video.sound import Sound, read_sound
from mml_lightning.modalities import Modality
from mml_lightning.transforms import Crop
from mml_lightning.utils.errors import UserError

ITEMS_PER_SECOND = 25.0  # of sound without pictures
SHORT = 0.64
"""Seconds that sound may begin late or end early: half a window of `audio`, which is moved by as much at both ends, as
published."""


@dataclass
class OpenSound:
    """The sound of one record.

    Args:
        sound: all of it.
        resampled: its samples int16 [N] at a rate.
        count, fps, times: of its items, as :class:`mml_lightning.data.loading.kinds.OpenSource` has them.
        seconds: when each item is shown, [N].
    """

    sound: Sound
    resampled: Callable[[int], np.ndarray]
    count: int
    fps: float
    times: np.ndarray | None
    seconds: np.ndarray


class Waveform(Kind):
    """The sound of a video: of a file of its own where the record names one, else that of the video file.

    Clips are int16 [V, T, L]: windows of the length that the modality's spectrogram takes, the item in the middle,
    moved inside where they would reach beyond the sound, repeated where the sound is shorter (AdaMML). A record whose
    part has sound in some places only lacks it: nothing is made up.
    """

    made_of: ClassVar[str] = "frames"

    def open(self, name: str, record: Record, opening: Opening) -> OpenSound:
        media = record.media.get(name) or record.media.get(self.made_of)
        if media is None:
            raise NoSource(f"{record.id}: it has no sound")
        sound, resampled = _read(media, opening.ram)
        if self.made_of not in record.media:
            count = max(1, round(sound.end * ITEMS_PER_SECOND))
            even = np.arange(count) / ITEMS_PER_SECOND
            return OpenSound(sound, resampled, count, ITEMS_PER_SECOND, even, even)
        frames = opening.opened.get(self.made_of) or Frames().open(self.made_of, record, opening)
        shown = clock(frames)
        if shown is None:
            raise DecodeError(f"{record.id}: unknown frame rate, its sound can't be placed")
        _check_heard(sound, record, frames, shown)
        return OpenSound(sound, resampled, frames.count, frames.fps, frames.times, shown)

    def cut(
        self,
        source: OpenSource,
        modalities: Sequence[Modality],
        indices: Mapping[str, np.ndarray],
        geometries: Sequence[Crop],
    ) -> dict[str, Tensor]:
        opened: OpenSound = source  # type: ignore[assignment]  # by this kind
        clips = {}
        for modality in modalities:
            spectrogram = heard_by(modality)
            rate, length = spectrogram.rate, spectrogram.samples
            heard = opened.resampled(rate)
            heard = np.resize(heard, max(length, len(heard)))  # repeated where it is too short
            middle = opened.seconds[indices[modality.name][..., 0]]
            begin = np.rint((middle - opened.sound.start) * rate).astype(np.int64) - length // 2
            begin = begin.clip(0, len(heard) - length)
            clip = torch.from_numpy(heard[begin[..., None] + np.arange(length)])
            clips[modality.name] = clip.repeat(len(geometries), 1, 1)
        return clips

    def segment(self, modality: Modality, size: Size) -> tuple[tuple[int, ...], torch.dtype]:
        return (heard_by(modality).samples,), torch.int16


def _read(media: Media, ram: RamCache | None) -> tuple[Sound, Callable[[int], np.ndarray]]:
    """The sound of a file, and what resamples it: both once per process, if there is a cache."""
    if ram is None:
        sound = read_sound(media)
        return sound, sound.resampled
    sound = ram.kept(media, "sound", functools.partial(read_sound, media), lambda it: it.samples.nbytes)

    def resampled(rate: int) -> np.ndarray:
        return ram.kept(media, ("sound", rate), functools.partial(sound.resampled, rate), lambda it: it.nbytes)

    return sound, resampled


def heard_by(modality: Modality) -> Spectrogram:
    """Raises:
    UserError: the modality makes no spectrogram of what it hears.
    """
    spectrogram = modality.preparation.spectrogram
    if spectrogram is None:
        raise UserError(
            f"modality {modality.name}: prepare={modality.prepare} is not made for sound; use one of "
            f"{list(SPECTROGRAMS)}"
        )
    return spectrogram


def _check_heard(sound: Sound, record: Record, frames: OpenSource, seconds: np.ndarray) -> None:
    """Raises:
    NoSource: the part of the video that carries the label has sound in some places only.
    """
    span = record.span
    first, behind = (0, frames.count) if span is None else frames_of(span, 0.0, frames, record.id)
    begin, end = float(seconds[first]), float(seconds[behind - 1])
    if sound.gap is not None and sound.gap[0] < end and begin < sum(sound.gap):
        raise NoSource(f"{record.id}: its sound lacks {sound.gap[1]:.2f} s at {sound.gap[0]:.2f} s")
    if sound.start > begin + SHORT or sound.end < end - SHORT:
        heard = f"from {max(0.0, sound.start):.2f} to {sound.end:.2f} s"
        raise NoSource(
            f"{record.id}: it has sound {heard} only, its pictures are those from {begin:.2f} to {end:.2f} s"
        )
