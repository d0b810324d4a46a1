"""Reads what W&B has left on disk: the record of an offline run, and the media beside it.

A `.wandb` file is a log in the format of LevelDB: after a header of seven bytes, blocks of 32 KiB of chunks, each with
its checksum, length and place in the record (whole, first, middle, last); a record is a protocol buffer of W&B's own.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK, HEADER = 32768, 7
PATIENCE = 120.0  # seconds
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class OfflineRun:
    """What a record holds: the run itself, its config, its summary, every step of its history."""

    folder: Path
    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)

    def media(self, key: str) -> Path:
        """The file that was logged under a key."""
        (path,) = [step[f"{key}/path"] for step in self.history if f"{key}/path" in step]
        return self.folder / "files" / str(path)

    def table(self, key: str) -> tuple[list[Any], list[list[Any]]]:
        """Columns and rows of a table."""
        content = json.loads(self.media(key).read_text())
        return content["columns"], content["data"]


def offline_run(folder: Path) -> OfflineRun:
    """Read a finished run; W&B's own process may still be writing when the run has said that it is over."""
    (file,) = folder.glob("*.wandb")
    until = time.monotonic() + PATIENCE
    while not (parsed := _parsed(file)) or not parsed[-1].HasField("exit"):
        assert time.monotonic() < until, f"{file} does not end"
        time.sleep(0.1)
    found = OfflineRun(folder)
    for record in parsed:
        if record.HasField("run"):
            found.run = record.run
            _update(found.config, record.run.config.update)
        elif record.HasField("config"):
            _update(found.config, record.config.update)
        elif record.HasField("summary"):
            _update(found.summary, record.summary.update)
        elif record.HasField("history"):
            step: dict[str, Any] = {}
            _update(step, record.history.item)
            found.history.append(step)
    return found


def _parsed(file: Path) -> list[Any]:
    found = []
    for data in records(file.read_bytes()):
        found.append(wandb_internal_pb2.Record())
        found[-1].ParseFromString(data)
    return found


def _update(into: dict[str, Any], items: Any) -> None:
    for item in items:
        into[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)


def records(data: bytes) -> Iterator[bytes]:
    place, parts = HEADER, b""
    while place + HEADER <= len(data):
        left = BLOCK - place % BLOCK
        if left < HEADER:  # too small for a chunk: zeros
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        if kind == 0:
            place += left
            continue
        parts += data[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (WHOLE, LAST):
            yield parts
            parts = b""
