"""Writing a shard so that it can be interrupted anywhere and continued.

A video counts once its line is there, and its line is written after its images are on the disk. What lies behind the
last whole line, half a video, is cut off when the shard is opened again; the directory of the ZIP comes last.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from mml_lightning.data.packs.encode import Encoded
from mml_lightning.data.packs.zipped import Member, directory, local_header
from mml_lightning.data.video.pack_format import (
    ENTRY,
    LAYOUTS,
    SECONDS,
    line_of,
    lines_name,
    member_name,
    packed,
    read_lines,
    shard_name,
    table_name,
    table_of,
    times_name,
)


class ShardWriter:
    """One shard, continued where it was interrupted.

    Attributes:
        done: item -> its line, of the videos that are in the shard.
        closed: whether the shard is finished: nothing can be added.
        dropped: bytes of an interrupted video that were cut off.

    Raises:
        OSError: a file can't be written.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.path = folder / shard_name(number)
        self._lines_path = folder / lines_name(number)
        self._zip, self._lines = _opened(self.path), _opened(self._lines_path)
        self.done: dict[int, dict[str, Any]] = {}
        self.closed, self.dropped = False, 0
        self._end = 0
        self._recover()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()
        self._lines.close()

    def _recover(self) -> None:
        """Keep the videos whose lines and tables are whole; cut off the rest of both files."""
        size, used = self._zip.seek(0, os.SEEK_END), 0
        self._lines.seek(0)
        for line in read_lines(self._lines.read())[0]:
            if line.get("closed") == size and line.get("videos") == len(self.done):
                self.closed = True
                used += len(line_of(line))
                break
            if line.get("start") != self._end or not self._whole(line, size):
                break
            self.done[line["item"]] = line
            self._end = line["end"]
            used += len(line_of(line))
        if not self.closed:
            self.dropped = size - self._end
            self._zip.truncate(self._end)
        self._lines.truncate(used)
        self._zip.seek(0, os.SEEK_END)
        self._lines.seek(0, os.SEEK_END)

    def _whole(self, line: Mapping[str, Any], size: int) -> bool:
        """Whether the tables of a video are what its line says: a power cut can lose them and keep the line."""
        if not (type(line.get("item")) is int and type(line.get("end")) is int and self._end <= line["end"] <= size):
            return False
        try:
            for source, told in line["sources"].items():
                media = packed(self.path, line["folder"], source, told)
                if not media.problem and zlib.crc32(self._table(media.table, media.count)) != media.crc32:
                    return False
        except (ValueError, KeyError, AttributeError):
            return False
        return True

    def _table(self, offset: int, count: int) -> bytes:
        return os.pread(self._zip.fileno(), ENTRY.itemsize * count, offset)

    def add(self, item: int, folder: str, sources: Mapping[str, Encoded | str]) -> None:
        """Append a video; a source that could not be read is the reason why.

        Raises:
            OSError: the disk is full, or fails.
        """
        start, told = self._end, {}
        for source, content in sources.items():
            told[source] = {"problem": content} if isinstance(content, str) else self._add(folder, source, content)
        self._zip.flush()
        os.fsync(self._zip.fileno())
        line = {"item": item, "folder": folder, "start": start, "end": self._end, "sources": told}
        self._lines.write(line_of(line))
        self._lines.flush()
        self.done[item] = line

    def _add(self, folder: str, source: str, content: Encoded) -> dict[str, Any]:
        entries = []
        for index, image in enumerate(content.images):
            crc32 = zlib.crc32(image)
            offset = self._member(member_name(folder, source, index, content.coding), image, crc32)
            entries.append((offset, len(image), crc32))
        table = table_of(entries)
        crc32 = zlib.crc32(table)
        return {
            "count": len(entries),
            "fps": content.fps,
            "size": list(content.size),
            "coding": content.coding,
            "layout": LAYOUTS[source],
            "bytes": sum(map(len, content.images)),
            "table": self._member(table_name(folder, source), table, crc32),
            "crc32": crc32,
            **({"start": content.start} if source == "audio" else {}),
            **({} if content.times is None else {"times": self._times(folder, source, content.times)}),
        }

    def _times(self, folder: str, source: str, times: np.ndarray) -> list[int]:
        """Append the times of the items; returns their place and check sum."""
        content = times.astype(SECONDS).tobytes()
        crc32 = zlib.crc32(content)
        return [self._member(times_name(folder, source), content, crc32), crc32]

    def _member(self, name: str, content: bytes, crc32: int) -> int:
        """Append one file; returns the offset of its content."""
        header = local_header(name, len(content), crc32)
        self._zip.write(header)
        self._zip.write(content)
        self._end += len(header) + len(content)
        return self._end - len(content)

    def close(self) -> None:
        """Add the directory that makes the shard a ZIP file; it is complete then.

        Raises:
            OSError: the disk is full, or fails.
        """
        if self.closed:
            return
        self._zip.write(directory(self._members(), self._end))
        self._zip.flush()
        os.fsync(self._zip.fileno())
        self._lines.write(line_of({"closed": self._zip.tell(), "videos": len(self.done)}))
        self._lines.flush()
        os.fsync(self._lines.fileno())
        self.closed = True

    def _members(self) -> Iterator[Member]:
        """Every member in the order of the file."""
        for line in self.done.values():
            for source, told in line["sources"].items():
                media = packed(self.path, line["folder"], source, told)
                if media.problem:
                    continue
                table = self._table(media.table, media.count)
                names = [member_name(media.folder, source, index, media.coding) for index in range(media.count)]
                for name, entry in zip(names, np.frombuffer(table, dtype=ENTRY).tolist(), strict=True):
                    yield _member_at(name, *entry)
                yield _member_at(table_name(media.folder, source), media.table, len(table), media.crc32)


def _member_at(name: str, offset: int, length: int, crc32: int) -> Member:
    return Member(name, offset - len(local_header(name, length, crc32)), length, crc32)


def _opened(path: Path) -> IO[bytes]:
    """For reading and writing, made where it is missing."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
