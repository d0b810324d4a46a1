"""The Python interface: the code of docs/python.md and README; what a call leaves of itself in the process: nothing."""

from __future__ import annotations

import copy
import json
import logging
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from hydra._internal import hydra as hydra_internal
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

import mml_lightning as mml
from mml_lightning.config.guard import GuardedLoader
from tests.conftest import ROOT, environment
from tests.patience import LONGEST
from tests.test_readme import my_videos  # noqa: F401  # a fixture

PAGES = [(ROOT / name).read_text(encoding="utf-8") for name in ("docs/python.md", "README.md")]
BLOCKS = dict(re.findall(r"<!-- run: (\w+) -->\n```python\n(.*?)```", "\n".join(PAGES), re.DOTALL))


@pytest.fixture
def words(small: list[str], tmp_path: Path) -> list[str]:
    """Of a small run; the cache lies in its own root, where files are trusted to name it."""
    return [*(word for word in small if not word.startswith("paths.")), f"paths.root={tmp_path}"]


def state() -> dict[str, object]:
    """What a call may not change."""
    root = logging.getLogger()
    return {
        "folder": os.getcwd(),
        "variables": dict(os.environ),
        "arguments": list(sys.argv),
        "handlers": list(root.handlers),
        "level": root.level,
        "filters": list(warnings.filters),
        "random": (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()),
        "threads": torch.get_num_threads(),
        "signals": [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)],
        "loader": hydra_internal.ConfigLoaderImpl,
        "application": GlobalHydra.instance().hydra,
        "job": HydraConfig.instance().cfg,
    }


@pytest.fixture
def application(tmp_path: Path) -> Iterator[None]:
    """As inside a Hydra application of the user's."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/config.yaml").write_text("mine: {_target_: os.getcwd}\n")
    GlobalHydra.instance().clear()
    hydra_internal.ConfigLoaderImpl = hydra_internal.ConfigLoaderImpl.__mro__[
        1 if hydra_internal.ConfigLoaderImpl is GuardedLoader else 0
    ]
    with hydra.initialize_config_dir(str(tmp_path / "theirs"), version_base="1.2"):
        yield
        assert hydra.compose("config").mine._target_ == "os.getcwd", "their configs are their own business"


def test_importing_has_no_effects() -> None:
    heavy = ("torch", "numpy", "hydra", "omegaconf", "pytorch_lightning", "logging")
    script = f"import sys, mml_lightning; dir(mml_lightning); print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=LONGEST)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
    assert all(getattr(mml, name) is not None for name in mml.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        mml.trian  # noqa: B018


def test_a_run_is_that_of_the_command_line_and_leaves_the_process_as_it_was(
    words: list[str], application: None, tmp_path: Path, same_weights, shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*words, "stage=mml", "modality=[rgb,rgbdiff]", "init=scratch", "schedule.epochs=1"]
    before = state()
    config = mml.compose(words)
    assert (config.program, config.schedule.epochs, config.optimizer.lr) == ("train", 1, 0.05)
    with pytest.raises(AttributeError, match="epochz"):
        config.schedule.epochz  # noqa: B018
    with pytest.raises(Exception, match=r"read-only|readonly"):
        config.schedule.epochs = 3
    assert copy.copy(config) == config == pickle.loads(pickle.dumps(config))
    first = mml.train(config)
    assert state() == before
    assert first.metrics == first.content["metrics"] == json.loads(first.file.read_text())["metrics"]
    assert (
        sorted(first.weights) == ["rgb", "rgbdiff"] and (first.folder / "train.log").read_text().count("epoch 1/1") == 1
    )
    assert {path.name for path in (first.folder / ".hydra").iterdir()} == {
        "config.yaml",
        "hydra.yaml",
        "overrides.yaml",
    }
    measured = mml.evaluate([f"ckpt={first.folder}"])
    assert measured.metrics == {"test": first.metrics["test"]} and measured.folder != first.folder
    longer = mml.train([f"resume={first.folder}", "schedule.epochs=2", "resume_force=true"])
    assert (longer.folder, longer.content["epochs"]) == (first.folder, 2)
    done = shell("train", *words, f"hydra.run.dir={tmp_path / 'shell'}", plain=True)
    assert done.returncode == 0, done.stderr
    second = mml.train(words)
    assert second.folder != first.folder and state() == before
    same_weights(second.weights["rgb"], tmp_path / "shell/peers/rgb.pt")
    video = str(next((Path(config.data.root) / "videos").iterdir()))
    model = mml.load(second.folder, peers=["rgb"])
    assert list(model.networks) == ["rgb"] and len(model.predict(video).top(3)) == 3
    assert state() == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["optimzer.lr=1"], "did you mean optimizer.lr"),
        (["schedule.epochs=0"], "schedule.epochs=0 must be a whole number"),
        (["stage=mml", "modality=[rgb]"], "stage=mml needs two or more modalities"),
        (["data.root='"], "can't read"),
        (["-m", "seed=1,2"], "a call is one job"),
        (["hydra.mode=MULTIRUN"], "a call is one job"),
        (["seed=1,2"], "seed=1,2|Ambiguous"),
        (["trainer.devices=2"], "on one device"),
        (["trainer=ddp"], "on one device"),
        (["stage=ml", "init=ce", "seed=77"], "was never trained; make it with"),
        (["resume=nowhere"], "is not a run directory"),
        (["ckpt=nowhere"], "call evaluate"),
        (["backbone.net._target_=os.getcwd"], r"type trusted=\[os\]"),
    ],
)
def test_a_mistake_is_an_exception_and_leaves_nothing(
    words: list[str], more: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = state()
    with pytest.raises(mml.UserError, match=message) as told:
        mml.train([*words, *more])
    assert "\n" not in str(told.value) and state() == before
    assert not list(tmp_path.glob("single/*"))


def test_an_error_of_the_run_is_raised_as_it_is(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("mml_lightning.engine.train.fit_and_measure", broken)
    before = state()
    with pytest.raises(ZeroDivisionError, match="a bug"):
        mml.train(words)
    assert state() == before


def adapted(block: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert old in block, f"{old!r} is no longer in the block"
        block = block.replace(old, new)
    return block


def run_block(code: str, folder: Path) -> str:
    (folder / "script.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=folder, env=environment(), capture_output=True, text=True, timeout=LONGEST
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["train", "readme"])
def test_the_pages_train_and_predict(small: list[str], demo: Path, tmp_path: Path, name: str) -> None:
    assert len([line for line in BLOCKS["readme"].splitlines() if line]) <= 10
    (tmp_path / "clip.mp4").symlink_to(next((demo / "data/videos").iterdir()))
    kept = [word for word in small if not word.startswith("paths.")]
    code = adapted(BLOCKS[name], ('"schedule.epochs=2"]', f'"schedule.epochs=2", *{kept!r}]'))
    assert "[(" in run_block(code, tmp_path) and (tmp_path / "multirun/single").is_dir()


def test_plain_lightning_of_the_page(my_videos: Path, demo: Path, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "clip.mp4").symlink_to(next((demo / "data/videos").iterdir()))
    block = BLOCKS["lightning"]
    assert len([line for line in block.splitlines() if line]) < 15
    less = (
        ("frames=8, size=112, batch_size=8", "frames=4, size=32, batch_size=8, workers=0"),
        ("tsm_resnet18", "tiny"),
    )
    said = run_block(adapted(block, *less, ("default_root_dir", "accelerator='cpu', default_root_dir")), tmp_path)
    assert "[(" in said and "test/rgbdiff/top1" in said
    (file,) = tmp_path.glob("lightning/**/*.ckpt")
    own = ["data=csv", f"data.index={tmp_path / 'my_videos.csv'}", "data.workers=0", f"paths.root={tmp_path}"]
    own.append("trainer.accelerator=cpu")
    measured = mml.evaluate([*own, f"ckpt={file}"])
    assert measured.content["limited"] == [] and set(measured.metrics["test"]) == {"rgb", "rgbdiff", "ensemble"}
    frames = measured.content["evaluation"]["frames"]
    assert (frames["num_segments"], frames["output"]) == (4, 32), "as it was trained"
    again = ["backbone=tiny", "sampling.num_segments=4", "transforms.output=32", "transforms.short_side=37"]
    longer = mml.train([*own, *again, f"init={file}", "schedule.epochs=1", "data.batch_size=8", "test=false"])
    assert longer.content["peers"]["rgb"]["init"] == str(file)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"index": "nowhere.csv"}, "nowhere.csv"),
        ({"modalities": ["sound"]}, "sound"),
        ({"batch_size": 1000}, "data.batch_size=1000 is larger than the train split"),
        ({"batch_size": 0}, "data.batch_size=0 must be"),
        ({"overrides": ["data.decodr=pyav"]}, "data.decodr"),
        ({"overrides": ["ema.decay=0.9"]}, "give it to pl.Trainer"),
        ({"overrides": ["callbacks=[default,early_stopping]"]}, "give it to pl.Trainer"),
    ],
)
def test_a_wrong_data_module_is_one_line(my_videos: Path, values: dict, message: str) -> None:  # noqa: F811
    with pytest.raises(mml.UserError, match=message):
        mml.VideoDataModule(**{"index": my_videos, "workers": 0, **values})
