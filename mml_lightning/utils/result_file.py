"""The file `result.json`, and JSON that any reader takes."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mml_lightning.utils import liveness
from mml_lightning.utils.files import write_atomically
from mml_lightning.utils.foreign import Foreign, read_json

SCHEMA = 1
FILE = "result.json"
STRINGS = (
    *("status", "error", "name", "command", "git_sha", "started", "finished", "stage", "objective", "setup", "data"),
    *("backbone", "views", "zoo", "data_fingerprint", "fingerprint"),
)
KINDS: dict[str, type | types.UnionType] = {
    **dict.fromkeys(STRINGS, str),
    **dict.fromkeys(("overrides", "modality", "resumed"), list),
    **dict.fromkeys(("metrics", "peers", "unreadable", "damaged", "weights", "evaluation", "expected", "speed"), dict),
    "wall_s": int | float,
}
"""What a field is, where it is there and not null; others are looked at by those who read them."""


def write_json(path: Path, value: Any) -> None:
    """Replace `path` as a whole; numbers that are not finite become null."""
    with write_atomically(path) as handle:
        handle.write(json_text(value))


def json_text(value: Any) -> str:
    """JSON that any reader takes: it has neither NaN nor infinity, which become null."""
    return json.dumps(_finite(value), indent=1, allow_nan=False) + "\n"


def read_result(folder: Path) -> dict[str, Any] | None:
    """The result of a run, or None where there is none to read; of one that was killed with status "died"."""
    try:
        return liveness.told(checked_result(folder / FILE), folder / FILE)
    except (OSError, Foreign):
        return None


def checked_result(file: Path) -> dict[str, Any]:
    """The content of a result.json, its fields of the right kinds.

    Raises:
        OSError: it can't be read.
        Foreign: it is no result, or a field is damaged.
    """
    value = read_json(file)
    if not isinstance(value, dict):
        raise Foreign("it holds no JSON object")
    for key, kind in KINDS.items():
        if value.get(key) is not None and not isinstance(value[key], kind):
            raise Foreign(f"its field {key!r} is damaged")
    if not all(isinstance(word, str) for key in ("overrides", "modality") for word in value.get(key) or ()):
        raise Foreign("one of its lists holds something other than strings")
    tables = [*_parts(value.get("metrics")), *_parts(value.get("peers"))]
    tables += [part for table in _parts(value.get("metrics")) for part in _parts(table)]
    if not all(isinstance(table, dict | None) for table in tables):
        raise Foreign("its metrics or its peers are damaged")
    return value


def _parts(table: Any) -> list[Any]:
    return list(table.values()) if isinstance(table, dict) else []


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):  # that of a config is no list
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
