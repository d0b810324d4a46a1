"""The ways of reading that `mml bench data` compares: all of them give the same clip."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mml_lightning.cli import main
from mml_lightning.data import data_bench
from mml_lightning.data.data_bench_files import PACKS, SIZE, make_clips
from mml_lightning.transforms import Crop

FRAMES = 14


def test_every_way_reads_the_same_clip(tmp_path: Path) -> None:
    (clip,) = make_clips(tmp_path, 1, FRAMES)
    ways = data_bench.ways()
    assert {"OpenCV, loose JPEG", "pyav, video + flow cache", *PACKS} <= set(ways)
    at, pairs = [0, 5, 12], [0, 1, 6, 12]
    crop = Crop(100, 30, 180, 160, SIZE, (224, 224))
    samples = {}
    for name, way in ways.items():
        frames, flow = way.read(clip, at, pairs, crop)
        samples[name] = [way.crop(frames, crop).float(), way.crop(flow, crop).float().reshape(4, 2, 224, 224)]
    true = samples["OpenCV, loose JPEG"]
    for name, (frames, flow) in samples.items():
        assert frames.shape == (3, 3, 224, 224)
        assert (frames - true[0]).abs().mean() < 5, name
        assert (flow - true[1]).abs().mean() < 2, name
    for one, other in zip(samples["pack"], samples["pack, pictures decoded whole"], strict=True):
        assert torch.equal(one, other), "a part is what the whole has there"
    assert (true[0][0] - true[0][1]).abs().mean() > 7, "frames differ by more than their encodings"
    assert (true[1][0] - true[1][2]).abs().mean() > 2, "so do their flows"


def test_rows_and_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bench.json"
    assert main(["bench", "data", "--videos", "1", "--frames", "14", "--repeats", "1", "--json", str(file)]) == 0
    printed = capsys.readouterr().out.splitlines()
    (told,) = json.loads(file.read_text())["tables"]
    assert told["settings"] == {"videos": 1, "frames": 14, "repeats": 1}
    rows = {row["way"]: row for row in told["rows"]}
    assert "bottleneck: " in printed[3 + len(rows)] and printed[2].startswith(f"| {told['rows'][0]['way']} |")
    assert all(row["read_per_s"] > row["samples_per_s"] > 0 for row in rows.values())
    assert rows["OpenCV, loose JPEG"]["files"] == 14 + 2 * 13 and rows["pack"]["files"] == 1
    assert rows["pack, short side 128"]["kb"] < rows["pack"]["kb"] < rows["pack, flow as PNG"]["kb"]


def test_too_little_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "data", "--frames", "12"]) == 2
    assert "--frames 12 must be 13 or more" in capsys.readouterr().err
