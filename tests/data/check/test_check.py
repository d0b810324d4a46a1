"""`mml check`: what it finds out about videos and folders of images, and what it writes."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from mml_lightning.data import check
from mml_lightning.data.check import Finding, inspect, read, work
from mml_lightning.data.check.inspection import View, judge
from mml_lightning.data.records.records import Dataset, Head, Record
from mml_lightning.data.video.index_store import IndexStore
from mml_lightning.data.video.media import ImageSequence
from mml_lightning.utils.errors import UserError
from tests.data.videos import counted, damaged, real, record, write_video
from tests.patience import wait_for


def dataset(**splits: list[Record]) -> Dataset:
    return Dataset("mine", splits, {"label": Head(("a", "b"))})


def run(data: Dataset, file: Path, samples: int = 3, begun: list[int] | None = None) -> list[Finding]:
    def begin(videos: int) -> object:
        if begun is not None:
            begun.append(videos)
        return lambda: None

    return check.check(data, file, samples, 2, begin)  # type: ignore[arg-type]


def view(frames: list[int], order: list[int] | None = None, size: tuple[int, int] = (8, 6)) -> View:
    """A reader that shows grey levels `frames`."""
    pixels = {i: np.full((size[1], size[0], 3), level, dtype=np.uint8) for i, level in enumerate(frames)}
    return View(len(frames), size, 10.0, order or [1, 3], pixels)


# ------------------------------------------------------------------------------------------------ one video


def test_good_video(videos: dict[str, Path]) -> None:
    found = inspect(videos["vp9"])
    assert (found.frames_decord, found.frames_pyav, found.frames) == (24, 24, 24)
    assert (found.width, found.height, found.fps) == (64, 48, 12.0)
    assert (found.difference, found.decoder, found.problem) == (0.0, "", "")
    assert found.bytes == videos["vp9"].stat().st_size and found.state.startswith(f"{found.bytes}@")
    assert found.hashes == "- - - -"  # grey frames have no pattern


@pytest.mark.parametrize("kind", ["empty", "zeros", "text", None])
def test_unreadable_video(videos: dict[str, Path], tmp_path: Path, kind: str | None) -> None:
    path = damaged(kind, videos["vp9"], tmp_path / "x.webm") if kind else tmp_path / "gone.webm"
    found = inspect(path)
    assert found.decoder == check.UNREADABLE and str(path) in found.problem and found.frames == 0


def test_video_that_decord_can_not_open(tmp_path: Path) -> None:
    found = inspect(write_video(tmp_path / "one.webm", counted(1)))  # decord wants a duration
    assert (found.decoder, found.frames_decord, found.frames_pyav, found.problem) == ("", 1, 1, "")


RIGHT = view([10, 20, 30, 40, 50])


@pytest.mark.parametrize(
    ("decord", "expected"),
    [
        (view([10, 20, 30, 40, 50]), (0.0, "", "")),
        (view([12, 22, 32, 42, 52]), (2.0, "", "")),  # other rounding of colours
        (view([10, 20, 30, 44, 50]), (4.0, "pyav", "data.decoder=decord: frame 3 differs by 4.0 levels")),
        (view([10, 20, 30, 40]), (0.0, "pyav", "data.decoder=decord counts 4 frames, 5 decode")),
        (
            view([10, 20, 30, 40, 50], size=(6, 8)),
            (0.0, "pyav", "data.decoder=decord gives frames of (6, 8), a player of (8, 6)"),
        ),
    ],
)
def test_judgement(decord: View, expected: tuple[float | None, str, str]) -> None:
    assert judge({"decord": decord, "pyav": RIGHT}, {}, RIGHT) == expected


def test_misplaced_frames_of_a_slow_video_are_found() -> None:
    slow, late = view([10, 12, 14, 16, 18]), view([10, 10, 12, 14, 16])
    assert judge({"decord": late, "pyav": slow}, {}, slow) == (2.0, "pyav", "data.decoder=decord: frame 1 is frame 0")
    still = view([10] * 5)
    assert judge({"decord": still, "pyav": still}, {}, still) == (0.0, "", "")


def test_the_reader_that_works_is_chosen() -> None:
    assert judge({"decord": RIGHT}, {"pyav": "no"}, RIGHT) == (0.0, "decord", "no")
    assert judge({"pyav": RIGHT}, {}, RIGHT) == (0.0, "", "")  # decord is not installed


def test_two_readers_that_are_wrong_alike_are_no_good() -> None:
    late = view([10, 10, 20, 30, 40])
    difference, decoder, problem = judge({"decord": late, "pyav": late}, {}, RIGHT)
    assert (difference, decoder) == (10.0, "none") and problem == "data.decoder=decord: frame 1 differs by 10.0 levels"


# ------------------------------------------------------------------------------------------------ images


def write_images(folder: Path, count: int, layout: str = "rgb", listed: int | None = None) -> ImageSequence:
    folder.mkdir(parents=True)
    names = {"rgb": "img_{:05d}.png", "flow_pair": "{axis}_{:05d}.png", "flow_packed": "flow_{:05d}.png"}
    images = ImageSequence(folder, names[layout], listed or count, fps=12.0, layout=layout)  # type: ignore[arg-type]
    for index in range(count):
        for path in images.paths(index):
            assert cv2.imwrite(str(path), np.full((48, 64, 3), 20 + 5 * index, np.uint8))
    return images


@pytest.mark.parametrize("layout", ["rgb", "flow_pair", "flow_packed"])
def test_good_images(tmp_path: Path, layout: str) -> None:
    found = inspect(write_images(tmp_path / "v", 9, layout))
    assert (found.listed, found.images, found.frames, found.width, found.height, found.fps) == (9, 9, 9, 64, 48, 12.0)
    assert found.usable and not found.problem and bool(found.hashes) is (layout == "rgb")


def test_images_against_their_list(tmp_path: Path) -> None:
    longer = inspect(write_images(tmp_path / "longer", 9, listed=7))
    assert (longer.images, longer.frames, longer.decoder) == (7, 7, "")
    assert longer.problem.endswith("7 items are listed, 2 more exist")
    shorter = inspect(write_images(tmp_path / "shorter", 9, listed=11))
    assert not shorter.usable and shorter.problem.endswith("2 of 11 listed items are missing (no img_00010.png)")
    holed = write_images(tmp_path / "holed", 9, "flow_pair")
    holed.paths(4)[1].unlink()
    assert inspect(holed).problem.endswith("1 of 9 listed items are missing (no y_00005.png)")
    gone = inspect(ImageSequence(tmp_path / "gone", "img_{:05d}.png", 3))
    assert (
        not gone.usable
        and gone.state == ""
        and gone.problem.endswith("3 of 3 listed items are missing (no such folder)")
    )
    damaged_one = write_images(tmp_path / "damaged", 9)
    damaged_one.paths(8)[0].write_text("no image")
    assert inspect(damaged_one).problem.endswith("img_00009.png: it is not a readable image")


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
        assert next(csv.reader(handle))[:4] == ["split", "id", "source", "path"]


def test_interrupted_check_continues(videos: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = [tmp_path / f"{i}.webm" for i in range(4)]
    for path in copies:
        path.write_bytes(videos["vp9"].read_bytes())
    data, file = dataset(train=[record(path) for path in copies]), tmp_path / "mine.csv"
    seen: list[Path] = []

    def stops(path: Path, samples: int, indexes: IndexStore) -> Finding:
        seen.append(path)
        if len(seen) == 3:
            part = next(tmp_path.glob("mine.csv.3.*.part"))
            wait_for(lambda: len(read(part)) == 2, "two findings on the disk")
            raise KeyboardInterrupt
        return inspect(path, samples)

    monkeypatch.setattr(work, "inspect", stops)
    with pytest.raises(KeyboardInterrupt):
        check.check(data, file, 3, 1, lambda videos: lambda: None)
    assert not file.exists()
    monkeypatch.undo()
    part = next(tmp_path.glob("mine.csv.3.*.part"))
    seen[0].write_bytes(videos["h264"].read_bytes())  # changed meanwhile
    seen[1].touch()  # written again: another state even if its size is the same
    with part.open("a") as handle:
        handle.write("train,2,cut in the mid")
    begun: list[int] = []
    found = run(data, file, begun=begun)
    assert begun == [4] and len(found) == 4
    assert [f.bytes for f in found] == [path.stat().st_size for path in copies]
    run(data, file, begun=begun)
    assert begun == [4, 4]  # a finished check starts anew
    assert not list(tmp_path.glob("*.part"))


def test_checks_at_a_time_don_t_disturb_each_other(
    videos: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second one goes from start to end while the first inspects its last video; then the first is cut off."""
    data, file = dataset(train=[record(videos["vp9"]), record(videos["h264"])]), tmp_path / "mine.csv"
    whole: list[list[Finding]] = []

    def late(path: Path, samples: int, indexes: IndexStore) -> Finding:
        if path == videos["h264"]:
            monkeypatch.undo()
            whole.append(run(data, file))
            raise KeyboardInterrupt
        return inspect(path, samples)

    monkeypatch.setattr(work, "inspect", late)
    with pytest.raises(KeyboardInterrupt):
        check.check(data, file, 3, 1, lambda videos: lambda: None)
    assert read(file) == whole[0]
    begun: list[int] = []
    assert run(data, file, begun=begun) == whole[0] and begun == [1], "what the first has found is taken over"
    assert not list(tmp_path.glob("*.part"))


def test_wrong_numbers_and_places(videos: dict[str, Path], tmp_path: Path) -> None:
    data = dataset(train=[record(videos["vp9"])])
    with pytest.raises(UserError, match="--samples 0 and --threads 2 must be 1 or more"):
        run(data, tmp_path / "x.csv", samples=0)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"can't write .*; set paths\.root"):
        run(data, tmp_path / "file" / "x.csv")


def test_what_is_as_it_was_is_taken_over(videos: dict[str, Path], tmp_path: Path) -> None:
    images = write_images(tmp_path / "v", 5)
    data = dataset(
        train=[
            record(videos["vp9"]),
            record(videos["h264"], span=(0.5, 1.0)),
            Record("v", {"frames": images}, {"label": 0}),
        ]
    )
    file = tmp_path / "mine.csv"
    first = run(data, file)
    file.rename(tmp_path / "mine.csv.3.part")
    begun: list[int] = []
    assert run(data, file, begun=begun) == first and begun == [0]
    file.rename(tmp_path / "mine.csv.3.part")
    images.paths(2)[0].unlink()
    moved = replace(data.splits["train"][1], span=(5.0, 6.0))
    later = run(dataset(train=[data.splits["train"][0], moved, data.splits["train"][2]]), file, begun=begun)
    assert begun == [0, 1]
    assert [f.usable for f in later] == [True, False, False]


def test_span_past_the_end(videos: dict[str, Path], tmp_path: Path) -> None:
    whole = record(videos["vp9"], id="whole", span=(1.9, 9.0))
    past = record(videos["vp9"], id="past", span=(2.0, 9.0))
    found = run(dataset(train=[whole, past]), tmp_path / "mine.csv")
    assert [f.decoder for f in found] == ["", "none"]
    assert found[1].problem == f"{videos['vp9']}: the span starts at 2 s, the video ends at 2.00 s"


def test_every_source_has_a_line(videos: dict[str, Path], tmp_path: Path) -> None:
    flow = write_images(tmp_path / "flow", 23, "flow_pair")
    data = dataset(train=[Record("v", {"frames": videos["vp9"], "flow": flow}, {"label": 0})])
    found = run(data, tmp_path / "mine.csv")
    assert [(f.key, f.frames) for f in found] == [(("train", "v", "flow"), 23), (("train", "v", "frames"), 24)]
    assert read(tmp_path / "mine.csv") == found


# ------------------------------------------------------------------------------------------------ real files


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "decoder"),
    [
        ("torchcodec/testsrc2_vp9.webm", ""),
        ("tiny-ucf101/abseiling_k400.mp4", ""),
        ("torchcodec/av1_video.mkv", ""),
        ("torchcodec/discard_first_keyframe.mp4", ""),
        ("torchcodec/h265_video.mp4", ""),
        ("torchcodec/sine_stereo_mp2.mpg", ""),
        ("decord/video_180.mov", ""),
        ("mmaction2/test.wav", "none"),
    ],
)
def test_real_judgements(name: str, decoder: str) -> None:
    assert inspect(real(f"clips/{name}")).decoder == decoder
