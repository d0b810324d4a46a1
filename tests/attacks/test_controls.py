"""The canary can sing: the same payloads, through what is typed and trusted or through the libraries alone, do run."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra._internal import hydra as hydra_internal
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra

from mml_lightning.config import guard, resolvers
from mml_lightning.utils.errors import UserError
from tests.attacks.payloads import filled
from tests.attacks.world import Touch
from tests.conftest import command, environment

CONF = Path(__file__).parents[2] / "conf"


def victim(tmp_path: Path) -> tuple[Path, Path]:
    outside = tmp_path / "outside"
    outside.mkdir()
    canary = outside / "CANARY"
    (outside / "notes.txt").write_text("mine")
    (outside / "evil.pkl").write_bytes(pickle.dumps(Touch(canary)))
    (outside / "sitecustomize.py").write_text(f"import pathlib\npathlib.Path({str(canary)!r}).touch()\n")
    return outside, canary


@pytest.mark.parametrize("name", ["interpolated callback", "callback", "callback by its leaf"])
def test_hydra_alone_calls_what_an_override_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # as it was before another test of this process has put our loader in its place
    monkeypatch.setattr(hydra_internal, "ConfigLoaderImpl", ConfigLoaderImpl)
    outside, canary = victim(tmp_path)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", filled(name, outside, canary), return_hydra_config=True)
    try:
        Callbacks(cfg)
    except Exception as error:  # what comes back from the call is no callback, or no weights
        assert canary.exists(), error
    assert canary.exists()


def test_a_pickle_runs_where_it_is_unpickled(tmp_path: Path) -> None:
    outside, canary = victim(tmp_path)
    torch.save({"state_dict": Touch(canary)}, outside / "evil.pt")
    torch.load(outside / "evil.pt", weights_only=False)
    assert canary.exists()


def test_the_environment_runs_code(tmp_path: Path) -> None:
    outside, canary = victim(tmp_path)
    subprocess.run([sys.executable, "-c", "pass"], env={**os.environ, "PYTHONPATH": str(outside)}, check=True)
    assert canary.exists()


def test_what_is_typed_is_trusted(tmp_path: Path) -> None:
    """The same callback, and the same trust, from the person at the keyboard."""
    outside, canary = victim(tmp_path)
    call = f"+hydra.callbacks.mine={{_target_: shutil.copyfile, src: {outside}/evil.pkl, dst: {canary}}}"
    for trust, runs in (((), False), (("trusted=[shutil]",), True)):
        words = [call, *trust, "data.index=nothing.csv", "data=csv", f"paths.root={tmp_path}"]
        done = subprocess.run(
            command("train", *words), capture_output=True, text=True, env=environment(), cwd=tmp_path, timeout=300
        )
        assert canary.exists() is runs, done.stderr
        assert runs or "type trusted=[shutil]" in done.stderr
        assert done.returncode == 2, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["hydra/launcher=submitit_slurm", "hydra.launcher.setup=[module load cuda]"],
        ["hydra/launcher=submitit_slurm", "+hydra.launcher.additional_parameters.x=1"],
        ["hydra/launcher=submitit_slurm", "hydra.launcher.submitit_folder=/tmp/x"],
        ["hydra.job_logging.handlers.file.filename=/tmp/x.log"],
        ["+hydra.job.env_set.X=1"],
    ],
)
def test_what_steers_hydra_counts_where_it_is_typed(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if "hydra/launcher=submitit_slurm" in words:
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install -e '.[slurm]'")
    GlobalHydra.instance().clear()
    resolvers.register()
    monkeypatch.setenv("MML_STAMP", "now")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", words, return_hydra_config=True)
    guard.check(cfg, words)
    with pytest.raises(UserError):
        guard.check(cfg, [])
