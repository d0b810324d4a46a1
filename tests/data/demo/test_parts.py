"""The demo with sound: what a part tells, and that nothing else does."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest

from mml_lightning.data.demo import prepare_demo
from mml_lightning.data.demo.parts import CLASSES, FRAMES, HEADING, MOTION, NOTHING, PARTS, PITCH, SOUND, TELLING, plan
from mml_lightning.data.demo.parts_media import render, sound
from mml_lightning.data.records.readers import read_demo
from mml_lightning.data.video.sound import read_sound
from mml_lightning.utils.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_demo(
        tmp_path_factory.mktemp("av") / "d", train=8, val=4, test=4, sound=True, workers=0, progress=False
    )


def test_parts_are_drawn_without_regard_to_the_class() -> None:
    videos = plan(0, 800, 100, 100)
    assert set(Counter(v.labels[0] for v in videos if v.split == "train").values()) == {200}
    assert all(len(v.parts) == PARTS and v.parts.count(NOTHING) == PARTS - TELLING for v in videos)
    kinds = Counter(tuple(sorted(set(v.parts) - {NOTHING})) for v in videos)
    assert 0.2 < kinds[(MOTION,)] / 1000 < 0.3 and 0.2 < kinds[(SOUND,)] / 1000 < 0.3
    for label in range(len(CLASSES)):
        share = np.mean([v.parts.count(SOUND) for v in videos if v.labels[0] == label]) / TELLING
        assert 0.42 < share < 0.58, label  # 500 draws: 0.022 is a standard deviation


def test_only_parts_of_motion_move_and_only_parts_of_sound_sound() -> None:
    for video in plan(1, 12, 0, 0):
        frames = render(video).reshape(PARTS, FRAMES, video.height, video.width, 3).astype(int)
        track = sound(video).reshape(PARTS, -1).astype(float)
        for part, pictures, wave in zip(video.parts, frames, track, strict=True):
            assert (np.abs(np.diff(pictures, axis=0)).max() > 40) == (part == MOTION)
            assert (np.abs(wave).max() > 1000) == (part == SOUND)
            assert np.abs(wave).max() == 0 or part == SOUND
            if part == MOTION:  # what is not background: its centre goes where the class says
                still = np.median(frames.reshape(-1, *frames.shape[2:]), axis=0)
                weight = np.abs(pictures - still).sum(-1) * (np.abs(pictures - still).sum(-1) > 60)
                ys, xs = np.mgrid[: video.height, : video.width]
                x, y = ((weight * at).sum((1, 2)) / weight.sum((1, 2)) for at in (xs, ys))
                moved = np.array((x[-1] - x[0], y[-1] - y[0]))
                assert moved @ np.array(HEADING[video.labels[0]]) > 10


def test_the_class_is_told_by_the_sound_that_was_encoded(folder: Path) -> None:
    for row in csv.DictReader((folder / "annotations" / "videos.csv").open()):
        heard = read_sound(folder / row["path"])
        begin = round(-heard.start * heard.rate)
        for number, part in enumerate(row["parts"].split("|")):
            length = round(1.3 * heard.rate)
            wave = heard.samples[begin + number * length : begin + (number + 1) * length][length // 8 : -length // 8]
            spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
            if part == SOUND:
                pitch = spectrum.argmax() * heard.rate / len(wave)
                assert np.abs(np.log(np.array(PITCH) / pitch)).argmin() == CLASSES.index(row["label"])
            else:
                assert np.abs(wave.astype(int)).max() < 400, (row["id"], number)


def test_it_is_made_again_byte_for_byte_and_not_mixed(folder: Path, tmp_path: Path) -> None:
    again = prepare_demo(tmp_path / "d", train=8, val=4, test=4, sound=True, workers=0, progress=False)
    assert (again / "manifest.json").read_text() == (folder / "manifest.json").read_text()
    with pytest.raises(UserError, match="was made with"):
        prepare_demo(folder, train=8, val=4, test=4, workers=0, progress=False)
    with pytest.raises(UserError, match="has one label a video"):
        prepare_demo(tmp_path / "e", train=8, val=4, test=4, sound=True, motions=2)


def test_it_is_read_with_its_classes_and_its_parts_are_said_to_be_unused(folder: Path) -> None:
    data = read_demo("demo_av", str(folder), sound=True, train=8, val=4, test=4)
    assert data.heads["label"].classes == tuple(sorted(CLASSES))
    assert {split: len(records) for split, records in data.splits.items()} == {"train": 8, "val": 4, "test": 4}
    with av.open(str(next((folder / "videos").iterdir()))) as video:
        assert video.streams.audio and video.streams.video
