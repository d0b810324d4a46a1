"""Decoded videos in memory: the same samples, decoded once, within the budget."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mml_lightning.data.demo.scenes import plan
from mml_lightning.data.flow.cache import FlowCache, FlowSettings
from mml_lightning.data.loading.draws import RandomCrop, TrainTemporalSampler
from mml_lightning.data.loading.ram_cache import HeldItems, RamCache, ram_cache
from mml_lightning.data.loading.sources import SourceOpener
from mml_lightning.data.records.records import Record
from mml_lightning.data.video.decode import DecodeError
from mml_lightning.data.video.media import ImageSequence
from mml_lightning.transforms import TrainGeometry
from tests.conftest import SIZES
from tests.data.images import noise, write_frames
from tests.data.loading.test_dataset import ALL, RGB, build
from tests.data.videos import counted, damaged, moving, record, write_video

VIDEO = 24 * 48 * 64 * 3  # bytes of one of the counted videos


class Opened:
    """Counts what is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from mml_lightning.data.loading import images as loading_images
        from mml_lightning.data.video import images as video_images

        self.names: list[str] = []
        original = video_images.open_media

        def open_media(media: Any, decoder: str, *options: Any) -> Any:
            self.names.append(Path(str(media)).name)
            return original(media, decoder, *options)

        monkeypatch.setattr(loading_images, "open_media", open_media)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    return Opened(monkeypatch)


def assert_same_sample(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    assert (found["index"], found["failures"]) == (expected["index"], expected["failures"])
    for name, clip in expected.get("clips", {}).items():
        assert torch.equal(found["clips"][name], clip)


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_samples_are_those_of_no_cache(demo: Path, decoder: str) -> None:
    """Demo videos of both codecs, frames and flow, with a budget for all, for some and for none."""
    named = {video.id: video.name for video in plan(0, **SIZES)}
    records = [Record(i, {"frames": demo / "data" / "videos" / named[i]}, {"label": 0}) for i in list(named)[4:12]]
    flow = FlowCache(demo / "cache" / "flow" / f"ram_{decoder}", FlowSettings(preset="ultrafast", decoder=decoder))
    fields: dict[str, Any] = {"starts": TrainTemporalSampler(4, "uniform", 8, "fixed"), "modalities": ALL}
    fields["geometries"] = RandomCrop(TrainGeometry(32, (1.0, 0.75), 0.5))
    plain = build(records, opener=SourceOpener(decoder, flow), **fields)
    for megabytes in (64, 5, 0):
        ram = RamCache(megabytes)
        cached = build(records, opener=SourceOpener(decoder, flow, ram), **fields)
        for epoch in range(3):
            for index in range(len(records)):
                assert_same_sample(cached[epoch, index], plain[epoch, index])
        assert (ram.used > 0) == (megabytes > 0) and ram.used <= megabytes * 2**20


def test_a_video_is_opened_once(videos: dict[str, Path], opened: Opened) -> None:
    data = build([record(videos["vp9"])], opener=SourceOpener("decord", None, RamCache(8)))
    first = data[0, 0]["clips"]["rgb"]
    data[1, 0]
    assert torch.equal(data[0, 0]["clips"]["rgb"], first) and opened.names == ["vp9.webm"]


def test_what_has_no_room_is_opened_each_time(videos: dict[str, Path], opened: Opened) -> None:
    ram = RamCache(1)
    data = build([record(videos[n]) for n in ("vp9", "h264", "single")], opener=SourceOpener("decord", None, ram))
    ram.used = 2**20 - VIDEO - 1  # room for one of them
    for index in (0, 1, 0, 1):
        data[0, index]
    assert opened.names == ["vp9.webm", "h264.mp4", "h264.mp4"] and ram.used == 2**20 - 1


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", counted(6))
    data = build([record(path)], modalities=(RGB,), opener=SourceOpener("decord", None, RamCache(8)))
    data[0, 0]
    write_video(path, moving(6, 1, 1, 64, 48))
    os.utime(path, (1, 1))
    plain = build([record(path)], modalities=(RGB,))
    assert_same_sample(data[0, 0], plain[0, 0])


def test_the_decoder_is_part_of_what_is_kept(videos: dict[str, Path], opened: Opened) -> None:
    ram = RamCache(8)
    for decoder in ("decord", "pyav", "decord"):
        build([record(videos["vp9"])], opener=SourceOpener(decoder, None, ram))[0, 0]
    assert opened.names == ["vp9.webm"] * 2


def test_unreadable_videos_are_told_as_without_a_cache(videos: dict[str, Path], tmp_path: Path) -> None:
    bad = [record(damaged("zeros", videos["vp9"], tmp_path / "bad.webm")), record(tmp_path / "gone.webm")]
    data = build(bad, replace=False, opener=SourceOpener("decord", None, RamCache(8)))
    for _ in range(2):
        for index in range(2):
            assert_same_sample(data[0, index], build(bad, replace=False)[0, index])


def test_a_video_with_a_bad_frame_gives_the_others(videos: dict[str, Path]) -> None:
    class Torn:
        count, size, fps, asked = 24, (64, 48), 12.0, 0

        def frames(self, indices: Sequence[int]) -> np.ndarray:
            self.asked += 1
            if 20 in indices:
                raise DecodeError("frame 20 is torn")
            return np.zeros((len(indices), 48, 64, 3), np.uint8)

    torn = Torn()

    @contextmanager
    def open_it() -> Iterator[Any]:
        yield torn

    ram = RamCache(8)
    for expected in (2, 3):  # all of it, then those asked for; the second time these alone
        with ram.video(videos["vp9"], "decord", open_it) as video:
            assert video.frames([1, 2]).shape == (2, 48, 64, 3) and torn.asked == expected
    assert ram.used == 0


def test_images_are_kept_too(tmp_path: Path, opened: Opened) -> None:
    images = ImageSequence(write_frames(tmp_path / "v", "{:05d}.png", noise(6, 3, 64, 48)), "{:05d}.png", 6)
    made = Record("v", {"frames": images}, {"label": 0})
    data = build([made], modalities=(RGB,), opener=SourceOpener("decord", None, RamCache(8)))
    plain = build([made], modalities=(RGB,))
    for epoch in range(2):
        assert_same_sample(data[epoch, 0], plain[epoch, 0])
    assert len(opened.names) == 3  # two without, one with


def test_a_worker_that_is_spawned_gets_the_budget_alone() -> None:
    ram = ram_cache(7)
    assert pickle.loads(pickle.dumps(ram)) is ram and ram.megabytes == 7
    assert ram_cache(9) is ram and ram.megabytes == 9


def test_held_items_describe_themselves() -> None:
    source = HeldItems(np.arange(2 * 3 * 5 * 2, dtype=np.uint8).reshape(2, 3, 5, 2), 12.5)
    assert (source.count, source.size, source.fps) == (2, (5, 3), 12.5)
    assert np.array_equal(source.frames([1, 0, 1]), source.items[[1, 0, 1]])
    assert np.array_equal(np.stack(list(source.stream())), source.items)
