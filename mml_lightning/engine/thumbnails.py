"""Small pictures of videos as the networks of a run see them: the same frames, crops and flow.

Legend: V views, T segments, C channels, H height, W width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from mml_lightning.config import data as config_data
from mml_lightning.config.settings import Settings
from mml_lightning.data.loading.dataset import ClipDataset
from mml_lightning.data.records.records import Dataset, Record
from mml_lightning.engine import clip_pictures, load
from mml_lightning.engine.flow import flow_filler
from mml_lightning.modalities import Modality
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.files import FOLDER_NAME
from mml_lightning.utils.plain_text import some_videos
from mml_lightning.utils.result_file import read_result

FRAMES = 8  # of a strip
HEIGHT = 96  # pixels that a frame of a strip has at most
QUALITY = 80  # of JPEG


@dataclass(frozen=True)
class Strip:
    """Frames of one clip side by side.

    Args:
        modality: what a network looks at.
        jpeg: the file.
        width, height: in pixels.
        frames: how many.
    """

    modality: str
    jpeg: bytes
    width: int
    height: int
    frames: int


@dataclass
class Thumbnails:
    """Strips by video id, and in a few words each what they show and which videos have none."""

    strips: dict[str, list[Strip]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of all."""
        return sum(len(strip.jpeg) for strips in self.strips.values() for strip in strips)


def thumbnails(
    run: Path,
    split: str,
    videos: Sequence[str],
    most: int,
    words: Sequence[str] = (),
    watched: Callable[[Sequence[str]], Any] = iter,
) -> Thumbnails:
    """Pictures of some videos of the split that a run was measured on; what has none is said, and is no error.

    Args:
        run: its directory.
        videos: their ids, the most important first.
        most: bytes of all pictures: videos behind have none.
        words: settings as typed for `eval.py`, such as `data.root=...`.
        watched: gets what is read one by one and gives it back, to show how far it is.

    Raises:
        UserError: one of the `words` is wrong.
    """
    made = Thumbnails()
    try:
        clips, strange, changed = _clips(run, split, videos, words)
    except UserError as error:
        if words:
            raise
        made.notes.append(f"no pictures: {error}")
        return made
    if strange:
        made.notes.append(f"not in the data any more, without a picture: {some_videos(strange)}")
    if changed:
        made.notes.append(
            "the data are not those of the run any more (videos, labels or file sizes): pictures may be of others"
        )
    made.notes += _read(made, clips, most, watched)
    return made


def _clips(run: Path, split: str, videos: Sequence[str], words: Sequence[str]) -> tuple[ClipDataset, list[str], bool]:
    """How these videos become clips, the ids that the data don't have, and whether the data are others than those of
    the run.

    Raises:
        UserError: nothing tells the data of the run, or they can't be had.
    """
    result = read_result(run) or {}
    names = [name for name in result.get("modality") or [] if FOLDER_NAME.fullmatch(name)]
    typed = [word for word in words if word.startswith("modality=")]
    chosen = [f"modality=[{','.join(names)}]"] if names and not typed else []
    cfg, _, told = load.settings(str(run), [*chosen, *words], None)
    if not told:
        raise UserError(f"{run} does not tell its data: give the run directory")
    modalities = config_data.modalities(cfg)
    data = config_data.checked_records(cfg, {modality.source for modality in modalities.values()})
    wanted = set(videos)
    by_id = {record.id: record for record in data.splits.get(split, ()) if record.id in wanted}
    if not by_id:
        raise UserError(f"data={data.name} has none of the videos in its {split} split; say where they are with --set")
    found = [by_id[video] for video in videos if video in by_id]
    changed = (result.get("data_fingerprint") or data.fingerprint()) != data.fingerprint()
    return _dataset(cfg, data, found, modalities), [video for video in videos if video not in by_id], changed


def _dataset(cfg: Settings, data: Dataset, found: Sequence[Record], modalities: Mapping[str, Modality]) -> ClipDataset:
    cache = config_data.flow_cache(cfg, modalities)
    measured = dataclasses.replace(data, splits={"test": found})  # `views` shape the test split
    clips = config_data.clip_datasets(cfg, measured, cache, list(modalities.values()))["test"]
    flow_filler(cache, {"test": clips}, int(cfg.data.workers))()
    return clips


def _read(made: Thumbnails, clips: ClipDataset, most: int, watched: Callable[[Sequence[str]], Any]) -> list[str]:
    """Fill in the strips; returns what is to be said."""
    notes: list[str] = []
    seen = [m for m in clips.modalities if clip_pictures.can_be_shown(m, clips.kinds[m.name].pictured)]
    blind = [modality.name for modality in clips.modalities if modality not in seen]
    if blind:
        notes.append(f"no pictures of {', '.join(blind)}")
    failures: list[tuple[str, str]] = []
    room, ids = most, [record.id for record in clips.records]
    for index, video in enumerate(watched(ids)):
        sample = clips[(0, index)]
        if "clips" not in sample:
            failures += sample["failures"]
            continue
        strips = [_strip(sample["clips"][m.name][0], m) for m in seen if sample["present"][m.name]]
        room -= sum(len(strip.jpeg) for strip in strips)
        if room < 0:
            notes.append(f"{most / 1e6:g} MB of pictures are the limit: {some_videos(ids[index:])} have none")
            break
        made.strips[video] = strips
    if made.strips:
        notes.insert(0, _described(clips))
    if failures:
        told = some_videos([video for video, _ in failures])
        notes.append(f"can't be read any more, without a picture: {told}; {failures[0][1]}")
    return notes


def _described(clips: ClipDataset) -> str:
    shown = "the first view" if clips.views > 1 else "the clip"
    flow = any(map(clip_pictures.is_flow, clips.modalities))
    wheel = "; flow: hue is direction, full colour the fastest motion of the clip" if flow else ""
    grey = "; differences around grey" if any(m.prepare == "difference" for m in clips.modalities) else ""
    sound = "; sound: its spectrogram, high tones above" if any(map(clip_pictures.is_sound, clips.modalities)) else ""
    return f"pictures are {shown} that the networks are given, cropped as they see it{wheel}{grey}{sound}"


def _strip(clip: Tensor, modality: Modality) -> Strip:
    """A clip [T, ...] as it is stored."""
    picked = np.linspace(0, len(clip) - 1, min(len(clip), FRAMES)).round().astype(int)
    images = clip_pictures.pictures(clip[torch.from_numpy(picked)], modality)
    height, width = images.shape[1:3]
    if height > HEIGHT:
        size = max(1, round(width * HEIGHT / height)), HEIGHT
        images = np.stack([cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in images])
    strip = np.concatenate(list(images), axis=1)
    _, jpeg = cv2.imencode(".jpg", np.ascontiguousarray(strip[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return Strip(modality.name, jpeg.tobytes(), strip.shape[1], strip.shape[0], len(images))
