"""Indices of video files, each made once: kept in this process, and in a folder that all runs share.

A file that was replaced is judged anew: an index names the size and the times of its file. What can't be read in the
folder, or is of another version, is made again; a folder that can't be written costs time, never a frame.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import zlib
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mml_lightning.data.video.video_index import VideoIndex, judge, of_plain, plain
from mml_lightning.utils.files import write_atomically

SCHEMA = 2
KEPT = 4096  # indices in memory: a few kilobytes each

_lock = threading.Lock()
_known: OrderedDict[tuple[Any, ...], VideoIndex] = OrderedDict()


@dataclass(frozen=True)
class IndexStore:
    """Where indices lie.

    Args:
        folder: one small file per video; None keeps them in the memory of this process only.
    """

    folder: Path | None = None

    def index(self, path: Path, decode: bool = False) -> VideoIndex:
        """The index of `path`, made if it is not known.

        Args:
            decode: it must be one that was made by decoding all frames.

        Raises:
            as :func:`judge`; OSError: there is no file.
        """
        state = _state(path)
        with _lock:
            known = _known.get((str(path), *state))
        if known is None:
            known = self._stored(path, state)
        if known is None or (decode and not known.decoded):
            known = judge(path, decode)
            self._write(path, state, known)
        _keep(path, state, known)
        return known

    def put(self, path: Path, index: VideoIndex) -> None:
        """Replace what is known of `path`."""
        state = _state(path)
        self._write(path, state, index)
        _keep(path, state, index)

    def _file(self, path: Path) -> Path | None:
        if self.folder is None:
            return None
        name = hashlib.sha256(os.path.abspath(path).encode(errors="surrogateescape")).hexdigest()[:24]
        return self.folder / name[:2] / f"{name[2:]}.json"

    def _stored(self, path: Path, state: tuple[int, ...]) -> VideoIndex | None:
        file = self._file(path)
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, ArithmeticError):
            told = json.loads(file.read_bytes()) if file is not None else {}
            if told.get("schema") == SCHEMA and told["made_with"] == _versions() and told["state"] == list(state):
                return of_plain(told["index"]) if told["crc32"] == _sum(told["index"]) else None
        return None

    def _write(self, path: Path, state: tuple[int, ...], index: VideoIndex) -> None:
        file = self._file(path)
        if file is None:
            return
        fields = plain(index)
        told = {"schema": SCHEMA, "video": path.name, "state": list(state), "made_with": _versions()}
        # nothing waits for the disk: what a power cut leaves of it has another sum, and is made again
        with suppress(OSError), write_atomically(file, sync=False) as handle:
            handle.write(json.dumps({**told, "index": fields, "crc32": _sum(fields)}))


def _sum(fields: Any) -> int:
    return zlib.crc32(json.dumps(fields, sort_keys=True).encode())


def _state(path: Path) -> tuple[int, ...]:
    """What changes when a file is replaced or written to, even by a copy that keeps its times."""
    seen = path.stat()
    return seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns


def _versions() -> dict[str, str]:
    """Of what decides which pictures a file shows."""
    import av

    return {"av": av.__version__, "libavcodec": ".".join(map(str, av.library_versions["libavcodec"]))}


def _keep(path: Path, state: tuple[int, ...], index: VideoIndex) -> None:
    with _lock:
        _known[str(path), *state] = index
        _known.move_to_end((str(path), *state))
        while len(_known) > KEPT:
            _known.popitem(last=False)
