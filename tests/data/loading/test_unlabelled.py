"""Splits whose labels are not public: they are scored, never trained on, and change no fingerprint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mml_lightning.data.loading.dataset import ClipDataset, collate
from mml_lightning.data.loading.draws import FixedCrops, ValTemporalSampler
from mml_lightning.data.loading.sources import SourceOpener
from mml_lightning.data.records.readers import read_ssv2
from mml_lightning.data.records.records import Dataset, Head, Record, validate
from mml_lightning.evaluation.metrics import labelled
from mml_lightning.modalities import Modality
from mml_lightning.transforms import TestGeometry as FixedGeometry
from mml_lightning.utils.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Something-Something's annotations without test answers; videos 5 and 6 are the test split."""
    files: dict[str, Any] = {
        "labels": {"Moving up": "0", "Moving down": "1"},
        "train": [{"id": "1", "template": "Moving [up]"}, {"id": "2", "template": "Moving down"}],
        "validation": [{"id": "3", "template": "Moving up"}],
        "test": [{"id": "5"}, {"id": "6"}],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "videos").mkdir()
    for name, content in files.items():
        (tmp_path / "annotations" / f"{name}.json").write_text(json.dumps(content))
    for video in (1, 2, 3, 5, 6):
        (tmp_path / "videos" / f"{video}.webm").write_bytes(b"v" * video)
    return tmp_path


def test_without_answers_test_videos_have_no_label(root: Path) -> None:
    data = read_ssv2("ssv2", str(root))
    assert [(record.id, dict(record.target)) for record in data.splits["test"]] == [("5", {}), ("6", {})]
    assert data.splits["test"][0].media == {"frames": root / "videos" / "5.webm"}
    (root / "annotations" / "test-answers.csv").write_text("6;Moving up\n")
    told = read_ssv2("ssv2", str(root))
    assert [(record.id, dict(record.target)) for record in told.splits["test"]] == [("6", {"label": 0})]
    assert told.fingerprint() != data.fingerprint()


def test_they_stand_in_no_fingerprint_and_in_no_training(root: Path) -> None:
    data = read_ssv2("ssv2", str(root))
    without = replace(data, splits={**data.splits, "test": []})
    assert data.fingerprint() == without.fingerprint()
    with pytest.raises(UserError, match="2 of 2 videos of the test split have no label; set test=false"):
        validate(data)
    assert validate(data, ["train", "val"]) is data and validate(data, ["test"], labelled=False) is data
    (root / "annotations" / "list.json").write_text('["5"]')
    with pytest.raises(UserError, match="id 5 has no label"):
        read_ssv2("ssv2", str(root), splits={"train": "annotations/list.json"})


def test_lists_of_ids_are_checked(root: Path) -> None:
    (root / "annotations" / "test.json").write_text('[{"video": "5"}]')
    with pytest.raises(UserError, match=r"test\.json: each entry must be an id"):
        read_ssv2("ssv2", str(root))


@pytest.mark.parametrize("several", [False, True])
def test_a_sample_says_that_its_label_is_unknown(videos: dict[str, Path], several: bool) -> None:
    heads = {"label": Head(("a", "b", "c"), multi_label=several)}
    known = Record("known", {"frames": videos["h264"]}, {"label": (0, 2) if several else 2})
    nothing = Record("nothing", {"frames": videos["h264"]}, {"label": ()} if several else {"label": 0})
    records = [known, Record("unknown", {"frames": videos["vp9"]}, {}), nothing]
    samples = ClipDataset(
        records=Dataset("mine", {"test": records}, heads).splits["test"],
        modalities=[Modality("rgb", "frames", 1, 3)],
        heads=heads,
        opener=SourceOpener("pyav", None),
        starts=ValTemporalSampler(4, "uniform", 8, "fixed"),
        geometries=FixedCrops(FixedGeometry(32, 40, 1)),
        seed=0,
        replace=False,
    )
    target = collate([samples[0, i] for i in range(3)], samples.kinds)["target"]["label"]
    expected = [[1.0, 0, 1], [-1.0, -1, -1], [0.0, 0, 0]] if several else [2, -1, 0]
    assert torch.equal(target, torch.tensor(expected))
    assert labelled(target).tolist() == [True, False, True], "no label at all is not an unknown label"
