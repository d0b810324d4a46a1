"""Sources that are images: frames of a video, and flow, which is stored, cached or computed from the frames.

Legend: N items asked for, V views, T segments, L window, H height, W width, c channels of an item (frames 3, flow 2).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from mml_lightning.data.flow.cache import FlowSettings, stream_flow
from mml_lightning.data.loading.kinds import Kind, Opening, OpenSource, Size
from mml_lightning.data.loading.ram_cache import HeldItems
from mml_lightning.data.records.records import Record
from mml_lightning.data.video.decode import DecodeError, NoSource
from mml_lightning.data.video.images import open_media
from mml_lightning.data.video.media import ImageSequence, Media, PackedFrames
from mml_lightning.modalities import Modality
from mml_lightning.transforms import Box, Crop, apply_views, bounding_box, invert_x, reduction
from mml_lightning.utils.errors import UserError


class OpenImages(OpenSource, Protocol):
    @property
    def size(self) -> tuple[int, int]:
        """Width and height of its items."""
        ...

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """Items uint8 [N, H, W, c]."""
        ...


def read_part(source: OpenImages, indices: Sequence[int], box: Box) -> np.ndarray:
    """What the items hold inside of `box` (x, y, w, h), uint8 [N, h, w, c]; sources that can, decode no more than that.

    Raises:
        DecodeError: an item can't be read.
    """
    part = getattr(source, "part", None)
    if part is not None:
        return np.asarray(part(indices, box))
    x, y, width, height = box
    return source.frames(indices)[:, y : y + height, x : x + width]


def fitted(source: OpenImages, crops: Sequence[Crop]) -> OpenImages:
    """`source` reduced as far as `crops` allow, if it can be."""
    reduced = getattr(source, "reduced", None)
    made: OpenImages = source if reduced is None else reduced(reduction(crops, *source.size))
    return made


@dataclass
class LiveFlow:
    """Flow of an open video, computed from its whole frames when it is asked for: what the cache would hold, if the
    engine looks at one pair at a time.

    Args:
        video: the frames; two or more.
        name: of the video, for messages.
    """

    video: OpenImages
    settings: FlowSettings
    name: str

    def __post_init__(self) -> None:
        if self.video.count < 2:
            raise NoSource(f"{self.name}: it has one frame and flow needs two; drop it, or set data.missing=mask")
        self.count, self.size, self.fps = self.video.count - 1, self.video.size, self.video.fps
        self.times = None if self.video.times is None else self.video.times[:-1]

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """Pairs uint8 [N, H, W, 2].

        Raises:
            DecodeError: a frame can't be read, or the frames are too small.
        """
        wanted, inverse = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        needed = np.union1d(wanted, wanted + 1)
        frames = self.video.frames(needed.tolist())
        fields: list[np.ndarray] = []
        try:
            # neighbouring pairs share a frame; a gap starts anew
            for run in np.split(wanted, np.flatnonzero(np.diff(wanted) > 1) + 1):
                first, last = np.searchsorted(needed, [run[0], run[-1] + 1])
                fields += stream_flow(frames[first : last + 1], self.settings)
        except ValueError as error:
            raise DecodeError(f"{self.name}: {error}") from None
        return np.stack(fields)[inverse]


class Images(Kind):
    """Items that are pictures. Clips are uint8 [V, T, L * c, h, w], cut by the crops of the sample; each item is read
    and cropped once, whatever the number of modalities and windows that it is in."""

    pictured: ClassVar[bool] = True

    def cut(
        self,
        source: OpenSource,
        modalities: Sequence[Modality],
        indices: Mapping[str, np.ndarray],
        geometries: Sequence[Crop],
    ) -> dict[str, Tensor]:
        wanted = np.unique(np.concatenate([indices[m.name].ravel() for m in modalities]))
        images = fitted(source, geometries)  # type: ignore[arg-type]  # opened by this kind
        size, box = images.size, bounding_box(geometries, *images.size)
        pixels = torch.from_numpy(read_part(images, wanted.tolist(), box)).permute(0, 3, 1, 2)
        crops = apply_views(pixels, [crop.scaled_to(*size).inside(box) for crop in geometries])  # each [N, c, h, w]
        clips = {}
        for modality in modalities:
            at = torch.from_numpy(np.searchsorted(wanted, indices[modality.name]))  # [V, T, L]
            views = [crop[at].flatten(2, 3) for crop in crops]  # each [V, T, L*c, h, w]
            if modality.flip == "mirror_negate_x":
                views = [invert_x(view) if g.flip else view for view, g in zip(views, geometries, strict=True)]
            clips[modality.name] = torch.cat(views)
        return clips

    def segment(self, modality: Modality, size: Size) -> tuple[tuple[int, ...], torch.dtype]:
        return (modality.window * modality.item_channels, size[1], size[0]), torch.uint8


class Frames(Images):
    """The frames of a video file, of a folder of images or of a pack."""

    def open(self, name: str, record: Record, opening: Opening) -> OpenImages:
        if name not in record.media:
            raise NoSource(f"{record.id}: it has no video")
        return _opened(record.media[name], record.decoder or opening.decoder, opening)


class Flow(Images):
    """Optical flow: that of the record, or else computed from its frames, in time or in the cache."""

    made_of: ClassVar[str] = "frames"

    def open(self, name: str, record: Record, opening: Opening) -> OpenImages:
        media, frames = record.media.get(name), record.media.get(self.made_of)
        if isinstance(media, ImageSequence | PackedFrames):
            return _opened(media, record.decoder or opening.decoder, opening)
        if frames is None:
            raise NoSource(f"{record.id}: it has no video")
        cache = opening.flow
        if cache is None:
            raise UserError("a run with flow needs a flow cache; build it with build_data.flow_cache")
        at_hand = opening.opened.get(self.made_of)
        if cache.settings.on_the_fly:
            decoder = record.decoder or cache.settings.decoder
            # the frames at hand, unless flow is made from another reader's
            shared = at_hand if decoder == (record.decoder or opening.decoder) else None
            video = _opened(frames, decoder, opening) if shared is None else shared
            return LiveFlow(video, cache.settings, str(frames))  # type: ignore[arg-type]  # frames are images
        fps, times = (at_hand.fps, at_hand.times) if at_hand is not None else (0.0, None)
        times, load = None if times is None else times[:-1], functools.partial(cache.load, record)
        if opening.ram is None:
            return HeldItems(load(), fps, times)
        return opening.ram.flow(frames, (cache.folder, record.decoder), load, fps, times)


def _opened(media: Media, decoder: str, opening: Opening) -> OpenImages:
    if opening.ram is None:
        return opening.stack.enter_context(open_media(media, decoder, opening.reducible, opening.indexes))
    whole = functools.partial(open_media, media, decoder, False, opening.indexes)
    return opening.stack.enter_context(opening.ram.video(media, decoder, whole))
