"""Many records in little memory: one block of bytes that forked workers share.

A Python object counts who holds it, and the count lies beside it: every worker that looks at a list of records copies,
page by page, all that it looks at. A store has a handful of objects whatever the number of records; a record is made
anew when it is asked for.
"""

from __future__ import annotations

import gc
import itertools
import pickle
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, overload

from mml_lightning.data.records.records import Record, RecordRow, Rows, rows
from mml_lightning.data.video.media import media_of

TOGETHER = 64  # records that are written, and read, at once: what they share is written once


class RecordStore(Rows):
    """A sequence of records to which more can be appended, and which can't change otherwise.

    Args:
        rows: read once, in order.
    """

    def __init__(self, rows: Iterable[RecordRow] = ()) -> None:
        self._content, self._ends = bytearray(), array("Q", [0])
        self._last: list[RecordRow] = []  # fewer than TOGETHER
        for row in rows:
            self.append(row)

    def append(self, row: RecordRow) -> None:
        self._last.append(row)
        if len(self._last) == TOGETHER:
            plain = list(map(tuple, self._last))  # smaller and faster to write than rows with a class
            self._content += pickle.dumps(plain, pickle.HIGHEST_PROTOCOL)
            self._ends.append(len(self._content))
            self._last.clear()

    def rows(self) -> Iterator[RecordRow]:
        return map(RecordRow._make, itertools.chain.from_iterable(map(self._block, range(len(self._ends)))))

    def __iter__(self) -> Iterator[Record]:
        return map(record_of, self.rows())

    def __len__(self) -> int:
        return (len(self._ends) - 1) * TOGETHER + len(self._last)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        block, place = divmod(range(len(self))[index], TOGETHER)  # raises IndexError; takes negative ones
        return record_of(RecordRow._make(self._block(block)[place]))

    def _block(self, number: int) -> Sequence[tuple[Any, ...]]:
        if number == len(self._ends) - 1:
            return self._last
        block: list[tuple[Any, ...]] = pickle.loads(self._content[self._ends[number] : self._ends[number + 1]])
        return block


def stored(records: Sequence[Record]) -> RecordStore:
    return records if isinstance(records, RecordStore) else RecordStore(rows(records))


def record_of(row: RecordRow) -> Record:
    media = {source: media_of(one) for source, one in row.media.items()}
    return Record(row.id, media, row.target, row.span, row.decoder, row.intervals, row.length)


@contextmanager
def gc_paused() -> Iterator[None]:
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
def gc_frozen_for_fork() -> Iterator[None]:
    """Processes forked inside leave the objects they inherit alone: the collector writes into all that it looks at,
    and each process would get a copy."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
