"""What all readers need: finding, opening and counting files, held-out videos, and numbers for labels."""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePath
from typing import Any

from mml_lightning.data.records.record_store import RecordStore
from mml_lightning.data.records.records import Head, RecordRow
from mml_lightning.data.video.media import ImageSequence, Layout, media_absent, media_of
from mml_lightning.utils import foreign
from mml_lightning.utils.errors import UserError

log = logging.getLogger(__name__)

ABSENT = ("error", "drop")
MOST_CLASSES = 100_000
LONGEST_PATH = 4000  # bytes; systems allow 4096
_FIELD = re.compile(r"\{(axis|:[^{}]*)\}")


def natural(label: str) -> tuple[int, int, str]:
    """Sorting key: whole numbers by value before names by spelling."""
    return (0, int(label), label) if re.fullmatch(r"-?[0-9]+", label) else (1, 0, label)


def check_spelling(classes: Iterable[str], where: Callable[[str], str]) -> None:
    """See that no two classes are one in two spellings: other case, blanks, `_`, Unicode forms or invisible characters,
    or one number written in two ways.

    Args:
        where: the place where a class is found first.

    Raises:
        UserError: two are.
    """
    spelt: dict[str, str] = {}
    for label in classes:
        key = _spelling(label)
        other = spelt.setdefault(key, label)
        if other != label:
            raise UserError(f"{where(label)}: class {label!a} is also spelled {other!a} ({where(other)}): use one")


def _spelling(label: str) -> str:
    """What all spellings of a label have in common."""
    if not label.isascii():
        label = "".join(c for c in unicodedata.normalize("NFC", label) if unicodedata.category(c) != "Cf")
    plain = " ".join(label.replace("_", " ").split()).lower()
    return str(int(plain.partition(".")[0])) if re.fullmatch(r"[+-]?[0-9]{1,18}(\.0*)?", plain) else plain


def find(root: Path, names: str | Sequence[str], what: str) -> Path:
    """The first of `names` that is there below `root`.

    Raises:
        UserError: there is none.
    """
    candidates = [root / name for name in ([names] if isinstance(names, str) else names)]
    found = next((path for path in candidates if path.exists()), None)
    if found is None:
        others = f" (nor {', '.join(str(path.relative_to(root)) for path in candidates[1:])})" if candidates[1:] else ""
        raise UserError(f"{candidates[0]} is missing{others}; {what}")
    return found


def below(root: Path, name: str, where: str) -> Path:
    """The file that a list names: below `root`, or anywhere by an absolute path, which is plain to see.

    Links are followed: they are on the machine, not in the list.

    Raises:
        UserError: a relative path that leads out of `root`, or a name that no file can have.
    """
    if "\0" in name or len(name) > LONGEST_PATH:
        raise UserError(f"{where}: {name[:40]!r} is not a valid file name; fix the line")
    if ".." not in name:  # said a million times
        return root / name
    path = PurePath(name)
    if not path.is_absolute() and ".." in path.parts and os.path.normpath(name).split(os.sep)[0] == "..":
        raise UserError(
            f"{where}: {name!r} is outside {root}; set data.root to a folder that holds all of them, or give "
            "absolute paths"
        )
    return root / name


def check_name(name: str) -> str:
    """`name`, if it is text: ids and paths are hashed, and written into tables.

    Raises:
        UserError: it is not, as that of a file unpacked from an archive of another encoding.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        lone = re.search("[\ud800-\udc7f\udd00-\udfff]", name)  # from a JSON file; others stand for bytes
        shown = ascii(name)[1:-1] if lone else os.fsencode(name).decode("utf-8", "backslashreplace")
        raise UserError(
            f"{shown}: this name is not UTF-8 text; rename it (of Latin-1 all at once: convmv -r -f latin1 -t utf8 "
            "--notest <folder>)"
        ) from None
    return name


def is_plain(name: str) -> bool:
    """Whether `name` says a file below a folder, folder by folder and nothing else: to join and to split such a name
    needs no :class:`Path`, which would take seconds for a million."""
    odd = name[:1] in "/" or name[-1] in "/." or "//" in name or "./" in name or ".." in name or "\0" in name
    return not odd and len(name) <= LONGEST_PATH


class Root:
    """The folder below which a list names its files, as strings."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start = str(path / "_")[:-1]

    def below(self, name: str, file: Path, line: int) -> str:
        """As :func:`below`, for a line of a file."""
        return self._start + name if is_plain(name) else str(below(self.path, name, f"{file}, line {line}"))


def without_ending(name: str) -> str:
    """`a/b.mp4` -> `a/b`."""
    if is_plain(name):
        return os.path.splitext(name)[0]
    path = PurePath(name)
    return (path.with_suffix("") if path.name else path).as_posix()


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(line number, text) of the lines that are not blank, ends stripped.

    Raises:
        UserError: the file can't be read, is not UTF-8 text, or holds no line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; save it in UTF-8") from None
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror or error}") from None
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise UserError(f"{path} is empty; check the download")
    return lines


def read_json(path: Path) -> Any:
    """Raises:
    UserError: the file can't be read or is not JSON, or an object has a key twice, of which the last would count.
    """
    try:
        return foreign.read_json(path)
    except (OSError, foreign.Foreign) as error:
        raise UserError(f"{path} is not valid JSON: {error}; fix it, or get it again") from None


def held_out(records: RecordStore) -> tuple[RecordStore, RecordStore]:
    """(training, validation) of data without a validation split: every fifth video, by order of id, validates."""
    chosen = set(sorted(row.id for row in records.rows())[::5])
    training = RecordStore(row for row in records.rows() if row.id not in chosen)
    return training, RecordStore(row for row in records.rows() if row.id in chosen)


HELD_OUT = "no val split: every fifth training video, in order of id, is used for validation"
"""Said by readers that use :func:`held_out`."""


def layout_of(template: str, source: str) -> Layout:
    """What the images of a source are, told by their template."""
    if source == "frames":
        return "rgb"
    return "flow_pair" if "{axis}" in template else "flow_packed"


def numbered_images(folder: Path, template: str, fps: float = 0.0, layout: Layout = "rgb") -> ImageSequence:
    """All images of `folder` that fit `template`, counted; none where the folder is missing or empty.

    Raises:
        UserError: a number in between is missing, or `template` is no template.
    """
    try:
        images = ImageSequence(folder, template, 0, fps, 1, layout)
    except ValueError as error:
        raise UserError(str(error)) from None
    found = [_numbers(folder, template, axis) for axis in (("x", "y") if layout == "flow_pair" else ("x",))]
    if any(other != found[0] for other in found):
        raise UserError(f"{folder}: {len(found[0])} images of x, {len(found[1])} of y; extract its flow again")
    if not found[0]:
        return images
    first, last = min(found[0]), max(found[0])
    if last - first + 1 != len(found[0]):
        gap = next(number for number in range(first, last) if number not in found[0])
        raise UserError(f"{folder}: image {template.format(gap, axis='x')} is missing; extract the folder again")
    return ImageSequence(folder, template, len(found[0]), fps, first, layout)


def _numbers(folder: Path, template: str, axis: str) -> set[int]:
    """Numbers of the images of one axis."""
    literal = [re.escape(part) for part in _FIELD.split(template)[::2]]
    fields = [re.escape(axis) if kind == "axis" else r"(\d+)" for kind in _FIELD.split(template)[1::2]]
    fits = re.compile("".join(part + field for part, field in zip(literal, [*fields, ""], strict=True)))
    try:
        with os.scandir(folder) as entries:
            return {int(match[1]) for entry in entries if (match := fits.fullmatch(entry.name))}
    except OSError:
        return set()


def without_absent(name: str, split: str, records: RecordStore) -> RecordStore:
    """The records whose files are there; how many are not is said."""
    kept = RecordStore(row for row in records.rows() if not _is_absent(row))
    if len(kept) < len(records):
        first, lost = next(filter(_is_absent, records.rows()))[0], len(records) - len(kept)
        log.warning(
            "data=%s: %d of %d %s videos are missing and skipped, first %s", name, lost, len(records), split, first
        )
    return kept


def _is_absent(row: RecordRow) -> bool:
    return any(media_absent(media_of(one)) for one in row.media.values())


class Labels:
    """Numbers for the labels of a dataset.

    Args:
        classes: class names in order; None where the labels themselves tell: sorted names, or 0 to the largest number.
        first: the number that labels which are numbers give to the first class.

    Raises:
        UserError: fewer than two classes, or a class twice, be it in another spelling where labels tell.
    """

    def __init__(self, classes: Sequence[str] | None, labels: Iterable[str], where: str, first: int = 0) -> None:
        self.numbered, self.first = False, first
        if classes is None:
            found = sorted(set(labels), key=natural)
            self.numbered = all(label.isascii() and label.isdigit() for label in found)
            if self.numbered and found:
                if int(found[-1]) >= MOST_CLASSES:
                    raise UserError(
                        f"{where}: label {found[-1]} is not a class number; is it in another field of the line?"
                    )
                found = [str(k) for k in range(int(found[-1]) + 1)]
            check_spelling(found, lambda _: where)
            classes = found
        if len(classes) < 2:
            raise UserError(f"{where}: {len(classes)} class; at least two are needed")
        self.number = {name: index for index, name in enumerate(classes)}
        if len(self.number) < len(classes):
            twice = next(name for index, name in enumerate(classes) if self.number[name] != index)
            raise UserError(f"{where}: class {twice!r} appears twice; class names must be unique")
        self.head = Head(tuple(classes))

    def __call__(self, label: str) -> int | None:
        """The number of a name, or of a number; None for what is neither."""
        found = self.number.get(label)
        if found is None and label.isascii() and label.isdigit():
            number = int(label) - self.first
            return number if 0 <= number < len(self.number) else None
        return found


def class_names(path: Path, pattern: str = r"(?P<name>.+)") -> tuple[list[str], int]:
    """Class names, one a line, in the order of the file or of the numbers that `pattern` finds beside them; and the
    number of the first.

    Raises:
        UserError: a line does not fit, or the numbers don't count up from 0 or 1.
    """
    lines = read_lines(path)
    fits = re.compile(pattern)
    names, numbers = [], []
    for line, text in lines:
        match = fits.fullmatch(text)
        if match is None:
            raise UserError(f"{path}, line {line}: {text!r} is not a class line; it must match {pattern}")
        names.append(match["name"].strip())
        numbers.append(int(match["number"]) if "number" in fits.groupindex else line)
    if "number" not in fits.groupindex:
        return names, 0
    if sorted(numbers) not in ([*range(len(names))], [*range(1, len(names) + 1)]):
        raise UserError(f"{path}: its {len(names)} classes must be numbered from 0 or from 1 without gaps")
    return [name for _, name in sorted(zip(numbers, names, strict=True))], min(numbers)
