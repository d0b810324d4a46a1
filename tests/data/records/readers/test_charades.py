"""Charades: official lists, frame lists, and what of them is on disk. The rows are made up, their form is not."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from mml_lightning.data.loading.dataset import ClipDataset
from mml_lightning.data.loading.draws import RandomCrop, TrainTemporalSampler
from mml_lightning.data.loading.sources import SourceOpener
from mml_lightning.data.records.intervals import classes_between
from mml_lightning.data.records.readers.charades import read_charades, read_charades_frame_lists
from mml_lightning.data.records.readers.charades_media import MediaFolder
from mml_lightning.data.records.records import Dataset, validate
from mml_lightning.data.video.media import ImageSequence
from mml_lightning.modalities import Modality
from mml_lightning.transforms import TrainGeometry
from mml_lightning.utils.errors import UserError
from tests.data.videos import counted, numbers, real, write_video

COLUMNS = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length"
TRAIN = [
    COLUMNS,
    # a comma and a quote in quoted fields, a class that happens twice
    '46GP8,HR43,Kitchen,6,7,Yes,"A person, cooking.",food;stove,"He says ""hot"", then leaves.",'
    "c002 11.90 21.20;c004 0.00 12.60;c002 0.5 1,24.83",
    "N11GT,0KZ7,Other (closet),,,No,,,,c000 0.00 .75,30.00",  # numbers left blank
    "0IH69,YMXV,Stairs,5,7,Yes,x,,y,,29.50",  # nothing happens
]
TEST = [
    # columns in another order, as they are read by name
    "length,actions,id",
    '10.5,"c001 0.00 5.10;c003 4.00 9.00",YSKX3',
    "8.0,c003 2.00 3.00,7OT12",
]
CLASSES = [
    "c000 Holding some clothes",
    "c001 Putting clothes away",
    "c002 Taking food",
    "c003 Sneezing",
    "c004 Cooking",
]
IMAGES = {"folder": "Charades_v1_rgb", "file": "{id}/{id}-{number:06d}.jpg", "fps": 24}
VIDEOS = {"folder": "Charades_v1_480", "file": "{id}.mp4", "fps": None}
NO_FLOW = {"folder": None, "file": "{id}/{id}-{number:06d}{axis}.jpg", "fps": 24}
FLOW = {**NO_FLOW, "folder": "Charades_v1_flow"}
IDS = ("46GP8", "N11GT", "YSKX3", "7OT12")
MADE = {"train": "Charades_v1_train.csv", "test": "Charades_v1_test.csv", "classes": "Charades_v1_classes.txt"}


def write_lines(path: Path, lines: Sequence[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_images(folder: Path, video: str, count: int, first: int = 1) -> None:
    (folder / video).mkdir(parents=True)
    for number, pixels in enumerate(counted(count), first):
        cv2.imwrite(str(folder / video / f"{video}-{number:06d}.jpg"), pixels)


def write_flow(folder: Path, video: str, count: int) -> None:
    (folder / video).mkdir(parents=True)
    for number in range(1, count + 1):
        for axis, level in (("x", 100 + number), ("y", 50)):
            cv2.imwrite(str(folder / video / f"{video}-{number:06d}{axis}.jpg"), np.full((48, 64), level, np.uint8))


def write_lists(root: Path, train: Sequence[str] = TRAIN, test: Sequence[str] = TEST) -> None:
    write_lines(root / MADE["train"], train)
    write_lines(root / MADE["test"], test)
    write_lines(root / MADE["classes"], CLASSES)


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """Lists, 20 frames and 19 flow images of each video in which something happens."""
    write_lists(tmp_path)
    for video in IDS:
        write_images(tmp_path / "Charades_v1_rgb", video, 20)
        write_flow(tmp_path / "Charades_v1_flow", video, 19)
    return tmp_path


def read(root: Path, frames: Mapping[str, Any] = IMAGES, flow: Mapping[str, Any] = NO_FLOW, **options: Any) -> Dataset:
    return read_charades("charades", str(root), **{**MADE, **options}, frames=frames, flow=flow)


# ------------------------------------------------------------------------------------------------ official lists


def test_official_lists_by_hand(official: Path) -> None:
    data = validate(read(official, flow=FLOW))
    first, second = data.splits["train"]  # the third has no action
    assert (first.id, second.id) == ("46GP8", "N11GT")
    assert first.target == {"label": (2, 4)} and second.target == {"label": (0,)}
    assert first.intervals == {"label": ((2, 11.9, 21.2), (4, 0.0, 12.6), (2, 0.5, 1.0))}
    assert second.intervals == {"label": ((0, 0.0, 0.75),)}
    assert [record.id for record in data.splits["val"]] == ["YSKX3", "7OT12"]
    assert data.splits["test"] == data.splits["val"]
    assert data.splits["val"][0].target == {"label": (1, 3)}
    head = data.heads["label"]
    assert head.multi_label and head.classes[3] == "Sneezing" and len(head.classes) == 5
    frames, flow = first.media["frames"], first.media["flow"]
    assert isinstance(frames, ImageSequence) and (frames.count, frames.fps, frames.layout) == (20, 24.0, "rgb")
    assert isinstance(flow, ImageSequence) and (flow.count, flow.fps, flow.layout) == (19, 24.0, "flow_pair")
    assert frames.paths(0) == (official / "Charades_v1_rgb/46GP8/46GP8-000001.jpg",)
    assert [path.name for path in flow.paths(18)] == ["46GP8-000019x.jpg", "46GP8-000019y.jpg"]


def test_lists_may_lie_in_the_folder_of_their_archive(official: Path) -> None:
    (official / "Charades").mkdir()
    for file in MADE.values():
        (official / file).rename(official / "Charades" / file)
    assert len(read(official).splits["train"]) == 2


def test_videos_in_place_of_frames(tmp_path: Path) -> None:
    write_lists(tmp_path)
    for video in IDS:
        write_video(tmp_path / "Charades_v1_480" / f"{video}.mp4", counted(3))
    data = validate(read(tmp_path, VIDEOS))
    assert data.splits["val"][1].media == {"frames": tmp_path / "Charades_v1_480" / "7OT12.mp4"}


def test_without_class_names_there_are_157(official: Path) -> None:
    classes = read(official, classes=None).heads["label"].classes
    assert len(classes) == 157 and classes[0] == "c000" and classes[156] == "c156"


def test_videos_without_action_can_be_kept(official: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_images(official / "Charades_v1_rgb", "0IH69", 5)
    with caplog.at_level(logging.INFO):
        assert len(read(official).splits["train"]) == 2
    assert "1 of 3 train videos have no action and are skipped" in caplog.text
    kept = read(official, empty={"train": "keep", "val": "drop"}).splits["train"][2]
    assert (kept.id, kept.target, kept.intervals) == ("0IH69", {"label": ()}, {"label": ()})


def test_absent_videos_are_one_error_or_dropped_and_counted(official: Path, caplog: pytest.LogCaptureFixture) -> None:
    for file in (official / "Charades_v1_rgb" / "N11GT").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"1 of 2 train videos are incomplete.*N11GT.*data.absent=drop"):
        read(official)
    with caplog.at_level(logging.WARNING):
        assert [record.id for record in read(official, absent="drop").splits["train"]] == ["46GP8"]
    assert "1 of 2 train videos dropped" in caplog.text


@pytest.mark.parametrize(
    ("lose", "message"),
    [
        (
            ["Charades_v1_rgb/46GP8/46GP8-000007.jpg"],
            "46GP8-000007.jpg is missing",
        ),
        (["Charades_v1_flow/46GP8/46GP8-000007y.jpg"], "19 images of x, 18 of y"),
    ],
)
def test_gaps_in_numbered_images_are_found(official: Path, lose: list[str], message: str) -> None:
    for file in lose:
        (official / file).unlink()
    with pytest.raises(UserError, match=message):
        read(official, flow=FLOW)


def test_images_may_count_from_zero(tmp_path: Path) -> None:
    write_images(tmp_path, "a", 3, first=0)
    found = MediaFolder(tmp_path, "{id}/{id}-{number:06d}.jpg", "frames", 24).locate("a")
    assert isinstance(found, ImageSequence) and (found.first, found.count) == (0, 3)
    assert found.paths(2)[0].name == "a-000002.jpg"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("v,c002 1.0", "line 2: action 'c002 1.0' is not of the form"),
        ("v,c002 1.0 2.0 3.0", "is not of the form"),
        ("v,two 1.0 2.0", "is not of the form"),
        ("v,c005 1.0 2.0", "exceeds the 5 classes"),
        (",c002 1.0 2.0", "line 2: the id is empty"),
        ("v", "line 2: 1 cells where the header has 2; get the published list again"),
        ("v,c002 1.0 2.0,9.5", "line 2: 3 cells where the header has 2"),
        ('v,"c002 1.0 2.0', "line 2: unexpected end of data; fix its quotation marks"),
        (
            "v,c002 2.0 0.0",
            r"line 2: action 'c002 2.00 0.00' ends before it starts \(1 of 1 actions do\)",
        ),
    ],
)
def test_malformed_lines_are_named(official: Path, line: str, message: str) -> None:
    write_lines(official / MADE["train"], ["id,actions", line])
    with pytest.raises(UserError, match=message):
        read(official)


def test_lists_cut_off_anywhere_are_refused(official: Path) -> None:
    """Only a cut inside the very last number can't be seen: what is left is a whole row."""
    path = official / MADE["train"]
    text = path.read_text()
    last = text.rindex(",") + 1
    for end in range(text.index("\n0IH69") + 2, last):
        path.write_text(text[:end])
        with pytest.raises(UserError, match=r"line [34]: .*get the published list again"):
            read(official)


@pytest.mark.parametrize("length", ["long", "-3", "nan"])
def test_lengths_are_seconds(official: Path, length: str) -> None:
    assert [record.length for record in read(official).splits["train"]] == [24.83, 30.0]
    write_lines(official / MADE["train"], ["id,actions,length", f"N11GT,c002 0.0 1.0,{length}"])
    with pytest.raises(UserError, match=f"line 2: length '{length}' is not a number of seconds"):
        read(official)


def test_a_few_actions_may_end_before_they_start(official: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As 7 of 49809 in the published list do: they count for the video, and are on in no clip."""
    actions = ";".join(["c002 0.0 1.0"] * 99 + ["c003 8.00 7.00"])
    write_lines(official / MADE["train"], ["id,actions", f"N11GT,{actions}"])
    video = read(official).splits["train"][0]
    assert video.target == {"label": (2, 3)}
    assert classes_between(video.intervals["label"], 0, 300, 24.0) == (2,)
    assert "line 2: action 'c003 8.00 7.00' ends before it starts (1 of 100 actions do)" in caplog.text


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["c000 a", "c002 b"], "class c001 is missing; its classes must be numbered c000 to c002"),
        (["c000 a", "c001 b", "c001 c"], "class c001 appears twice"),
        (["c000 a"], "it has 1 classes"),
        (["a b"], "'a b' is not of the form"),
    ],
)
def test_wrong_classes_are_refused(official: Path, classes: list[str], message: str) -> None:
    write_lines(official / MADE["classes"], classes)
    with pytest.raises(UserError, match=message):
        read(official)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": "nowhere.csv"}, r"nowhere.csv is missing .*; check data.root, or name the file with data.train="),
        ({"absent": "skip"}, "data.absent='skip' is unknown"),
        ({"empty": {"train": "no"}}, "data.empty.train='no' is unknown"),
        ({"frames": {**IMAGES, "fps": None}}, "need their frame rate"),
        ({"frames": {**VIDEOS, "fps": 24}}, "its own frame rate"),
        ({"frames": {**VIDEOS, "file": "video.mp4"}}, "must hold {id}"),
        ({"frames": {**IMAGES, "file": "{number}/{id}.jpg"}}, "must stand in the file's name"),
        ({"frames": {**IMAGES, "folder": None}}, "are both empty"),
    ],
)
def test_wrong_settings_name_the_fix(official: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(official, **changes)


def test_a_list_without_its_columns_is_refused(official: Path) -> None:
    write_lines(official / MADE["train"], ["id,action", "v,c001 0 1"])
    with pytest.raises(UserError, match="no column 'actions'"):
        read(official)


# ------------------------------------------------------------------------------------------------ frame lists

FRAME_TRAIN = [
    "original_vido_id video_id frame_id path labels",
    'a 0 0 a/a-000001.jpg ""',
    'a 0 1 a/a-000002.jpg "1,3"',
    'a 0 2 a/a-000003.jpg "3,3"',
    'b 1 0 b/b-000001.jpg "0"',
    'c 2 0 c/c-000001.jpg ""',
]
FRAME_VAL = [FRAME_TRAIN[0], 'd 0 0 d/d-000003.jpg "2"', 'd 0 1 d/d-000004.jpg "2"']
FRAME_FILES = {"train": "frame_lists/train.csv", "test": "frame_lists/val.csv", "classes": None}


@pytest.fixture
def framed(tmp_path: Path) -> Path:
    for video, count, first in (("a", 3, 1), ("b", 1, 1), ("c", 1, 1), ("d", 2, 3)):
        write_images(tmp_path / "Charades_v1_rgb", video, count, first)
    return tmp_path


def read_frames(root: Path, train: Sequence[str] = FRAME_TRAIN, **options: Any) -> Dataset:
    write_lines(root / FRAME_FILES["train"], train)  # type: ignore[operator]
    write_lines(root / FRAME_FILES["test"], FRAME_VAL)  # type: ignore[operator]
    given = {**FRAME_FILES, "frames": IMAGES, "flow": NO_FLOW, **options}
    return read_charades_frame_lists("charades", str(root), **given)


def test_frame_lists_by_hand(framed: Path) -> None:
    data = validate(read_frames(framed))
    a, b = data.splits["train"]
    assert a.target == {"label": (1, 3)} and b.target == {"label": (0,)}
    per_frame = [classes_between(a.intervals["label"], frame, frame, 24) for frame in range(3)]
    assert per_frame == [(), (1, 3), (3,)]
    media = data.splits["test"][0].media["frames"]
    assert isinstance(media, ImageSequence) and (media.first, media.count, media.fps) == (3, 2, 24.0)
    assert media.paths(1) == (framed / "Charades_v1_rgb/d/d-000004.jpg",)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["id frame path labels"], "first line must be 'original_vido_id video_id"),
        ([FRAME_TRAIN[0], "a 0 0 a/a-000001.jpg"], "line 2: 4 columns where 5"),
        ([FRAME_TRAIN[0], 'a 0 0 a/a-000001.jpg "x"'], "are not numbers joined by commas"),
        ([FRAME_TRAIN[0], 'a 0 0 a/a-000001.jpg "157"'], "exceed the 157 classes"),
        ([*FRAME_TRAIN[:2], 'a 0 1 a/a-000003.jpg "1"'], "a-000003.jpg follows instead of a/a-000002.jpg"),
        ([FRAME_TRAIN[0], 'a 0 0 a/frame.jpg "1"'], "has no number before its ending"),
    ],
)
def test_malformed_frame_lists_are_named(framed: Path, lines: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_frames(framed, lines)


def test_frame_lists_find_absent_videos_too(framed: Path) -> None:
    (framed / "Charades_v1_rgb/b/b-000001.jpg").unlink()
    with pytest.raises(UserError, match="1 of 2 train videos are incomplete"):
        read_frames(framed)
    assert [record.id for record in read_frames(framed, absent="drop").splits["train"]] == ["a"]


# ------------------------------------------------------------------------------------------------ samples


def test_clips_of_frames_and_published_flow(official: Path) -> None:
    rgb, flow = Modality("rgb", "frames", 1, 3), Modality("flow", "flow", 5, 2, flip="mirror_negate_x")
    data = read(official, flow=FLOW)
    clips = ClipDataset(
        records=list(data.splits["train"]),
        modalities=(rgb, flow),
        heads=data.heads,
        opener=SourceOpener(),
        starts=TrainTemporalSampler(3, "dense", 6, "fixed"),
        geometries=RandomCrop(TrainGeometry(32, (1.0,), 0.0)),
        seed=0,
        replace=False,
        clip_labels=True,
    )
    seen = set()
    for epoch in range(6):
        sample = clips[epoch, 1]  # N11GT: class 0 until 0.75 s, that is frame 18 of 0 to 19
        frames = numbers(sample["clips"]["rgb"], (-1, -2, -3))
        pairs = sample["clips"]["flow"].unflatten(2, (5, 2))
        first = pairs[:, :, 0, 0].float().mean(dim=(-1, -2)).round().int().numpy() - 101
        assert ((first <= frames) & (frames <= first + 5)).all()
        assert (pairs[:, :, :, 1] - 50).float().abs().max() <= 2  # y is y
        target = sample["target"]["label"]
        assert target.dtype == torch.float32 and target.sum() == float(frames.min() <= 18)
        seen.add(int(frames.min()))
    assert len(seen) > 2


@pytest.mark.real
def test_timed_words_of_real_clips() -> None:
    """Six words in each clip of 3 s at 25 frames a second, as Charades' eleven columns."""
    root = real("lips/charades_form")
    frames = {"folder": "../videos", "file": "{id}.webm", "fps": None}
    lists = {"train": "train.csv", "test": "test.csv", "classes": "classes.txt"}
    data = validate(read_charades("words", str(root), **lists, frames=frames, flow=NO_FLOW))
    assert [len(data.splits[split]) for split in ("train", "val", "test")] == [500, 300, 300]
    assert len(data.heads["label"].classes) == 51
    first = data.splits["train"][0]
    assert first.id == "bbas2p" and first.target == {"label": (2, 4, 8, 20, 40, 47)}
    # bin 0.61-0.84, blue 0.84-1.03: frames 16 to 21 of 25 a second say bin, 21 (0.84 s) to 25 blue
    words = first.intervals["label"]
    said = [classes_between(words, frame, frame, 25) for frame in (15, 16, 20, 21, 22)]
    assert said == [(), (8,), (8,), (4, 8), (4,)]
    assert classes_between(words, 15, 25, 25) == (4, 8)
    assert all(len(record.intervals["label"]) == 6 for record in data.splits["train"])
