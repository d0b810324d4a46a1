"""Every way to get flow trains beside RGB; where it can be computed on the fly, losses are those of the cached run."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import cv2
import pytest

from mml_lightning.config.compose import compose
from mml_lightning.engine.train import stage
from mml_lightning.utils.process import quieten_libraries
from tests.conftest import CONF
from tests.data.videos import moving, write_video

WAYS = sorted(path.stem for path in (CONF / "flow").glob("*.yaml"))
SHARES = ("train",) * 4 + ("val",) * 2


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six H.264 videos of three frames: the motion vectors of the demo's VP9 files can't be read."""
    folder = tmp_path_factory.mktemp("moving")
    lines = ["id,path,label,split"]
    for number, split in enumerate(SHARES):
        write_video(folder / f"{number}.mp4", moving(3, 1 + number % 2, 1 - number % 2, 64, 48))
        lines.append(f"v{number},{number}.mp4,class{number % 2},{split}")
    (folder / "videos.csv").write_text("\n".join(lines) + "\n")
    return folder / "videos.csv"


def losses(folder: Path) -> list[dict[str, str]]:
    """Every logged number but times and rates."""
    with (folder / "logs" / "metrics.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    return [{k: v for k, v in row.items() if "/ce" in k or "/kl" in k or "/loss" in k or k == "step"} for row in rows]


@pytest.mark.parametrize("way", WAYS)
def test_every_flow_trains_cached_and_on_the_fly(
    way: str, index: Path, small: list[str], hydra: None, tmp_path: Path
) -> None:
    """Equal to the last bit: workers compute one pair at a time from whole frames, as the cache is filled."""
    if way == "tvl1_opencv" and not hasattr(cv2, "optflow"):
        pytest.skip("OpenCV without contrib")
    words = [word for word in small if not word.startswith(("data.root", "data.videos", "paths.cache"))]
    words += ["data=csv", f"data.index={index}", "data.batch_size=2", "schedule.epochs=1", "sampling.num_segments=2"]
    words += ["stage=mml", "modality=[rgb,flow]", f"flow={way}", "test=false", f"paths.root={tmp_path}"]

    def train(run: str, *own: str) -> dict[str, Any]:
        typed = [*words, f"paths.cache={tmp_path / run / 'cache'}", *own]
        quieten_libraries()
        return stage(compose("train", [*typed, f"paths.output_dir={tmp_path / run}"]), typed)

    cached = train("cached")
    assert cached["status"] == "completed" and cached["steps"] == 2
    assert len(list((tmp_path / "cached" / "cache").rglob("*.npy"))) == len(SHARES)
    found = losses(tmp_path / "cached")
    kl = [float(row["train/flow/kl"]) for row in found if row.get("train/flow/kl")]
    assert kl and all(math.isfinite(value) and value > 0 for value in kl), "flow learns from rgb"
    if way == "mv":  # reads whole files
        return
    live = train("live", "flow.on_the_fly=true")
    assert not (tmp_path / "live" / "cache").exists()
    assert losses(tmp_path / "live") == found
    assert live["metrics"]["val"] == cached["metrics"]["val"]
