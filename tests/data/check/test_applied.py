"""What runs make of a check: the right reader, training without unusable videos, a fingerprint that tells."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mml_lightning.config import data as config_data
from mml_lightning.config.settings import Settings
from mml_lightning.data import check
from mml_lightning.data.check.findings import Finding, write
from mml_lightning.data.records.records import Dataset, Head, Record
from mml_lightning.data.video.media import ImageSequence
from mml_lightning.engine import train
from mml_lightning.utils.errors import UserError
from tests.data.videos import damaged, moving, record, write_video

Composed = Callable[..., tuple[Settings, list[str]]]


def dataset(**splits: list[Record]) -> Dataset:
    return Dataset("mine", splits, {"label": Head(("a", "b"))})


def checked(data: Dataset, file: Path) -> list[Finding]:
    return check.check(data, file, 2, 1, lambda videos: lambda: None)


def rewrite(file: Path, findings: list[Finding]) -> None:
    with file.open("w", newline="") as handle:
        write(handle, findings, header=True)


def applied(data: Dataset, file: Path, *sources: str, leave_out: bool = True) -> Dataset:
    return check.with_check(data, file, sources or ("frames",), leave_out)


def ids(data: Dataset, split: str = "train") -> list[str]:
    return [record.id for record in data.splits[split]]


def test_runs_take_the_right_reader(videos: dict[str, Path], tmp_path: Path) -> None:
    data = dataset(train=[record(videos["vp9"]), record(videos["h264"])], val=[record(videos["vp9"])])
    file = tmp_path / "findings.csv"
    assert applied(data, file) is data
    found = checked(data, file)
    assert applied(data, file) is data
    rewrite(file, [replace(found[0], decoder="pyav"), *found[1:]])
    changed = applied(data, file)
    assert [r.decoder for r in changed.splits["train"]] == ["pyav", None]
    assert changed.splits["val"][0].decoder is None  # the same id in another split is another record
    assert changed.fingerprint() != data.fingerprint()
    rewrite(file, [replace(found[0], decoder="pyav", state=found[0].state[:-1]), *found[1:]])
    assert applied(data, file).fingerprint() == changed.fingerprint()  # a copy of the file, made later
    rewrite(file, [replace(found[0], decoder="pyav", path="other.webm"), *found[1:]])
    assert applied(data, file).fingerprint() == data.fingerprint()  # about another file
    file.write_text("split,id\ntrain,vp9\n")
    with pytest.raises(UserError, match="is damaged; delete it and run mml check again"):
        applied(data, file)


def test_training_leaves_out_what_is_unusable(videos: dict[str, Path], tmp_path: Path) -> None:
    bad = damaged("zeros", videos["vp9"], tmp_path / "bad.webm")
    good = record(videos["vp9"])
    data = dataset(
        train=[good, record(bad), record(tmp_path / "gone.webm"), record(videos["vp9"], id="past", span=(7, 8))],
        val=[record(videos["h264"]), record(bad)],
        test=[record(tmp_path / "gone.webm")],
    )
    file = tmp_path / "findings.csv"
    checked(data, file)
    used = applied(data, file)
    assert ids(used) == ["vp9"] and list(used.left_out) == ["bad", "gone", "past"]
    assert "no such file" in used.left_out["gone"] and "span starts at 7 s" in used.left_out["past"]
    assert ids(used, "val") == ["h264", "bad"] and ids(used, "test") == ["gone"]
    kept = applied(data, file, leave_out=False)
    assert kept.left_out == {} and kept.fingerprint() == data.fingerprint()
    shorter = dataset(train=[good], val=list(data.splits["val"]), test=list(data.splits["test"]))
    assert used.fingerprint() == shorter.fingerprint() != data.fingerprint()


def test_a_repaired_video_comes_back(videos: dict[str, Path], tmp_path: Path) -> None:
    bad = damaged("zeros", videos["vp9"], tmp_path / "bad.webm")
    data = dataset(train=[record(videos["h264"]), record(bad), record(tmp_path / "gone.webm")])
    file = tmp_path / "findings.csv"
    checked(data, file)
    assert ids(applied(data, file)) == ["h264"]
    bad.write_bytes(videos["vp9"].read_bytes())  # of the same size
    assert ids(applied(data, file)) == ["h264", "bad"]
    (tmp_path / "gone.webm").write_bytes(videos["vp9"].read_bytes())
    assert ids(applied(data, file)) == ["h264", "bad", "gone"]


def test_unusable_flow_matters_to_runs_with_flow(videos: dict[str, Path], tmp_path: Path) -> None:
    none = ImageSequence(tmp_path / "none", "{axis}_{:05d}.jpg", 3, layout="flow_pair")
    bad = damaged("zeros", videos["vp9"], tmp_path / "bad.webm")
    folder = tmp_path / "flow"
    folder.mkdir()
    flow = ImageSequence(folder, "flow_{:05d}.png", 1, layout="flow_packed")
    cv2.imwrite(str(flow.paths(0)[0]), np.zeros((8, 8, 3), np.uint8))
    data = dataset(
        train=[
            Record("no_flow", {"frames": videos["vp9"], "flow": none}, {"label": 0}),
            Record("no_frames", {"frames": bad, "flow": flow}, {"label": 0}),
            Record("no_frames_span", {"frames": bad, "flow": flow}, {"label": 0}, span=(0.0, 1.0)),
            Record("computed", {"frames": bad}, {"label": 0}),
        ]
    )
    file = tmp_path / "findings.csv"
    checked(data, file)
    assert ids(applied(data, file, "frames")) == ["no_flow"]
    assert ids(applied(data, file, "flow")) == ["no_frames"]
    assert ids(applied(data, file, "frames", "flow")) == []


def test_folder_is_that_of_the_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "videos.csv").touch()
    monkeypatch.chdir(tmp_path)

    def name(**reader: Any) -> str:
        return check.folder(Path("root"), "csv_videos", {"_target_": "x", "name": "one", **reader}).name

    assert name(index="one/videos.csv") == name(index=str(tmp_path / "one" / "videos.csv"), root=None, sizes=[3])
    assert name(index="one/videos.csv") == name(index="one/videos.csv", label_separator="|")
    assert (
        len({name(index="one/videos.csv"), name(index="two/videos.csv"), name(index="one/videos.csv", root="two")}) == 3
    )


# ------------------------------------------------------------------------------------------------ whole runs


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for number in range(12):
        write_video(folder / f"v{number}.mp4", moving(6, number % 3, 1))
    return folder


@pytest.fixture
def own(small: list[str], hydra: None, tmp_path: Path, clips: Path) -> Composed:
    """own(*overrides) is a small run on a CSV of 8 training, 2 and 2 videos, of which v3 and v9 are unreadable."""
    from mml_lightning.config.compose import compose
    from mml_lightning.utils.process import quieten_libraries

    quieten_libraries()
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 99)
    lines = ["id,path,label,split"]
    for number in range(12):
        file = tmp_path / "bad.mp4" if number in (3, 9) else clips / f"v{number}.mp4"
        lines.append(f"v{number},{file},{number % 2},{'train' if number < 8 else 'val' if number < 10 else 'test'}")
    (tmp_path / "videos.csv").write_text("\n".join(lines) + "\n")

    def make(*overrides: str, name: str = "run") -> tuple[Settings, list[str]]:
        kept = [item for item in small if not item.startswith(("data.videos", "data.root"))]
        typed = ["data=csv", f"data.index={tmp_path / 'videos.csv'}", *kept, "data.batch_size=4", "schedule.epochs=1"]
        typed += [f"paths.root={tmp_path}", *overrides]
        return compose("train", overrides=[*typed, f"paths.output_dir={tmp_path / name}"]), typed

    return make


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "quarantine.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def check_of(cfg: Settings) -> None:
    checked(config_data.records(cfg), config_data.check_folder(cfg) / check.FILE)


def test_run_names_and_counts_what_it_leaves_out(
    own: Composed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    cfg, typed = own("data.max_bad_share=0.2")
    check_of(cfg)
    result = train.stage(cfg, typed)
    assert "7 train, 2 val, 2 test videos (1 unusable one left out of train: mml check)" in caplog.text
    caplog.clear()
    assert [row["id"] for row in rows(tmp_path / "run")] == ["v3"]
    assert list(result["unreadable"]["val"]) == ["v9"]  # measuring leaves nothing out
    kept, words = own("data.max_bad_share=0.2", "data.quarantine=ignore", name="kept")
    other = train.stage(kept, words)
    assert "unusable" not in caplog.text
    assert other["data_fingerprint"] != result["data_fingerprint"] and other["fingerprint"] != result["fingerprint"]
    assert [row["id"] for row in rows(tmp_path / "kept")] == ["v3"]  # found while training


def test_too_many_left_out_stop_a_run_before_it_starts(own: Composed, tmp_path: Path) -> None:
    cfg, typed = own("data.max_bad_share=0.1")
    check_of(cfg)
    with pytest.raises(
        UserError, match=r"mml check found 1 of 8 training videos unusable, more than data\.max_bad_share=0\.1"
    ):
        train.stage(cfg, typed)
    assert not (tmp_path / "run").exists()
    config_data.dataset(cfg, ["test"])  # measuring trains nothing
    with pytest.raises(UserError, match=r"data\.quarantine='maybe' is unknown; use one of \['use', 'ignore'\]"):
        train.stage(*own("data.quarantine=maybe"))


def test_resume_on_other_videos_is_refused(own: Composed, tmp_path: Path) -> None:
    cfg, typed = own("data.max_bad_share=0.2")
    train.stage(cfg, typed)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "completed"
    check_of(cfg)
    again = ("data.max_bad_share=0.2", f"resume={tmp_path / 'run'}", "schedule.epochs=2")
    with pytest.raises(
        UserError, match=r"data have changed \(mml check leaves out 1 of them now; data\.quarantine=ignore"
    ):
        train.stage(*own(*again))
    assert train.stage(*own(*again, "data.quarantine=ignore"))["status"] == "completed"
