"""Datasets of a million records for whoever measures starts: lists in full, files as small and as few as can be.

A list names as many videos as it has records, each a name of its own that leads to something readable. All names of a
folder lead to one video: files by hard links, folders by symbolic ones; all lines of a shard of a pack say the place of
one. So what is measured is the reading of lists and the look at every file, not the disk.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mml_lightning.benchmarks.data_files import write_video
from mml_lightning.data.packs.encode import Coding, Encoded
from mml_lightning.data.packs.shard import ShardWriter
from mml_lightning.data.records.pack_index import lists, plain_heads, write_manifest, write_records
from mml_lightning.data.records.records import Dataset, Head
from mml_lightning.data.video.pack_format import folder_name, line_of, lines_name, shard_name
from mml_lightning.utils.files import file_hash

PER_FOLDER, CLASSES = 1000, 10
SIZE, FRAMES, FPS = (96, 64), 12, 12
PICTURE = "img_{:05d}.jpg"
NAMES = [f"class{number}" for number in range(CLASSES)]


def split_of(number: int) -> str:
    return "train" if number % 10 else "val"


def _label(number: int) -> int:
    return number // 10 % CLASSES


def csv_list(folder: Path, count: int) -> list[str]:
    """A CSV of `count` videos; returns the words of a config that reads it."""
    index = folder / f"{count}.csv"
    with index.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["id", "path", "label", "split"])
        for number, name in _names(folder / "videos", count, ".mp4", _video, os.link):
            writer.writerow([f"clip_{number:08d}", f"videos/{name}", NAMES[_label(number)], split_of(number)])
    return ["data=csv", f"data.index={index}"]


def frame_lists(folder: Path, count: int) -> list[str]:
    """Lists `path num_frames label` of `count` folders of images."""
    with (folder / "train.txt").open("w") as train, (folder / "val.txt").open("w") as val:
        for number, name in _names(folder / "images", count, "", _pictures, _symlink):
            (train if number % 10 else val).write(f"{name} {FRAMES} {_label(number)}\n")
    return ["data=frame_lists", f"data.root={folder}"]


def pack(folder: Path, count: int) -> list[str]:
    """A pack of `count` videos, a thousand in each shard: all of a shard have the same images."""
    heads = plain_heads(Dataset("pack", {}, {"label": Head(tuple(NAMES))}))
    root, shards = folder / f"pack{count}", -(-count // PER_FOLDER)
    root.mkdir()
    line, closed = _shard(root)
    content = (root / shard_name(0)).read_bytes()
    for shard in range(shards):
        items = range(shard * PER_FOLDER, min((shard + 1) * PER_FOLDER, count))
        told = [line | {"item": item, "folder": folder_name(item, _identity(item))} for item in items]
        (root / shard_name(shard)).write_bytes(content)
        (root / lines_name(shard)).write_bytes(b"".join(map(line_of, [*told, closed | {"videos": len(told)}])))
    numbers = sorted(range(count), key=lambda number: number % 10 == 0)  # as packs are: split by split
    write_records(root, map(_record, range(count), numbers))
    sums = {file: file_hash(root / file) for file in lists(shards)}
    fields = {"complete": True, "plan": {}, "shards": shards, "videos": count, "heads": heads, "left_out": {}}
    write_manifest(root, {**fields, "sha256": sums})
    return ["data=pack", f"data.root={root}"]


def _record(item: int, number: int) -> Mapping[str, Any]:
    return {"split": split_of(number), "id": _identity(item), "item": item, "target": {"label": _label(number)}}


def _identity(item: int) -> str:
    return f"clip_{item:08d}"


def _shard(root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A shard with one video; what its lines say."""
    ending = "." + Coding().ending("frames")
    images = [_encoded(picture, ending) for picture in _noise()]
    with ShardWriter(root, 0) as shard:
        shard.add(0, folder_name(0, _identity(0)), {"frames": Encoded(images, SIZE, FPS, ending[1:])})
        shard.close()
        return shard.done[0], {"closed": shard.path.stat().st_size}


KINDS: Mapping[str, Callable[[Path, int], list[str]]] = {"csv": csv_list, "pack": pack, "frame_lists": frame_lists}


def _names(
    root: Path, count: int, ending: str, make: Callable[[Path], object], link: Callable[[Path, Path], object]
) -> Iterator[tuple[int, str]]:
    """(number, name below `root`) of `count` videos: in each folder one, which `make` makes, under as many names as
    there are videos in it, for file systems bound the names of a file."""
    for first in range(0, count, PER_FOLDER):
        folder = root / f"{first // PER_FOLDER:05d}"
        if not folder.exists():
            folder.mkdir(parents=True)
            one = folder / f"clip_{first:08d}{ending}"
            make(one)
            for number in range(first + 1, first + PER_FOLDER):
                link(one, folder / f"clip_{number:08d}{ending}")
        for number in range(first, min(first + PER_FOLDER, count)):
            yield number, f"{folder.name}/clip_{number:08d}{ending}"


def _symlink(target: Path, name: Path) -> None:
    """To its neighbour: short enough to stand in the directory's own entry."""
    name.symlink_to(target.name)


def _noise() -> Iterator[np.ndarray]:
    """Pictures uint8 [H, W, 3]."""
    rng = np.random.default_rng(0)
    return (rng.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8) for _ in range(FRAMES))


def _encoded(picture: np.ndarray, ending: str) -> bytes:
    import cv2

    return bytes(cv2.imencode(ending, picture)[1])


def _pictures(folder: Path) -> None:
    folder.mkdir()
    for number, picture in enumerate(_noise(), 1):
        (folder / PICTURE.format(number)).write_bytes(_encoded(picture, ".jpg"))


def _video(path: Path) -> None:
    write_video(path, list(_noise()), "mpeg4", FPS)
