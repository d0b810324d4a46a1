"""Scores of a long list of videos as they come: a file beside the result, from which a second start goes on.

The journal is text, a JSON object a line: what made it, then every batch that is done. A line that a killed process has
left half is not counted. It is gone when the result is there, beside which `<result>.made.json` then says what made it.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from mml_lightning.utils.errors import UserError
from mml_lightning.utils.files import lock, write_atomically
from mml_lightning.utils.foreign import Foreign, parse_json, read_json

Logits = Mapping[str, Mapping[str, np.ndarray]]
"""{head: {peer: float32 [V, K]}} of a video."""


@dataclass
class Batch:
    """Videos that were taken together.

    Args:
        videos: how many, those without scores included.
        logits: by id, of those that have scores.
        failures: by id, why there are none. damaged: by id, what is lost of a video.
    """

    videos: int
    logits: dict[str, Logits] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)


def made_file(result: Path) -> Path:
    """Where it is told what made a result."""
    return result.with_name(f"{result.name}.made.json")


def part_file(result: Path) -> Path:
    """Where the journal lies while the result is made."""
    return result.with_name(f"{result.name}.part")


class Journal:
    """The batches that are done, and the next ones.

    Args:
        result: the file that will be made.
        made: what makes it, plain values: another start with the same goes on, one with others is refused.
    """

    def __init__(self, result: Path, made: Mapping[str, Any]) -> None:
        self.result, self.path = result, part_file(result)
        self.made = json.loads(json.dumps(made))
        self.batches: list[Batch] = []
        self._handle: FileIO | None = None

    @property
    def done(self) -> int:
        """Videos of the batches that are done."""
        return sum(batch.videos for batch in self.batches)

    def finished(self, overwrite: bool) -> Mapping[str, Any] | None:
        """What `<result>.made.json` says, where the result is there and made of the same; None where it is to be made.

        Raises:
            UserError: there is another file of this name, and it is not to be overwritten.
        """
        if overwrite or self.path.exists() or not self.result.exists():
            return None
        if not self.result.is_file():
            raise UserError(f"{self.result} exists and is not a file; choose another name")
        try:
            told = read_json(made_file(self.result))
        except (OSError, Foreign):
            told = None
        if not isinstance(told, dict) or not isinstance(told.get("made"), dict):
            raise UserError(
                f"{self.result} exists, but not the record of what made it; choose another name, or --overwrite"
            )
        self._require_same(told["made"], self.result)
        return told

    @contextmanager
    def open(self, overwrite: bool) -> Iterator[None]:
        """Inside, :meth:`append` adds to the file, which this process has alone.

        Raises:
            UserError: another process has it, it is made of other things, damaged, or can't be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = self.path.open("a+b", buffering=0)  # closing must not write, and fail, once more
        except OSError as error:
            raise UserError(f"can't write {self.path}: {error.strerror}; choose another place") from None
        with self._handle as handle:
            if not lock(handle.fileno()):
                raise UserError(f"another process is making {self.result}; wait for it, or choose another name")
            self._begin(handle, overwrite)
            yield

    def _begin(self, handle: FileIO, overwrite: bool) -> None:
        handle.seek(0)
        whole = [line for line in handle.read().splitlines(keepends=True) if line.endswith(b"\n")]
        lines = [] if overwrite else whole
        try:
            told = [parse_json(line) for line in lines]
            if told:
                self._require_same(told[0]["made"], self.path)
            self.batches = [_batch(one) for one in told[1:]]
        except UserError:
            raise
        except (Foreign, KeyError, TypeError, ValueError, AttributeError):
            raise UserError(f"{self.path} is damaged; delete it, or --overwrite") from None
        self._guarded(lambda: handle.truncate(sum(map(len, lines))))
        if not lines:
            self._write({"made": self.made})

    def append(self, batch: Batch) -> None:
        """A batch is done.

        Raises:
            UserError: it can't be written.
        """
        self.batches.append(batch)
        self._write(
            {
                "videos": batch.videos,
                "logits": {
                    v: {h: {p: _text(x) for p, x in of.items()} for h, of in one.items()}
                    for v, one in batch.logits.items()
                },
                "failures": batch.failures,
                "damaged": batch.damaged,
            }
        )

    def finish(self, told: Mapping[str, Any]) -> None:
        """The result is there: say what made it, and remove the journal.

        Raises:
            UserError: it can't be written.
        """

        def write() -> None:
            with write_atomically(made_file(self.result)) as handle:
                json.dump({"made": self.made, **told}, handle, indent=1)
            self.path.unlink(missing_ok=True)

        self._guarded(write)

    def _write(self, line: Mapping[str, Any]) -> None:
        assert self._handle is not None, "append inside of open"
        handle, text = self._handle, json.dumps(line).encode() + b"\n"

        def write() -> None:
            rest = text
            while rest:  # a disk that gets full takes a part
                rest = rest[handle.write(rest) :]

        self._guarded(write)

    def _guarded(self, work: Any) -> None:
        try:
            work()
        except OSError as error:
            where = error.filename or self.path
            raise UserError(
                f"can't write {where}: {os.strerror(error.errno or 0)}; free some space and run it again to continue"
            ) from None

    def _require_same(self, told: Mapping[str, Any], where: Path) -> None:
        different = _difference(told, self.made)
        if different:
            raise UserError(
                f"{where} was made with other {different}: choose another name, or --overwrite to make it again"
            )


def _difference(one: Any, other: Any, key: str = "") -> str:
    """The first key in which two values differ, and how; "" if they don't."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = [*other, *(name for name in one if name not in other)]
        parts = (_difference(one.get(name), other.get(name), f"{key}.{name}".lstrip(".")) for name in keys)
        return next(filter(None, parts), "")
    return "" if one == other else f"{key} ({str(one)[:60]}, now {str(other)[:60]})"


def _text(values: np.ndarray) -> list[Any]:
    return [len(values), base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode()]


def _batch(told: Mapping[str, Any]) -> Batch:
    logits: dict[str, Logits] = {
        v: {h: {p: _array(x) for p, x in of.items()} for h, of in one.items()} for v, one in told["logits"].items()
    }
    return Batch(int(told["videos"]), logits, dict(told["failures"]), dict(told["damaged"]))


def _array(told: Any) -> np.ndarray:
    views, text = told
    return np.frombuffer(base64.b64decode(text, validate=True), "<f4").reshape(int(views), -1).astype(np.float32)
