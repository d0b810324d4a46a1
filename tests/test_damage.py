"""A tenth of the videos damaged in a dozen ways while a run goes on: it finishes, every sample is of one record, what
can't be read is counted and named exactly, nothing hangs.

A video carries its number in its pixels: eight rows of light or dark bars, read from the RGB clip. Its pattern moves
sideways at a speed that its number decides, read from the flow clip. Its label is a third function of the number.
"""

from __future__ import annotations

import csv
import json
import os
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mml_lightning.config import data as config_data
from mml_lightning.config.compose import compose
from mml_lightning.data.flow.cache import FlowCache
from mml_lightning.engine import evaluate, flow, train
from mml_lightning.training.cohort import Cohort
from tests.data.videos import damaged, texture, write_sound, write_video

SIDE, FRAMES, CLASSES, SPEEDS = 64, 8, 5, (-3, 0, 3)
SPLITS = {"train": range(120), "val": range(120, 130), "test": range(130, 150)}


def pixels(number: int, frames: int = FRAMES) -> list[np.ndarray]:
    bars = np.repeat([(200 if number >> bit & 1 else 60) for bit in range(8)], SIDE // 8)[:, None, None]
    pattern = (texture(SIDE, SIDE, number).astype(int) - 128) // 4
    speed = SPEEDS[number % 3]
    return [np.clip(bars + np.roll(pattern, speed * i, axis=1), 0, 255).astype(np.uint8) for i in range(frames)]


def number_of(clip: Any) -> int:
    """From RGB [V, T, 3, H, W]."""
    rows = clip.float().mean(dim=(0, 1, 2, 4)).unflatten(0, (8, -1))[:, 1:-1].mean(dim=1)
    return sum(1 << bit for bit, level in enumerate(rows.tolist()) if level > 130)


def speed_of(clip: Any) -> int:
    """From flow [V, T, L * 2, H, W]: which of SPEEDS, as its place."""
    level = clip.float().unflatten(2, (-1, 2))[:, :, :, 0, 8:-8, 8:-8].mean().item()
    return 0 if level < 120 else 2 if level > 136 else 1


def corrupt(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle - 40 : middle + 40] = bytes(80)
    path.write_bytes(content)


def archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("video.mp4", b"not here")


def replaced(path: Path, do: Callable[[Path], object]) -> None:
    path.unlink()
    do(path)


DAMAGE: dict[str, Callable[[Path, int], object]] = {
    "truncated": lambda path, n: damaged("truncated", path, path),
    "no byte": lambda path, n: damaged("empty", path, path),
    "zeros": lambda path, n: damaged("zeros", path, path),
    "a page that says 404": lambda path, n: damaged("text", path, path),
    "another container": lambda path, n: archive(path),
    "sound only": lambda path, n: write_sound(path),
    "one frame": lambda path, n: write_video(path, pixels(n, 1)),
    "a directory": lambda path, n: replaced(path, Path.mkdir),
    "a link to nothing": lambda path, n: replaced(path, lambda p: p.symlink_to(p.with_name("nowhere.mp4"))),
    "gone": lambda path, n: path.unlink(),
    "no permission": lambda path, n: path.chmod(0) if os.geteuid() else path.unlink(),
    "damaged in the middle": lambda path, n: corrupt(path),
    "another frame rate": lambda path, n: write_video(path, pixels(n), fps=5),  # readable, and another video
}
EITHER = ("damaged in the middle",)  # what a decoder makes of it, it makes of it each time


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damage")
    lines = ["id,path,label,split"]
    for split, numbers in SPLITS.items():
        for n in numbers:
            write_video(folder / f"{n}.mp4", pixels(n))
            lines.append(f"v{n:03d},{n}.mp4,c{n % CLASSES},{split}")
    (folder / "videos.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_a_tenth_of_the_videos_is_damaged(
    hydra: None, small: list[str], videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = np.random.default_rng(0).permutation(120)[:12].tolist()
    kinds = dict(zip(numbers, list(DAMAGE)[:12], strict=True)) | {131: "truncated", 137: "sound only", 149: "gone"}
    kinds |= {int(np.setdiff1d(np.arange(120), numbers)[0]): "another frame rate"}
    flowless = int(np.setdiff1d(np.arange(120), list(kinds))[0])
    makes_sets, fills = config_data.clip_datasets, flow.flow_filler

    def damage_after_the_checks(cfg: Any, data: Any, *rest: Any) -> Any:
        """Files go bad while a run goes on: what is missing when it starts ends it there."""
        for n, kind in kinds.items() if not cfg.measures_only else ():
            DAMAGE[kind](videos / f"{n}.mp4", n)
        return makes_sets(cfg, data, *rest)

    def lose_flow(cache: FlowCache, datasets: Any, workers: int) -> Any:
        def fill() -> None:
            fills(cache, datasets, workers)()
            for record in datasets["train"].records if "train" in datasets else ():
                if record.id == f"v{flowless:03d}":
                    cache.path(record).unlink()

        return fill

    seen: list[tuple[str, int]] = []
    step, collect = Cohort.training_step, Cohort._collect

    def check(self: Cohort, batch: Any) -> None:
        """Inside of the run: what every network is about to see."""
        for row, video in enumerate(batch["id"]):
            number = int(video[1:])
            seen.append((video, self.trainer.current_epoch if self.trainer.training else -1))
            assert batch["target"]["label"][row] == number % CLASSES
            assert all(present[row] for present in batch["present"].values())
            if kinds.get(number) in EITHER:  # its pixels are what is left of them
                continue
            assert number_of(batch["clips"]["rgb"][row]) == number
            assert speed_of(batch["clips"]["flow"][row]) == number % 3, number

    def training_step(self: Cohort, batch: Any, batch_idx: int) -> Any:
        check(self, batch)
        return step(self, batch, batch_idx)

    def collect_checked(self: Cohort, batch: Any) -> None:
        check(self, batch) if batch["id"] else None
        collect(self, batch)

    monkeypatch.setattr(config_data, "clip_datasets", damage_after_the_checks)
    monkeypatch.setattr(flow, "flow_filler", lose_flow)
    monkeypatch.setattr(train, "flow_filler", lose_flow)
    monkeypatch.setattr(Cohort, "training_step", training_step)
    monkeypatch.setattr(Cohort, "_collect", collect_checked)
    kept = [word for word in small if not word.startswith(("data.videos", "data.root", "data.workers", "transforms"))]
    own = [
        *("data=csv", f"data.index={videos / 'videos.csv'}", *kept, "data.workers=2", "data.max_bad_share=0.2"),
        *("stage=mml", "modality=[rgb,flow]", "sampling.num_segments=2", "transforms.scales=[1]"),
        *("transforms.output=64", "transforms.short_side=64", f"paths.root={tmp_path}", "loading.timeout=600"),
    ]
    own = [word for word in own if not word.startswith("paths.cache")]
    words = [*own, f"paths.output_dir={tmp_path / 'run'}"]
    told = train.stage(compose("train", words), words)
    assert told["status"] == "completed"

    with (tmp_path / "run" / "quarantine.csv").open() as handle:
        named = {row["id"]: row["reason"] for row in csv.DictReader(handle)}
    bad = {f"v{n:03d}": kind for n, kind in kinds.items() if n < 120}
    certain = {video for video, kind in bad.items() if kind not in EITHER}
    assert certain <= set(named) <= set(bad), "exactly the damaged ones, with their reasons"
    assert all("\n" not in reason and f"{int(video[1:])}.mp4" in reason for video, reason in named.items())
    for epoch in (0, 1):
        videos_seen = Counter(video for video, when in seen if when == epoch)
        assert sum(videos_seen.values()) == 120, "every place of every batch is filled"
        assert not set(videos_seen) & set(named)
        whole = {f"v{n:03d}" for n in range(120)} - set(named)
        assert set(videos_seen) == whole, "each readable video is there, the lost flow's too"
        assert sum(videos_seen.values()) - len(videos_seen) == len(named), "and one more for each that is not"

    missing = {"v131", "v137", "v149"}
    assert set(told["unreadable"]["test"]) == missing and told["measured"]["test"] == {"videos": 17, "of": 20}
    assert told["unreadable"]["val"] == {} and told["measured"]["val"] == {"videos": 10, "of": 10}
    with np.load(tmp_path / "run" / "predictions" / "test.npz") as saved:
        assert sorted(saved["ids"].tolist()) == sorted({f"v{n:03d}" for n in SPLITS["test"]} - missing)

    # measured again by itself, which does not start while a file is missing
    (videos / "149.mp4").write_bytes(b"")
    words = [*own, f"ckpt={tmp_path / 'run'}", "name=again", f"paths.output_dir={tmp_path / 'again'}"]
    again = evaluate.evaluate(compose("eval", words), words)
    assert set(again["unreadable"]["test"]) == missing and again["metrics"]["test"] == told["metrics"]["test"]
    assert json.loads((tmp_path / "again" / "result.json").read_text())["measured"]["test"] == {"videos": 17, "of": 20}
