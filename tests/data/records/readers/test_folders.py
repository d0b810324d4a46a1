"""A folder per class: splits told from classes, links followed, and nothing left out in silence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mml_lightning.data.records.readers import read_folders
from mml_lightning.data.records.readers.files import HELD_OUT
from mml_lightning.data.records.records import Dataset
from mml_lightning.utils.errors import UserError


def write(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(b"x")
    return root


def read(root: Path) -> Dataset:
    return read_folders("mine", str(root))


def ids(data: Dataset) -> dict[str, list[str]]:
    return {split: [record.id for record in records] for split, records in data.splits.items()}


def classes(data: Dataset) -> tuple[str, ...]:
    return data.heads["label"].classes


@pytest.mark.parametrize("train", ["train", "Train", "TRAIN", "training", "Training"])
@pytest.mark.parametrize("val", ["val", "Val", "valid", "Validation", "dev"])
@pytest.mark.parametrize("test", ["Test", "testing", "EVAL"])
def test_names_of_splits_in_any_case(tmp_path: Path, train: str, val: str, test: str) -> None:
    files = [f"{split}/{label}/{split}.mp4" for split in (train, val, test) for label in ("run", "walk")]
    data = read(write(tmp_path, *files))
    assert classes(data) == ("run", "walk") and data.told == ()
    for split, folder in (("train", train), ("val", val), ("test", test)):
        assert ids(data)[split] == [f"{folder}/run/{folder}", f"{folder}/walk/{folder}"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train/a/1.mp4", "train/b/1.mp4", "Holdout/a/2.mp4"], "Holdout/, which is not"),
        (["train/a/1.mp4", "train/b/1.mp4", "test/2.mp4"], "holds train/, a split, and test/, which is not"),
        (["train/a/1.mp4", "train/b/1.mp4", "walk/2.mp4"], "walk/, which is not"),
        (["train/a/1.mp4", "train/b/1.mp4", "Training/a/2.mp4"], "both of the train split; keep one"),
        (["val/a/1.mp4", "val/b/1.mp4", "Validation/a/2.mp4"], "both of the val split; keep one"),
        (["Test/a/1.mp4", "Test/b/1.mp4"], "holds Test/, a split, and no train/"),
        (["training_set/a/1.mp4", "test_set/a/1.mp4"], "test_set looks like a split, not a class"),
        (["fold 1/a/1.mp4", "fold 2/a/1.mp4"], "fold 1 looks like a split, not a class"),
        (["train/a/1.mp4", "train/b/1.mp4", "val/a/notes.txt"], "val holds no video"),
    ],
)
def test_splits_that_are_not_plain(tmp_path: Path, files: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(write(tmp_path, *files))
    assert "\n" not in str(caught.value)


def test_classes_that_are_called_as_splits(tmp_path: Path) -> None:
    root = write(tmp_path, "train/1.mp4", "car/near/2.mp4", "car/3.mp4", "test tube/a/4.mp4")
    assert classes(read(root)) == ("car", "test tube", "train")


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    files = ["a/1.MP4", "a/b/2.webm", "b/3.mp4", "c/4.ts", "c/5.ts", "6.mp4", "list.txt", "a/notes", ".h/x.mp4"]
    root = write(tmp_path, *files)
    data = read(root)
    assert classes(data) == ("a", "b")
    assert data.told == (
        "1 video outside class folders skipped, first '6.mp4'",
        "1 folder without videos skipped, first 'c'",
        "3 files with other extensions skipped ('.ts' 2, 'none' 1)",
        HELD_OUT,
    )
    write(tmp_path / "with", "train/a/1.mp4", "train/b/1.mp4", "labels/classes.csv", "loose.mp4")
    assert read(tmp_path / "with").told[:2] == (
        "1 video outside class folders skipped, first 'loose.mp4'",
        "1 folder without videos skipped, first 'labels'",
    )


def test_links_are_followed(tmp_path: Path) -> None:
    store = write(tmp_path / "store", "walk/w.mp4", "more/m.mp4", "val/walk/v.mp4", "val/run/v.mp4")
    root = write(tmp_path / "data", "train/run/r.mp4")
    os.symlink(store / "walk", root / "train" / "walk")  # of a class
    os.symlink(store / "more", root / "train" / "run" / "more")  # inside of a class
    os.symlink(store / "val", root / "Val")  # of a split
    os.symlink(store / "walk" / "w.mp4", root / "train" / "run" / "linked.mp4")
    data = read(root)
    assert classes(data) == ("run", "walk")
    assert ids(data) == {
        "train": ["train/run/linked", "train/run/r", "train/run/more/m", "train/walk/w"],
        "val": ["Val/run/v", "Val/walk/v"],
        "test": [],
    }


@pytest.mark.parametrize("target", [".", "a", "a/deep"])
def test_links_that_lead_back(tmp_path: Path, target: str) -> None:
    root = write(tmp_path / "data", "a/deep/1.mp4", "b/2.mp4")
    os.symlink(root / target, root / "a" / "deep" / "again")
    with pytest.raises(UserError, match=r"again is a link to its own parent .*; remove the link"):
        read(root)


def test_links_that_lead_nowhere_and_folders_that_are_closed(tmp_path: Path) -> None:
    root = write(tmp_path / "data", "a/1.mp4", "b/2.mp4")
    os.symlink(tmp_path / "gone", root / "c")
    with pytest.raises(UserError, match="c is a broken link; fix or remove it"):
        read(root)
    (root / "c").unlink()
    (root / "b").chmod(0)
    if not os.access(root / "b", os.R_OK):  # whoever may read everything can't be kept out
        with pytest.raises(UserError, match=r"can't read .*b: Permission denied"):
            read(root)
    (root / "b").chmod(0o755)


@pytest.mark.parametrize("name", [b"walk/caf\xe9.mp4", b"caf\xe9/1.mp4", b"walk/caf\xe9/1.mp4"])
def test_names_that_are_no_text(tmp_path: Path, name: bytes) -> None:
    root = write(tmp_path / "data", "run/1.mp4", "walk/2.mp4")
    path = os.fsencode(root) + b"/" + name
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Path(os.fsdecode(path)).touch()
    with pytest.raises(UserError, match=r"caf\\xe9.*: this name is not UTF-8 text; rename it") as caught:
        read(root)
    assert str(caught.value).isascii()
