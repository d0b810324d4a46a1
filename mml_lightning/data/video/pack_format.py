"""What stands where in a pack: names, the table of a source and the line of a video.

A shard is `shard-00000.zip`, whose members are the images of its videos, and `shard-00000.jsonl`, a line per video that
says where its tables are. A table is a member too: 16 bytes per image, the offset of its content in the shard (uint64),
its length (uint32) and its CRC-32 (uint32), little-endian. The CRC-32 of the table stands in the line. Of a source with
a variable frame rate there is a member of 8 bytes per image, the seconds of each (float64), too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import isfinite
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from mml_lightning.data.video.media import PACKED_LAYOUTS, STREAM, PackedFrames, PlainMedia, media_of, to_plain

FORMAT, VERSION, READABLE = "mml-pack", 3, (1, 2, 3)
"""1: no sound, no restart markers; 2: no times of frames, no parts told by frames."""
MANIFEST, RECORDS = "manifest.json", "records.jsonl"
ENTRY = np.dtype([("offset", "<u8"), ("length", "<u4"), ("crc32", "<u4")])
SECONDS = np.dtype("<f8")
LAYOUTS = {**PACKED_LAYOUTS, "audio": STREAM}
CODINGS = {"rgb": ("jpg", "png"), "flow_stacked": ("jpg", "png"), "stream": ("mka",)}
LARGEST = 65_535  # pixels of a side, as in JPEG
_FOLDER = re.compile(r"\d{6,}_[A-Za-z0-9_-][A-Za-z0-9_.-]{0,79}").fullmatch
_FIELDS = itemgetter("count", "fps", "size", "table", "crc32", "bytes", "coding", "layout")


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.zip"


def lines_name(number: int) -> str:
    return f"shard-{number:05d}.jsonl"


def folder_name(item: int, identity: str) -> str:
    """Where the members of a video lie in its shard: its number makes it unique, its id is for the eye."""
    return f"{item:06d}_{re.sub(r'[^A-Za-z0-9_-]', '_', identity[:1]) or '_'}{_safe(identity[1:])[:79]}"


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text).replace("..", "__")


def member_name(folder: str, source: str, index: int, coding: str) -> str:
    return f"{folder}/{source}_{index + 1:05d}.{coding}"


def table_name(folder: str, source: str) -> str:
    return f"{folder}/{source}.table"


def times_name(folder: str, source: str) -> str:
    return f"{folder}/{source}.times"


def packed(shard: Path, folder: str, source: str, fields: Mapping[str, Any]) -> PackedFrames:
    """What a line says of one source.

    Raises:
        ValueError: something is missing, of the wrong kind, or a name that leads out of the pack.
    """
    media = media_of(told_packed(str(shard), folder, source, fields))
    assert isinstance(media, PackedFrames)
    return media


def told_packed(shard: str, folder: str, source: str, fields: Mapping[str, Any]) -> PlainMedia:
    """As :func:`packed`, in plain values.

    Raises:
        ValueError: something is missing, of the wrong kind, or a name that leads out of the pack.
    """
    if not isinstance(folder, str) or not _FOLDER(folder) or ".." in folder:
        raise ValueError(f"{folder!r} is not a folder of a pack")
    if source not in LAYOUTS:
        raise ValueError(f"source {source!r} is unknown")
    problem = fields.get("problem")
    if problem is not None:
        return to_plain(PackedFrames(Path(shard), folder, source, problem=str(problem)))
    try:
        count, fps, (width, height), table, crc32, size, coding, layout = _FIELDS(fields)
        fps, start, times = float(fps), float(fields.get("start", 0.0)), fields.get("times")
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{folder}: a field of {source} is missing or wrong") from None
    least = source != "audio"
    if (
        not (type(count) is type(table) is type(crc32) is type(size) is type(width) is type(height) is int)
        or not (0 < count * ENTRY.itemsize <= table and crc32 >= 0 <= size and 0 <= fps < 1e6 and isfinite(start))
        or not (least <= width <= LARGEST and least <= height <= LARGEST)
    ):
        raise ValueError(f"{folder}: a number of {source} is wrong")
    if times is not None:
        if type(times) is not list or list(map(type, times)) != [int, int] or min(times) < 0:
            raise ValueError(f"{folder}: the times of {source} are wrong")
        times = tuple(times)
    if layout != LAYOUTS[source] or coding not in CODINGS[layout]:
        raise ValueError(f"{folder}: {source} is {coding!r} in layout {layout!r}, which this version can't read")
    return (
        PackedFrames,
        shard,
        folder,
        source,
        count,
        fps,
        (width, height),
        table,
        crc32,
        size,
        coding,
        "",
        start,
        times,
    )


def read_lines(content: bytes) -> tuple[list[dict[str, Any]], int]:
    """Whole lines that are JSON objects, up to the first that is not, and how many bytes they take."""
    with suppress(ValueError, RecursionError):  # a whole file at once takes half the time
        together = json.loads(b"[" + content.removesuffix(b"\n").replace(b"\n", b",") + b"]")
        if len(together) == content.count(b"\n") and set(map(type, together)) <= {dict}:
            return together, len(content)
    lines: list[dict[str, Any]] = []
    used = 0
    for raw in content.splitlines(keepends=True):
        if not raw.endswith(b"\n"):
            break
        try:
            line = json.loads(raw)
        except (ValueError, RecursionError):
            break
        if not isinstance(line, dict):
            break
        lines.append(line)
        used += len(raw)
    return lines, used


def line_of(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"


def table_of(entries: Sequence[tuple[int, int, int]]) -> bytes:
    return np.array(entries, dtype=ENTRY).tobytes()
