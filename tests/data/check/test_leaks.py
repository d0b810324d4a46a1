"""Videos that are the same: byte by byte, and by the look of their frames."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mml_lightning.data.check import find_leaks, hashes, inspect, write_leaks
from mml_lightning.data.check.hashes import NEAR, difference_hash, near_pairs
from mml_lightning.data.check.inspection import of_record
from mml_lightning.data.check.leaks import Leaks, Near, duplicates
from mml_lightning.data.records.checks import warn_of_doubles
from mml_lightning.data.records.records import Dataset, FrameSpan, Head, Record
from mml_lightning.data.video.media import ImageSequence
from tests.data.videos import record, texture, write_video


def dataset(**splits: list[Record]) -> Dataset:
    return Dataset("mine", splits, {"label": Head(("a", "b"))})


def hexed(*values: int) -> str:
    return " ".join(f"{value:016x}" for value in values)


def test_hash_is_that_of_a_ramp() -> None:
    ramp = np.repeat(np.repeat(np.arange(0, 90, 10, dtype=np.uint8)[None], 8, axis=0)[..., None], 3, axis=2)
    assert difference_hash(ramp) == "f" * 16 and difference_hash(ramp[:, ::-1]) == "0" * 16
    one = ramp.copy()
    one[0, 1] = 0  # the second cell of the first row is no brighter than the first now
    assert difference_hash(one) == "7f" + "f" * 14
    assert difference_hash(np.full((48, 64, 3), 9, np.uint8)) == "-"


def test_hash_survives_scaling_and_encoding_not_mirroring() -> None:
    picture = texture(128, 96, seed=3)
    pixels = int(difference_hash(picture), 16)
    jpeg = cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], cv2.IMREAD_COLOR)
    smaller = cv2.resize(picture, (64, 48), interpolation=cv2.INTER_AREA)
    for same in (jpeg, smaller, picture // 2 + 40):
        assert (int(difference_hash(same), 16) ^ pixels).bit_count() <= NEAR
    for other in (picture[:, ::-1], texture(128, 96, seed=4)):
        assert (int(difference_hash(other), 16) ^ pixels).bit_count() > 16


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.sets(st.integers(0, 63), max_size=5)), max_size=12))
def test_pairs_are_those_of_comparing_all(rows: list[tuple[int, int, set[int]]]) -> None:
    """Buckets lose no pair: videos are drawn near a few bases, and compared one by one."""
    bases = [0x0123456789ABCDEF, 0xFEDCBA9876543210]
    values = [bases[base] ^ sum(1 << bit for bit in flips) for _, base, flips in rows]
    groups = [group for group, _, _ in rows]
    pairs, complete = near_pairs([hexed(value, 2**64 - 1 - value) for value in values], groups)
    expected = {
        (a, b)
        for a in range(len(rows))
        for b in range(a + 1, len(rows))
        if groups[a] != groups[b] and (values[a] ^ values[b]).bit_count() <= NEAR
    }
    assert complete and {(a, b) for a, b, _ in pairs} == expected
    assert [bits for *_, bits in pairs] == sorted(bits for *_, bits in pairs)


def test_frames_without_pattern_do_not_count() -> None:
    a, b = 0x0123456789ABCDEF, 0x1111111111111111
    texts = [f"- {a:016x} {b:016x}", f"{b:016x} {a:016x} {b ^ 1:016x}", f"- - {b:016x}", "- - -", ""]
    assert near_pairs(texts, [0, 1, 1, 1, 1])[0] == [(0, 1, 0.5)]
    assert near_pairs([f"{a:016x}"] * 2, [0, 1])[0] == [(0, 1, 0.0)]  # one frame each
    assert near_pairs([], []) == ([], True) and near_pairs(["", ""], [0, 1]) == ([], True)


def test_work_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    alike = [hexed(7, 7)] * 300
    assert near_pairs(alike, [0, 1] * 150) == ([], True)  # too crowded: every video looks like every other
    monkeypatch.setattr(hashes, "MOST_PAIRS", 10)
    pairs, complete = near_pairs(alike[:20], [0, 1] * 10)
    assert 0 < len(pairs) < 100 and not complete


def test_identical_files(videos: dict[str, Path], tmp_path: Path) -> None:
    copy, tail, twin = tmp_path / "copy.webm", tmp_path / "tail.webm", tmp_path / "twin.mp4"
    content = videos["vp9"].read_bytes()
    copy.write_bytes(content)
    tail.write_bytes(content[:-1] + b"\1")  # same size, other content
    twin.write_bytes(videos["h264"].read_bytes())
    train = [record(videos["vp9"]), record(videos["vp9"], id="again"), record(videos["h264"])]
    assert duplicates(dataset(train=train, test=[record(tail)])) == ([], [], [])  # parts of one file are no copies
    across, within, _ = duplicates(dataset(train=[*train, record(twin)], test=[record(copy), record(tail)]))
    assert across == [[("train", "vp9"), ("train", "again"), ("test", "copy")]]
    assert within == [[("train", "h264"), ("train", "twin")]]


def test_parts_of_one_video_in_several_splits(videos: dict[str, Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy.webm"
    copy.write_bytes(videos["vp9"].read_bytes())

    def part(id: str, start: float, end: float, path: Path = videos["vp9"]) -> Record:
        return record(path, id=id, span=(start, end))

    a, b, c = part("a", 0, 1), part("b", 1, 1.5), part("c", 1.4, 2)
    assert duplicates(dataset(train=[a], val=[b], test=[c])) == ([[("val", "b"), ("test", "c")]], [], [])
    assert duplicates(dataset(train=[c], val=[a])) == ([], [], [[("train", "c"), ("val", "a")]])
    assert duplicates(dataset(train=[c, record(videos["vp9"])], val=[a]))[0] != []  # the whole video holds its parts
    assert duplicates(dataset(train=[a, part("d", 1.2, 2, copy)])) == ([], [], [])
    assert duplicates(dataset(train=[a, part("d", 0.9, 2, copy)])) == ([], [[("train", "a"), ("train", "d")]], [])
    frames = [record(videos["vp9"], id=f"{n}", span=FrameSpan(n, n + 3)) for n in range(3)]
    assert duplicates(dataset(train=[frames[0]], val=[record(videos["vp9"], span=FrameSpan(4, 5))]))[0] == []
    assert duplicates(dataset(train=[frames[0]], val=[record(videos["vp9"], span=FrameSpan(3, 5))]))[2] == []
    found = find_leaks(dataset(train=[c], val=[a]), [inspect(videos["vp9"])])
    assert (found.across, found.near, len(found.parts)) == ([], [], 1)


@given(st.lists(st.tuples(st.sampled_from(["train", "val"]), st.integers(0, 20), st.integers(1, 5)), max_size=12))
def test_parts_are_compared_by_what_they_have_in_common(rows: list[tuple[str, int, int]]) -> None:
    parts = [
        Record(f"{n}", {"frames": Path(__file__)}, {}, span=(at, at + long)) for n, (_, at, long) in enumerate(rows)
    ]
    splits = {s: [part for part, row in zip(parts, rows, strict=True) if row[0] == s] for s in ("train", "val")}
    doubles = [
        any(one.span[0] < other.span[1] and other.span[0] < one.span[1] for other in splits["val"])  # type: ignore[index]
        for one in splits["train"]
    ]
    data = dataset(**splits)
    assert warn_of_doubles(data, ("train", "val")) == sum(doubles)
    across, _, apart = duplicates(data)
    assert bool(across) == any(doubles) and bool(apart) == (all(splits.values()) and not any(doubles))


def test_the_same_images_in_several_splits(tmp_path: Path) -> None:
    def images(id: str, folder: str, template: str = "{}.png", source: str = "frames", count: int = 2) -> Record:
        layout = "flow_pair" if "{axis}" in template else "rgb"
        return Record(id, {source: ImageSequence(tmp_path / folder, template, count, layout=layout)}, {"label": 0})  # type: ignore[arg-type]

    one, longer, other = images("v", "a"), images("w", "a", count=9), images("v", "a", "{}.jpg")
    assert duplicates(dataset(train=[one, longer], val=[other, images("x", "b")])) == ([], [], [])
    across = [[("train", "v"), ("val", "w")]]
    assert find_leaks(dataset(train=[one], val=[longer]), []).across == across
    flow = images("v", "a", "{axis}_{}.png", "flow")
    assert duplicates(dataset(train=[flow], val=[flow]))[0] == [[("train", "v"), ("val", "v")]]
    assert find_leaks(dataset(train=[other], val=[one], test=[one]), []).across == []


def test_encoded_again_is_near_identical(tmp_path: Path) -> None:
    def scene(seed: int, width: int = 96, height: int = 72) -> list[np.ndarray]:
        return [cv2.resize(np.roll(texture(96, 72, seed), 2 * i, axis=1), (width, height)) for i in range(8)]

    one = record(write_video(tmp_path / "one.webm", scene(1)))
    again = record(write_video(tmp_path / "again.mp4", scene(1, 128, 96)))
    other = record(write_video(tmp_path / "other.mp4", scene(2)))
    splits = {"train": [one, other], "val": [again]}
    found = [
        of_record(inspect(r.media["frames"]), split, r, "frames") for split, records in splits.items() for r in records
    ]
    leaks = find_leaks(dataset(**splits), found)
    assert [(near.one, near.other) for near in leaks.near] == [(("train", "one"), ("val", "again"))]
    assert leaks.near[0].bits <= NEAR and leaks.across == leaks.within == []
    seen = inspect(tmp_path / "one.webm")
    twice = [of_record(seen, split, one, "frames") for split in ("train", "val")]
    same = find_leaks(dataset(train=[one], val=[one]), twice)
    assert same.near == [] and len(same.across) == 1  # said once


def test_a_test_split_that_is_val_is_no_leak(videos: dict[str, Path]) -> None:
    both = [record(videos["vp9"]), record(videos["h264"])]
    assert find_leaks(dataset(train=[record(videos["moving"])], val=both, test=both), []).across == []
    leaks = find_leaks(dataset(train=[record(videos["h264"])], val=both, test=both), [])
    assert leaks.across == [[("train", "h264"), ("val", "h264")]]
    assert len(find_leaks(dataset(val=both, test=both[:1]), []).across) == 1


def test_leaks_are_written(tmp_path: Path) -> None:
    file = tmp_path / "leaks.csv"
    write_leaks(Leaks([[("train", "a"), ("val", "b")]], [], [Near(("train", "c"), ("test", "d e"), 1.5)]), file)
    with file.open(newline="") as handle:
        assert list(csv.reader(handle)) == [
            ["kind", "group", "bits", "split", "id"],
            ["identical across splits", "1", "0", "train", "a"],
            ["identical across splits", "1", "0", "val", "b"],
            ["near-identical", "2", "1.5", "train", "c"],
            ["near-identical", "2", "1.5", "test", "d e"],
        ]
