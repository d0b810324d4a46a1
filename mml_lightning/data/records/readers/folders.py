"""A folder per class: nothing but videos, sorted by what they show."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mml_lightning.data.records.readers.files import HELD_OUT, check_name, check_spelling, held_out
from mml_lightning.data.records.readers.mirrored import mirrored_classes
from mml_lightning.data.records.record_store import RecordStore
from mml_lightning.data.records.records import SPLITS, Dataset, Head, RecordRow
from mml_lightning.utils.errors import UserError

SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "validate", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_LIKE_A_SPLIT = re.compile(
    r"^(train|test|val)|(?<![^\W\d_])(train(ing)?|test(ing)?|valid(ation)?|val|dev|eval|fold|split|set|part)(?![^\W\d_])",
    re.IGNORECASE,
)
VIDEOS = ("mp4", "webm", "avi", "mkv", "mov", "mpg", "mpeg", "m4v", "flv", "wmv")


def read_folders(name: str, root: str, extensions: Sequence[str] = VIDEOS, mirrored: bool = False) -> Dataset:
    """`<class>/<video>`, or `{train,val,test}/<class>/<video>`, below `root`; deeper folders belong to the class.

    Names of splits may be written in any case. Links to folders are followed. Without a folder of validation videos
    every fifth training video (by id order) validates. The id of a video is its path without ending.

    Raises:
        UserError: no folder, no video, a class of another split only, fewer than two classes, folders of splits beside
            others, one split in two folders, no folder of training videos, links that lead back to their folder or
            nowhere, or names that are not UTF-8.
    """
    base = Path(root).expanduser()
    if not base.is_dir():
        raise UserError(f"{base} is not a folder; set data.root to a folder with one subfolder per class")
    looked = _Look(base, tuple(f".{extension.lower().lstrip('.')}" for extension in extensions))
    folders = _split_folders(looked) or {"train": base}
    found = {split: list(looked.videos(folders[split])) if split in folders else [] for split in SPLITS}
    for split, folder in folders.items():
        if not found[split] and split != "train":
            raise UserError(f"{folder} holds no video; add some, or remove it")
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
            RecordRow(identity, {"frames": path}, {"label": number[label]}) for label, identity, path in found[split]
        )
    told = looked.told()
    if not splits["val"]:
        splits["train"], splits["val"] = held_out(splits["train"])
        told += (HELD_OUT,)
    partners = {"label": mirrored_classes(classes) if mirrored else {}}
    return Dataset(name, splits, {"label": Head(tuple(classes))}, partners, told=told)


def _split_folders(looked: _Look) -> dict[str, Path]:
    """The folder of each split; none where the folders of the root are classes.

    A folder with a split's name is one if it holds folders; a class "train" holds videos itself, and shows trains.
    """
    split_of = {name: split for split, names in SPLIT_FOLDERS.items() for name in names}
    base, folders = looked.base, looked.folders(looked.base)
    splits = [path for path in folders if path.name.casefold() in split_of and looked.folders(path)]
    others = [path for path in folders if path not in splits]
    if not splits:
        if folders and all(_LIKE_A_SPLIT.search(path.name) and looked.folders(path) for path in folders):
            raise UserError(f"{folders[0]} looks like a split, not a class; name the splits train, val and test")
        return {}
    looked.loose += looked.loose_videos(base)
    found: dict[str, Path] = {}
    for path in splits:
        split = split_of[path.name.casefold()]
        if split in found:
            raise UserError(f"{base} holds {found[split].name}/ and {path.name}/, both of the {split} split; keep one")
        found[split] = path
    for path in others:
        if next(looked.below(path, (os.path.realpath(base),)), None):
            raise UserError(
                f"{base} holds {splits[0].name}/, a split, and {path.name}/, which is not: use either splits "
                "(train, val, test), each with its class folders, or class folders only"
            )
        looked.empty.append(path.name)
    if "train" not in found:
        raise UserError(
            f"{base} holds {splits[0].name}/, a split, and no train/; add it, or give the folder of classes"
        )
    return found


@dataclass
class _Look:
    """What lies below a folder; what is left out is counted. Names that begin with a dot are hidden.

    Args:
        endings: of videos, with their dots, in small letters.
    """

    base: Path
    endings: tuple[str, ...]
    others: Counter[str] = field(default_factory=Counter)
    loose: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)

    def folders(self, folder: Path) -> list[Path]:
        """Those below a folder, and links to some, in order."""
        return [folder / name for name, is_folder in self._entries(folder) if is_folder]

    def loose_videos(self, folder: Path) -> list[str]:
        """Names of the videos in `folder` itself."""
        return [name for name, is_folder in self._entries(folder) if not is_folder and self._is_video(name)]

    def videos(self, folder: Path) -> Iterator[tuple[str, str, str]]:
        """(class, id, file) of all videos below the class folders of `folder`, in order."""
        entries = self._entries(folder)
        self.loose += self.loose_videos(folder)
        above = os.path.realpath(self.base), os.path.realpath(folder)
        for label in [name for name, is_folder in entries if is_folder]:
            count = 0
            for identity, file in self.below(folder / label, above):
                count += 1
                yield label, identity, file
            if not count:
                self.empty.append((folder / label).relative_to(self.base).as_posix())

    def below(self, folder: Path, above: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        """(id, file) of the videos of a folder and, below it, of its folders.

        Args:
            above: where the folders really lie through which it was reached.
        """
        real = os.path.realpath(folder)
        if real in above:
            raise UserError(f"{folder} is a link to its own parent {real}; remove the link")
        path, identity = str(folder / "_")[:-1], (folder / "_").relative_to(self.base).as_posix()[:-1]
        entries = self._entries(folder)
        for name, is_folder in entries:
            stem, ending = os.path.splitext(name)
            if not is_folder and self._is_video(name):
                yield identity + stem, path + name
            elif not is_folder:
                self.others[ending.lower() or "none"] += 1
        for name, is_folder in entries:
            if is_folder:
                yield from self.below(folder / name, (*above, real))

    def _is_video(self, name: str) -> bool:
        return name.lower().endswith(self.endings)

    def _entries(self, folder: Path) -> list[tuple[str, bool]]:
        """(name, whether it is a folder or leads to one) in order."""
        try:
            with os.scandir(folder) as entries:
                found = sorted((e.name, e.is_dir(), e.is_symlink()) for e in entries if not e.name.startswith("."))
        except OSError as error:
            raise UserError(f"can't read {folder}: {error.strerror or error}") from None
        for name, is_folder, is_link in found:
            if is_folder or self._is_video(name):
                check_name(f"{folder}/{name}")
            if is_link and not is_folder and not os.path.exists(folder / name):
                raise UserError(f"{folder / name} is a broken link; fix or remove it")
        return [(name, is_folder) for name, is_folder, _ in found]

    def told(self) -> tuple[str, ...]:
        """What is left out, in words."""
        said = []
        if self.loose:
            said.append(f"{_some(self.loose, 'video')} outside class folders skipped, first {self.loose[0]!r}")
        if self.empty:
            said.append(f"{_some(self.empty, 'folder')} without videos skipped, first {self.empty[0]!r}")
        if self.others:
            kinds = ", ".join(f"{ending!r} {count}" for ending, count in self.others.most_common(4))
            number = sum(self.others.values())
            said.append(f"{number} {'file' if number == 1 else 'files'} with other extensions skipped ({kinds})")
        return tuple(said)


def _some(found: list[str], what: str) -> str:
    return f"{len(found)} {what}{'' if len(found) == 1 else 's'}"
