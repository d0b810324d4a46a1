"""Reading JSON and YAML of others: plain values of a sane size and depth, or one ValueError, whatever the file holds.

Python's own readers let through what fails later, far from the file: lists in lists until the stack ends, numbers that
no float holds, keys that stand twice, aliases that unfold to gigabytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

DEPTH = 64  # levels of nesting; ours have about ten
DIGITS = 300  # of a whole number: more are no float
SIZE = 2**28  # bytes


class Foreign(ValueError):
    """What a file holds that it must not; one line, without the name of the file."""


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        Foreign: it is no JSON, nests too deeply, has a key twice in an object or a number of hundreds of digits.
    """
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_int=_whole)
        halves = b"\\ud" in text.lower() if isinstance(text, bytes) else "\\ud" in text.lower()
        if halves:  # of characters, which are no text alone
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise Foreign(f"it is nested more than {DEPTH} levels deep") from None
    except Foreign:
        raise
    except ValueError as error:  # of the text or of its encoding
        raise Foreign(" ".join(str(error).split())[:200]) from None
    check_depth(value)
    return value


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        OSError: it can't be read.
        Foreign: as of :func:`parse_json`, or it is too large.
    """
    return parse_json(_content(path))


def read_yaml(path: Path) -> Any:
    """The value of a YAML file of plain values, without tags of Python and without aliases.

    Raises:
        OSError: it can't be read.
        Foreign: it holds something else, or nests too deeply.
    """
    try:
        loader = _Loader(_content(path))
        try:
            value = loader.get_single_data()
        finally:
            loader.dispose()
    except RecursionError:
        raise Foreign(f"it is nested more than {DEPTH} levels deep") from None
    except Foreign:
        raise
    except (yaml.YAMLError, ValueError) as error:
        raise Foreign(" ".join(str(error).split())[:200]) from None
    check_depth(value)
    return value


def check_depth(value: Any, most: int = DEPTH) -> None:
    """Raises:
    Foreign: lists and objects nest more than `most` levels.
    """
    level: Sequence[Any] = [value]
    for _ in range(most + 1):
        level = [
            item
            for outer in level
            if isinstance(outer, list | dict)
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise Foreign(f"it is nested more than {most} levels deep")


def _content(path: Path) -> bytes:
    if not path.is_file():  # a device or a pipe would never end
        raise FileNotFoundError(2, "no such file", str(path))
    if path.stat().st_size > SIZE:
        raise Foreign(f"it has {path.stat().st_size} bytes, more than any file of this program")
    return path.read_bytes()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = next(key for key, _ in pairs if sum(key == other for other, _ in pairs) > 1)
        raise Foreign(f"its key {twice[:40]!r} appears twice in an object")
    return value


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise Foreign(f"it has a number of {len(digits)} digits")
    return int(digits)


class _Loader(yaml.SafeLoader):
    """Of plain values: what one file says once is there once."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise Foreign("it has aliases (*name), which no file of this program has")
        return super().compose_node(parent, index)
