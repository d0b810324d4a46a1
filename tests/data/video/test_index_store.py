"""What is known of a file is kept, told from that of a file that was replaced, and made again where it is damaged."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from mml_lightning.data.video import index_store
from mml_lightning.data.video.decode import open_video
from mml_lightning.data.video.index_store import IndexStore
from mml_lightning.data.video.video_index import VideoIndex, judge, of_plain, plain
from tests.data.numbered import everything
from tests.data.videos import counted, numbers, write_video

MADE = {f"{m.name}.{m.ending}": m for m in everything()}


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were judged, with nothing known from other tests."""
    seen: list[Path] = []
    index_store._known.clear()

    def count(path: Path, decode: bool = False) -> VideoIndex:
        seen.append(path)
        return judge(path, decode)

    monkeypatch.setattr(index_store, "judge", count)
    return seen


def same(one: VideoIndex, other: VideoIndex) -> bool:
    return all(
        np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b
        for a, b in ((getattr(one, f.name), getattr(other, f.name)) for f in fields(VideoIndex))
    )


def file_of(store: IndexStore) -> Path:
    assert store.folder is not None
    (file,) = (path for path in store.folder.rglob("*") if path.is_file())
    return file


@pytest.mark.parametrize(
    "name", ["libx264-closed.mp4", "libx264-closed-uneven.mp4", "mpeg4-b2.avi", "libx264-closed.ts", "libx264-raw.h264"]
)
def test_what_is_written_is_what_is_read(tmp_path: Path, name: str) -> None:
    index = judge(MADE[name].write(tmp_path))
    assert same(of_plain(json.loads(json.dumps(plain(index)))), index)


def test_a_file_is_judged_once(tmp_path: Path, judged: list[Path]) -> None:
    path, store = write_video(tmp_path / "a.mp4", counted(9)), IndexStore(tmp_path / "videos")
    first = store.index(path)
    assert same(store.index(path), first) and judged == [path]
    index_store._known.clear()  # as in another process
    assert same(store.index(path), first) and judged == [path]
    assert file_of(store).stat().st_size < 1000
    told = json.loads(file_of(store).read_text())
    assert told["schema"] == index_store.SCHEMA and set(told["made_with"]) == {"av", "libavcodec"}


def test_a_replaced_file_is_judged_anew(tmp_path: Path, judged: list[Path]) -> None:
    """Even by a copy of the same size that keeps its times."""
    path, other = write_video(tmp_path / "a.mp4", counted(9)), write_video(tmp_path / "b.mp4", counted(12))
    store = IndexStore(tmp_path / "videos")
    assert store.index(path).count == 9
    time = path.stat().st_mtime_ns
    shutil.copy(other, path)
    os.utime(path, ns=(time, time))
    assert store.index(path).count == 12 and len(judged) == 2
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    os.utime(path, ns=(time, time))
    store.index(path)
    assert len(judged) == 3


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\x80\x04N.",  # a pickle
        b"[1, 2]",
        b"null",
        b"{}",
        b'{"schema": 1, "state": [1, 2, 3], "made_with": {}, "crc32": 0, "index": {"count": 1e99}}',
        b"\xff" * 40,
        b"cut",
        b"another number",
    ],
)
def test_a_damaged_index_is_made_again(tmp_path: Path, judged: list[Path], damage: bytes) -> None:
    path, store = write_video(tmp_path / "a.mp4", counted(9)), IndexStore(tmp_path / "videos")
    first = store.index(path)
    file = file_of(store)
    content = file.read_bytes()
    changed = {b"cut": content[: len(content) // 2], b"another number": content.replace(b'"count": 9', b'"count": 8')}
    file.write_bytes(changed.get(damage, damage))
    index_store._known.clear()
    assert same(store.index(path), first) and len(judged) == 2
    index_store._known.clear()
    assert same(store.index(path), first) and len(judged) == 2, "and written again"


def test_another_version_of_the_libraries_judges_anew(
    tmp_path: Path, judged: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, store = write_video(tmp_path / "a.mp4", counted(9)), IndexStore(tmp_path / "videos")
    store.index(path)
    index_store._known.clear()
    monkeypatch.setattr(index_store, "_versions", lambda: {"av": "99"})
    store.index(path)
    assert len(judged) == 2


def test_a_folder_that_can_not_be_written_breaks_nothing(tmp_path: Path, judged: list[Path]) -> None:
    path = write_video(tmp_path / "a.mp4", counted(9))
    (tmp_path / "file").touch()
    store = IndexStore(tmp_path / "file" / "videos")
    with open_video(path, "pyav", store) as video:
        assert numbers(video.frames([8, 0]), (1, 2, 3)).tolist() == [8, 0]
    store.index(path)
    assert judged == [path], "it is known to this process"


def _index(arguments: tuple[Path, Path]) -> int:
    index_store._known.clear()
    return IndexStore(arguments[0]).index(arguments[1]).count


def test_processes_that_judge_at_a_time(tmp_path: Path) -> None:
    path, folder = write_video(tmp_path / "a.mp4", counted(9)), tmp_path / "videos"
    with ProcessPoolExecutor(4) as pool:
        assert list(pool.map(_index, [(folder, path)] * 24)) == [9] * 24
    assert file_of(IndexStore(folder)).suffix == ".json", "nothing temporary is left"


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index_store._known.clear()
    monkeypatch.setattr(index_store, "KEPT", 3)
    for number in range(6):
        IndexStore().index(write_video(tmp_path / f"{number}.mp4", counted(3)))
    assert len(index_store._known) == 3


def test_numbers_that_can_not_be_are_refused(tmp_path: Path) -> None:
    good = plain(judge(write_video(tmp_path / "a.mp4", counted(9))))
    for key, value in {"count": 8, "starts": [0, 9], "size": [0, 4], "orientation": 9, "decoded": 1,
                       "pts": [0, [[0, 8]]], "time_base": [1, 0], "jumps": [[1]]}.items():  # fmt: skip
        with pytest.raises((ValueError, ArithmeticError)):
            of_plain({**good, key: value})
