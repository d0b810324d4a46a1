"""A folder per class: nothing but videos, sorted by what they show."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mml_lightning.data.readers.files import check_spelling, held_out
from mml_lightning.data.readers.mirrored import mirrored_classes
from mml_lightning.data.records import SPLITS, Dataset, Head, row_of
from mml_lightning.data.store import RecordStore
from mml_lightning.errors import UserError

SPLIT_FOLDERS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
VIDEOS = ("mp4", "webm", "avi", "mkv", "mov", "mpg", "mpeg", "m4v", "flv", "wmv")


def read_folders(name: str, root: str, extensions: Sequence[str] = VIDEOS, mirrored: bool = False) -> Dataset:
    """`<class>/<video>`, or `{train,val,test}/<class>/<video>`, below `root`; deeper folders belong to the class.

    Without a folder of validation videos every fifth training video (by id order) validates. The id of a video is its
    path without ending.

    Raises:
        UserError: no folder, no video, a class of another split only, or fewer than two classes.
    """
    base = Path(root).expanduser()
    if not base.is_dir():
        raise UserError(f"{base} is no folder; set data.root to the folder that holds one folder per class")
    endings = tuple(f".{extension.lower().lstrip('.')}" for extension in extensions)
    folders = {
        split: next((base / n for n in names if (base / n).is_dir()), None) for split, names in SPLIT_FOLDERS.items()
    }
    if folders["train"] is None or not any(path.is_dir() for path in folders["train"].iterdir()):
        # no splits; a folder "train" that holds videos itself is a class, and shows trains
        folders = {"train": base, "val": None, "test": None}
    found = {split: _videos(base, folder, endings) if folder else [] for split, folder in folders.items()}
    classes = sorted({label for label, *_ in found["train"]})
    if len(classes) < 2:
        raise UserError(
            f"{folders['train']}: videos of {len(classes)} class; it must hold two or more class folders with videos "
            f"({', '.join(extensions)})"
        )
    check_spelling(classes, lambda label: str(folders["train"] / label))
    number = {label: index for index, label in enumerate(classes)}
    splits = {}
    for split in SPLITS:
        unknown = next((path for label, _, path in found[split] if label not in number), None)
        if unknown:
            raise UserError(f"{unknown}: its class has no training video; add some to {folders['train']} or remove it")
        splits[split] = RecordStore(
            row_of(identity, {"frames": path}, {"label": number[label]}) for label, identity, path in found[split]
        )
    if not splits["val"]:
        splits["train"], splits["val"] = held_out(splits["train"])
    return Dataset(
        name, splits, {"label": Head(tuple(classes))}, {"label": mirrored_classes(classes) if mirrored else {}}
    )


def _videos(base: Path, folder: Path, endings: tuple[str, ...]) -> list[tuple[str, str, str]]:
    """(class, id, file) of all videos below the class folders of `folder`, in order."""
    videos = []
    for place, inner, files in os.walk(folder):
        inner.sort()
        inner[:] = [name for name in inner if not name.startswith(".")]
        label = next(iter(Path(place).relative_to(folder).parts), None)
        if label is not None:
            path, identity = str(Path(place, "_"))[:-1], Path(place, "_").relative_to(base).as_posix()[:-1]
            videos += [
                (label, identity + os.path.splitext(file)[0], path + file)
                for file in sorted(files)
                if file.lower().endswith(endings) and not file.startswith(".")
            ]
    return videos
