"""Cached flow as images, in the layouts that other programs and the readers of this package take.

Legend: P pairs, H height, W width.

The stored values are written as they are: 0 to 255 is -bound to bound, 128 is zero, nothing is rounded again. PNG keeps
them; JPEG changes them by a grey level or two.
"""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from mml_lightning.data.flow.cache import FlowCache
from mml_lightning.data.records.records import Dataset, Record
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.files import (
    folder_atomically,
    publish,
    remove_leftovers,
    same_in_other_case,
    temporary_name,
    write_atomically,
)
from mml_lightning.utils.foreign import parse_json

# File names without their ending; numbers count from 1.
LAYOUTS = {
    "tsn": "flow_{axis}_{:05d}",
    "suffix": "{:05d}_{axis}",
    "charades": "{id}-{:06d}{axis}",
    "packed": "{:06d}",  # red = x, green = y, blue = 128
}
ENDINGS = ("jpg", "png")
FLOW, DESCRIPTION = "flow", "export.json"


@dataclass(frozen=True)
class Form:
    """How images are written.

    Args:
        layout: one of LAYOUTS.
        ending: "jpg" or "png".
        quality: of JPEG, 1 to 100; colours of `packed` are not subsampled.

    Raises:
        UserError: one of them is unknown or out of its range.
    """

    layout: str = "tsn"
    ending: str = "jpg"
    quality: int = 95

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise UserError(f"--layout {self.layout} is unknown; use one of {list(LAYOUTS)}")
        if self.ending not in ENDINGS:
            raise UserError(f"--images {self.ending} is unknown; use one of {list(ENDINGS)}")
        if not 1 <= self.quality <= 100:
            raise UserError(f"--quality {self.quality} must lie between 1 and 100")

    @property
    def template(self) -> str:
        """As data.sources.flow.template of data=frame_lists takes it; with the id for Charades."""
        return f"{LAYOUTS[self.layout]}.{self.ending}".replace("{axis}", "{}")

    def names(self, identity: str, pair: int) -> list[str]:
        """File names of a pair, counted from 0: x and y, or the one that holds both."""
        template = LAYOUTS[self.layout].replace("{id}", identity.replace("{", "{{").replace("}", "}}"))
        axes = "xy" if "{axis}" in template else "x"
        return [f"{template.format(pair + 1, axis=axis)}.{self.ending}" for axis in axes]


def export(
    cache: FlowCache,
    dataset: Dataset,
    splits: Mapping[str, Sequence[Record]],
    target: Path,
    form: Form,
    workers: int,
    advance: Callable[[], object] = lambda: None,
) -> list[Path]:
    """Write `target/flow/<id>/<images>` of cached records, then the lists; returns the lists.

    Folders that hold the images of all pairs are kept, so a second call continues, and several at a time don't disturb
    each other. Lists are `<id> <pairs> <label>`, one per split, of videos with one label, and none in the layout of
    Charades, whose readers count images.

    Raises:
        UserError: `target` holds other flow, can't be written, or a record can't be exported: two videos with one
            folder, an id that is no path, a label for a part of a video.
    """
    folders = _folders(splits, target)
    _describe(cache, form, target)
    _check_apart(folders, target)
    with ThreadPoolExecutor(max(1, workers)) as pool:  # OpenCV encodes outside the interpreter lock
        try:
            for place in {folder.parent for folder in folders if folder.parent.is_dir()}:
                remove_leftovers(place)
            for _ in pool.map(lambda item: _video(cache, item[1], item[0], form), folders.items()):
                advance()
        except OSError as error:
            raise UserError(f"can't write {target} ({error.strerror}); choose another folder") from None
        finally:
            pool.shutdown(cancel_futures=True)
    return _lists(cache, dataset, splits, target, form)


def reading(form: Form, lists: Sequence[Path], target: Path) -> str:
    """Words of train.py that read the images back."""
    if form.layout == "charades":
        return f"data=charades data.flow.folder={(target / FLOW).resolve()}"
    named = ", ".join(f"{path.stem.removesuffix('_flow')}: {path.name}" for path in lists)
    source = f'{{folder: {FLOW}, template: "{form.template}", {named}}}'
    return f"data=frame_lists data.root={target.resolve()} 'data.sources.flow={source}'"


def _folders(splits: Mapping[str, Sequence[Record]], target: Path) -> dict[Path, Record]:
    folders: dict[Path, Record] = {}
    for records in splits.values():
        for record in records:
            path = PurePosixPath(record.id)
            odd = record.id != record.id.strip() or any(sign in record.id for sign in "\r\n\0")
            if path.is_absolute() or ".." in path.parts or not path.name or odd:
                raise UserError(f"id {record.id!r} is not a valid folder name; rename it to export its flow")
            if record.span is not None:
                raise UserError(
                    f"{record.id}: its label covers a part of the video, which lists can't express; cut the videos"
                )
            folder = target / FLOW / path
            if folders.get(folder, record).media["frames"] != record.media["frames"]:
                raise UserError(f"id {record.id!r} names different videos in two splits; rename one")
            folders[folder] = record
    return folders


def _check_apart(folders: Mapping[Path, Record], target: Path) -> None:
    """Raises:
    UserError: one folder would hold two videos: one inside of the other, or names that the disk or the eye can't tell
        apart.
    """
    known: dict[str, Record] = {}
    blind = same_in_other_case(target)
    for folder, record in folders.items():
        around = next((folders[parent] for parent in folder.parents if parent in folders), None)
        if around is not None:
            raise UserError(
                f"the folder of id {record.id!r} would be inside that of id {around.id!r}; rename one to export flow"
            )
        name = unicodedata.normalize("NFC", str(folder))
        other = known.setdefault(name.casefold() if blind else name, record)
        if other is not record:
            what = "differ only in case, which this disk ignores" if blind else "look the same (Unicode)"
            raise UserError(f"ids {other.id!r} and {record.id!r} {what}; rename one to export flow")


def _describe(cache: FlowCache, form: Form, target: Path) -> None:
    made = {
        "flow": cache.settings.provenance(),
        "key": cache.folder.name,
        "layout": form.layout,
        "images": form.ending,
        "quality": form.quality if form.ending == "jpg" else None,
    }
    file = target / DESCRIPTION
    try:
        found = parse_json(publish(file, json.dumps(made, indent=1) + "\n"))
    except OSError as error:
        raise UserError(f"can't write {target} ({error.strerror}); choose another folder") from None
    except ValueError:
        raise UserError(f"{file} is damaged; delete {target} and export again") from None
    if found != json.loads(json.dumps(made)):
        raise UserError(f"{target} holds flow made with other settings ({DESCRIPTION}); choose another folder")


def _video(cache: FlowCache, record: Record, folder: Path, form: Form) -> None:
    """All images of a video, or no folder.

    Raises:
        UserError: its folder holds something else.
    """
    flow = cache.load(record)
    wanted = {name for pair in range(len(flow)) for name in form.names(folder.name, pair)}
    if _whole(folder, wanted, form):
        return
    with folder_atomically(folder) as temporary:
        for number, pair in enumerate(flow):
            for name, content in zip(form.names(folder.name, number), encode(np.asarray(pair), form), strict=True):
                (temporary / name).write_bytes(content)
        if not _whole(folder, wanted, form):
            _remove(folder)


def _whole(folder: Path, wanted: set[str], form: Form) -> bool:
    """Whether a folder holds the images of all pairs and of no others.

    Raises:
        UserError: it holds something else, which must not be lost.
    """
    found = set(os.listdir(folder)) if folder.is_dir() else set()
    other = next((name for name in sorted(found - wanted) if not name.endswith(f".{form.ending}")), None)
    if other is not None and not wanted <= found:
        raise UserError(f"{folder} holds {other} beside images; move it, or choose another folder")
    return {name for name in found if name.endswith(f".{form.ending}")} == wanted


def _remove(folder: Path) -> None:
    """Take away a folder that lacks images, at once: nobody sees it half-removed."""
    away = temporary_name(folder)
    try:
        os.rename(folder, away)
    except FileNotFoundError:  # it was not there, or another process has taken it away
        return
    shutil.rmtree(away, ignore_errors=True)


def encode(pair: np.ndarray, form: Form) -> list[bytes]:
    """Files of quantised flow uint8 [H, W, 2]: of x and y, or the one of both."""
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, form.quality] if form.ending == "jpg" else []
    images = [pair[..., 0], pair[..., 1]]
    if form.layout == "packed":
        # OpenCV's order is blue, green, red; blue in the middle of its range costs JPEG least
        images = [np.dstack([np.full(pair.shape[:2], 128, dtype=np.uint8), pair[..., 1], pair[..., 0]])]
        if form.ending == "jpg":
            options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return [cv2.imencode(f".{form.ending}", np.ascontiguousarray(image), options)[1].tobytes() for image in images]


def _lists(
    cache: FlowCache, dataset: Dataset, splits: Mapping[str, Sequence[Record]], target: Path, form: Form
) -> list[Path]:
    if form.layout == "charades" or len(dataset.heads) != 1 or next(iter(dataset.heads.values())).multi_label:
        return []
    head = next(iter(dataset.heads))
    written = []
    for split, records in splits.items():
        lines = [f"{r.id} {len(cache.load(r))} {r.target[head]}\n" for r in records if head in r.target]
        if lines:
            written.append(target / f"{split}_flow.txt")
            with write_atomically(written[-1]) as handle:
                handle.writelines(lines)
    return written
