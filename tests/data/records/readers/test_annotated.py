"""Annotation files of the common datasets, through the configs that describe them; and folders of classes."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mml_lightning.config import data as config_data
from mml_lightning.config.compose import compose
from mml_lightning.data.records.readers import read_annotated, read_folders
from mml_lightning.data.records.records import Dataset, Record, validate
from mml_lightning.data.video.media import ImageSequence
from mml_lightning.utils.errors import UserError
from tests.data.images import noise, write_frames
from tests.data.videos import real

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write({file: text}) below tmp_path; text None makes an empty file."""

    def make(files: dict[str, str | None]) -> Path:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text or "", encoding="utf-8")
        return tmp_path

    return make


@pytest.fixture
def configured(hydra: None, tmp_path: Path) -> Callable[..., Dataset]:
    """configured("kinetics", *overrides): the records that a config reads below tmp_path."""

    def make(data: str, *overrides: str) -> Dataset:
        return config_data.records(compose("train", overrides=[f"data={data}", f"data.root={tmp_path}", *overrides]))

    return make


def ids(data: Dataset) -> dict[str, list[str]]:
    return {split: [record.id for record in records] for split, records in data.splits.items()}


def files(data: Dataset, root: Path, split: str = "train") -> list[str]:
    found = [record.media["frames"] for record in data.splits[split]]
    return [str((m.folder if isinstance(m, ImageSequence) else m).relative_to(root)) for m in found]


# ------------------------------------------------------------------------------------------------ configs

KINETICS = {
    "annotations/train.csv": "label,youtube_id,time_start,time_end,split\n"
    '"riding, a bike",-a_1,3,13,train\nabseiling,b 2,417,427,train\n',
    "annotations/validate.csv": "label,youtube_id,time_start,time_end,split\nabseiling,c,0,10,validate\n",
    "train/-a_1_000003_000013.mp4": None,
    "train/abseiling/b 2_000417_000427.mp4": None,
}


def test_readers_of_video_files_make_no_record(
    write: Write, configured: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million of them would take seconds, and ten times the memory of the rows."""
    root = write({**KINETICS, "classes/x/1.mp4": None, "classes/y/2.mp4": None, "videos/1.webm": None})
    labels = {"labels.json": '{"x": "0", "y": "1"}', "validation.json": "[]"}
    write({**labels, "train.json": '[{"id": "1", "label": "x", "template": "x"}]'})
    monkeypatch.setattr(Record, "__init__", lambda *values, **named: pytest.fail("a record was made"))
    for words in (["kinetics"], ["folders", f"data.root={root / 'classes'}"], ["ssv2"]):
        data = configured(*words)
        assert data.splits["train"] and data.fingerprint()


def test_the_search_for_a_file_ends_where_it_is(
    write: Write, configured: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(KINETICS)
    asked: list[str] = []
    plain = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: (asked.append(Path(path).name), plain(path))[1])
    configured("kinetics")
    assert [asked.count(name) for name in ("-a_1_000003_000013.mp4", "b 2_000417_000427.mp4")] == [1, 2]


def test_kinetics(write: Write, configured: Callable[..., Dataset]) -> None:
    root = write(KINETICS)
    data = configured("kinetics")
    assert ids(data) == {"train": ["-a_1_000003_000013", "b 2_000417_000427"], "val": ["c_000000_000010"], "test": []}
    assert data.heads["label"].classes == ("abseiling", "riding, a bike")
    assert [r.target["label"] for r in data.splits["train"]] == [1, 0]
    assert files(data, root) == ["train/-a_1_000003_000013.mp4", "train/abseiling/b 2_000417_000427.mp4"]
    with pytest.raises(UserError, match=r"1 of 3 videos are missing, first: .*validate/c_000000_000010\.mp4"):
        validate(data, ("train", "val"))


def test_absent_videos_may_be_left_out(
    write: Write, configured: Callable[..., Dataset], caplog: pytest.LogCaptureFixture
) -> None:
    write(KINETICS)
    with caplog.at_level(logging.WARNING):
        data = configured("kinetics", "data.absent=drop")
    assert ids(data)["train"] == ["-a_1_000003_000013", "b 2_000417_000427"] and ids(data)["val"] == []
    assert "1 of 1 val videos are missing and skipped, first c_000000_000010" in caplog.text
    with pytest.raises(UserError, match="the val split is empty"):
        validate(data, ("train", "val"))


@pytest.mark.parametrize("separator", [" ", ",", ", ", "\t"])
def test_video_lists(write: Write, configured: Callable[..., Dataset], separator: str) -> None:
    rows = [("a/x 1.mp4", 0), ("a/y.mp4", 11), ("b/z.mp4", 2)]
    text = "".join(f"{path}{separator}{label}\n" for path, label in rows)
    root = write({"train.txt": text, "val.txt": f"b/w.webm{separator}2\n", "videos/b/z.mp4": None})
    data = configured("video_lists")
    assert ids(data) == {"train": ["a/x 1", "a/y", "b/z"], "val": ["b/w"], "test": []}
    assert [r.target["label"] for r in data.splits["train"]] == [0, 11, 2]
    assert len(data.heads["label"].classes) == 12
    assert files(data, root) == ["a/x 1.mp4", "a/y.mp4", "videos/b/z.mp4"]


def jester(write: Write, folder: str = "20bn-jester-v1") -> Path:
    root = write(
        {
            "jester-v1-labels.csv": "Swiping Left\nSwiping Right\nTurning Hand Clockwise\n"
            "Turning Hand Counterclockwise\nNo gesture\n",
            "jester-v1-train.csv": "34870;No gesture\n56557;Swiping Right\n",
            "jester-v1-validation.csv": "1;Swiping Left\n",
        }
    )
    for video, count in (("34870", 3), ("56557", 2), ("1", 4)):
        write_frames(root / folder / video, "{:05d}.jpg", noise(count, 3))
    return root


def test_jester(write: Write, configured: Callable[..., Dataset]) -> None:
    root = jester(write)
    data = validate(configured("jester"), ("train", "val"))
    assert ids(data) == {"train": ["34870", "56557"], "val": ["1"], "test": []}
    assert data.splits["train"][0].media["frames"] == ImageSequence(
        root / "20bn-jester-v1" / "34870", "{:05d}.jpg", 3, fps=12.0
    )
    assert [r.target["label"] for r in data.splits["train"]] == [4, 1]
    assert data.mirrored == {"label": {0: 1, 1: 0, 2: 3, 3: 2}}


def test_image_folders_are_checked(write: Write, configured: Callable[..., Dataset]) -> None:
    root = jester(write, "images")
    (root / "images" / "1" / "00002.jpg").unlink()
    with pytest.raises(UserError, match=r"images/1: image 00002\.jpg is missing; extract the folder again"):
        configured("jester")
    shutil.rmtree(root / "images" / "1")
    with pytest.raises(UserError, match=r"1 of 3 videos are missing, first: .*20bn-jester-v1/1/00001\.jpg \(id 1, val"):
        validate(configured("jester"), ("train", "val"))


def test_something_something_v1(write: Write, configured: Callable[..., Dataset]) -> None:
    root = write(
        {
            "something-something-v1-train.csv": "1;Opening something\n2;Closing something\n",
            "something-something-v1-validation.csv": "3;Opening something\n",
        }
    )
    for video in "123":
        write_frames(root / "20bn-something-something-v1" / video, "{:05d}.jpg", noise(2, 3))
    data = validate(configured("ssv1"), ("train", "val"))
    assert data.heads["label"].classes == ("Closing something", "Opening something")
    assert [r.target["label"] for r in data.splits["train"]] == [1, 0]


@pytest.mark.parametrize("folder", ["ucfTrainTestlist/", ""])
def test_ucf101(write: Write, configured: Callable[..., Dataset], folder: str) -> None:
    root = write(
        {
            f"{folder}classInd.txt": "1 ApplyEyeMakeup\r\n2 HandstandPushups\r\n\r\n",
            f"{folder}trainlist02.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\r\n"
            "HandstandPushups/v_HandStandPushups_g01_c01.avi 2\r\n",
            f"{folder}testlist02.txt": "HandstandPushups/v_HandStandPushups_g02_c04.avi\r\n",
            "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi": None,
        }
    )
    data = configured("ucf101", "data.split=2")
    assert data.name == "ucf101_split2" and data.heads["label"].classes == ("ApplyEyeMakeup", "HandstandPushups")
    assert ids(data) == {
        "train": ["v_ApplyEyeMakeup_g08_c01", "v_HandStandPushups_g01_c01"],
        "val": ["v_HandStandPushups_g02_c04"],
        "test": [],
    }
    assert [r.target["label"] for r in data.splits["train"]] == [0, 1]
    assert files(data, root)[0] == "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi"
    with pytest.raises(UserError, match=r"trainlist01\.txt is missing"):
        configured("ucf101")


def test_hmdb51(write: Write, configured: Callable[..., Dataset]) -> None:
    root = write(
        {
            "testTrainMulti_7030_splits/brush_hair_test_split1.txt": "April (1)_f.avi 1 \nx#2.avi 2 \ny.avi 0 \n",
            "testTrainMulti_7030_splits/wave_test_split1.txt": "w.avi 1\nv.avi 2\n",
            "testTrainMulti_7030_splits/wave_test_split2.txt": "other.avi 1\n",
            "videos/wave/w.avi": None,
        }
    )
    data = configured("hmdb51")
    assert ids(data) == {"train": ["April (1)_f", "w"], "val": ["x#2", "v"], "test": []}
    assert data.heads["label"].classes == ("brush_hair", "wave")
    assert files(data, root) == ["hmdb51_org/brush_hair/April (1)_f.avi", "videos/wave/w.avi"]


def test_hmdb51_of_another_split(write: Write, configured: Callable[..., Dataset]) -> None:
    write({f"{c}_test_split2.txt": f"{c}1.avi 1\n{c}2.avi 2\n" for c in ("run", "wave")})
    assert ids(configured("hmdb51", "data.split=2"))["val"] == ["run2", "wave2"]
    with pytest.raises(UserError, match=r"holds no testTrainMulti_7030_splits/\*_test_split3\.txt nor"):
        configured("hmdb51", "data.split=3")


# ------------------------------------------------------------------------------------------------ mistakes

FORM: dict[str, Any] = {"annotations": {"train": "train.csv", "val": "val.csv"}, "files": "{id}.mp4"}
GOOD = {"train.csv": "id,label\n1,run\n2,sit\n", "val.csv": "id,label\n3,run\n"}


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ({}, {"annotations": {"train": "gone.csv"}}, r"gone\.csv is missing; check data\.root"),
        ({}, {"annotations": {"train": ["a.csv", "b.csv"]}}, r"a\.csv is missing \(nor b\.csv\); check data\.root"),
        ({}, {"annotations": {"training": "train.csv"}}, r"data\.annotations: 'training' is unknown"),
        ({"train.csv": "id,label\n1,run,x\n"}, {}, r"train\.csv, line 2: it has 3 fields, not those of id,label"),
        ({"train.csv": 'id,label\n1,"run\n2,sit\n'}, {}, r"train\.csv, line 2: unexpected end of data"),
        ({"train.csv": "id,name\n1,run\n"}, {}, r"train\.csv, line 2: it has no field 'label' for '{label}' \(it has"),
        ({"train.csv": ""}, {}, r"train\.csv is empty"),
        ({"train.csv": "id,label\n1\n"}, {}, r"train\.csv, line 2: it has 1 fields, not those of id,label"),
        ({"train.csv": "id,label\n1,\n"}, {}, r"train\.csv, line 2: its label is empty"),
        (
            {"train.csv": "id,label\n1,0\n", "val.csv": "id,label\n2,200000\n"},
            {},
            "label 200000 is not a class number",
        ),
        ({}, {"classes": "classes.txt"}, r"train\.csv, line 3: 'sit' is not one of the 2 classes"),
        ({"classes.txt": "run\nrun\n"}, {"classes": "classes.txt"}, "class 'run' appears twice"),
        (
            {"classes.txt": "1 run\n3 sit\n"},
            {"classes": "classes.txt", "class_pattern": r"(?P<number>\d+) (?P<name>.+)"},
            r"classes\.txt: its 2 classes must be numbered from 0 or from 1",
        ),
        (
            {"classes.txt": "run\n"},
            {"classes": "classes.txt", "class_pattern": r"(?P<number>\d+) (?P<name>.+)"},
            r"classes\.txt, line 1: 'run' is not a class line",
        ),
        ({"train.csv": "id,label\n1,run\n2,run\n"}, {}, "1 class; at least two are needed"),
        ({}, {"id": "{id:05d}", "files": "{label:05d}"}, r"line 2: its fields don't fit '{label:05d}'"),
        ({}, {"pattern": r"(?P<id>\d+) (?P<label>\w+)"}, r"train\.csv, line 1: 'id,label' does not fit"),
        ({}, {"pattern": "("}, r"'\(' is not a regular expression"),
        ({}, {"file_pattern": r"(?P<x>.+)\.txt"}, r"train\.csv: its name does not fit"),
        ({}, {"annotations": {"all": "*.csv"}}, r"train\.csv, line 2: split '' is unknown"),
        ({}, {"absent": "skip"}, r"data\.absent='skip' is unknown"),
        ({}, {"images": "img.jpg"}, r"template 'img\.jpg' needs one field for the number"),
    ],
)
def test_mistakes_are_one_line(write: Write, texts: dict[str, str], options: dict[str, Any], message: str) -> None:
    root = write(GOOD | {"classes.txt": "run\nwalk\n"} | texts)
    with pytest.raises(UserError, match=message) as caught:
        read_annotated("mine", str(root), **(FORM | options))
    assert "\n" not in str(caught.value)


def test_without_validation_every_fifth_validates(write: Write) -> None:
    root = write({"train.csv": "id,label\n" + "".join(f"{i:02d},{'ab'[i % 2]}\n" for i in range(10))})
    data = read_annotated("mine", str(root), **(FORM | {"annotations": {"train": "train.csv"}}))
    assert ids(data)["val"] == ["00", "05"] and len(data.splits["train"]) == 8


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("id\n4\n5\n", {}),
        ("id,label\n4,\n5,\n", {}),
        ("4\n5\n", {"columns": ["id", "label"], "annotations": {"train": "rows.csv", "test": "test.csv"}}),
    ],
)
def test_published_test_lists_have_no_labels(write: Write, text: str, options: dict[str, Any]) -> None:
    root = write(GOOD | {"test.csv": text, "rows.csv": "1,run\n2,sit\n"})
    annotations = {**FORM["annotations"], "test": "test.csv"}
    data = read_annotated("mine", str(root), **(FORM | {"annotations": annotations} | options))
    assert [(r.id, dict(r.target)) for r in data.splits["test"]] == [("4", {}), ("5", {})]
    assert data.heads["label"].classes == ("run", "sit")


def test_numbers_name_the_classes_of_a_file(write: Write) -> None:
    root = write({"train.csv": "id,label\n1,1\n2,0\n", "classes.txt": "run\nsit\n"})
    data = read_annotated(
        "mine", str(root), **(FORM | {"annotations": {"train": "train.csv"}, "classes": "classes.txt"})
    )
    assert data.heads["label"].classes == ("run", "sit")
    assert {r.id: r.target["label"] for split in data.splits.values() for r in split} == {"1": 1, "2": 0}


# ------------------------------------------------------------------------------------------------ folders


def test_folders_of_classes(write: Write, configured: Callable[..., Dataset]) -> None:
    names = [
        *(f"left/{i}.mp4" for i in range(4)),
        "right/deep/er/x.AVI",
        "right/y.webm",
        "right/notes.txt",
        ".git/a/b.mp4",
    ]
    write(dict.fromkeys(names))
    data = configured("folders", "data.mirrored=true")
    assert data.heads["label"].classes == ("left", "right") and data.mirrored == {"label": {0: 1, 1: 0}}
    assert ids(data) == {
        "train": ["left/1", "left/2", "left/3", "right/deep/er/x"],
        "val": ["left/0", "right/y"],
        "test": [],
    }
    assert [r.target["label"] for r in data.splits["train"]] == [0, 0, 0, 1]
    validate(data, ("train", "val"))


def test_folders_of_splits(write: Write) -> None:
    names = ["train/a/1.mp4", "train/b/2.mp4", "validation/b/3.mp4", "test/a/4.mp4"]
    data = read_folders("mine", str(write(dict.fromkeys(names))))
    assert ids(data) == {"train": ["train/a/1", "train/b/2"], "val": ["validation/b/3"], "test": ["test/a/4"]}
    assert [r.target["label"] for r in data.splits["val"]] == [1]


def test_trains_may_be_a_class(write: Write) -> None:
    data = read_folders("mine", str(write(dict.fromkeys(["train/1.mp4", "car/2.mp4", "car/3.mp4"]))))
    assert data.heads["label"].classes == ("car", "train")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/1.mp4"], "videos of 1 class; it must hold two or more class folders"),
        (["1.mp4", "2.mp4"], "videos of 0 class; it must hold two or more class folders"),
        (["train/a/1.mp4", "train/b/2.mp4", "val/c/3.mp4"], r"val/c/3\.mp4: its class has no training video"),
    ],
)
def test_folders_that_are_none(write: Write, names: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_folders("mine", str(write(dict.fromkeys(names))))
    with pytest.raises(UserError, match=r"is not a folder; set data\.root"):
        read_folders("mine", str(Path("no/such/folder")))


# ------------------------------------------------------------------------------------------------ real files


@pytest.mark.real
def test_real_kinetics_list(tmp_path: Path) -> None:
    folder = real("annotations/kinetics")
    for file in ("valid_processed.txt", "label_map_k400.txt"):
        shutil.copy(folder / file, tmp_path)
    data = read_annotated(
        "kinetics",
        str(tmp_path),
        {"train": None, "val": "valid_processed.txt"},
        "{id}.mp4",
        pattern=r"(?P<id>\S+) (?P<start>\d+) (?P<end>\d+) (?P<label>\d+)",
        classes="label_map_k400.txt",
    )
    assert len(data.splits["val"]) == 19877 and len(data.heads["label"].classes) == 400
    assert data.splits["val"][0].id == "0wR5jVB-WPk_000417_000427"


@pytest.mark.real
def test_real_kinetics_sounds_through_its_lists(configured: Callable[..., Dataset], tmp_path: Path) -> None:
    for split, file in (("train", "my_train.txt"), ("val", "my_test.txt")):
        shutil.copy(real("annotations/kinetics_sounds") / file, tmp_path / f"{split}.txt")
    pattern = r"data.pattern='(?P<path>[\w-]+),\d+,(?P<label>\d+)'"
    data = configured("video_lists", pattern, "data.files='{path}.mp4'")
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 14799, "val": 2597, "test": 0}
    assert len(data.heads["label"].classes) == 31


@pytest.mark.real
def test_real_classes_of_jester(configured: Callable[..., Dataset], tmp_path: Path) -> None:
    shutil.copy(real("annotations/jester/label_map.txt"), tmp_path / "jester-v1-labels.csv")
    names = (tmp_path / "jester-v1-labels.csv").read_text().splitlines()
    for split in ("train", "validation"):
        (tmp_path / f"jester-v1-{split}.csv").write_text("".join(f"{i};{name}\n" for i, name in enumerate(names)))
    data = configured("jester")
    assert len(data.heads["label"].classes) == 27
    assert [r.target["label"] for r in data.splits["val"]] == list(range(27))
    pairs = {names[a]: names[b] for a, b in data.mirrored["label"].items()}
    assert pairs == {
        "Swiping Left": "Swiping Right",
        "Swiping Right": "Swiping Left",
        "Sliding Two Fingers Left": "Sliding Two Fingers Right",
        "Sliding Two Fingers Right": "Sliding Two Fingers Left",
        "Turning Hand Clockwise": "Turning Hand Counterclockwise",
        "Turning Hand Counterclockwise": "Turning Hand Clockwise",
    }


@pytest.mark.real
def test_real_ucf_video(configured: Callable[..., Dataset], tmp_path: Path) -> None:
    classes = real("annotations/label_maps/ucf101_label_map.txt").read_text().split()
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(classes, 1)))
    for kind in ("trainlist01", "testlist01"):
        (lists / f"{kind}.txt").write_text("Basketball/v_Basketball_g01_c01.avi\n")
    target = tmp_path / "UCF-101" / "Basketball" / "v_Basketball_g01_c01.avi"
    target.parent.mkdir(parents=True)
    shutil.copy(real("clips/tiny-ucf101/v_Basketball_g01_c01.avi"), target)
    data = validate(configured("ucf101"), ("train", "val"))
    assert len(classes) == 101 and classes[data.splits["train"][0].target["label"]] == "Basketball"  # type: ignore[index]
