"""Folders of extracted images with list files `path num_frames label`, as TSM and MML have them.

Frames and flow have lists of their own. A video is joined by its id, never by the number of a line: lists that were
filtered or sorted apart stay right.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mml_lightning.data.records.readers.files import (
    Labels,
    Root,
    class_names,
    find,
    layout_of,
    numbered_images,
    read_lines,
)
from mml_lightning.data.records.readers.mirrored import mirrored_classes
from mml_lightning.data.records.record_store import RecordStore
from mml_lightning.data.records.records import SPLITS, Dataset, RecordRow
from mml_lightning.data.video.media import MOST_IMAGES, ImageSequence, PlainMedia
from mml_lightning.utils.errors import UserError, check_choice

SOURCES = ("frames", "flow")
IDS = ("name", "path")
UNPAIRED = ("error", "drop")
ITEMS, IMAGES = "items", "images"
_NUMBER = re.compile(r"\{:0?\d+d\}")


log = logging.getLogger(__name__)


class _Line(NamedTuple):
    """One line of a list: `label` as it stands there."""

    source: Path
    number: int
    path: str
    images: int
    label: str


_Row = tuple[str, dict[str, _Line]]


def read_frame_lists(
    name: str,
    root: str,
    sources: Mapping[str, Mapping[str, Any] | None],
    classes: str | None = None,
    id: str = "name",
    min_frames: int = 1,
    unpaired: str = "error",
    verify_counts: bool = False,
    fps: float = 0.0,
    mirrored: bool = False,
) -> Dataset:
    """Image folders named by list files.

    Args:
        sources: per source ("frames", "flow") its `folder`, file name `template`, list files `train`, `val` and `test`
            below the root, `counts`: what num_frames counts, "items" or "images" (of x and y: twice the items), and
            `first`: the number of the first image; without it 0 where the first folder has an image 0, else 1.
            Templates are written as in TSM: `img_{:05d}.jpg`, `flow_{}_{:05d}.jpg` (x, y), `{:06d}-{}_{:05d}.jpg` (id,
            x, y; the folder is the id padded to six digits, and images are counted). Flow without x and y is one image,
            red = x, green = y.
        classes: file of class names, one a line; without it labels are their numbers.
        id: "name", the last folder of the path; "path", all of it, where folder names repeat.
        min_frames: videos with fewer items in any of the lists are left out (MML: 3).
        unpaired: a video that a list lacks is an "error", or "drop" leaves it out.
        verify_counts: count the images of every folder now; otherwise a wrong count is found when an image is missing.
        fps: items per second, for what is measured in seconds.
        mirrored: tell the classes that a horizontal flip swaps by their names.

    Raises:
        UserError: a list or a line is wrong, lists disagree, or a folder does not hold what a line says.
    """
    check_choice("data.id", id, IDS)
    check_choice("data.unpaired", unpaired, UNPAIRED)
    base = Path(root).expanduser()
    named = class_names(find(base, classes, "set data.classes, or null for numbers"))[0] if classes else None
    used = {source: _Source(base, source, dict(given), fps) for source, given in sources.items() if given}
    if not used:
        raise UserError("data.sources names no source; give frames, flow or both")
    lists = {split: {s: source.lines(split, id) for s, source in used.items()} for split in SPLITS}
    joined = {split: _long_enough(name, _joined(lists[split], split, unpaired), used, min_frames) for split in SPLITS}
    labels = Labels(
        named, (line.label for rows in joined.values() for _, lines in rows for line in lines.values()), name
    )
    targets = _Targets(labels)
    splits = {
        split: RecordStore(RecordRow(video, _media(lines, used), targets.of(video, lines)) for video, lines in rows)
        for split, rows in joined.items()
    }
    if verify_counts:
        _verify(name, splits.values())
    partners = mirrored_classes(labels.head.classes) if mirrored else {}
    told = [source.told for source in used.values() if source.told]
    return Dataset(name, splits, {"label": labels.head}, {"label": partners}, told=told)


class _Source:
    """The lists and folders of one source.

    Raises:
        UserError: an option is unknown or missing, or the template is none.
    """

    def __init__(self, root: Path, name: str, options: dict[str, Any], fps: float) -> None:
        check_choice("data.sources", name, SOURCES)
        unknown = sorted(set(options) - {"folder", "template", "counts", "first", *SPLITS})
        if unknown or not {"folder", "template"} <= set(options):
            raise UserError(
                f"data.sources.{name}: {f'{unknown[0]!r} is unknown; ' if unknown else ''}it takes folder, template, "
                "counts, first, train, val and test"
            )
        self.root, self.name, self.fps = root, name, fps
        self.folder = Root(root / str(options["folder"] or ""))
        self.lists = {split: options.get(split) for split in SPLITS}
        self.template, self.with_id = normal_template(str(options["template"]))
        self.layout = layout_of(self.template, name)
        counts = options.get("counts") or (IMAGES if self.with_id else ITEMS)
        check_choice(f"data.sources.{name}.counts", counts, (ITEMS, IMAGES))
        self.images_per_item = 2 if counts == IMAGES else 1
        self.first = options.get("first")
        if self.first is not None and (type(self.first) is not int or self.first < 0):
            raise UserError(f"data.sources.{name}.first={self.first} must be a whole number from 0, or null")
        self.told = ""
        try:
            ImageSequence(self.folder.path, self.template.replace("{id}", "0"), 1, fps, 1, self.layout)
        except ValueError as error:
            raise UserError(f"data.sources.{name}.template: {error}") from None

    def lines(self, split: str, id: str) -> dict[str, _Line]:
        """The lines of a split by id."""
        file = self.lists[split]
        if file is None:
            return {}
        path = find(self.root, file, f"set data.sources.{self.name}.{split}, or data.sources.{self.name}=null")
        found: dict[str, _Line] = {}
        for number, text in read_lines(path):
            try:
                where, count, label = text.rsplit(None, 2)
                line = _Line(path, number, where, int(count), label)
                if not 0 <= line.images <= MOST_IMAGES or int(label) < 0:
                    raise ValueError
            except ValueError:
                raise UserError(
                    f"{path}, line {number}: {text!r} is not `path num_frames label`; fix the line"
                ) from None
            where = where.rstrip("/")
            key = where.rpartition("/")[2] if id == "name" else where
            if key in found:
                again = f"{path}: id {key!r} is in lines {found[key].number} and {number}"
                fix = "set data.id=path if they are two videos, else remove one" if id == "name" else "remove one"
                raise UserError(f"{again}; {fix}")
            found[key] = line
        return found

    def items(self, line: _Line) -> int:
        return line.images // self.images_per_item

    def media(self, line: _Line) -> PlainMedia:
        path, template = line.path, self.template
        if self.with_id:
            last = Path(path).name
            if not last.isdigit():
                raise UserError(
                    f"{line.source}, line {line.number}: {last!r} is not a number, but the template needs one; set "
                    f"data.sources.{self.name}.template"
                )
            path = str(Path(path).with_name(f"{int(last):06d}"))
            template = template.replace("{id}", f"{int(last):06d}")
        folder = self.folder.below(path, line.source, line.number)
        if self.first is None:
            self._notice(folder, template)
        return ImageSequence, folder, template, self.items(line), self.fps, self.first, self.layout

    def _notice(self, folder: str, template: str) -> None:
        """Where numbers begin, by the first folder; those of others that begin elsewhere are errors when read."""
        images = ImageSequence(Path(folder), template, 1, layout=self.layout, first=0)
        self.first = 0 if images.paths(0)[0].exists() else 1
        if self.first == 0:
            self.told = f"images of {self.name} count from 0"


def normal_template(template: str) -> tuple[str, bool]:
    """A template of TSM in our form, and whether the id of the video stands in it: `{}` is the axis, of two numbers
    the first is the id."""
    normal = template.replace("{}", "{axis}")
    with_id = len(_NUMBER.findall(normal)) == 2
    return (_NUMBER.sub("{id}", normal, count=1) if with_id else normal), with_id


def _joined(lists: Mapping[str, Mapping[str, _Line]], split: str, unpaired: str) -> list[_Row]:
    """(id, line per source) of a split, in the order of the first list."""
    given = {source: lines for source, lines in lists.items() if lines}
    if not given:
        return []
    if len(given) < len(lists):
        lacking = next(source for source in lists if source not in given)
        raise UserError(f"data.sources.{lacking}.{split} is null, other sources have a {split} list; give all or none")
    for lines in given.values():
        other, alone = next(((s, k) for s in given for k in given[s] if k not in lines), (None, None))
        if alone is not None and unpaired == "error":
            assert other is not None
            count = sum(key not in lines for key in given[other])
            path = next(iter(lines.values())).source
            raise UserError(
                f"{path}: {count} videos of the {other} list are not in it, first {alone!r}; add them, or set "
                "data.unpaired=drop"
            )
    shared = [key for key in next(iter(given.values())) if all(key in lines for lines in given.values())]
    total = len(set().union(*given.values()))
    if len(shared) < total:
        log.warning("%s: %d of %d videos are in one list only and are skipped", split, total - len(shared), total)
    return [(key, {source: lines[key] for source, lines in given.items()}) for key in shared]


def _long_enough(name: str, rows: list[_Row], sources: Mapping[str, _Source], least: int) -> list[_Row]:
    fewest = {source: max(1, least) * known.images_per_item for source, known in sources.items()}
    kept = [row for row in rows if all([line.images >= fewest[source] for source, line in row[1].items()])]
    if len(kept) < len(rows):
        log.warning(
            "data=%s: %d of %d videos have fewer than %d items and are skipped",
            name,
            len(rows) - len(kept),
            len(rows),
            max(1, least),
        )
    return kept


def _media(lines: Mapping[str, _Line], sources: Mapping[str, _Source]) -> dict[str, PlainMedia]:
    return {source: sources[source].media(line) for source, line in lines.items()}


class _Targets:
    """What the labels of lines mean: one object for all videos that have the same."""

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.known: dict[str, dict[str, int]] = {}

    def of(self, video: str, lines: Mapping[str, _Line]) -> dict[str, int]:
        """Raises:
        UserError: lists disagree about the label of a video, or there is no such class.
        """
        first, *others = lines.values()
        for other in others:
            if other.label != first.label:
                raise UserError(
                    f"{other.source}, line {other.number}: label {other.label} of {video!r}, but {first.label} in "
                    f"{first.source}, line {first.number}; fix either"
                )
        if first.label not in self.known:
            number = self.labels(first.label)
            if number is None:
                raise UserError(
                    f"{first.source}, line {first.number}: label {first.label} is too large for "
                    f"{len(self.labels.number)} classes; labels count from 0"
                )
            self.known[first.label] = {"label": number}
        return self.known[first.label]


def _verify(name: str, splits: Iterable[RecordStore]) -> None:
    """Raises:
    UserError: folders that do not hold as many images as their line says.
    """
    wrong = []
    for record in itertools.chain.from_iterable(splits):
        for media in record.media.values():
            assert isinstance(media, ImageSequence)
            found = numbered_images(media.folder, media.template, media.fps, media.layout)
            if (found.count, found.first) != (media.count, media.first):
                wrong.append((media, found))
    if wrong:
        media, found = wrong[0]
        raise UserError(
            f"data={name}: {len(wrong)} folders hold a different number of images than listed, first: "
            f"{media.folder} holds {found.count}{_begin(found)}, listed {media.count}{_begin(media)}; "
            "regenerate the lists"
        )


def _begin(images: ImageSequence) -> str:
    return "" if images.first == 1 else f" from number {images.first} on"
