"""Wrong values are told by name, before torch is imported."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from mml_lightning.backbones import batch_norm, execution
from mml_lightning.config import values
from mml_lightning.config.compose import compose
from mml_lightning.config.settings import Settings
from mml_lightning.data.loading import dataset, draws
from mml_lightning.data.records.intervals import Ends
from mml_lightning.data.video.decode import DECODERS
from mml_lightning.evaluation.metrics.pooling import ENSEMBLES, POOLINGS
from mml_lightning.sampling import Mode, Policy
from mml_lightning.training import nonfinite_gradients, peer_parallel
from mml_lightning.transforms import boxes, testing
from mml_lightning.utils.errors import UserError
from tests.conftest import ROOT, environment
from tests.patience import LONGEST

HEAVY = ("torch", "pytorch_lightning", "lightning_fabric", "torchmetrics", "wandb", "cv2", "scipy")
WRONG = {
    **{key: f"{key}=abc" for key in values.LEAST},
    **{f"{key} too small": f"{key}={least - 1}" for key, (_, least) in values.LEAST.items()},
    **{f"{key} no number": f"{key}=abc" for key in values.POSITIVE},
    **{f"{key} not positive": f"{key}=0" for key in values.POSITIVE},
    **{key: f"{key}='a/b'" for key in values.NAMES},
    **{key: f"{key}=abc" for key in values.SWITCHES},
    **{f"{key} unknown": f"{key}=abc" for key in values.CHOICES},
    "shift": "backbone.net.shift=abc",
    "shift and pooling": "backbone.net.shift=online backbone.net.temporal_pool=true backbone=tsm_pool_resnet50",
    "loss.class_weights unknown": "loss=scaled_bce loss.class_weights=abc",  # of some losses only
    "max_steps": "+trainer.max_steps=0",
    "max_epochs": "+trainer.max_epochs=3",
    "no setting": "+trainer.nothing=3",
    "limit": "trainer.limit_train_batches=0",
    "stage": "stage=mml",
    "lessons": "stage=ml stage.copies=1",
    "group": "loading=3",
    "deleted": "~data.workers",
    "phases": "phases=3",
    "phases.0.epochs": "phases=[{name:a,epochs:0}]",
    "phases.0.train": "phases=[{name:a,train:[flow]}]",
    "phases.0.wait": "phases=[{name:a,wait:1}]",
}
"""Words by what is wrong with them, for a run of rgb alone."""
USUAL = ("data=charades", "data.root=x", "logger=wandb")
SCRIPT = """
import importlib.abc, json, sys
class Refused(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {heavy}:
            raise AssertionError("imports " + name)
sys.meta_path.insert(0, Refused())
from mml_lightning.config.compose import compose
from mml_lightning.config.values import check_job
from mml_lightning.utils.errors import UserError
told = {{}}
for what, words in json.load(sys.stdin).items():
    program = "eval" if "split=" in words else "train"
    try:
        check_job(compose(program, [*{usual}, *words.split(" "), *(["ckpt=x"] if program == "eval" else [])]))
        told[what] = "nothing"
    except UserError as error:
        told[what] = str(error)
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told() -> dict[str, str]:
    """What is said of each of WRONG in a process that can import nothing heavy."""
    script = SCRIPT.format(heavy=HEAVY, usual=USUAL)
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(WRONG),
        capture_output=True,
        text=True,
        env=environment(),
        cwd=ROOT,
        timeout=LONGEST,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_value_is_told_without_torch(told: dict[str, str], what: str) -> None:
    key = WRONG[what].partition("=")[0].lstrip("+~")
    said = told[what].removeprefix("unknown setting ")
    assert said.startswith({"lessons": "objective=mutual"}.get(what, key)) and len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("train", ["schedule.epochs=-1"]),
        ("train", ["optimizer.lr=abc"]),
        ("train", ["stage=mml", "modality=[rgb]"]),
        ("train", ["optimizer.groups=none"]),
        ("train", ["pipeline=ensemble_ml", "pipeline.jobs=0"]),
        ("train", ["modality=[touch]"]),
        ("train", ["data.decoder=${nothing}x"]),
        ("eval", ["ckpt=ce", "split=train"]),
    ],
)
def test_a_command_with_a_mistake_imports_no_torch(tmp_path: Path, program: str, words: list[str]) -> None:
    script = (
        "import atexit, runpy, sys\n"
        f"atexit.register(lambda: print('heavy', [name for name in {HEAVY} if name in sys.modules]))\n"
        f"sys.argv[:] = ['{program}.py', *sys.argv[1:]]\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        f"runpy.run_path({str(ROOT / f'{program}.py')!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, f"paths.root={tmp_path}", *words],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=tmp_path,
        timeout=LONGEST,
    )
    assert done.returncode == 2 and "error: " in done.stdout + done.stderr, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "heavy []"
    assert not list(tmp_path.rglob("*.log")), "nothing is left of a run that did not begin"


def test_lists_are_those_of_what_builds_on_them() -> None:
    used = {
        "batch_norm.freeze": batch_norm.FREEZES,
        "data.decoder": DECODERS,
        "data.interval_ends": get_args(Ends),
        "data.missing": dataset.MISSING,
        "nonfinite.policy": nonfinite_gradients.POLICIES,
        "placement": peer_parallel.PLACEMENTS,
        "sampling.mode": get_args(Mode),
        "sampling.policy": get_args(Policy),
        "step.memory_format": execution.FORMATS,
        "transforms.mode": draws.TRANSFORMS,
        "transforms.policy": get_args(boxes.Policy),
        "views.crop_rule": get_args(testing.Rule),
        "views.ensemble": ENSEMBLES,
        "views.policy": get_args(Policy),
        "views.pooling": POOLINGS,
    }
    assert {key: set(values.CHOICES[key]) for key in used} == {key: set(known) for key, known in used.items()}


def test_every_option_of_conf_passes(
    hydra: None, composed: Callable[..., tuple[Settings, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)  # as if every extra were installed
    for group in ("sampling", "transforms", "views", "optimizer", "schedule", "trainer", "callbacks", "logger"):
        for file in sorted((ROOT / "conf" / group).glob("*.yaml")):
            values.check_job(composed(f"{group}={file.stem}")[0])


def test_a_measurement_and_a_pipeline_need_not_fit_a_stage(hydra: None) -> None:
    values.check_job(compose("eval", ["stage=mml", "ckpt=x"]))
    values.check_job(compose("train", ["stage=mml", "pipeline=mml"]))
    with pytest.raises(UserError, match="two or more modalities"):
        values.check_job(compose("train", ["stage=mml", "seeds=3"]))
