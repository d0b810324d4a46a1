"""Charades readers: the official lists, and the frame lists of PySlowFast and Long-Term Feature Banks.

A record has the union of a video's classes as its target, and its timed actions as intervals, from which a training
clip takes the classes of its own stretch. The official "test" list is what the field reports results on: it is both
`val` (one clip, while training) and `test` (the views of the protocol, at the end).
Sources: the data set's own README and evaluation program (Sigurdsson et al., "Hollywood in Homes", ECCV 2016).
"""

from __future__ import annotations

import csv
import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mml_lightning.data.records.intervals import Interval, intervals_of_frames
from mml_lightning.data.records.readers.cells import check_header, rows_of
from mml_lightning.data.records.readers.charades_media import MediaFolder
from mml_lightning.data.records.readers.files import ABSENT, below, find
from mml_lightning.data.records.records import Dataset, Head, Record
from mml_lightning.data.video.media import ImageSequence, Media
from mml_lightning.utils.errors import UserError, check_choice
from mml_lightning.utils.progress import Progress

log = logging.getLogger(__name__)

HEAD = "label"
CLASSES = 157
KEEP_OR_DROP = ("keep", "drop")
FRAME_LIST = ("original_vido_id", "video_id", "frame_id", "path", "labels")  # the first is misspelt in all of them
THREADS = 8
MOST_REVERSED = 0.01  # share of a list's actions that may end before they start; the published ones have 7 of 66500
PARTS = 20  # of a frame list, between which progress is told


@dataclass(frozen=True)
class _Video:
    """One line of an official list, or one video of a frame list."""

    id: str
    classes: tuple[int, ...]
    intervals: tuple[Interval, ...]
    media: Mapping[str, Media]
    length: float | None = None  # seconds, as listed


def read_charades(
    name: str,
    root: str,
    train: str,
    test: str,
    classes: str | None,
    frames: Mapping[str, Any],
    flow: Mapping[str, Any],
    absent: str = "error",
    empty: Mapping[str, str] | None = None,
) -> Dataset:
    """Charades as published: two CSV lists with the columns `id` and `actions` ("c092 11.90 21.20;c147 0.00 12.60").

    Args:
        train, test, classes: files below `root` (or `root`/Charades). `classes` has a line "c008 Opening a door" per
            class; without it there are the 157 classes c000 to c156.
        frames, flow: fields of :class:`charades_media.MediaFolder`. A `folder` of None: no such
            files (flow is then computed from the frames).
        absent: a listed video that is not on disk is an "error", or "drop": it is left out, and counted.
        empty: per list ("train", "val"), "keep" or "drop" videos without any action, by default "drop" in both: the
            published lists have none, and the official evaluation gives them no rank.

    Raises:
        UserError: a list is missing, malformed or cut off, an unknown class, actions that end before they start (a
            warning where they are no more than MOST_REVERSED), absent videos, or an unknown choice.
    """
    choices = _choices(absent, empty)
    folder = Path(root).expanduser()
    names = _class_names(_find(folder, classes, "classes") if classes else None)
    sources = _sources(folder, frames, flow)
    splits = {}
    for split, file, key in (("train", train, "train"), ("val", test, "test")):
        path = _find(folder, file, key)
        videos = _without_empty(_official(path, len(names)), choices[split], split, name)
        splits[split] = _with_media(videos, sources, absent, split, name)
    return _dataset(name, splits, names)


def read_charades_frame_lists(
    name: str,
    root: str,
    train: str,
    test: str,
    classes: str | None,
    frames: Mapping[str, Any],
    flow: Mapping[str, Any],
    absent: str = "error",
    empty: Mapping[str, str] | None = None,
) -> Dataset:
    """Charades with the label set of every frame, one line per frame (PySlowFast, Long-Term Feature Banks).

    The lists say how many frames a video has, so no folder is counted. `frames` needs `folder`, which the paths of the
    lists start from, and `fps`. Runs of frames with a class become intervals; the class of a video is the union.

    Raises:
        UserError: as :func:`read_charades`; also paths that are not numbered one after another.
    """
    choices = _choices(absent, empty)
    folder = Path(root).expanduser()
    names = _class_names(_find(folder, classes, "classes") if classes else None)
    sources = _sources(folder, frames, flow)
    if "frames" not in sources or not frames.get("fps"):
        raise UserError(f"data={name}: frame lists need data.frames.folder and data.frames.fps")
    splits = {}
    for split, file, key in (("train", train, "train"), ("val", test, "test")):
        path = _find(folder, file, key)
        listed = _frame_list(path, sources["frames"].folder, float(frames["fps"]), len(names))
        videos = _without_empty(listed, choices[split], split, name)
        others = {source: where for source, where in sources.items() if source != "frames"}
        splits[split] = _with_media(videos, others, absent, split, name)
    return _dataset(name, splits, names)


# ------------------------------------------------------------------------------------------------ lists


def _official(path: Path, classes: int) -> list[_Video]:
    """The videos of Charades_v1_train.csv or Charades_v1_test.csv, by the names of their columns."""
    videos, reversed_ = [], []
    for place, row in _official_rows(path):
        identity = row["id"].strip()
        if not identity:
            raise UserError(f"{place}: the id is empty; use the published list")
        intervals = tuple(_action(text, classes, place) for text in row["actions"].split(";") if text.strip())
        reversed_ += [(place, action) for action in intervals if action[1] > action[2]]
        union = tuple(sorted({label for label, _, _ in intervals}))
        videos.append(_Video(identity, union, intervals, {}, _length(row.get("length", ""), place)))
    if reversed_:
        place, (label, start, end) = reversed_[0]
        said = f"{place}: action 'c{label:03d} {start:.2f} {end:.2f}' ends before it starts"
        total = sum(len(video.intervals) for video in videos)
        if len(reversed_) > MOST_REVERSED * total:
            raise UserError(f"{said} ({len(reversed_)} of {total} actions do); fix the line")
        log.warning("%s (%d of %d actions do): its video keeps the label, no clip has it", said, len(reversed_), total)
    return videos


def _official_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """(file and line, {column: cell}) of every line of an official list.

    Raises:
        UserError: the list can't be read, lacks a column, or a line has fewer or more cells than the header, or stray
            quotation marks.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            rows = rows_of(path, handle)
            columns = next(rows, (0, []))[1]
            missing = [column for column in ("id", "actions") if column not in columns]
            if missing:
                raise UserError(f"{path}: no column {missing[0]!r} in its header; use the published list")
            check_header(path, columns)
            for line, cells in rows:
                if len(cells) != len(columns):
                    have = f"{len(cells)} cells where the header has {len(columns)}"
                    raise UserError(f"{path}, line {line}: {have}; get the published list again, or fix the line")
                yield f"{path}, line {line}", dict(zip(columns, cells, strict=True))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read: {error}; use the published list") from None


def _length(text: str, place: str) -> float | None:
    """Seconds of a video; None where the list does not say."""
    if not text.strip():
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise UserError(f"{place}: length {text.strip()!r} is not a number of seconds; fix the line")
    return seconds


def _action(text: str, classes: int, place: str) -> Interval:
    """ "c092 11.90 21.20" -> (92, 11.9, 21.2)"""
    found = re.fullmatch(r"\s*c(\d+)\s+(\d+(?:\.\d*)?|\.\d+)\s+(\d+(?:\.\d*)?|\.\d+)\s*", text)
    if not found:
        raise UserError(f"{place}: action {text.strip()!r} is not of the form 'c092 11.90 21.20'; fix the line")
    label = int(found[1])
    if label >= classes:
        raise UserError(f"{place}: action {text.strip()!r} exceeds the {classes} classes; check data.classes")
    return label, float(found[2]), float(found[3])


def _frame_list(path: Path, folder: Path, fps: float, classes: int) -> list[_Video]:
    """The videos of a frame list, in order of appearance."""
    labels: dict[str, list[frozenset[int]]] = {}
    images: dict[str, _Numbered] = {}
    parsed: dict[str, frozenset[int]] = {}
    for line, (identity, file, listed) in _frame_rows(path):
        if listed not in parsed:
            parsed[listed] = _label_set(listed, classes, f"{path}, line {line}")
        if identity not in images:
            images[identity], labels[identity] = _Numbered.of(file, f"{path}, line {line}"), []
        expected = images[identity].file(len(labels[identity]))
        if file != expected:
            raise UserError(
                f"{path}, line {line}: {file} follows instead of {expected}; frames must be numbered consecutively"
            )
        labels[identity].append(parsed[listed])
    videos = []
    for identity, frames in labels.items():
        media = images[identity].sequence(folder, len(frames), fps)
        union = tuple(sorted(frozenset[int]().union(*frames)))
        videos.append(_Video(identity, union, intervals_of_frames(frames, fps), {"frames": media}))
    return videos


def _label_set(listed: str, classes: int, place: str) -> frozenset[int]:
    """ "12,147" -> {12, 147}"""
    try:
        present = frozenset(int(part) for part in listed.split(",") if part)
    except ValueError:
        raise UserError(f"{place}: labels {listed!r} are not numbers joined by commas; fix the line") from None
    if any(not 0 <= label < classes for label in present):
        raise UserError(f"{place}: labels {listed!r} exceed the {classes} classes; check data.classes")
    return present


@dataclass(frozen=True)
class _Numbered:
    """Paths that count up: stem, first number with `width` digits, ending."""

    stem: str
    first: int
    width: int
    ending: str

    @classmethod
    def of(cls, file: str, place: str) -> _Numbered:
        found = re.fullmatch(r"(.*?)(\d+)(\.[^./]*)", file)
        if not found:
            raise UserError(f"{place}: path {file!r} has no number before its ending; use a published frame list")
        return cls(found[1], int(found[2]), len(found[2]), found[3])

    def file(self, index: int) -> str:
        return f"{self.stem}{self.first + index:0{self.width}d}{self.ending}"

    def sequence(self, folder: Path, count: int, fps: float) -> ImageSequence:
        inside, _, name = self.stem.rpartition("/")
        template = f"{name}{{:0{self.width}d}}{self.ending}"
        return ImageSequence(below(folder, inside, "a frame list"), template, count, fps, self.first)


def _frame_rows(path: Path) -> Iterator[tuple[int, tuple[str, str, str]]]:
    """(line number, (video, path of a frame, its labels)) of every line."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.reader(_with_progress(handle, path), delimiter=" ", strict=True)
            header = next(reader, [])
            if tuple(header) != FRAME_LIST:
                raise UserError(f"{path}: its first line must be '{' '.join(FRAME_LIST)}'; use a published frame list")
            for row in reader:
                if len(row) == len(FRAME_LIST):
                    yield reader.line_num, (row[0], row[3], row[4])
                elif row:
                    have = f"{len(row)} columns where {len(FRAME_LIST)} should be"
                    raise UserError(f"{path}, line {reader.line_num}: {have}; fix the line")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} can't be read: {error}; use a published frame list") from None


def _with_progress(lines: Iterable[str], path: Path) -> Iterator[str]:
    """The lines of a file; millions of them take a while."""
    size, read = max(1, path.stat().st_size), 0
    with Progress(PARTS, f"reading {path.name}", unit="part") as progress:
        for line in lines:
            read += len(line)
            if read * PARTS > (progress.done + 1) * size:
                progress.advance()
            yield line


def _class_names(path: Path | None) -> tuple[str, ...]:
    """Class names by number; "c008 Opening a door" names class 8."""
    if path is None:
        return tuple(f"c{number:03d}" for number in range(CLASSES))
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read: {error}; use the published list of classes") from None
    found = [re.fullmatch(r"c(\d+)\s+(.+)", line) for line in lines]
    wrong = next((line for line, match in zip(lines, found, strict=True) if not match), None)
    if wrong:
        raise UserError(f"{path}: line {wrong!r} is not of the form 'c008 Opening a door'; fix it")
    names = {int(match[1]): match[2] for match in found if match}
    if len(lines) < 2:
        raise UserError(f"{path}: it has {len(lines)} classes; use the published list of classes")
    gap = next((number for number in range(max(names)) if number not in names), None)
    if gap is not None:
        raise UserError(f"{path}: class c{gap:03d} is missing; its classes must be numbered c000 to c{max(names):03d}")
    if len(names) < len(lines):
        twice = Counter(int(match[1]) for match in found if match).most_common(1)[0][0]
        raise UserError(f"{path}: class c{twice:03d} appears twice; number its classes consecutively")
    return tuple(names[number] for number in range(len(lines)))


def _find(folder: Path, file: str, key: str) -> Path:
    """`file` below the root, or in the folder Charades that the published archive unpacks to."""
    return find(folder, [file, f"Charades/{file}"], f"check data.root, or name the file with data.{key}=...")


# ------------------------------------------------------------------------------------------------ videos


def _choices(absent: str, empty: Mapping[str, str] | None) -> dict[str, str]:
    check_choice("data.absent", absent, ABSENT)
    choices = {"train": "drop", "val": "drop", **(empty or {})}
    for split, choice in choices.items():
        check_choice(f"data.empty.{split}", choice, KEEP_OR_DROP)
    return choices


def _sources(root: Path, frames: Mapping[str, Any], flow: Mapping[str, Any]) -> dict[str, MediaFolder]:
    """{source: where its files lie}, of the sources that have files."""
    found = {}
    for source, given in (("frames", frames), ("flow", flow)):
        if given.get("folder"):
            found[source] = MediaFolder(root / str(given["folder"]), given["file"], source, given["fps"])
    if not found:
        raise UserError("data.frames.folder and data.flow.folder are both empty: name one folder of videos or images")
    return found


def _without_empty(videos: Sequence[_Video], choice: str, split: str, name: str) -> list[_Video]:
    kept = [video for video in videos if video.classes or choice == "keep"]
    if len(kept) < len(videos):
        left_out = len(videos) - len(kept)
        log.info("data=%s: %d of %d %s videos have no action and are skipped", name, left_out, len(videos), split)
    return kept


def _with_media(
    videos: Sequence[_Video], sources: Mapping[str, MediaFolder], absent: str, split: str, name: str
) -> list[Record]:
    """Records of the videos whose files are there.

    Raises:
        UserError: some are not, and `absent` is "error".
    """

    def locate(video: _Video) -> tuple[dict[str, Media], str]:
        media, problem = dict(video.media), ""
        for source, folder in sources.items():
            found = folder.locate(video.id)
            if isinstance(found, str):
                problem = problem or found
            else:
                media[source] = found
        for listed in video.media.values():
            if isinstance(listed, ImageSequence) and not listed.paths(0)[0].is_file():
                problem = problem or f"{listed.paths(0)[0]} is missing"
        return media, problem

    records, problems = [], []
    with ThreadPoolExecutor(THREADS) as pool, Progress(len(videos), f"looking for the {split} videos") as progress:
        for video, (media, problem) in zip(videos, pool.map(locate, videos), strict=True):
            progress.advance()
            if problem:
                problems.append(f"{problem} (id {video.id}, {split})")
                continue
            intervals = {HEAD: video.intervals}
            records.append(Record(video.id, media, {HEAD: video.classes}, intervals=intervals, length=video.length))
    if problems and absent == "error":
        raise UserError(
            f"data={name}: {len(problems)} of {len(videos)} {split} videos are incomplete on disk, first: "
            f"{problems[0]}; check data.root and the folders, or skip them with data.absent=drop"
        )
    if problems:
        log.warning("data=%s: %d of %d %s videos dropped: %s", name, len(problems), len(videos), split, problems[0])
    return records


def _dataset(name: str, splits: dict[str, list[Record]], classes: tuple[str, ...]) -> Dataset:
    return Dataset(name, {**splits, "test": splits["val"]}, {HEAD: Head(classes, multi_label=True)})
