"""Fingerprints move with the data and with nothing else; validation names what to mend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mml_lightning.data.records import Dataset, Head, Record, validate
from mml_lightning.errors import UserError
from tests.data.videos import record


def dataset(folder: Path, splits: str = "train val test") -> Dataset:
    folder.mkdir(exist_ok=True)
    made: dict[str, list[Record]] = {"train": [], "val": [], "test": []}
    for split in splits.split():
        for i in range(2):
            path = folder / f"{split}{i}.mp4"
            path.write_bytes(b"x" * (i + 1))
            made[split].append(record(path, label=i))
    return Dataset("mine", made, {"label": Head(("a", "b"))})


def test_fingerprint_does_not_know_the_place(tmp_path: Path) -> None:
    assert dataset(tmp_path / "here").fingerprint() == dataset(tmp_path / "there").fingerprint()


CHANGES: dict[str, Callable[[Record], Record]] = {
    "id": lambda r: replace(r, id="other"),
    "label": lambda r: replace(r, target={"label": 1 - int(r.target["label"])}),  # type: ignore[arg-type]
    "span": lambda r: replace(r, span=(0.0, 1.0)),
    "reader": lambda r: replace(r, decoder="pyav"),
    "file": lambda r: replace(r, media={"frames": r.media["frames"].with_name("train1.mp4")}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_fingerprint_knows_the_records(tmp_path: Path, what: str) -> None:
    data = dataset(tmp_path)
    first, second = data.splits["train"]
    changed = replace(data, splits={**data.splits, "train": [CHANGES[what](first), second]})
    assert changed.fingerprint() != data.fingerprint()


def test_fingerprint_knows_classes_splits_and_order(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    variants = [
        data,
        replace(data, heads={"label": Head(("a", "c"))}),
        replace(data, heads={"label": Head(("a", "b"), multi_label=True)}),
        replace(data, splits={**data.splits, "train": data.splits["val"], "val": data.splits["train"]}),
        replace(data, splits={**data.splits, "train": data.splits["train"][::-1]}),
    ]
    assert len({variant.fingerprint() for variant in variants}) == len(variants)
    (tmp_path / "val0.mp4").write_bytes(b"longer")
    assert replace(data).fingerprint() != data.fingerprint()  # which is that of the files as they were


def test_valid_data_pass_unchanged(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    assert validate(data) is data


@pytest.mark.parametrize(
    ("splits", "needed", "message"),
    [
        (
            "train val",
            ("train", "val", "test"),
            r"the test split is empty \(videos: train 2, val 2, test 0\); .*test=false",
        ),
        ("val test", ("train", "val"), "the train split is empty .*; check its list$"),
    ],
)
def test_empty_split(tmp_path: Path, splits: str, needed: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(dataset(tmp_path, splits), needed)


def test_split_that_is_not_needed_may_be_empty(tmp_path: Path) -> None:
    validate(dataset(tmp_path, "train val"), ("train", "val"))


def test_repeated_id(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    twice = replace(data, splits={**data.splits, "val": [*data.splits["val"], data.splits["val"][1]]})
    with pytest.raises(UserError, match="id 'val1' stands 2 times in the val split"):
        validate(twice)


def test_missing_files_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    for name in ("train1.mp4", "test0.mp4"):
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match=r"2 of 6 videos are missing, first: .*train1\.mp4 \(id train1, train\); check"):
        validate(data)
    (tmp_path / "train1.mp4").mkdir()  # a folder is no video
    with pytest.raises(UserError, match="2 of 6 videos are missing"):
        validate(data)
