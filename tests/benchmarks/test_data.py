"""The ways of reading that `mml bench data` compares: all of them give the same clip."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mml_lightning.benchmarks import data as benchmarks_data
from mml_lightning.benchmarks.commands import data
from mml_lightning.benchmarks.data_files import PACKS, SIZE, make_clips
from mml_lightning.cli.main import main
from mml_lightning.transforms import Crop

FRAMES = 14


def test_every_way_reads_the_same_clip(tmp_path: Path) -> None:
    (clip,) = make_clips(tmp_path, 1, FRAMES)
    ways = benchmarks_data.ways()
    assert {"OpenCV, loose JPEG", "pyav, video + flow cache", *PACKS} <= set(ways)
    at, pairs = [0, 5, 12], [0, 1, 6, 12]
    crop = Crop(100, 30, 180, 160, SIZE, (224, 224))
    samples = {}
    for name, way in ways.items():
        frames, flow = (way.crop(way.read(clip, *wanted, crop), crop) for wanted in (("frames", at), ("flow", pairs)))
        samples[name] = [frames.float(), flow.float().reshape(4, 2, 224, 224)]
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
    settings = {"videos": 1, "frames": 14, "repeats": 1, "size": [427, 240], "sources": ["frames", "flow"]}
    assert told["settings"] == settings
    rows = {row["way"]: row for row in told["rows"]}
    assert "bottleneck" in printed[3 + len(rows)] and printed[2].startswith(f"| {told['rows'][0]['way']} |")
    assert all(row["read_per_s"] > row["samples_per_s"] > 0 for row in rows.values())
    assert rows["OpenCV, loose JPEG"]["files"] == 14 + 2 * 13 and rows["pack"]["files"] == 1
    assert rows["pack, short side 128"]["kb"] < rows["pack"]["kb"] < rows["pack, flow as PNG"]["kb"]


@pytest.mark.parametrize(
    ("fastest", "told"),
    [
        ("pack", "decoding is the bottleneck: mml pack"),
        ("pack, flow at full size", "decoding is the bottleneck: mml pack --flow-short-side 0"),
        ("decord, video + flow cache", "decoding is the bottleneck"),
    ],
)
def test_the_fastest_way_is_advised_as_it_was_measured(fastest: str, told: str) -> None:
    rows = [
        benchmarks_data.Row("OpenCV, loose JPEG", 9.0, 8.0, 1, 1, 0.0),
        benchmarks_data.Row(fastest, 20.0, 10.0, 1, 1, 0.0),
    ]
    assert data._fastest(rows) == f"{fastest}, the fastest, spends 50% of the time of a sample reading; {told}"
    rows = [benchmarks_data.Row(fastest, 50.0, 10.0, 1, 1, 0.0)]
    assert data._fastest(rows).endswith("cropping and resizing are the bottleneck: a smaller transforms.output")
    assert set(data.MADE) <= set(benchmarks_data.ways()), "ways that were renamed"


def test_frames_larger_than_crops_need(tmp_path: Path) -> None:
    """Reduced ones are other frames, and whole ones the same that they were."""
    file = tmp_path / "bench.json"
    words = ["--videos", "1", "--frames", "13", "--rounds", "1", "--size", "960x720", "--sources", "frames"]
    assert main(["bench", "data", *words, "--json", str(file)]) == 0
    rows = {row["way"]: row for row in json.loads(file.read_text())["tables"][0]["rows"]}
    assert "pyav, video" in rows and not any("flow" in way for way in rows)
    assert rows["OpenCV, loose JPEG"]["level_difference"] == 0
    assert 0 < rows["OpenCV, loose JPEG, reduced"]["level_difference"] < 8
    assert rows["OpenCV, loose JPEG"]["files"] == 13


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--frames", "12"], "--frames 12 must be 13 or more"),
        (["--size", "100x240"], "--size 100x240 must be from 224 to 4096 each"),
        (["--size", "427x241"], "and the height even"),
        (["--sources", "sound"], "--sources sound: use frames, flow or frames,flow"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "data", *words]) == 2
    assert message in capsys.readouterr().err
