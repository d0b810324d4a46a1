"""A small dataset to pack: videos, one of them in two parts and one damaged, with timed and several labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mml_lightning.data.flow.cache import FlowCache, FlowSettings
from mml_lightning.data.loading.sources import SourceOpener
from mml_lightning.data.packs.encode import Coding
from mml_lightning.data.packs.packing import Packer, Wish
from mml_lightning.data.records.records import Dataset, Head, Record
from tests.data.videos import damaged, moving, write_video

BOTH = ("flow", "frames")
HEADS = {"label": Head(("left", "right", "up")), "actions": Head(("a", "b"), multi_label=True)}


def dataset(folder: Path, videos: int = 40) -> Dataset:
    """`videos` files of 4 to 7 frames; 0 is two records with spans, 2 is damaged, 3 has one frame."""
    records = []
    for number in range(videos):
        path = folder / f"{number}.mp4"
        if not path.exists():
            write_video(path, moving(1 if number == 3 else 4 + number % 4, 1 + number % 3, number % 2))
        label = {"label": number % 3, "actions": (0, 1) if number % 2 else ()}
        records.append(Record(f"v{number}", {"frames": path}, label))
    damaged("truncated", folder / "1.mp4", folder / "bad.mp4")
    records[2] = Record("bad", {"frames": folder / "bad.mp4"}, {"label": 0, "actions": ()})
    parts = [
        Record(f"part{n}", {"frames": folder / "0.mp4"}, {"label": n, "actions": (n,)}, (0.1 * n, 0.1 + 0.1 * n))
        for n in range(2)
    ]
    timed = Record("timed", {"frames": folder / "4.mp4"}, {"actions": (1,)}, intervals={"actions": ((1, 0.0, 0.25),)})
    splits = {"train": [*parts, *records[1:-2]], "val": [timed], "test": records[-2:]}
    return Dataset("small", splits, HEADS, {"label": {0: 1, 1: 0}}, {"gone": "unreadable"})


def packer(data: Dataset, cache: Path, out: Path, coding: Coding | None = None, **wish: Any) -> Packer:
    opener = SourceOpener("pyav", FlowCache(cache, FlowSettings(decoder="pyav", preset="ultrafast")))
    return Packer(data, opener, out, Wish(wish.pop("sources", BOTH), coding or Coding(), **wish))


def quiet(videos: int) -> Callable[[], object]:
    return lambda: None
