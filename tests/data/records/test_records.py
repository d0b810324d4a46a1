"""Fingerprints move with the data and with nothing else; validation names what to fix."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mml_lightning.benchmarks.record_lists import KINDS, SIZE
from mml_lightning.config import data as config_data
from mml_lightning.config.compose import compose
from mml_lightning.data.records.checks import warn_of_doubles
from mml_lightning.data.records.decoder import frames_reader
from mml_lightning.data.records.readers import read_csv
from mml_lightning.data.records.record_store import stored
from mml_lightning.data.records.records import Dataset, Head, Record, validate
from mml_lightning.data.video.images import open_media
from mml_lightning.data.video.media import ImageSequence, PackedFrames
from mml_lightning.utils.errors import UserError
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


def many_kinds(folder: Path) -> Dataset:
    """Images, flow, a packed video and plain ones, of which one is not there."""
    for number in range(1, 6):
        (folder / f"{number}.jpg").write_bytes(b"y" * number)
        for axis in "xy":
            (folder / f"{axis}_{number}.jpg").write_bytes(b"z" * 2 * number)
    (folder / "v.mp4").write_bytes(b"x" * 42)
    frames = ImageSequence(folder, "{:d}.jpg", 5, 25.0)
    flow = ImageSequence(folder, "{axis}_{:d}.jpg", 4, 25.0, 1, "flow_pair")
    packed = PackedFrames(folder / "v.mp4", "e", "frames", 9, 12.5, (64, 48), 17, 99, 1234)
    heads = {"verb": Head(("x", "y", "z"), True), "label": Head(("a", "ü"))}
    timed = {"verb": ((1, 0.0, 2.5), (2, 1.0, 3.0))}
    records = [
        Record("a", {"frames": frames, "flow": flow}, {"verb": (0, 2), "label": 1}),
        Record("b", {"frames": packed}, {"verb": (1, 2), "label": 0}, (0.5, 2.0), "pyav", timed, 3.0),
        Record("it's", {"frames": folder / "v.mp4"}, {"label": 0}, (0.0, 1.25)),
        Record("unknown", {"frames": folder / "v.mp4"}, {}),
        Record("lost", {"frames": folder / "none.mp4"}, {"label": 1}),
    ]
    return Dataset("mine", {"train": records, "val": records[2:], "test": records[3:4]}, heads)


def listed(folder: Path, count: int = 200) -> Path:
    """A CSV of parts of videos and of whole ones."""
    lines = ["path,label,split,start,end"]
    for n in range(count):
        (folder / f"{n}.mp4").write_bytes(b"x" * n)
        part = f"{n / 4},{n}" if n % 2 else ","
        lines.append(f"{n}.mp4,c{n % 3},{'train' if n % 9 else 'val'},{part}")
    (folder / "list.csv").write_text("\n".join(lines))
    return folder / "list.csv"


def test_fingerprints_of_earlier_versions_hold(tmp_path: Path) -> None:
    """Runs are resumed and results reused by them."""
    (tmp_path / "kinds").mkdir()
    assert many_kinds(tmp_path / "kinds").fingerprint() == "67664bbb5903cf47"
    data = read_csv("mine", str(listed(tmp_path)))
    assert data.fingerprint() == "ffbd2b4c61033ca9"
    as_list = replace(data, splits={split: list(records) for split, records in data.splits.items()})
    assert as_list.fingerprint() == "ffbd2b4c61033ca9"


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each video is looked at."""
    seen: Counter[str] = Counter()
    plain = os.stat

    def stat(path: Any, **options: Any) -> os.stat_result:
        if str(path).endswith(".mp4"):
            seen[Path(path).name] += 1
        return plain(path, **options)

    monkeypatch.setattr(os, "stat", stat)
    return seen


def test_a_start_looks_once_at_each_file(tmp_path: Path, looks: Counter[str]) -> None:
    data = read_csv("mine", str(listed(tmp_path)))
    validate(data, ("train", "val")).fingerprint()
    assert len(looks) == 200 and set(looks.values()) == {1}


def test_parts_and_packed_videos_share_a_look(tmp_path: Path, looks: Counter[str]) -> None:
    video = tmp_path / "v.mp4"
    video.write_bytes(b"x")
    parts = [Record(f"part {n}", {"frames": video}, {"label": n % 2}, (n, n + 1.0)) for n in range(50)]
    packed = [Record(f"{n}", {"frames": PackedFrames(video, f"{n}", "frames", 9)}, {"label": 0}) for n in range(50)]
    data = Dataset("mine", {"train": [*parts, *packed], "val": parts}, {"label": Head(("a", "b"))})
    validate(data, ("train", "val")).fingerprint()
    assert looks == {video.name: 2}  # one per split


def test_unlabelled_videos_are_not_looked_at_for_the_fingerprint(tmp_path: Path, looks: Counter[str]) -> None:
    data = dataset(tmp_path)
    unlabelled = [replace(record, target={}) for record in data.splits["test"]]
    data = replace(data, splits={**data.splits, "test": unlabelled})
    validate(data, ("train", "val")).fingerprint()
    assert looks == {f"{split}{i}.mp4": 1 for split in ("train", "val") for i in range(2)}


@pytest.mark.parametrize("kind", KINDS)
def test_the_start_of_a_list_makes_no_record(
    kind: str, hydra: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million records and paths would take seconds, and a hundred times the memory."""
    cfg = compose("train", [*KINDS[kind](tmp_path, 100), f"paths.root={tmp_path}", "test=false"])
    with monkeypatch.context() as patch:
        for made in (Record, PackedFrames):
            patch.setattr(made, "__init__", lambda *values, **named: pytest.fail("an object was made"))
        data = config_data.dataset(cfg)
        data.fingerprint()
        frames_reader(data, "decord")
    assert stored(data.splits["train"]) is data.splits["train"]
    assert [len(data.splits[split]) for split in ("train", "val")] == [90, 10]
    # a list of objects, as readers of other data make them, is the same dataset
    as_list = replace(data, splits={split: list(records) for split, records in data.splits.items()})
    assert validate(as_list, ("train", "val")).fingerprint() == data.fingerprint()
    assert warn_of_doubles(as_list, ("train", "val")) == warn_of_doubles(data, ("train", "val")) == 0
    with open_media(data.splits["train"][89].media["frames"]) as frames:
        assert frames.size == SIZE and frames.frames([0, frames.count - 1]).shape == (2, *SIZE[::-1], 3)


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
    with pytest.raises(UserError, match="id 'val1' appears 2 times in the val split"):
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
