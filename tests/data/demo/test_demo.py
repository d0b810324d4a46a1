"""The embedded demo: same bytes every time, fixes itself, and a single frame does not know its class."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from mml_lightning.data.demo import CLASSES, LEFT_RIGHT, generate, prepare_demo, worker
from mml_lightning.data.demo.render import SPRITE, Palette, Pose, background, draw, poses, render
from mml_lightning.data.demo.scenes import GAP, MOTIONS, SIZE, SPLITS, Video, X, Y, plan
from mml_lightning.data.demo.shapes import SHAPES
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.files import temporary_name

SMALL = {"train": 20, "val": 10, "test": 10}

#: sha256 of the rendered frames (no encoder involved) of four videos of the default dataset.
GOLDEN = {
    "1": "383e506a4089e41214f8dfbd8d67325e0e492143c6598c7d53d681b8cd7b81b1",
    "8": "0ec9ecafbcb7a9d4b7b86304071618a58c245f232a0a0f6086f9915d935ad574",
    "601": "1e3f30c53e3be75442bc71298c1ccecbd64df920c923a21a85f5c0ade3f6d4fa",
    "1000": "399363fd5c5141c981369cadd70485107a034639c03ba35f17634c7b92789c2d",
}


def contents(root: Path) -> dict[str, bytes]:
    """Every file of a dataset but the lock."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.name != ".lock"}


def small(root: Path, **changes: int) -> Path:
    return prepare_demo(root, **{**SMALL, **changes}, progress=False)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def pristine(demo: Path) -> dict[str, bytes]:
    return contents(demo)


def files(root: Path) -> list[dict]:
    return json.loads((root / "manifest.json").read_text())["files"]


# ------------------------------------------------------------------------------------------------ determinism


@pytest.mark.parametrize("video_id", GOLDEN)
def test_rendered_frames_are_golden(video_id: str) -> None:
    video = next(v for v in plan(0, 600, 150, 250) if v.id == video_id)
    frames = render(video)
    assert frames.shape == (video.frames, video.height, video.width, 3) and frames.dtype == np.uint8
    assert hashlib.sha256(frames.tobytes()).hexdigest() == GOLDEN[video_id]


def test_again_elsewhere_gives_the_same_bytes(pristine: dict[str, bytes], tmp_path: Path) -> None:
    assert contents(small(tmp_path)) == pristine


@pytest.mark.parametrize(("cores", "most", "processes"), [(3, 8, 3), (64, 2, 2)])
def test_worker_processes_one_per_core_make_the_same_bytes(
    pristine: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, most: int, processes: int
) -> None:
    started: list[int] = []
    run = generate._from_processes

    def counted(*args: Any) -> Iterator[dict[str, Any]]:
        started.append(args[-1])
        return run(*args)

    monkeypatch.setattr(generate, "_from_processes", counted)
    monkeypatch.setattr(generate, "cores", lambda: cores)
    monkeypatch.setattr(generate, "MOST", most)
    monkeypatch.setattr(generate, "IN_PROCESS", 0)
    monkeypatch.setattr(worker, "make", lambda *_: pytest.fail("nothing is left for this process"))
    assert contents(small(tmp_path)) == pristine and started == [processes]


def test_without_working_processes_the_videos_are_made_here(
    pristine: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "IN_PROCESS", 0)
    monkeypatch.setattr(generate, "cores", lambda: 2)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert contents(small(tmp_path)) == pristine


def test_another_seed_gives_other_videos(pristine: dict[str, bytes], tmp_path: Path) -> None:
    other = contents(small(tmp_path, seed=1))
    videos = {data for name, data in pristine.items() if name.startswith("videos")}
    assert not videos & set(other.values())


def test_importing_the_generator_loads_no_torch() -> None:
    heavy = "{'torch', 'lightning', 'pytorch_lightning'}"
    code = f"import sys, mml_lightning.data.demo.generate; assert not {heavy} & sys.modules.keys()"
    root = str(Path(generate.__file__).resolve().parents[3])
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": root})


# ------------------------------------------------------------------------------------------------ second starts


def test_second_run_writes_nothing(demo: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in demo.rglob("*") if p.name != ".lock" and p.is_file()}
    assert small(demo) == demo
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_interrupted_generation_is_continued(
    pristine: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    real = worker.make

    def interrupted(video: Video, folder: Path) -> dict:
        if len(made) == 15:
            raise KeyboardInterrupt
        made.append(video.name)
        return real(video, folder)

    monkeypatch.setattr(worker, "make", interrupted)
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path)
    assert not (tmp_path / "manifest.json").exists()
    temporary_name(tmp_path / "videos" / "39.mp4").write_bytes(b"half a file")
    (tmp_path / "videos" / made[3]).unlink()
    journal = tmp_path / "manifest.partial.jsonl"
    journal.write_text(journal.read_text()[:-20])

    again: list[str] = []
    monkeypatch.setattr(worker, "make", lambda v, folder: again.append(v.name) or real(v, folder))
    assert contents(small(tmp_path)) == pristine
    assert len(again) == 40 - 15 + 2  # the deleted file and the one whose journal line was cut are made again


def test_damaged_and_missing_files_are_mended(
    pristine: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small(tmp_path)
    names = sorted(p for p in pristine if p.startswith("videos"))
    first = bytearray(pristine[names[0]])
    first[len(first) // 2] ^= 1  # same size, one bit off
    (tmp_path / names[0]).write_bytes(bytes(first))
    (tmp_path / names[1]).write_bytes(pristine[names[1]][:100])
    (tmp_path / names[2]).unlink()
    (tmp_path / "annotations" / "train.json").unlink()
    with caplog.at_level(logging.WARNING):
        small(tmp_path)
    assert contents(tmp_path) == pristine
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1 and "3 of 40" in warnings[0] and Path(names[0]).name in warnings[0]


def test_other_parameters_are_refused_with_the_fix(demo: Path) -> None:
    with pytest.raises(UserError, match=r"train=20.*not.*train=21.*data\.root="):
        small(demo, train=21)


def test_a_whole_demo_of_an_older_encoding_is_used_and_a_damaged_one_is_not_mixed(demo: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(demo, old)
    manifest = old / "manifest.json"
    manifest.write_text(manifest.read_text().replace(f'"version": {generate.VERSION}', '"version": 1'))
    before = contents(old)
    assert contents(small(old)) == before
    next((old / "videos").iterdir()).unlink()
    with pytest.raises(UserError, match=rf"version=1.*not version={generate.VERSION}.*data\.root="):
        small(old)
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 0'))
    with pytest.raises(UserError, match="version=0"):
        small(old)


def test_foreign_videos_are_not_adopted(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "1.webm").write_bytes(b"mine")
    with pytest.raises(UserError, match="empty folder"):
        small(tmp_path)
    assert (tmp_path / "videos" / "1.webm").read_bytes() == b"mine"


def test_two_starts_at_once_share_one_generation(pristine: dict[str, bytes], tmp_path: Path) -> None:
    code = (
        "import logging, pathlib, sys\n"
        "logging.basicConfig(level=logging.INFO, stream=sys.stdout)\n"
        "from mml_lightning.data.demo import prepare_demo\n"
        "prepare_demo(pathlib.Path(sys.argv[1]), train=20, val=10, test=10, progress=False)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(generate.__file__).resolve().parents[3])}
    command = [sys.executable, "-c", code, str(tmp_path)]
    runs = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert sum("generating 40 videos" in text for text in said) == 1
    assert contents(tmp_path) == pristine


# ------------------------------------------------------------------------------------------------ what is in it


def test_files_decode_to_what_the_manifest_says(demo: Path) -> None:
    for entry in files(demo):
        with av.open(str(demo / "videos" / entry["file"])) as media:
            stream = media.streams.video[0]
            assert (stream.codec_context.width, stream.codec_context.height) == (entry["width"], entry["height"])
            assert stream.codec_context.name in {"vp9": ("vp9", "libvpx-vp9"), "h264": ("h264",)}[entry["codec"]]
            assert float(stream.average_rate) == pytest.approx(entry["fps"], rel=0.02)
            assert bool(media.streams.audio) == entry["audio"]
            frames = sum(1 for _ in media.decode(stream))
        assert frames == entry["frames"], entry["file"]


def test_decoded_pictures_are_the_rendered_ones(demo: Path) -> None:
    for video in plan(0, 20, 10, 10)[:6]:
        with av.open(str(demo / "videos" / video.name)) as media:
            decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in media.decode(video=0)])
        assert np.abs(decoded.astype(int) - render(video)).mean() < 12


def test_formats_vary(demo: Path) -> None:
    entries = files(demo)
    assert {e["codec"] for e in entries} == {"vp9", "h264"}
    assert {Path(e["file"]).suffix for e in entries} == {".webm", ".mp4"}
    assert len({e["fps"] for e in entries}) >= 4
    assert len({(e["width"], e["height"]) for e in entries}) >= 20
    assert all(e["width"] % 2 == e["height"] % 2 == 0 for e in entries)
    assert 0.7 < np.mean([e["audio"] for e in entries]) < 1
    assert {5} < {e["frames"] for e in entries} and max(e["frames"] for e in entries) > 35
    for split in SPLITS:
        assert 5 in {e["frames"] for e in entries if e["split"] == split}


def test_annotations_have_the_form_of_ssv2(demo: Path) -> None:
    def read(name: str):
        return json.loads((demo / "annotations" / name).read_text())

    labels = read("labels.json")
    assert labels == {name: str(i) for i, name in enumerate(CLASSES)}
    by_id = {Path(e["file"]).stem: e for e in files(demo)}
    assert len(by_id) == 40
    for split, count in (("train", 20), ("validation", 10)):
        entries = read(f"{split}.json")
        assert len(entries) == count
        for entry in entries:
            assert set(entry) == {"id", "label", "template", "placeholders"}
            plain = entry["template"].replace("[", "").replace("]", "")
            assert int(labels[plain]) == by_id[entry["id"]]["labels"][0] and by_id[entry["id"]]["split"] == split
            assert entry["template"].count("[something]") == 2 == len(entry["placeholders"])
            assert all(thing.lower() in entry["label"] for thing in entry["placeholders"])
    answers = dict(line.split(";") for line in (demo / "annotations" / "test-answers.csv").read_text().splitlines())
    assert [e["id"] for e in read("test.json")] == list(answers) and len(answers) == 10
    assert all(int(labels[text]) == by_id[video]["labels"][0] for video, text in answers.items())


@pytest.mark.parametrize("sizes", [(600, 150, 250), (20, 10, 10)])
def test_classes_are_balanced(sizes: tuple[int, int, int]) -> None:
    videos = plan(0, *sizes)
    assert len({v.id for v in videos}) == sum(sizes)
    for split, count in zip(SPLITS, sizes, strict=True):
        labels = [label for v in videos for label in v.labels if v.split == split]
        assert Counter(labels) == {k: count // 10 for k in range(len(CLASSES))}


# ----------------------------------------------------------------------------------------- no leaks, no overlap


def test_splits_share_no_shape_and_no_background() -> None:
    names = [set(SHAPES[split]) for split in SPLITS]
    outlines = [set(SHAPES[split].values()) for split in SPLITS]
    for group in (names, outlines):
        assert sum(map(len, group)) == len(set().union(*group))
    videos = plan(0, 600, 150, 250)
    assert all(set(v.things) <= set(SHAPES[v.split]) and len(set(v.things)) == 2 for v in videos)
    assert len({v.entropy for v in videos}) == len(videos)
    grounds = set()
    for video in videos[::5]:
        rng = np.random.default_rng([*video.entropy, 1])
        grounds.add(background(rng, Palette.draw(rng), 64, 64).tobytes())
    assert len(grounds) == len(videos[::5])


@pytest.mark.parametrize("moment", [0.0, 0.5, 1.0])
def test_state_of_any_frame_is_distributed_alike_in_all_classes(moment: float) -> None:
    """Two-sample Kolmogorov-Smirnov distances between classes stay below the 0.1 % critical value."""
    count = 400
    by_class: list[np.ndarray] = []
    for label in range(len(CLASSES)):
        rows = []
        for i in range(count):
            video = Video("0", "train", (label,), ("a flag", "a fish"), (7, label, i), "vp9", 112, 88, 25, 32, False)
            a, b = (path[round(moment * 31)] for path in poses(np.random.default_rng([*video.entropy, 1]), video))
            gap = math.hypot(a.x - b.x, a.y - b.y)
            rows.append(((a.x + b.x) / 2, (a.y + b.y) / 2, a.radius * b.radius, a.angle % 360, gap, a.opacity))
        by_class.append(np.sort(np.array(rows), axis=0))
    critical = 2.3 * math.sqrt(2 / count)  # 5e-5 per comparison, 810 of them
    for quantity in range(6):
        for p in range(len(CLASSES)):
            for q in range(p):
                a, b = by_class[p][:, quantity], by_class[q][:, quantity]
                grid = np.concatenate((a, b))
                gaps = np.searchsorted(a, grid, "right") - np.searchsorted(b, grid, "right")
                assert np.abs(gaps).max() / count < critical, (quantity, CLASSES[p], CLASSES[q])


def test_things_move_as_their_class_says() -> None:
    """Between two frames of one life the class's own quantity grows or shrinks and the others stay."""
    for label, (dimension, direction) in enumerate(MOTIONS):
        video = Video("0", "train", (label,), ("a flag", "a fish"), (3, 0, label), "vp9", 112, 88, 25, 32, False)
        first, second = poses(np.random.default_rng([*video.entropy, 1]), video)
        changes = np.array(
            [
                (
                    (a1.x + b1.x) - (a0.x + b0.x),
                    (a1.y + b1.y) - (a0.y + b0.y),
                    a1.radius - a0.radius,
                    a1.angle - a0.angle,
                    math.hypot(a1.x - b1.x, a1.y - b1.y) - math.hypot(a0.x - b0.x, a0.y - b0.y),
                )
                for a0, b0, a1, b1 in zip(first, second, first[1:], second[1:], strict=False)
            ]
        )
        still = np.delete(changes, dimension, axis=1)
        assert np.abs(still).max() < 1e-9
        forward = np.sign(changes[:, dimension]) == direction
        assert forward.sum() >= len(changes) - 2  # at most two rebirths in 32 frames


def test_mirror_swaps_sideways_and_turning_classes() -> None:
    assert sorted(LEFT_RIGHT) == list(range(len(CLASSES)))
    assert all(LEFT_RIGHT[LEFT_RIGHT[k]] == k for k in LEFT_RIGHT)
    swapped = {k for k, v in LEFT_RIGHT.items() if k != v}
    words = (" left", " right", "clockwise")
    assert swapped == {k for k, name in enumerate(CLASSES) if any(word in name for word in words)}
    assert {MOTIONS[k][0] for k in LEFT_RIGHT if k not in swapped} == {Y, SIZE, GAP} and MOTIONS[0][0] == X


def test_positive_angles_turn_clockwise_on_screen() -> None:
    """A sprite whose right half is bright, turned by +90 degrees, is bright at the bottom (y points down)."""
    image = np.zeros((SPRITE, SPRITE, 4), np.uint16)
    image[:, SPRITE // 2 :, :3] = 255
    image[..., 3] = 256
    frame = np.zeros((40, 40, 3), np.uint8)
    draw(frame, image, Pose(20.0, 20.0, 8.0, 90.0, 1.0))
    assert frame[25, 20, 0] == 255 and frame[15, 20, 0] == 0
