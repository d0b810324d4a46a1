"""List files of extracted images: joined by id, all naming templates, one line for every mistake."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mml_lightning.config import data as config_data
from mml_lightning.config.compose import compose
from mml_lightning.data.loading.sources import SourceOpener
from mml_lightning.data.records.readers import read_frame_lists
from mml_lightning.data.records.readers.frame_lists import normal_template
from mml_lightning.data.records.records import Dataset, Record, validate
from mml_lightning.data.video.decode import DecodeError
from mml_lightning.data.video.images import ImageReader
from mml_lightning.data.video.media import ImageSequence
from mml_lightning.utils.errors import UserError
from tests.data.images import noise, write_flow, write_frames
from tests.data.videos import real

RGB = {"folder": "images", "template": "img_{:06d}.jpg", "train": "train.txt", "val": "val.txt"}
FLOW = {"folder": "flow", "template": "flow_{}_{:05d}.jpg", "train": "train_flow.txt", "val": "val_flow.txt"}
LISTS = {"train": "7 30 0\n8 31 1\n9 32 1\n", "val": "5 20 1\n"}
FLOW_LISTS = {"train_flow": "9 31 1\n7 29 0\n8 30 1\n", "val_flow": "5 19 1\n"}


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Dataset]:
    """read({list name: text}, frames=..., flow=..., **options) of lists below tmp_path."""

    def make(lists: dict[str, str], frames: Any = RGB, flow: Any = None, **options: Any) -> Dataset:
        for name, text in lists.items():
            (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
        return read_frame_lists("mine", str(tmp_path), {"frames": frames, "flow": flow}, **options)

    return make


def images(record: Record, source: str = "frames") -> ImageSequence:
    media = record.media[source]
    assert isinstance(media, ImageSequence)
    return media


# ------------------------------------------------------------------------------------------------ form


def test_plain_form(read: Callable[..., Dataset], tmp_path: Path) -> None:
    data = read(LISTS, fps=12.0)
    assert [[r.id for r in data.splits[split]] for split in ("train", "val", "test")] == [["7", "8", "9"], ["5"], []]
    assert [r.target["label"] for r in data.splits["train"]] == [0, 1, 1]
    assert data.heads["label"].classes == ("0", "1") and data.mirrored == {"label": {}}
    first = images(data.splits["train"][0])
    assert first == ImageSequence(tmp_path / "images" / "7", "img_{:06d}.jpg", 30, 12.0)
    assert first.paths(29) == (tmp_path / "images" / "7" / "img_000030.jpg",)


@pytest.mark.parametrize(
    ("source", "template", "path", "count", "layout", "last"),
    [
        ("frames", "img_{:06d}.jpg", "7", 30, "rgb", ["7/img_000030.jpg"]),
        ("flow", "flow_{}_{:05d}.jpg", "7", 30, "flow_pair", ["7/flow_x_00030.jpg", "7/flow_y_00030.jpg"]),
        ("frames", "{:06d}.jpg", "7", 30, "rgb", ["7/000030.jpg"]),
        ("flow", "{:06d}.jpg", "7", 30, "flow_packed", ["7/000030.jpg"]),
        ("frames", "{:05d}.jpg", "7", 30, "rgb", ["7/00030.jpg"]),
        ("frames", "img_{:05d}.jpg", "a b/7", 30, "rgb", ["a b/7/img_00030.jpg"]),
        (
            "flow",
            "{:06d}-{}_{:05d}.jpg",
            "7",
            15,
            "flow_pair",
            ["000007/000007-x_00015.jpg", "000007/000007-y_00015.jpg"],
        ),
    ],
)
def test_templates_of_the_published_lists(
    read: Callable[..., Dataset],
    tmp_path: Path,
    source: str,
    template: str,
    path: str,
    count: int,
    layout: str,
    last: list[str],
) -> None:
    options = {"folder": "data", "template": template, "train": "train.txt", "val": "val.txt"}
    data = read(
        {"train": f"{path} 30 0\n", "val": "5 20 1\n"},
        frames=options if source == "frames" else None,
        flow=options if source == "flow" else None,
    )
    media = images(data.splits["train"][0], source)
    assert data.splits["train"][0].id == "7"
    assert (media.count, media.layout) == (count, layout)
    assert media.paths(media.count - 1) == tuple(tmp_path / "data" / name for name in last)


def test_counts_of_images_may_be_said_of_any_template(read: Callable[..., Dataset]) -> None:
    data = read(LISTS | FLOW_LISTS, flow=FLOW | {"counts": "images"})
    assert images(data.splits["train"][0], "flow").count == 14
    assert normal_template("{:06d}-{}_{:05d}.jpg") == ("{id}-{axis}_{:05d}.jpg", True)


def test_blank_lines_and_line_ends(read: Callable[..., Dataset]) -> None:
    data = read({"train": "\n7 30 0\r\n\n  \n8\t31\t1\n\n", "val": "5 20 1"})
    assert [r.id for r in data.splits["train"]] == ["7", "8"]


def test_class_names(read: Callable[..., Dataset]) -> None:
    data = read({**LISTS, "category": "Turning left\nTurning right\nStanding\n"}, classes="category.txt", mirrored=True)
    assert data.heads["label"].classes == ("Turning left", "Turning right", "Standing")
    assert data.mirrored == {"label": {0: 1, 1: 0}}


# ------------------------------------------------------------------------------------------------ joining


@given(st.permutations(range(6)), st.permutations(range(6)))
def test_lists_are_joined_by_id_whatever_their_order(
    tmp_path_factory: pytest.TempPathFactory, one: list[int], other: list[int]
) -> None:
    root = tmp_path_factory.mktemp("lists")
    (root / "train.txt").write_text("".join(f"v{k} {10 + k} {k % 2}\n" for k in one))
    (root / "train_flow.txt").write_text("".join(f"v{k} {9 + k} {k % 2}\n" for k in other))
    sources = {"frames": {**RGB, "val": None}, "flow": {**FLOW, "val": None}}
    records = read_frame_lists("mine", str(root), sources).splits["train"]
    assert [r.id for r in records] == [f"v{k}" for k in one]
    for record, k in zip(records, one, strict=True):
        assert images(record).count == 10 + k and images(record, "flow").count == 9 + k
        assert images(record).folder.name == images(record, "flow").folder.name == f"v{k}"


def test_a_video_that_a_list_lacks(read: Callable[..., Dataset], caplog: pytest.LogCaptureFixture) -> None:
    lists = LISTS | FLOW_LISTS | {"train_flow": "9 31 1\n7 29 0\n"}
    with pytest.raises(
        UserError, match=r"train_flow\.txt: 1 videos of the frames list are not in it, first '8'; .*drop"
    ):
        read(lists, flow=FLOW)
    with pytest.raises(UserError, match=r"train\.txt: 1 videos of the flow list are not in it, first '10'"):
        read(lists | {"train_flow": FLOW_LISTS["train_flow"] + "10 5 0\n"}, flow=FLOW)
    with caplog.at_level(logging.WARNING):
        data = read(lists, flow=FLOW, unpaired="drop")
    assert [r.id for r in data.splits["train"]] == ["7", "9"]
    assert "train: 1 of 3 videos are in one list only" in caplog.text


def test_short_videos_are_left_out_of_both(read: Callable[..., Dataset], caplog: pytest.LogCaptureFixture) -> None:
    lists = LISTS | FLOW_LISTS | {"train": "7 30 0\n8 3 1\n9 2 1\n", "train_flow": "9 3 1\n7 29 0\n8 2 1\n"}
    assert len(read(lists, flow=FLOW).splits["train"]) == 3
    with caplog.at_level(logging.WARNING):
        assert [r.id for r in read(lists, flow=FLOW, min_frames=3).splits["train"]] == ["7"]
    assert "2 of 3 videos have fewer than 3 items" in caplog.text
    assert [r.id for r in read({**LISTS, "train": "7 30 0\n8 0 1\n"}).splits["train"]] == ["7"]


def test_folder_names_that_repeat(read: Callable[..., Dataset]) -> None:
    lists = LISTS | {"train": "run/1 30 0\nsit/1 31 1\n"}
    with pytest.raises(UserError, match=r"train\.txt: id '1' is in lines 1 and 2; set data\.id=path"):
        read(lists)
    assert [r.id for r in read(lists, id="path").splits["train"]] == ["run/1", "sit/1"]
    with pytest.raises(UserError, match=r"id 'run/1' is in lines 1 and 2; remove one"):
        read(LISTS | {"train": "run/1 30 0\nrun/1 31 1\n"}, id="path")


# ------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("lists", "options", "message"),
    [
        ({"train": "7 30 0\n8 31\n"}, {}, r"train\.txt, line 2: '8 31' is not `path num_frames label`"),
        ({"train": "7 x 0\n"}, {}, r"train\.txt, line 1: '7 x 0' is not"),
        ({"train": "7 30 -1\n"}, {}, r"train\.txt, line 1: '7 30 -1' is not"),
        ({"train": "7,30,0\n"}, {}, r"train\.txt, line 1: '7,30,0' is not"),
        ({"train": "\n \n"}, {}, r"train\.txt is empty"),
        ({}, {"frames": RGB | {"train": "gone.txt"}}, r"gone\.txt is missing; set data\.sources\.frames\.train"),
        ({}, {"frames": RGB | {"test": "gone.txt"}}, r"gone\.txt is missing; set data\.sources\.frames\.test"),
        ({}, {"flow": FLOW | {"val": None}}, r"data\.sources\.flow\.val is null, other sources have a val list"),
        ({"train_flow": "7 29 1\n8 30 1\n9 31 1\n"}, {"flow": FLOW}, r"line 1: label 1 of '7', but 0 in .*train\.txt"),
        ({"train": "7 30 0\n8 31 9\n"}, {"classes": "category.txt"}, r"train\.txt, line 2: label 9 is too large for 2"),
        ({"train": "7 30 0\n", "val": "5 20 0\n"}, {}, "1 class; at least two are needed"),
        ({}, {"classes": "gone.txt"}, r"gone\.txt is missing; set data\.classes"),
        ({}, {"frames": None}, r"data\.sources names no source"),
        ({}, {"frames": {"folder": "images"}}, r"data\.sources\.frames: it takes folder, template"),
        ({}, {"frames": RGB | {"tmpl": 1}}, r"data\.sources\.frames: 'tmpl' is unknown; it takes folder"),
        ({}, {"frames": RGB | {"template": "img.jpg"}}, r"data\.sources\.frames\.template: .*one field for the number"),
        ({}, {"frames": RGB | {"template": "{}_{:05d}.jpg"}}, r"data\.sources\.frames\.template: .*flow_pair"),
        ({}, {"frames": RGB | {"counts": "pairs"}}, r"data\.sources\.frames\.counts='pairs' is unknown"),
        ({}, {"id": "line"}, r"data\.id='line' is unknown; use one of \['name', 'path'\]"),
        ({}, {"unpaired": "skip"}, r"data\.unpaired='skip' is unknown"),
        (
            {"train_flow": "v7 29 0\n", "train": "v7 30 0\n"},
            {"flow": FLOW | {"template": "{:06d}-{}_{:05d}.jpg"}},
            r"line 1: 'v7' is not a number, but the template needs one",
        ),
    ],
)
def test_mistakes_are_one_line(
    read: Callable[..., Dataset], lists: dict[str, str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(LISTS | FLOW_LISTS | {"category": "a\nb\n"} | lists, **options)
    assert "\n" not in str(caught.value)


def test_counts_are_verified_on_request(read: Callable[..., Dataset], tmp_path: Path) -> None:
    lists = {"train": "7 3 0\n", "val": "5 2 1\n", "train_flow": "7 2 0\n", "val_flow": "5 1 1\n"}
    for video, count in (("7", 3), ("5", 2)):
        write_frames(tmp_path / "images" / video, RGB["template"], noise(count, 3))
        write_flow(tmp_path / "flow" / video, "flow_{axis}_{:05d}.jpg", noise(count - 1, 2))
    validate(read(lists, flow=FLOW, verify_counts=True), ("train", "val"))
    with pytest.raises(UserError, match=r"1 folders hold a different number .*first: .*images/5 holds 2, listed 4"):
        read(lists | {"val": "5 4 1\n"}, flow=FLOW, verify_counts=True)
    (tmp_path / "flow" / "7" / "flow_y_00002.jpg").unlink()
    with pytest.raises(UserError, match=r"flow/7: 2 images of x, 1 of y"):
        read(lists, flow=FLOW, verify_counts=True)
    (tmp_path / "images" / "7" / "img_000002.jpg").unlink()
    with pytest.raises(UserError, match=r"images/7: image img_000002\.jpg is missing"):
        read(lists, verify_counts=True)


# ------------------------------------------------------------------------------------------------ configs


def test_config_of_the_mml_layout(hydra: None, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    for split, video in (("train", "7"), ("val", "5")):
        (tmp_path / "lists" / f"{split}_videofolder.txt").write_text(f"{video} 3 0\n")
        (tmp_path / "lists" / f"{split}_videofolder_flow.txt").write_text(f"{video} 2 0\n")
        write_frames(tmp_path / "images" / video, "img_{:06d}.jpg", noise(3, 3))
        write_flow(tmp_path / "flow_images" / video, "flow_{axis}_{:05d}.jpg", noise(2, 2))
    (tmp_path / "lists" / "category.txt").write_text("Turning left\nTurning right\n")
    overrides = ["data=ssv2_frames", f"data.root={tmp_path}", "data.verify_counts=true", "test=false"]
    data = config_data.dataset(compose("train", overrides=overrides))
    record = data.splits["train"][0]
    assert data.mirrored == {"label": {0: 1, 1: 0}} and data.name == "ssv2_frames"
    assert ImageReader(images(record)).frames([2]).shape == (1, 20, 24, 3)
    assert ImageReader(images(record, "flow")).frames([1]).shape == (1, 20, 24, 2)
    alone = config_data.dataset(compose("train", overrides=[*overrides, "data.sources.flow=null"]))
    assert set(alone.splits["train"][0].media) == {"frames"}


@pytest.mark.real
def test_real_frame_folders(tmp_path: Path) -> None:
    folder = real("clips/rawframes_demo/demo_dataset")
    rows = [line.split() for line in (folder / "annotations.txt").read_text().splitlines()]
    (tmp_path / "train.txt").write_text("".join(f"{path} {end} {label}\n" for path, _, end, label in rows))
    source = {"folder": str(folder), "template": "img_{:05d}.jpg", "train": "train.txt"}
    data = read_frame_lists("demo", str(tmp_path), {"frames": source}, id="path", verify_counts=True)
    assert [r.id for r in data.splits["train"]] == ["jumping/0001", "jumping/0002", "running/0001", "running/0002"]
    sizes = {ImageReader(images(r)).frames([0, images(r).count - 1]).shape for r in data.splits["train"]}
    assert all(shape[0] == 2 and shape[-1] == 3 for shape in sizes)
    assert np.array_equal([r.target["label"] for r in data.splits["train"]], [0, 0, 1, 1])


# ------------------------------------------------------------------------------------------------ where numbers begin


def numbered(folder: Path, template: str, first: int, count: int) -> None:
    """Images whose grey level is twenty times their place, whatever their number."""
    folder.mkdir(parents=True, exist_ok=True)
    for place in range(count):
        grey = np.full((24, 32), 20 * place, dtype=np.uint8)
        for axis in "xy" if "{axis}" in template else "x":
            assert cv2.imwrite(str(folder / template.format(first + place, axis=axis)), grey)


def items(record: Record, source: str) -> list[int]:
    with SourceOpener().open(record, [source]) as opened:
        shown = opened[source].frames(range(opened[source].count))
    return np.rint(shown[..., 0].mean(axis=(1, 2)) / 20).astype(int).tolist()


@pytest.mark.parametrize("stated", [False, True])
@pytest.mark.parametrize("flow_first", [0, 1])
@pytest.mark.parametrize("first", [0, 1])
def test_numbers_may_begin_at_0_of_either(
    read: Callable[..., Dataset], tmp_path: Path, first: int, flow_first: int, stated: bool
) -> None:
    for video in ("7", "8", "5"):
        numbered(tmp_path / "images" / video, "img_{:06d}.png", first, 6)
        numbered(tmp_path / "flow" / video, "flow_{axis}_{:05d}.png", flow_first, 6)
    frames = {**RGB, "template": "img_{:06d}.png"} | ({"first": first} if stated else {})
    flow = {**FLOW, "template": "flow_{}_{:05d}.png"} | ({"first": flow_first} if stated else {})
    lists = {"train": "7 6 0\n8 6 1\n", "val": "5 6 1\n", "train_flow": "8 5 1\n7 5 0\n", "val_flow": "5 5 1\n"}
    data = validate(read(lists, frames, flow, verify_counts=False), ("train", "val"))
    for record in [*data.splits["train"], *data.splits["val"]]:
        assert items(record, "frames") == [0, 1, 2, 3, 4, 5] and items(record, "flow") == [0, 1, 2, 3, 4]
    zero = [name for name, number in (("frames", first), ("flow", flow_first)) if number == 0 and not stated]
    assert list(data.told) == [f"images of {name} count from 0" for name in zero]


def test_folders_that_count_differently_are_errors(read: Callable[..., Dataset], tmp_path: Path) -> None:
    for order in ("01", "10"):
        for video, first in zip("78", order, strict=True):
            numbered(tmp_path / order / video, "img_{:06d}.png", int(first), 4)
        data = read({"train": "7 4 0\n8 4 1\n"}, {**RGB, "folder": order, "template": "img_{:06d}.png", "val": None})
        good, bad = data.splits["train"]
        assert items(good, "frames") == [0, 1, 2, 3]
        with pytest.raises(
            DecodeError, match=r"8/img_000000\.png: no such image|img_000000\.png is there: its images are numbered"
        ):
            items(bad, "frames")


def test_counts_are_verified_where_numbers_begin(read: Callable[..., Dataset], tmp_path: Path) -> None:
    for video in ("7", "8"):
        numbered(tmp_path / "images" / video, "img_{:06d}.png", 0, 4)
    frames = {**RGB, "template": "img_{:06d}.png", "val": None}
    assert len(read({"train": "7 4 0\n8 4 1\n"}, frames, verify_counts=True).splits["train"]) == 2
    with pytest.raises(UserError, match="holds 4 from number 0 on, listed 4; regenerate the lists"):
        read({"train": "7 4 0\n8 4 1\n"}, {**frames, "first": 1}, verify_counts=True)
    with pytest.raises(UserError, match=r"data\.sources\.frames\.first=-1 must be a whole number from 0"):
        read({"train": "7 4 0\n8 4 1\n"}, {**frames, "first": -1})
