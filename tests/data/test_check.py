"""`mml check`: what it finds, what it writes, what runs make of it."""

from __future__ import annotations

import csv
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mml_lightning.cli import main
from mml_lightning.data import check
from mml_lightning.data.check import Finding, _judge, _View, duplicates, inspect, read, report, with_readers
from mml_lightning.data.records import Dataset, Head, Record
from mml_lightning.errors import UserError
from tests.data.videos import counted, damaged, real, record, write_video


def dataset(**splits: list[Record]) -> Dataset:
    return Dataset("mine", splits, {"label": Head(("a", "b"))})


def run(data: Dataset, file: Path, samples: int = 3, begun: list[int] | None = None) -> list[Finding]:
    def begin(videos: int) -> object:
        if begun is not None:
            begun.append(videos)
        return lambda: None

    return check.check(data, file, samples, 2, begin)  # type: ignore[arg-type]


def view(frames: list[int], order: list[int] | None = None, size: tuple[int, int] = (8, 6)) -> _View:
    """A reader that shows grey levels `frames`."""
    pixels = {i: np.full((size[1], size[0], 3), level, dtype=np.uint8) for i, level in enumerate(frames)}
    return _View(len(frames), size, 10.0, order or [1, 3], pixels)


# ------------------------------------------------------------------------------------------------ one video


def test_good_video(videos: dict[str, Path]) -> None:
    found = inspect(videos["vp9"])
    assert (found.frames_decord, found.frames_pyav, found.frames) == (24, 24, 24)
    assert (found.width, found.height, found.fps) == (64, 48, 12.0)
    assert (found.difference, found.decoder, found.problem) == (0.0, "", "")
    assert found.bytes == videos["vp9"].stat().st_size


@pytest.mark.parametrize("kind", ["empty", "zeros", "text", None])
def test_unreadable_video(videos: dict[str, Path], tmp_path: Path, kind: str | None) -> None:
    path = damaged(kind, videos["vp9"], tmp_path / "x.webm") if kind else tmp_path / "gone.webm"
    found = inspect(path)
    assert found.decoder == check.UNREADABLE and str(path) in found.problem and found.frames == 0


def test_video_that_only_pyav_reads(tmp_path: Path) -> None:
    found = inspect(write_video(tmp_path / "one.webm", counted(1)))  # decord wants a duration
    assert (found.decoder, found.frames_decord, found.frames_pyav) == ("pyav", None, 1)
    assert "(decord)" in found.problem


@pytest.mark.parametrize(
    ("decord", "expected"),
    [
        (view([10, 20, 30, 40, 50]), (0.0, "", "")),
        (view([12, 22, 32, 42, 52]), (2.0, "", "")),  # other rounding of colours
        (view([10, 20, 30, 44, 50]), (4.0, "pyav", "decord's frame 3 differs by 4.0 levels")),
        (view([10, 20, 30, 40]), (None, "pyav", "decord counts 4 frames, 5 decode")),
        (view([10, 20, 30, 40, 50], size=(6, 8)), (None, "pyav", "decord gives frames of (6, 8), PyAV of (8, 6)")),
    ],
)
def test_judgement(decord: _View, expected: tuple[float | None, str, str]) -> None:
    assert _judge({"decord": decord, "pyav": view([10, 20, 30, 40, 50])}, {}) == expected


def test_misplaced_frames_of_a_slow_video_are_found() -> None:
    slow, late = view([10, 12, 14, 16, 18]), view([10, 10, 12, 14, 16])
    assert _judge({"decord": late, "pyav": slow}, {}) == (2.0, "pyav", "decord's frame 1 is frame 0")
    still = view([10] * 5)
    assert _judge({"decord": still, "pyav": still}, {}) == (0.0, "", "")


def test_the_reader_that_works_is_chosen() -> None:
    good = view([1, 2, 3, 4])
    assert _judge({"decord": good}, {"pyav": "no"}) == (None, "decord", "no")
    assert _judge({}, {"decord": "d", "pyav": "p"}) == (None, "none", "p")
    assert _judge({"pyav": good}, {}) == (None, "", "")  # decord is not installed


# ------------------------------------------------------------------------------------------------ a dataset


def test_file_is_complete_in_order_and_reads_back(videos: dict[str, Path], tmp_path: Path) -> None:
    bad = damaged("zeros", videos["vp9"], tmp_path / "bad.webm")
    part = record(videos["vp9"], 1, id="part", span=(0.0, 1.0))
    data = dataset(train=[record(videos["vp9"]), part, record(bad)], val=[record(videos["single"])])
    file = tmp_path / "check" / "mine.csv"
    begun: list[int] = []
    found = run(data, file, begun=begun)
    assert begun == [3]  # the part is not read again
    assert [(f.split, f.id) for f in found] == [
        ("train", "vp9"),
        ("train", "part"),
        ("train", "bad"),
        ("val", "single"),
    ]
    assert found[1] == replace(found[0], id="part") and found[2].decoder == "none" and found[3].frames == 1
    assert read(file) == found and list(file.parent.iterdir()) == [file]
    with file.open() as handle:
        assert next(csv.reader(handle))[:3] == ["split", "id", "path"]


def test_interrupted_check_continues(videos: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = [tmp_path / f"{i}.webm" for i in range(4)]
    for path in copies:
        path.write_bytes(videos["vp9"].read_bytes())
    data, file = dataset(train=[record(path) for path in copies]), tmp_path / "mine.csv"
    part = tmp_path / "mine.csv.3.part"
    seen: list[Path] = []

    def stops(path: Path, samples: int) -> Finding:
        seen.append(path)
        if len(seen) == 3:
            for _ in range(1000):  # until the first two are on disk
                if len(read(part)) == 2:
                    break
                time.sleep(0.01)
            raise KeyboardInterrupt
        return inspect(path, samples)

    monkeypatch.setattr(check, "inspect", stops)
    with pytest.raises(KeyboardInterrupt):
        check.check(data, file, 3, 1, lambda videos: lambda: None)
    assert not file.exists()
    monkeypatch.undo()
    seen[0].write_bytes(videos["h264"].read_bytes())  # changed meanwhile
    with part.open("a") as handle:
        handle.write("train,2,cut in the mid")
    begun: list[int] = []
    found = run(data, file, begun=begun)
    assert begun == [3] and len(found) == 4
    assert [f.bytes for f in found] == [path.stat().st_size for path in copies]
    run(data, file, begun=begun)
    assert begun == [3, 4]  # a finished check starts anew


def test_wrong_numbers_and_places(videos: dict[str, Path], tmp_path: Path) -> None:
    data = dataset(train=[record(videos["vp9"])])
    with pytest.raises(UserError, match="--samples 0 and --threads 2 must be 1 or more"):
        run(data, tmp_path / "x.csv", samples=0)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"can't write .*; set paths\.root"):
        run(data, tmp_path / "file" / "x.csv")


def test_runs_take_the_right_reader(videos: dict[str, Path], tmp_path: Path) -> None:
    data = dataset(train=[record(videos["vp9"]), record(videos["h264"])], val=[record(videos["vp9"])])
    file = tmp_path / "mine.csv"
    assert with_readers(data, file) is data
    found = run(data, file)
    assert with_readers(data, file) is data
    with file.open("w", newline="") as handle:
        check._write(handle, [replace(found[0], decoder="pyav"), replace(found[1], decoder="none")], header=True)
    changed = with_readers(data, file)
    assert [r.decoder for r in changed.splits["train"]] == ["pyav", None]
    assert changed.splits["val"][0].decoder is None  # the same id in another split is another record
    assert changed.fingerprint() != data.fingerprint()
    file.write_text("split,id\ntrain,vp9\n")
    with pytest.raises(UserError, match="is damaged; delete it and run mml check again"):
        with_readers(data, file)


def test_identical_files_in_several_splits(videos: dict[str, Path], tmp_path: Path) -> None:
    copy, tail = tmp_path / "copy.webm", tmp_path / "tail.webm"
    content = videos["vp9"].read_bytes()
    copy.write_bytes(content)
    tail.write_bytes(content[:-1] + b"\1")  # same size, other content
    train = [record(videos["vp9"]), record(videos["vp9"], id="again"), record(videos["h264"])]
    assert duplicates(dataset(train=train, test=[record(tail)])) == []
    groups = duplicates(dataset(train=train, test=[record(copy), record(tail)]))
    assert groups == [[("train", "vp9"), ("train", "again"), ("test", "copy")]]


def test_report(videos: dict[str, Path], tmp_path: Path) -> None:
    good, bad = record(videos["vp9"]), record(damaged("empty", videos["vp9"], tmp_path / "bad.webm"), 0)
    data = dataset(train=[good, bad, record(videos["single"])], val=[replace(good, id="copy")], test=[])
    lines = report(data, run(data, tmp_path / "mine.csv"))
    text = "\n".join(lines)
    assert lines[0] == "mine: 4 videos, 3 readable"
    assert "unreadable: 1 videos; repair or drop them; first train/bad (" in text
    assert "one frame: 1 videos; they have no flow" in text and "first train/single" in text
    assert "1 identical videos stand in several splits, first train/vp9 = val/copy" in text
    assert "size     64x48 (3)" in text and "frames   1 to 24, median 24" in text
    assert "train    3 videos, 2 classes of 0 to 3, median 1.5; 1 classes have none: b" in text
    assert not any(line.startswith("test") for line in lines) and "one right reader" not in text


# ------------------------------------------------------------------------------------------------ command


def write_index(folder: Path, videos: dict[str, Path], *names: str) -> Path:
    rows = [f"{videos[name]},{i % 2},{('train', 'val')[i % 2]}" for i, name in enumerate(names)]
    index = folder / "my videos.csv"
    index.write_text("\n".join(["path,label,split", *rows, ""]))
    return index


def test_command(videos: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = write_index(tmp_path, videos, "vp9", "h264", "moving", "single")
    words = ["data=csv", f"data.index='{index}'", f"paths.root={tmp_path / 'out'}"]
    assert main(["check", *words, "--samples", "2", "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("checking 4 videos of csv_my_videos with 1 threads\n")
    assert "csv_my_videos: 4 videos, 4 readable" in printed
    file = tmp_path / "out" / "check" / "csv_my_videos.csv"
    assert printed.endswith(f"wrote {file}\n") and len(read(file)) == 4


def test_command_exits_with_1_where_a_video_is_unreadable(
    videos: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = write_index(tmp_path, videos | {"bad": tmp_path / "gone.webm"}, "vp9", "bad")
    with pytest.raises(SystemExit) as caught:
        main(["check", "data=csv", f"data.index='{index}'", f"paths.root={tmp_path}"])
    assert caught.value.code == 1
    assert "unreadable: 1 videos" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=csv"], "data=csv needs data.index="),
        (["data=nothing"], "data/nothing"),
        (["data=ssv2"], "root"),
        (["data.what=1"], "data.what"),
        (["modality=[sound]"], "modality 'sound' is unknown"),
        (["=="], "=="),
    ],
)
def test_command_mistakes_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("mml: error: ") and message in said and said.count("\n") == 1


# ------------------------------------------------------------------------------------------------ real files


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "decoder"),
    [
        ("torchcodec/testsrc2_vp9.webm", ""),
        ("tiny-ucf101/abseiling_k400.mp4", ""),
        ("torchcodec/av1_video.mkv", "pyav"),
        ("torchcodec/discard_first_keyframe.mp4", "pyav"),
        ("torchcodec/h265_video.mp4", "pyav"),  # off by one, by less than two levels
        ("torchcodec/sine_stereo_mp2.mpg", "pyav"),
        ("mmaction2/test.wav", "none"),
    ],
)
def test_real_judgements(name: str, decoder: str) -> None:
    assert inspect(real(f"clips/{name}")).decoder == decoder
