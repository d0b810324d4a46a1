"""Reads what W&B has left on disk: the record of an offline run, and the media beside it.

A `.wandb` file is a log in the format of LevelDB: after a header of seven bytes, blocks of 32 KiB of chunks, each with
its checksum, length and place in the record (whole, first, middle, last); a record is a protocol buffer of W&B's own.
W&B's process writes it in pieces that end anywhere, also in a chunk, and goes on when the run has said that it is over.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

from tests.patience import wait_for

BLOCK, HEADER = 32768, 7
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
    """Read a run, as soon as the record that ends it has been written."""
    (file,) = folder.glob("*.wandb")
    parsed = wait_for(lambda: _ended(_parsed(file)), f"the end of {file}")
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


def _ended(parsed: list[Any]) -> list[Any]:
    """All records, or none while the last one is yet to come."""
    return parsed if parsed and parsed[-1].HasField("exit") else []


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
    """Those that are whole; what comes after them is being written.

    Raises:
        ValueError: a chunk is not what was written.
    """
    place, parts = HEADER, b""
    while place + HEADER <= len(data):
        left = BLOCK - place % BLOCK
        if left < HEADER:  # too small for a chunk: zeros
            place += left
            continue
        checksum, length, kind = struct.unpack_from("<IHB", data, place)
        if kind == 0:
            place += left
            continue
        end = place + HEADER + length
        if end > len(data):
            return
        chunk = data[place + HEADER : end]
        if zlib.crc32(chunk, zlib.crc32(bytes([kind]))) != checksum:
            raise ValueError(f"the chunk at byte {place} does not have its checksum")
        parts += chunk
        place = end
        if kind in (WHOLE, LAST):
            yield parts
            parts = b""
