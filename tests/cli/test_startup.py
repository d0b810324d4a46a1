"""What a command imports before it does anything: help and plans do not wait for libraries that they do not use.

Modules are counted, never seconds: tests/ runs on machines of any speed.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, environment
from tests.patience import LONGEST

LIGHTNING = ("pytorch_lightning", "lightning_fabric", "torchmetrics", "torch._dynamo", "sympy", "scipy", "wandb")
ENCODERS = ("cv2", "av", "decord")
SCRIPT = """
import atexit, runpy, sys
atexit.register(lambda: print("imported", *(name for name in {heavy} if name in sys.modules)))
sys.argv[:] = {argv}
sys.path.insert(0, {root!r})
{start}
"""
FILE, MODULE = (
    "runpy.run_path(sys.argv[0], run_name='__main__')",
    "runpy.run_module('mml_lightning', run_name='__main__')",
)


def imported(heavy: tuple[str, ...], start: str, argv: list[str], folder: Path) -> tuple[list[str], str]:
    """Which of the `heavy` modules a command has imported when it ends, and what it printed."""
    script = SCRIPT.format(heavy=heavy, argv=argv, root=str(ROOT), start=start)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment(), cwd=folder, timeout=LONGEST
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *said, last = done.stdout.splitlines()
    return last.split()[1:], "\n".join(said)


@pytest.mark.parametrize(
    "argv",
    [
        ["train.py", "--help"],
        ["eval.py", "--help"],
        ["mml", "--help"],
        ["mml", "bench", "--help"],
        ["mml", "version"],
        ["mml", "train", "--help"],
    ],
)
def test_help_imports_nothing_heavy(tmp_path: Path, argv: list[str]) -> None:
    start = MODULE if argv[0] == "mml" else FILE
    words = argv if argv[0] == "mml" else [str(ROOT / argv[0]), *argv[1:]]
    heavy = ("torch", "numpy", *LIGHTNING, *ENCODERS)
    found, said = imported(heavy, start, words, tmp_path)
    assert found == [] and said


def test_a_plan_imports_torch_but_neither_lightning_nor_codecs(small: list[str], demo: Path, tmp_path: Path) -> None:
    """Torch tells whether a graph of lessons is right; all that trains, reads or logs waits for a run."""
    words = [str(ROOT / "train.py"), *small, f"paths.root={tmp_path}", "pipeline=ensemble_ml", "pipeline.dry=true"]
    found, said = imported((*LIGHTNING, *ENCODERS), FILE, words, tmp_path)
    assert found == []
    assert "6 runs; 0 already done, 6 to do (12 networks)" in said and "ensemble_ml_flow_from_ml+ml_again" in said


def test_the_modules_that_are_looked_for_exist() -> None:
    """A training run has them; a name that nothing has would never be found."""
    importlib.import_module("mml_lightning.engine.train")
    assert {name for name in LIGHTNING if name != "wandb"} <= set(sys.modules)
