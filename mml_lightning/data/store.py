"""Many records in little memory: one block of bytes that forked workers share.

A Python object counts who holds it, and the count lies beside it: every worker that looks at a list of records copies,
page by page, all that it looks at. A store has one object whatever the number of records; a record is made anew when it
is asked for.
"""

from __future__ import annotations

import gc
import pickle
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, overload

from mml_lightning.data.records import NO_INTERVALS, ImageSequence, Media, PackedFrames, Record

KINDS = (ImageSequence, PackedFrames)  # the first field of each is a path
NAMES = {kind: [field.name for field in fields(kind)][1:] for kind in KINDS}


class RecordStore(Sequence[Record]):
    """A sequence of records that can't change.

    Args:
        records: read once, in order.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        content, ends = bytearray(), array("Q", [0])
        for record in records:
            content += _encode(record)
            ends.append(len(content))
        self._content, self._ends = bytes(content), ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]  # raises IndexError; takes negative ones
        return _decode(self._content[self._ends[place] : self._ends[place + 1]])


def _encode(record: Record) -> bytes:
    media = [(source, _plain(value)) for source, value in record.media.items()]
    values = (
        *(record.id, media, record.target, record.span, record.decoder),
        *(record.intervals or None, record.length),
    )
    return pickle.dumps(values, pickle.HIGHEST_PROTOCOL)


def _decode(content: bytes) -> Record:
    identity, media, target, span, decoder, intervals, length = pickle.loads(content)
    made = {source: _media(value) for source, value in media}
    return Record(identity, made, target, span, decoder, intervals or NO_INTERVALS, length)


def _plain(media: Media) -> Any:
    if isinstance(media, Path):
        return str(media)
    names = NAMES[type(media)]
    first = media.folder if isinstance(media, ImageSequence) else media.shard
    return [KINDS.index(type(media)), str(first), *(getattr(media, name) for name in names)]


def _media(value: Any) -> Media:
    if isinstance(value, str):
        return Path(value)
    kind, first, *rest = value
    made: Media = KINDS[kind](Path(first), *rest)
    return made


@contextmanager
def growing() -> Iterator[None]:
    """Inside, many objects are made and stay: looking for garbage among them time and again would take longer than
    making them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def settled() -> Iterator[None]:
    """Processes forked inside leave the objects they inherit alone: the collector writes into all that it looks at,
    and each process would get a copy."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
