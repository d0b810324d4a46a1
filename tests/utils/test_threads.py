"""How long torch's threads wait for each other, and where that is said."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mml_lightning.utils.threads import SPINS, wait_briefly
from tests.conftest import ROOT, environment
from tests.patience import LONGEST

SPIN, POLICY = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"


@pytest.mark.parametrize(
    ("typed", "told"),
    [({}, {SPIN: str(SPINS)}), ({SPIN: "7"}, {SPIN: "7"}), ({POLICY: "active"}, {POLICY: "active"})],
)
def test_threads_sleep_soon_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, typed: dict[str, str], told: dict[str, str]
) -> None:
    for key in (SPIN, POLICY):
        monkeypatch.setenv(key, "")  # what is set below is undone too
        monkeypatch.delenv(key)
    for key, value in typed.items():
        monkeypatch.setenv(key, value)
    wait_briefly()
    assert {key: os.environ[key] for key in (SPIN, POLICY) if key in os.environ} == told


@pytest.mark.parametrize("argv", [["train.py", "--help"], ["eval.py", "--help"], ["mml", "version"]])
def test_commands_say_so_before_torch_is_there(argv: list[str]) -> None:
    """GNU's OpenMP reads it when torch brings it in."""
    start = "run_module('mml_lightning'" if argv[0] == "mml" else "run_path(sys.argv[0]"
    script = (
        f"import atexit, os, runpy, sys\nsys.argv[:] = {argv}\nsys.path.insert(0, '.')\n"
        f"atexit.register(lambda: print(os.environ.get('{SPIN}'), 'torch' in sys.modules))\n"
        f"runpy.{start}, run_name='__main__')"
    )
    env = {key: value for key, value in environment().items() if key not in (SPIN, POLICY)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=env, cwd=ROOT, timeout=LONGEST
    )
    assert done.stdout.splitlines()[-1].split() == [str(SPINS), "False"], done.stderr
