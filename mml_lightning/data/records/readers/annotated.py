"""One reader for annotation files that are lines of fields: what the fields mean stands in conf/data/.

A line becomes named fields, by columns or by a regular expression. Id, label and files are templates of these fields in
`str.format` form: "{youtube_id}_{time_start:06d}" pads a number. A field `path` brings `stem` (its file name without
ending), `parent` (its folder) and `bare` (the path without ending) along.
"""

from __future__ import annotations

import functools
import os
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mml_lightning.data.records.readers.cells import cells_of, check_header
from mml_lightning.data.records.readers.files import (
    ABSENT,
    HELD_OUT,
    Labels,
    Root,
    check_name,
    class_names,
    find,
    held_out,
    numbered_images,
    read_lines,
    without_absent,
    without_ending,
)
from mml_lightning.data.records.readers.mirrored import mirrored_classes
from mml_lightning.data.records.record_store import RecordStore
from mml_lightning.data.records.records import SPLITS, Dataset, RecordRow
from mml_lightning.data.video.media import PlainMedia, to_plain
from mml_lightning.utils.errors import UserError, check_choice

Names = str | Sequence[str]
PLACE = "check data.root and the names in conf/data, or give data.annotations.<split>=<file below the root>"


class _Field(str):
    """A field of a line; formats as a number where a template asks for one.

    Raises:
        ValueError: a whole number is asked for, and it is none.
    """

    def __format__(self, spec: str) -> str:
        if not spec.endswith("d"):
            return super().__format__(spec)
        number = float(self)
        if not number.is_integer():
            raise ValueError(f"{self} is not a whole number")
        return format(int(number), spec)


class _Line(NamedTuple):
    source: Path
    number: int
    fields: Mapping[str, str]

    @property
    def where(self) -> str:
        return f"{self.source}, line {self.number}"

    def fill(self, template: str) -> str:
        """Raises:
        UserError: the line lacks a field of the template, or a number is none.
        """
        pieces, filled = _pieces(template), ""
        try:
            if pieces is None:
                return template.format(**self.fields)
            for text, key, spec in pieces:
                filled += text
                if key is not None:
                    filled += format(self.fields[key], spec) if spec else self.fields[key]
            return filled
        except KeyError as error:
            have = ", ".join(self.fields)
            raise UserError(f"{self.where}: it has no field {error} for {template!r} (it has {have})") from None
        except (ValueError, IndexError):
            raise UserError(f"{self.where}: its fields don't fit {template!r}; fix the line") from None


@functools.cache
def _pieces(template: str) -> list[tuple[str, str | None, str]] | None:
    """(text, field after it, its format) of a template, taken apart once for all lines; None of one that says more."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError:
        return None
    if any(key is not None and (not key.isidentifier() or how or "{" in (spec or "")) for _, key, spec, how in parts):
        return None
    return [(text, key, spec or "") for text, key, spec, _ in parts]


def read_annotated(
    name: str,
    root: str,
    annotations: Mapping[str, Names | None],
    files: Names,
    id: str = "{id}",
    label: str = "{label}",
    columns: Sequence[str] | None = None,
    separator: str = ",",
    pattern: str | None = None,
    file_pattern: str | None = None,
    splits: Mapping[Any, str | None] | None = None,
    classes: Names | None = None,
    class_pattern: str = r"(?P<name>.+)",
    images: str | None = None,
    fps: float = 0.0,
    absent: str = "error",
    mirrored: bool = False,
) -> Dataset:
    """Videos, or folders of images, of annotation files.

    Args:
        annotations: per split the annotation file below the root, or several names of which the first that is there
            counts; null leaves the split empty. Under `all` stands a pattern such as `splits/*.txt` of files whose
            lines name their split. Without validation lines every fifth training video (by id order) validates; lines
            of the test split may lack their label.
        files: where the video of a line lies below the root; of several templates the first that is there.
        columns: names of the fields, apart by `separator`; null: the first line names them.
        pattern: regular expression of a whole line with named groups, instead of columns.
        file_pattern: regular expression of an annotation file's name, whose named groups are fields too.
        splits: what the field `split` says -> train, val, test, or null for lines to leave out; under `all` only.
        classes: file of class names, found as annotations are; null: the labels are the classes, sorted.
        class_pattern: regular expression of its lines with the groups `name` and perhaps `number`, which labels may be.
        images: file name template such as "{:05d}.jpg" where videos are folders of images (`fps` a second).
        absent: a video that is missing is an "error"; "drop" leaves it out and says how many.
        mirrored: tell the classes that a horizontal flip swaps by their names.

    Raises:
        UserError: a file is missing, or a line is wrong.
    """
    check_choice("data.absent", absent, ABSENT)
    base = Path(root).expanduser()
    lines = _by_split(base, annotations, _Parser(columns, separator, pattern, file_pattern), splits)
    named, first = class_names(find(base, classes, PLACE), class_pattern) if classes else (None, 0)
    texts = {split: [_label(line, label, split) for line in rows] for split, rows in lines.items()}
    labels = Labels(named, (text for rows in texts.values() for text in rows if text is not None), name, first)
    places, folder = [files] if isinstance(files, str) else files, Root(base)

    def made(line: _Line, text: str | None) -> RecordRow:
        media = _media(_first_there(folder, line, places), images, fps)
        return RecordRow(line.fill(id), {"frames": media}, _target(line, text, labels))

    records = {split: RecordStore(map(made, lines[split], texts[split])) for split in SPLITS}
    if absent == "drop":
        records = {split: without_absent(name, split, store) for split, store in records.items()}
    if not lines["val"]:
        records["train"], records["val"] = held_out(records["train"])
    partners = {"label": mirrored_classes(labels.head.classes)} if mirrored else {}
    return Dataset(name, records, {"label": labels.head}, partners, told=() if lines["val"] else (HELD_OUT,))


def _label(line: _Line, template: str, split: str) -> str | None:
    """None in a published test split that says no label."""
    if split == "test":
        fields = {field.partition(":")[0] for field in re.findall(r"\{([^{}]*)\}", template)}
        if not all(line.fields.get(field) for field in fields):
            return None
    text = line.fill(template)
    if not text:
        raise UserError(f"{line.where}: its label is empty; fix the line")
    return text


def _target(line: _Line, text: str | None, labels: Labels) -> dict[str, int]:
    if text is None:
        return {}
    number = labels(text)
    if number is None:
        raise UserError(f"{line.where}: {text!r} is not one of the {len(labels.number)} classes; fix either file")
    return {"label": number}


def _first_there(root: Root, line: _Line, places: Sequence[str]) -> str:
    """Of several templates the first whose file is there, else the first, which then is missed by name."""
    paths = (root.below(line.fill(place), line.source, line.number) for place in places)
    first = next(paths)
    if len(places) == 1 or os.path.exists(first):
        return first
    return next(filter(os.path.exists, paths), first)


def _media(path: str, images: str | None, fps: float) -> PlainMedia:
    return to_plain(numbered_images(Path(path), images, fps)) if images else path


def _by_split(
    root: Path, annotations: Mapping[str, Names | None], parse: _Parser, splits: Mapping[Any, str | None] | None
) -> dict[str, list[_Line]]:
    """Lines per split."""
    unknown = sorted(set(annotations) - {*SPLITS, "all"})
    if unknown:
        raise UserError(f"data.annotations: {unknown[0]!r} is unknown; use train, val, test, or all")
    found: dict[str, list[_Line]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        names = annotations.get(split)
        if names:
            found[split] = list(parse.lines(find(root, names, PLACE), {"split": split}))
    together = annotations.get("all")
    if not together:
        return found
    known = {str(said): split for said, split in (splits or {split: split for split in SPLITS}).items()}
    for path in _matching(root, together):
        for line in parse.lines(path, {}):
            said = line.fields.get("split", "")
            if said not in known:
                raise UserError(f"{line.where}: split {said!r} is unknown; data.splits has {list(known)}")
            split_of = known[said]
            if split_of is not None:
                found[split_of].append(line)
    return found


def _matching(root: Path, patterns: Names) -> list[Path]:
    """Files of the first pattern that has some."""
    several = [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in several:
        paths = sorted(root.glob(pattern))
        if paths:
            return [path for path in paths if check_name(str(path))]
    raise UserError(f"{root} holds no {' nor '.join(several)}; {PLACE}")


class _Parser:
    """Annotation files to lines of fields.

    Raises:
        UserError: a regular expression is none.
    """

    def __init__(
        self, columns: Sequence[str] | None, separator: str, pattern: str | None, file_pattern: str | None
    ) -> None:
        self.columns, self.separator = columns, separator
        try:
            self.line = re.compile(pattern) if pattern else None
            self.file = re.compile(file_pattern) if file_pattern else None
        except re.error as error:
            raise UserError(f"{error.pattern!r} is not a regular expression: {error}") from None

    def lines(self, path: Path, known: Mapping[str, str]) -> Iterator[_Line]:
        """Lines of a file; fields of the line beat those of its name, and these beat `known` ones."""
        fields = dict(known)
        if self.file:
            match = self.file.fullmatch(path.name)
            if match is None:
                raise UserError(f"{path}: its name does not fit {self.file.pattern}; remove it or fix the pattern")
            fields |= match.groupdict()
        rows = self._matched(path) if self.line else self._columns(path, known.get("split") == "test")
        for number, own in rows:
            yield _Line(path, number, _completed(fields | own))

    def _matched(self, path: Path) -> Iterator[tuple[int, dict[str, str]]]:
        assert self.line is not None
        for number, text in read_lines(path):
            match = self.line.fullmatch(text)
            if match is None:
                raise UserError(f"{path}, line {number}: {text!r} does not fit {self.line.pattern}; fix the line")
            yield number, {key: value for key, value in match.groupdict().items() if value is not None}

    def _columns(self, path: Path, short: bool) -> Iterator[tuple[int, dict[str, str]]]:
        """`short`: lines may lack their last fields, as those of test splits lack labels."""
        lines = read_lines(path)
        rows = ((number, self._cells(path, number, text)) for number, text in lines)
        names = self.columns or [cell.strip() for cell in next(rows)[1]]
        check_header(path, names)
        for number, cells in rows:
            if len(cells) > len(names) or (len(cells) < len(names) and not short):
                form = self.separator.join(names)
                raise UserError(f"{path}, line {number}: it has {len(cells)} fields, not those of {form}; fix the line")
            yield number, {name: cell.strip() for name, cell in zip(names, cells, strict=False) if name}

    def _cells(self, path: Path, number: int, text: str) -> list[str]:
        if '"' not in text and "\r" not in text:
            return text.split(self.separator)
        return cells_of(path, number, text, self.separator)  # of this line: a stray mark must not swallow what follows


def _completed(fields: Mapping[str, str]) -> dict[str, str]:
    """With the parts of a path."""
    complete: dict[str, str] = {key: _Field(value) for key, value in fields.items()}
    if "path" not in fields:
        return complete
    bare = without_ending(fields["path"].replace("\\", "/"))
    folder, _, stem = bare.rpartition("/")
    return {"stem": _Field(stem), "parent": _Field(folder.rpartition("/")[2]), "bare": _Field(bare)} | complete
