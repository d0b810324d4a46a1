"""The ways of reading that `mml bench data` compares: all of them give the same clip."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mml_lightning.cli import main
from mml_lightning.data import data_bench
from mml_lightning.data.data_bench_files import PACKS, SIZE, make_clips

FRAMES = 14


def test_every_way_reads_the_same_clip(tmp_path: Path) -> None:
    (clip,) = make_clips(tmp_path, 1, FRAMES)
    ways = data_bench.ways()
    assert {"OpenCV, loose JPEG", "pyav, video + flow cache", *PACKS} <= set(ways)
    at, pairs = [0, 5, 12], [0, 1, 6, 12]
    true = [np.asarray(items, dtype=float) for items in ways["OpenCV, loose JPEG"].read(clip, at, pairs)]
    assert true[0].shape == (3, *SIZE[::-1], 3) and true[1].shape == (4, *SIZE[::-1], 2)
    for name, way in ways.items():
        frames, flow = way.read(clip, at, pairs)
        if name.startswith("PIL"):
            flow = np.stack([np.asarray(image) for image in flow]).reshape(4, 2, *SIZE[::-1]).transpose(0, 2, 3, 1)
            frames = np.stack([np.asarray(image) for image in frames])
        if frames.shape == true[0].shape:
            assert np.abs(frames - true[0]).mean() < 4, name
        if flow.shape == true[1].shape:
            assert np.abs(flow - true[1]).mean() < 2, name
    assert np.abs(true[0][0] - true[0][1]).mean() > 5, "frames differ by more than their encodings"
    assert np.abs(true[1][0] - true[1][2]).mean() > 2, "so do their flows"


def test_rows_and_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bench.json"
    assert main(["bench", "data", "--videos", "1", "--frames", "14", "--repeats", "1", "--json", str(file)]) == 0
    printed = capsys.readouterr().out.splitlines()
    told = json.loads(file.read_text())
    assert told["settings"] == {"videos": 1, "frames": 14, "repeats": 1}
    rows = {row["way"]: row for row in told["rows"]}
    assert len(printed) == 2 + len(rows) and printed[2].startswith(f"| {told['rows'][0]['way']} |")
    assert all(row["read"] > row["sample"] > 0 for row in rows.values())
    assert rows["OpenCV, loose JPEG"]["files"] == 14 + 2 * 13 and rows["pack"]["files"] == 1
    assert rows["pack, short side 128"]["bytes"] < rows["pack"]["bytes"] < rows["pack, flow as PNG"]["bytes"]


def test_too_little_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "data", "--frames", "12"]) == 2
    assert "--frames 12 must be 13 or more" in capsys.readouterr().err
