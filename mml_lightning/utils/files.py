"""Files that are there as a whole or not at all, and what tells them apart."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
import uuid
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows: what a killed writer leaves stays there
    fcntl = None  # type: ignore[assignment]

TEMPORARY = ".tmp"
FOLDER_NAME = re.compile(r"(?!\.+$)[\w.+=,@-]+")  # of runs, data and networks: never a way to somewhere else
LOCK = ".lock"
_OURS = re.compile(rf"\..*\.[0-9a-f]{{32}}{re.escape(TEMPORARY)}").fullmatch
SMALL = 2**24  # bytes that any archive may unpack to
KEPT = 100  # characters of a long name that its temporary name repeats: names have 255 bytes


@contextmanager
def write_atomically(
    path: Path,
    mode: str = "w",
    newline: str | None = None,
    *,
    check: Callable[[Path], None] | None = None,
    keep: Path | None = None,
    sync: bool = True,
) -> Iterator[IO[Any]]:
    """Open a file for writing that takes its name when the block ends well: flushed, then renamed, and its folder too.

    Until then readers see the file before, and a block that fails leaves it as it was. The temporary file lies beside
    it, since a rename works within one disk, and is unique: threads, processes and machines may write at a time. It is
    locked while it is written, so that :func:`remove_leftovers` tells it from one of a killed process.

    Args:
        path: the file; its folder is made.
        mode: "w" for text in UTF-8, "wb" for bytes.
        newline: as of `open`; "" for the csv module.
        check: reads what was written before it takes its name, and raises if it is not what it should be.
        keep: name, in the same folder, of the file before; a process that is killed in between leaves this one only.
        sync: False leaves it to the system when the content reaches the disk: for what can be made again.

    Raises:
        OSError: the folder can't be made or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        with _opened(temporary, mode, newline) as handle:
            yield handle
            handle.flush()
            if sync:
                os.fsync(handle.fileno())
        if check is not None:
            check(temporary)
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(temporary, path)
        if sync:
            _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    """A name beside `path` that nobody else takes."""
    return path.with_name(f".{path.name[-KEPT:]}.{uuid.uuid4().hex}{TEMPORARY}")


def _opened(path: Path, mode: str, newline: str | None) -> IO[Any]:
    """A new file, open and locked: the lock ends with its process, however that ends."""
    while True:
        handle = path.open(mode, encoding=None if "b" in mode else "utf-8", newline=newline)
        lock(handle.fileno())
        if path.exists():  # else taken for a leftover between the two
            return handle
        handle.close()


def lock(descriptor: int) -> bool:
    """Lock an open file or folder for this process; whether that could be done. It ends when the file is closed. On a
    file system without locks everybody gets it."""
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            pass
    return True


def publish(path: Path, text: str) -> str:
    """Write a text file unless there is one; returns what it holds. Of several that do so at a time all get the text of
    the first.

    Raises:
        OSError: it can't be written or read.
        ValueError: what is there is no text.
    """
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_name(path)
        try:
            temporary.write_text(text, encoding="utf-8")
            try:
                os.link(temporary, path)  # never replaces, as a rename would
            except FileExistsError:
                pass
            except OSError:  # a file system without links
                os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return path.read_text(encoding="utf-8")


@contextmanager
def folder_atomically(path: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the name `path` when the block ends well; a block that fails leaves nothing.

    Of several processes that make one folder at a time the first gives it its content, the others' are removed. A
    folder that is there when the block ends stays.

    Raises:
        OSError: it can't be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    handle = _made_folder(temporary)
    try:
        yield temporary
        try:
            os.rename(temporary, path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        if handle is not None:
            os.close(handle)
        shutil.rmtree(temporary, ignore_errors=True)


def _made_folder(path: Path) -> int | None:
    """Make a folder and lock it; returns what to close, None where folders can't be opened (not POSIX)."""
    while True:
        path.mkdir()
        try:
            handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # taken for a leftover
            continue
        except OSError:
            return None
        lock(handle)
        if path.exists():
            return handle
        os.close(handle)


def same_in_other_case(folder: Path) -> bool:
    """Whether the disk takes names in capital and small letters for the same; tried in `folder`, which is there.

    Raises:
        OSError: it can't be written.
    """
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".Case") as file:
        return Path(file.name).with_name(Path(file.name).name.swapcase()).exists()


class Busy(Exception):
    """Another process has the folder."""


@contextmanager
def locked(folder: Path, wait: Callable[[], object] | None = None) -> Iterator[None]:
    """Have a folder for this process alone: `<folder>/.lock`, which ends with the process, however that ends.

    Args:
        wait: called once if another process has it, before its end is waited for; None does not wait.

    Raises:
        Busy: another process has it, and `wait` is None.
        OSError: the file can't be made.
    """
    path = folder / LOCK
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not lock(handle):
                if wait is None:
                    raise Busy(str(folder))
                wait()
                fcntl.flock(handle, fcntl.LOCK_EX)
            if not _is(handle, path):
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return
        finally:  # also where the one before has removed it
            os.close(handle)


def _is(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def check_writable(path: Path) -> None:
    """What :func:`write_atomically` needs, tried beforehand, without the folder being made: no file is left, none
    changed.

    Raises:
        OSError: its folder is missing or can't be written, its name is too long, or it is no regular file.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it exists and is not a regular file", str(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, f"no folder {path.parent}", str(path))
    with tempfile.TemporaryFile(dir=path.parent):
        pass


def write_tensors(path: Path, content: Any, keep: Path | None = None) -> None:
    """`torch.save`, whole or not at all: what was written is read back and compared with its checksums.

    Args:
        keep: as of :func:`write_atomically`.

    Raises:
        OSError: the disk has no room, or gives back something else.
    """
    import torch  # most who need files need no torch

    with write_atomically(path, "wb", check=_verify, keep=keep) as handle:
        file = _Strict(handle)
        try:
            torch.save(content, file)  # type: ignore[arg-type]  # writes to whatever has `write` and `flush`
        except RuntimeError:
            if file.error is not None:  # torch says that a file is broken when it can't be written
                raise file.error from None
            raise


class _Strict:
    """A file that remembers why it could not be written."""

    def __init__(self, handle: IO[bytes]) -> None:
        self._handle = handle
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._put(data)
        except OSError as error:
            error.filename = error.filename or self._handle.name
            self.error = error
            raise

    def _put(self, data: Any) -> int:
        return self._handle.write(data)

    def flush(self) -> None:
        self._handle.flush()


def _verify(path: Path) -> None:
    try:
        check_archive(path)
    except ValueError as error:
        raise OSError(errno.EIO, f"verification after writing failed: {error}", str(path)) from None


def remove_leftovers(folder: Path) -> int:
    """Remove what killed processes had begun to write in a folder; returns how many files and folders.

    What somebody still writes is locked and stays.
    """
    left = 0
    names = [path for path in folder.glob(f".*{TEMPORARY}") if _OURS(path.name)]
    for path in names if fcntl else ():
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY)
            try:
                if lock(handle):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                    left += 1
            finally:
                os.close(handle)
    return left


def check_archive(path: Path) -> None:
    """Read all of a file that torch.save wrote and compare it with the checksums inside.

    Raises:
        ValueError: it is cut, damaged, or no such file.
        OSError: it can't be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise ValueError(f"it is truncated or not a checkpoint ({error})") from None
    if damaged is not None:
        raise ValueError(f"it is damaged (checksum of {damaged})")


def _sync_folder(folder: Path) -> None:
    """Have a rename on the disk; where folders can't be opened (not POSIX) there is nothing to do."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:  # some network file systems
        pass
    finally:
        os.close(handle)


def check_unpacked(path: Path, times: float = 1.5) -> None:
    """A zip file may claim to hold far more than it has bytes: whoever unpacks it runs out of memory. Files that are no
    zip pass.

    Args:
        times: how many times its own size its content may have. What torch.save writes is not compressed at all.

    Raises:
        ValueError: it would unpack to more.
        OSError: it can't be read.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        content = sum(member.file_size for member in archive.infolist())
    if content > times * path.stat().st_size + SMALL:
        raise ValueError(f"it has {path.stat().st_size} bytes and would unpack to {content}")


def file_hash(path: Path) -> str:
    """SHA-256 of the bytes of a file, 64 hexadecimal digits.

    Raises:
        OSError: the file can't be read.
    """
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
