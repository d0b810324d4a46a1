"""Tiny datasets in the forms that users have, good until a test damages them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np

from tests.data.videos import moving, write_video

VIDEOS, FRAMES = 12, 6  # 8 to train, 2 to validate, 2 to test
SPLITS = {"train": range(8), "val": range(8, 10), "test": range(10, 12)}
CLASSES = ("Closing [something]", "Opening [something]")


def make_clips(folder: Path) -> Path:
    """0.mp4 to 11.mp4, six frames at 12 per second each."""
    for number in range(VIDEOS):
        write_video(folder / f"{number}.mp4", moving(FRAMES, 1 + number % 3, 1 + number // 3))
    return folder


def _copy(clips: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    for number in range(VIDEOS):
        (folder / f"{number}.mp4").write_bytes((clips / f"{number}.mp4").read_bytes())


def ssv2(root: Path, clips: Path) -> Path:
    """annotations/ and videos/ as Something-Something V2 has them."""
    _copy(clips, root / "videos")
    plain = [name.replace("[", "").replace("]", "") for name in CLASSES]
    write_json(root / "annotations" / "labels.json", {name: str(k) for k, name in enumerate(plain)})
    for split, file in (("train", "train.json"), ("val", "validation.json")):
        rows = [{"id": str(n), "template": CLASSES[n % 2]} for n in SPLITS[split]]
        write_json(root / "annotations" / file, rows)
    answers = "".join(f"{n};{plain[n % 2]}\n" for n in SPLITS["test"])
    (root / "annotations" / "test-answers.csv").write_text(answers)
    return root


def table(root: Path, clips: Path, *more: str) -> Path:
    """videos.csv with the columns id, path, label and split, and `more`, empty."""
    _copy(clips, root / "videos")
    lines = [",".join(["id", "path", "label", "split", *more])]
    for split, numbers in SPLITS.items():
        lines += [",".join([f"v{n}", f"videos/{n}.mp4", f"class{n % 2}", split, *("" for _ in more)]) for n in numbers]
    (root / "videos.csv").write_text("\n".join(lines) + "\n")
    return root / "videos.csv"


def frame_lists(root: Path) -> Path:
    """images/v0 … with img_00001.jpg …, flow/v0 … with x and y images, and the lists of both."""
    for split, numbers in SPLITS.items():
        frames, flow = [], []
        for n in numbers:
            write_images(root / "images" / f"v{n}", "img_{:05d}.jpg", FRAMES)
            for axis in "xy":
                write_images(root / "flow" / f"v{n}", f"flow_{axis}_{{:05d}}.jpg", FRAMES - 1)
            frames.append(f"v{n} {FRAMES} {n % 2}\n")
            flow.append(f"v{n} {FRAMES - 1} {n % 2}\n")
        (root / f"{split}.txt").write_text("".join(frames))
        (root / f"{split}_flow.txt").write_text("".join(flow))
    return root


def charades(root: Path) -> Path:
    """The official lists and folders of images of three classes."""
    (root / "Charades_v1_rgb").mkdir(parents=True)
    (root / "Charades_v1_classes.txt").write_text("c000 Holding\nc001 Opening\nc002 Closing\n")
    for file, numbers in (("train", range(8)), ("test", range(8, 12))):
        lines = ["id,actions"]
        for n in numbers:
            write_images(root / "Charades_v1_rgb" / f"V{n:04d}", f"V{n:04d}-{{:06d}}.jpg", FRAMES)
            lines.append(f"V{n:04d},c00{n % 3} 0.00 0.20")
        (root / f"Charades_v1_{file}.csv").write_text("\n".join(lines) + "\n")
    return root


def write_images(folder: Path, template: str, count: int, size: tuple[int, int] = (64, 48)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        pixels = np.full((size[1], size[0], 3), (hash_of(folder) + 9 * number) % 256, np.uint8)
        assert cv2.imwrite(str(folder / template.format(number)), pixels)


def hash_of(folder: Path) -> int:
    """A grey level that differs from folder to folder, the same in every process."""
    return sum(os.fsencode(folder.name))


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def edit(path: Path, old: str, new: str) -> None:
    """Replace one occurrence in a text file."""
    text = path.read_text()
    assert old in text, f"{old!r} is not in {path}"
    path.write_text(text.replace(old, new, 1))
