"""What the flat tree (commit fdeecbd) left is read, resumed and known again: vectors/flat_tree.zip holds a run of it,

    train.py stage=ce modality=[rgb] data.videos.train=12 data.videos.val=4 data.videos.test=4 data.batch_size=4 ..

with checkpoint, exported network, scores and result (paths shortened), and the runs.json of a pipeline.
"""

from __future__ import annotations

import importlib
import inspect
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from mml_lightning.backbones import rebuild
from mml_lightning.config import instantiate, targets
from mml_lightning.config.compose import compose
from mml_lightning.config.settings import settings_of
from mml_lightning.evaluation import predictions
from mml_lightning.report import Measured
from mml_lightning.runs import resume
from mml_lightning.runs.fingerprint import fingerprint
from mml_lightning.training import checkpoints
from mml_lightning.training.datamodule import VideoData
from mml_lightning.training.nonfinite_gradients import NonFinite
from mml_lightning.training.quarantine import Quarantine
from mml_lightning.zoo.files import checkpoint_entries, load_peer

OLD = Path(__file__).parent / "vectors" / "flat_tree.zip"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    with zipfile.ZipFile(OLD) as archive:
        archive.extractall(tmp_path / "old")
    return tmp_path / "old"


@pytest.fixture
def result(old: Path) -> dict[str, Any]:
    return json.loads((old / "run" / "result.json").read_text())


@pytest.fixture
def described(old: Path) -> dict[str, Any]:
    """What the checkpoint says of its run."""
    found = checkpoints.newest(old / "run")
    assert found is not None
    return found[1]["hyper_parameters"]


def known_as(cfg: Any, result: dict[str, Any]) -> str:
    data = SimpleNamespace(fingerprint=lambda: result["data_fingerprint"], splits={}, heads={})
    return fingerprint(cfg, data, {"rgb": {"init": "scratch"}})  # type: ignore[arg-type]


def test_the_fingerprint_of_a_stored_config_is_unchanged(described: dict[str, Any], result: dict[str, Any]) -> None:
    assert described["config"]["schedule"]["factor"]["_target_"] == "mml_lightning.schedules.step"
    assert known_as(settings_of(OmegaConf.create(described["config"])), result) == result["fingerprint"]


def test_the_same_words_make_the_same_run_today(hydra: None, old: Path, result: dict[str, Any]) -> None:
    words = OmegaConf.load(old / "run" / ".hydra" / "overrides.yaml")
    cfg = compose("train", overrides=[*map(str, words), "paths.output_dir=out"])
    assert cfg.plain("schedule.factor._target_") == "mml_lightning.training.schedules.step"
    assert known_as(cfg, result) == result["fingerprint"]
    assert known_as(compose("train", overrides=[*map(str, words), "seed=1", "paths.output_dir=out"]), result) not in (
        result["fingerprint"],
    )


def test_a_resume_finds_no_difference(hydra: None, old: Path, described: dict[str, Any]) -> None:
    words = [str(word) for word in OmegaConf.load(old / "run" / ".hydra" / "overrides.yaml")]
    cfg = compose("train", overrides=[*words, "paths.output_dir=out"])
    assert resume.differences(described, cfg, words, ["rgb"]) == []


def test_state_is_kept_by_names_that_still_are(old: Path) -> None:
    found = checkpoints.newest(old / "run")
    assert found is not None
    assert set(found[1]["callbacks"]) == {Quarantine.__qualname__, NonFinite.__qualname__}
    assert VideoData.__qualname__ in found[1]


def test_networks_are_read_from_both_kinds_of_files(old: Path) -> None:
    zoo = load_peer(old / "run" / "peers" / "rgb.pt")
    checkpoint = checkpoint_entries(old / "run" / "checkpoints" / "last.ckpt")["rgb"]
    for entry in (zoo, checkpoint):
        net = rebuild(entry["arch"])
        net.load_state_dict(entry["state_dict"])
        assert all(torch.equal(value, zoo["state_dict"][key]) for key, value in net.state_dict().items())


def test_scores_give_the_metrics_that_the_run_wrote(old: Path, result: dict[str, Any]) -> None:
    found = predictions.load(old / "run" / "predictions" / "test.npz").metrics()["rgb"]
    told = result["metrics"]["test"]["rgb"]
    assert {key: found[key] for key in ("top1", "top5")} == {key: told[key] for key in ("top1", "top5")}


def test_a_pipeline_is_read(old: Path) -> None:
    measured = Measured.of(old / "pipeline")
    assert measured is not None and measured.seeds == [0] and len(measured.told["runs"]) == 6


def test_the_run_goes_on(train: Callable[..., dict[str, Any]], old: Path, tmp_path: Path) -> None:
    """On other videos, which a resume says and here is told to allow."""
    shutil.copytree(old / "run", tmp_path / "single" / "run")
    words = [str(word) for word in OmegaConf.load(old / "run" / ".hydra" / "overrides.yaml")]
    kept = [word for word in words if not word.startswith(("data.root", "data.videos", "paths", "schedule.epochs"))]
    told = train(*kept, "schedule.epochs=3", f"resume={tmp_path / 'single' / 'run'}", "resume_force=true")
    assert told["resumed"][0]["step"] == 6 and told["peers"]["rgb"]


@pytest.mark.parametrize("first, now", targets.MOVED.items())
def test_targets_are_found_by_their_first_name(first: str, now: str) -> None:
    module = importlib.import_module(now)
    names = [name for name, value in vars(module).items() if inspect.isfunction(value) and not name.startswith("_")]
    assert names
    for name in names:
        assert targets.current(f"{first}.{name}") == f"{now}.{name}"
        assert targets.with_first_names([{"a": {"_target_": f"{now}.{name}"}}]) == [
            {"a": {"_target_": f"{first}.{name}"}}
        ]


def test_a_config_calls_by_first_names_and_by_those_of_today() -> None:
    for name in ("mml_lightning.schedules.constant", "mml_lightning.training.schedules.constant"):
        values = {"_target_": name, "_partial_": True, "warmup_epochs": 0}
        assert instantiate.instantiate(values)(epoch=0, epochs=1) == 1.0


def test_readers_are_imported_by_their_first_place() -> None:
    from mml_lightning.data import readers
    from mml_lightning.data.records.readers import read_csv

    assert readers.read_csv is read_csv
