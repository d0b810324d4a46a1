"""Small runs of the real thing: one demo dataset and one flow cache per session, a directory of its own per test."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from mml_lightning.config import guard, resolvers
from mml_lightning.config.compose import compose, save_words
from mml_lightning.config.settings import Settings
from tests.patience import LONGEST

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
SIZES = {"train": 24, "val": 11, "test": 11}  # odd: two ranks can't share the test split evenly

os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
os.environ.setdefault("WANDB__SERVICE_WAIT", str(LONGEST))  # for its process to start
hypothesis.settings.register_profile("patient", deadline=None)  # of time that a case takes
hypothesis.settings.load_profile("patient")
resolvers.register()


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Threads contend on shared machines; the stamp must not leak from one run to the next."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MML_STAMP", "stamp")
    torch.set_num_threads(1)
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:  # a test that failed would hand its record to the next
        wandb.finish()


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `data` (the demo dataset) and `cache` (its flow, filled by whoever needs it first)."""
    from mml_lightning.data.demo import prepare_demo

    folder = tmp_path_factory.mktemp("demo")
    prepare_demo(folder / "data", **SIZES, workers=1, progress=False)
    return folder


@pytest.fixture(scope="session")
def small(demo: Path) -> list[str]:
    """Overrides that make any run a matter of seconds."""
    return [
        f"data.root={demo / 'data'}",
        f"paths.cache={demo / 'cache'}",
        *(f"data.videos.{split}={count}" for split, count in SIZES.items()),
        "data.batch_size=8",
        "data.eval_batch_size=8",
        "data.workers=0",
        "schedule.epochs=2",
        "trainer.num_threads=1",
        "trainer.accelerator=cpu",
        "sampling.num_segments=4",
        "backbone.net.width=8",
        "transforms.output=32",
        "transforms.short_side=36",
    ]


@pytest.fixture
def hydra() -> Iterator[None]:
    GlobalHydra.instance().clear()
    guard.install()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@pytest.fixture
def composed(hydra: None, small: list[str], tmp_path: Path) -> Callable[..., tuple[Settings, list[str]]]:
    """compose(*overrides, program="train", run="run") -> (config, overrides) of a small run in tmp_path."""

    def make(*overrides: str, program: str = "train", run: str = "run") -> tuple[Settings, list[str]]:
        typed = [*small, f"paths.root={tmp_path}", *overrides]
        folder = tmp_path / "single" / run
        return compose(program, overrides=[*typed, f"paths.output_dir={folder}"]), typed

    return make


@pytest.fixture(scope="session")
def trained(demo: Path, small: list[str]) -> Path:
    """The directory of one finished run of rgb and flow, which tests read only."""
    from mml_lightning.engine.train import stage
    from mml_lightning.utils.process import quieten_libraries

    quieten_libraries()
    GlobalHydra.instance().clear()
    guard.install()
    folder = demo / "single" / "trained"
    words = [*small, f"paths.root={demo}", "stage=mml", "modality=[rgb,flow]", "schedule.epochs=1", "fusion=average"]
    stage(compose("train", overrides=[*words, f"paths.output_dir={folder}"]), words)
    save_words(words, folder / ".hydra" / "overrides.yaml")
    return folder


@pytest.fixture
def train(composed: Callable[..., tuple[Settings, list[str]]]) -> Callable[..., dict[str, Any]]:
    """Run a stage in this process; returns its result. Its directory is <tmp_path>/single/<run>."""

    def make(*overrides: str, run: str = "run") -> dict[str, Any]:
        from mml_lightning.engine.train import stage
        from mml_lightning.utils.process import quieten_libraries

        quieten_libraries()
        return stage(*composed(*overrides, run=run))

    return make


def command(program: str, *overrides: str) -> list[str]:
    return [sys.executable, str(ROOT / f"{program}.py"), *overrides]


def environment(**changes: str) -> dict[str, str]:
    """Of a user's shell: nothing that these tests or another run have left in it."""
    dropped = ("MML_STAMP", "MML_PROGRAM", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_PORT", "MASTER_ADDR")
    dropped += ("WANDB_SERVICE",)
    kept = {k: v for k, v in os.environ.items() if k not in dropped and not k.startswith("PL_")}
    return {**kept, "OMP_NUM_THREADS": "1", "WANDB_SILENT": "false", **changes}


@pytest.fixture
def shell(small: list[str], tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """shell("train", *overrides) runs the program in a process of its own, its files below tmp_path."""

    def run(program: str, *overrides: str, plain: bool = False) -> subprocess.CompletedProcess[str]:
        given = list(overrides) if plain else [*small, f"paths.root={tmp_path}", *overrides]
        return subprocess.run(
            command(program, *given), capture_output=True, text=True, env=environment(), cwd=tmp_path, timeout=LONGEST
        )

    return run


@pytest.fixture
def started(small: list[str], tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """started(*overrides) starts train.py and does not wait."""

    def start(*overrides: str) -> subprocess.Popen[str]:
        given = command("train", *small, f"paths.root={tmp_path}", *overrides)
        pipe = subprocess.PIPE
        return subprocess.Popen(
            given, stdout=pipe, stderr=pipe, text=True, env=environment(), cwd=tmp_path, preexec_fn=hear_ctrl_c
        )

    return start


def hear_ctrl_c() -> None:
    """A shell that runs the tests in the background lets them, and what they start, ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def weights(file: Path) -> dict[str, torch.Tensor]:
    """State dict of a zoo file."""
    return torch.load(file, map_location="cpu", weights_only=True)["state_dict"]


def assert_same_weights(one: Path, two: Path) -> None:
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    different = [key for key in first if not torch.equal(first[key], second[key])]
    assert not different, f"{one} and {two} differ in {different[:3]}"


@pytest.fixture
def same_weights() -> Callable[[Path, Path], None]:
    return assert_same_weights


def only(folder: Path, pattern: str = "*") -> Path:
    """The one directory that matches."""
    found = sorted(path for path in folder.glob(pattern) if path.is_dir())
    assert len(found) == 1, found
    return found[0]


@pytest.fixture
def one_directory() -> Callable[..., Path]:
    return only
