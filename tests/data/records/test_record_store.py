"""Records in a block of bytes are the records that went in."""

from __future__ import annotations

import gc
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mml_lightning.data.records.record_store import TOGETHER, RecordStore, gc_paused, stored
from mml_lightning.data.records.records import Record, rows
from mml_lightning.data.video.media import ImageSequence, PackedFrames

RECORDS = [
    Record("a", {"frames": Path("v/a.mp4")}, {"label": 3}),
    Record("ü, ß", {"frames": Path("/v/b c.mp4")}, {"verb": 1, "noun": (0, 2)}, (0.5, 2.0), "pyav"),
    Record("c", {"frames": Path("c.mp4")}, {}, None, None, {"label": ((1, 0.0, 2.5),)}, 31.5),
    Record(
        "d",
        {
            "frames": ImageSequence(Path("d"), "img_{:05d}.jpg", 12, 25.0),
            "flow": ImageSequence(Path("d"), "flow_{axis}_{:05d}.jpg", 11, 25.0, 0, "flow_pair"),
        },
        {"label": 0},
    ),
    Record(
        "e", {"frames": PackedFrames(Path("p/0.zip"), "e", "frames", 9, 12.5, (64, 48), 17, 99, 1234)}, {"label": 1}
    ),
    Record("f", {"frames": Path("f.mp4")}, {"label": np.int64(2)}),  # of a reader that knows numpy only
]


def test_what_comes_out_is_what_went_in() -> None:
    store = RecordStore(rows(RECORDS))
    assert len(store) == len(RECORDS) and list(store) == RECORDS
    assert store[-1] == RECORDS[-1] and store[1:3] == RECORDS[1:3]
    assert list(pickle.loads(pickle.dumps(store))) == RECORDS  # spawned workers
    with pytest.raises(IndexError):
        store[len(RECORDS)]
    assert len(RecordStore()) == 0 and list(RecordStore()) == []


@pytest.mark.parametrize("count", [TOGETHER - 1, TOGETHER, TOGETHER + 1, 2 * TOGETHER, 3 * TOGETHER - 2])
def test_blocks_have_no_seams(count: int) -> None:
    records = [replace(RECORDS[n % len(RECORDS)], id=f"{n}") for n in range(count)]
    store = stored(records)
    assert len(store) == count and list(store) == records and [store[n] for n in range(count)] == records
    assert list(store.rows()) == list(rows(records)) and store[::-7] == records[::-7]
    assert stored(store) is store
    store.append(next(rows(RECORDS[:1])))
    assert len(store) == count + 1 and store[count] == RECORDS[0] and store[count - 1] == records[-1]


def test_a_record_takes_few_bytes() -> None:
    store = stored([Record(f"{i}", {"frames": Path(f"videos/{i}.mp4")}, {"label": i % 9}) for i in range(1000)])
    assert len(pickle.dumps(store)) < 60 * len(store)
    images = [Record(f"{i}", {"frames": ImageSequence(Path(f"{i}"), "{:05d}.jpg", i)}, {}) for i in range(1000)]
    assert len(pickle.dumps(stored(images))) < 100 * len(images)


@pytest.mark.parametrize("enabled", [True, False])
def test_collection_rests_while_objects_grow(enabled: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with pytest.raises(KeyError), gc_paused():
            assert not gc.isenabled()
            raise KeyError
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()
