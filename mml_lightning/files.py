"""Files that are there as a whole or not at all, and what tells them apart."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

KEPT = 100  # characters of a long name that its temporary name repeats: names have 255 bytes


@contextmanager
def write_atomically(path: Path, mode: str = "w", newline: str | None = None) -> Iterator[IO[Any]]:
    """Open a file for writing that takes its name when the block ends well: flushed, then renamed.

    Until then readers see the file before, and a block that fails leaves it as it was. The temporary file lies beside
    it, since a rename works within one disk, and is unique: threads, processes and machines may write at a time.

    Args:
        path: the file; its folder is made.
        mode: "w" for text in UTF-8, "wb" for bytes.
        newline: as of `open`; "" for the csv module.

    Raises:
        OSError: the folder can't be made or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[-KEPT:]}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open(mode, encoding=None if "b" in mode else "utf-8", newline=newline) as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def file_hash(path: Path) -> str:
    """SHA-256 of the bytes of a file, 64 hexadecimal digits.

    Raises:
        OSError: the file can't be read.
    """
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
