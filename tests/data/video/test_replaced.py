"""Files that change while a run goes on: another size is another video, another time is said once."""

from __future__ import annotations

import csv
import os
import time
from pathlib import Path
from typing import Any

import pytest

from mml_lightning.config import data as config_data
from mml_lightning.config.compose import compose
from mml_lightning.data.records.readers import read_frame_lists
from mml_lightning.data.records.records import Dataset, Head, Record
from mml_lightning.data.video.media import MOST_IMAGES, ImageSequence
from mml_lightning.engine import train
from mml_lightning.utils.errors import UserError
from tests.data.check.test_check import write_images
from tests.data.videos import moving, record, write_video


def test_what_has_become_of_the_files_of_a_record(tmp_path: Path) -> None:
    """Records with one file, with the first and last of images, and with flow in pairs: each knows its own."""
    videos = [write_video(tmp_path / f"{n}.mp4", moving(4, n, 1, 64, 48)) for n in range(2)]
    images = write_images(tmp_path / "images", 5)
    pairs = [tmp_path / f"flow_{axis}_{n:05d}.jpg" for n in range(1, 4) for axis in "xy"]
    for path in pairs:
        path.write_bytes(b"image")
    flow = ImageSequence(tmp_path, "flow_{axis}_{:05d}.jpg", 3, layout="flow_pair")
    rows = [
        record(videos[0], id="a"),
        Record("b", {"frames": images, "flow": flow}, {"label": 0}),
        Record("c", {"frames": videos[1]}, {"label": 1}),
    ]
    data = Dataset("d", {"train": rows}, {"label": Head(("x", "y"))})
    seen = data.seen("train")
    assert seen is not None and data.seen("val") is None
    assert [seen.changes(index, row) for index, row in enumerate(rows)] == [(None, None)] * 3
    later = time.time() + 5
    os.utime(pairs[4], (later, later))
    assert [seen.changes(index, row)[1] for index, row in enumerate(rows)] == [None, str(pairs[4]), None]
    videos[1].write_bytes(videos[0].read_bytes() + b"more")
    replaced, _ = seen.changes(2, rows[2])
    assert replaced is not None and f"{videos[1]}: it had " in replaced and replaced.endswith("it was replaced")
    videos[0].unlink()
    assert seen.changes(0, rows[0]) == (None, None), "whoever reads it says that it is gone"


@pytest.fixture
def table(small: list[str], tmp_path: Path) -> list[str]:
    lines = ["id,path,label,split"]
    for n in range(16):
        file = write_video(tmp_path / "videos" / f"{n}.mp4", moving(6, n, 1, 64, 48))
        lines.append(f"v{n},{file},c{n % 2},{'train' if n < 8 else 'val' if n < 12 else 'test'}")
    (tmp_path / "videos.csv").write_text("\n".join(lines) + "\n")
    kept = [word for word in small if not word.startswith(("data.videos", "data.root", "data.workers"))]
    own = ["data=csv", f"data.index={tmp_path / 'videos.csv'}", "data.max_bad_share=0.5", *kept, "data.batch_size=4"]
    return [*own, f"paths.root={tmp_path}", f"paths.output_dir={tmp_path / 'run'}"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_replaced_video_is_named(
    hydra: None,
    table: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    workers: int,
) -> None:
    """Readable, and another one: in training a record takes its place, in a test it is not measured."""
    plain = config_data.loader_settings

    def replace(cfg: Any) -> Any:
        """After the fingerprint was taken."""
        for n in (3, 13):
            write_video(tmp_path / "videos" / f"{n}.mp4", moving(9, n + 1, 2, 80, 64))
        content = (tmp_path / "videos/5.mp4").read_bytes()
        (tmp_path / "videos/5.mp4").write_bytes(content)
        later = time.time() + 5
        os.utime(tmp_path / "videos/5.mp4", (later, later))
        return plain(cfg)

    monkeypatch.setattr(config_data, "loader_settings", replace)
    words = [*table, f"data.workers={workers}"]
    told = train.stage(compose("train", words), words)
    with (tmp_path / "run/quarantine.csv").open() as handle:
        named = {row["id"]: row["reason"] for row in csv.DictReader(handle)}
    assert set(named) == {"v3"} and "3.mp4: it had" in named["v3"]
    assert set(told["unreadable"]["test"]) == {"v13"} and "it was replaced" in told["unreadable"]["test"]["v13"]
    assert caplog.text.count("5.mp4 was modified after the run started") == 1


@pytest.mark.parametrize("count", [MOST_IMAGES + 1, 10**12])
def test_a_number_of_images_is_no_order_to_look_for_them(tmp_path: Path, count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} images in .*: more than"):
        ImageSequence(tmp_path, "{:05d}.jpg", count)
    (tmp_path / "train.txt").write_text(f"v {count} 0\n")
    with pytest.raises(UserError, match=r"line 1: .* is not `path num_frames label`"):
        read_frame_lists(
            "d", str(tmp_path), {"frames": {"folder": ".", "template": "{:05d}.jpg", "train": "train.txt"}}
        )
