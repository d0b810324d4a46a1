"""`mml flow` as a user meets it: the cache of later runs, statistics, failures, images."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from mml_lightning.cli.compose import compose_config
from mml_lightning.cli.main import main
from mml_lightning.config import data as config_data
from mml_lightning.data.video.images import ImageReader
from tests.conftest import only
from tests.data.videos import counted, damaged, moving, write_video
from tests.tiny import frame_lists

TRAIN = {"a.mp4": 0, "b.mp4": 1}


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """Two moving videos to train, a still one to validate."""
    rows = ["path,label,split"]
    for name, label in TRAIN.items():
        write_video(tmp_path / "videos" / name, moving(7, 2 + label, -1))
        rows.append(f"{name},class{label},train")
    write_video(tmp_path / "videos" / "c.mp4", [counted(1)[0]] * 5)
    index = tmp_path / "videos" / "index.csv"
    index.write_text("\n".join([*rows, "c.mp4,class0,val"]) + "\n")
    return ["data=csv", f"data.index={index}", f"paths.root={tmp_path / 'root'}", "flow.preset=ultrafast"]


def cached(root: Path) -> Path:
    return only(only(root / "cache" / "flow"))


def test_runs_find_what_it_has_made(
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["flow", *words, "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    assert "warning: val: " in printed and "of the vectors are zero" in printed and "warning: train" not in printed
    folder = cached(tmp_path / "root")
    statistics = json.loads((folder / "statistics.json").read_text())
    train, val = statistics["splits"]["train"], statistics["splits"]["val"]
    assert (statistics["algorithm"], statistics["bound"], train["videos"], train["pairs"]) == ("dis", 20.0, 2, 12)
    assert 1.5 < train["mean_px"] < 4 and train["clipped_share"] < 0.01 and val["zero_share"] > 0.95
    assert not (folder / "failures.csv").exists()
    cfg = compose_config([*words, "modality=[flow]"])
    cache = config_data.flow_cache(cfg, config_data.modalities(cfg))
    assert cache is not None and cache.folder == folder
    assert (
        cache.missing([row for rows in config_data.dataset(cfg, ["train", "val"]).splits.values() for row in rows])
        == []
    )


def test_chosen_splits_only(words: list[str], tmp_path: Path) -> None:
    assert main(["flow", *words, "--workers", "1", "--splits", "val"]) == 0
    assert [path.name[0] for path in cached(tmp_path / "root").glob("*.npy")] == ["c"]


def test_failures_are_listed_and_the_rest_is_done(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = tmp_path / "videos" / "b.mp4"
    good = video.read_bytes()
    damaged("zeros", tmp_path / "videos" / "a.mp4", video)
    write_video(tmp_path / "videos" / "c.mp4", counted(1))
    with pytest.raises(SystemExit) as left:
        main(["flow", *words, "--workers", "1"])
    assert left.value.code == 1
    folder = cached(tmp_path / "root")
    rows = list(csv.reader((folder / "failures.csv").open()))
    assert [row[0] for row in rows] == ["split", "train", "val"] and "one frame" in rows[2][2]
    assert "2 videos have no flow, first " in capsys.readouterr().out
    assert len(list(folder.glob("*.npy"))) == 1
    video.write_bytes(good)
    assert main(["flow", *words, "data.missing=mask", "--workers", "1"]) == 0  # a one-frame video is masked in runs
    assert not (folder / "failures.csv").exists()
    assert json.loads((folder / "statistics.json").read_text())["splits"]["val"]["one_frame"] == 1


def test_export_prints_the_words_that_read_it(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["flow", *words, "--workers", "1", "--export", str(out), "--images", "png"]) == 0
    found = re.search(r"read them with: (.*)", capsys.readouterr().out)
    assert found
    read = [*shlex.split(found[1]), "data.sources.frames=null", "modality=[flow]", "test=false"]
    cfg = compose_config(read)
    data = config_data.dataset(cfg)
    folder = cached(tmp_path / "root")
    for record in data.splits["train"]:
        images = ImageReader(record.media["flow"])  # type: ignore[arg-type]
        stored = np.load(next(folder.glob(f"{record.id}-*.npy")))
        assert np.array_equal(images.frames(range(6)), stored)
        assert record.target == {"label": TRAIN[f"{record.id}.mp4"]}
    chosen = config_data.modalities(cfg)
    samples = config_data.clip_datasets(cfg, data, config_data.flow_cache(cfg, chosen), list(chosen.values()))
    assert samples["train"][0, 0]["clips"]["flow"].shape[2] == 10


def test_own_flow_is_nothing_to_compute(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = frame_lists(tmp_path / "lists")
    source = '{folder: flow, template: "flow_{}_{:05d}.jpg", train: train_flow.txt, val: val_flow.txt}'
    words = ["data=frame_lists", f"data.root={root}", f"data.sources.flow={source}", f"paths.root={tmp_path / 'root'}"]
    assert main(["flow", *words]) == 0
    assert "come with flow" in capsys.readouterr().out
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layout", "tsn"], "need --export"),
        (["--export", "out", "--layout", "u"], "--layout u is unknown"),
        (["--workers", "0"], "--workers 0"),
        (["--splits", "train,dev"], "no videos in split 'dev'; use --splits train,val"),
        (["flow.on_the_fly=true"], "has no cache"),
        (["flow.preset=slow"], "use one of"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(
    words: list[str], tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["flow", *words, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert not (tmp_path / "root").exists()
