"""The attacks that were once possible, in processes of their own, as from a shell."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.payloads import UNPICKLE, filled
from tests.attacks.test_controls import victim
from tests.conftest import command, environment

Train = Callable[..., dict[str, Any]]


def test_saved_overrides_run_no_code(tmp_path: Path) -> None:
    outside, canary = victim(tmp_path)
    words = filled("interpolated callback", outside, canary)
    assert len(words) == len(UNPICKLE) + 1
    run, zoo = tmp_path / "single/run", tmp_path / "zoo"
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra/overrides.yaml").write_text(json.dumps(words))
    zoo.mkdir()
    (zoo / "rgb.pt").write_bytes(b"")
    (zoo / "result.json").write_text(json.dumps({"overrides": words}))
    tried = [("train", f"resume={run}", run), ("eval", f"ckpt={run}", run), ("eval", f"ckpt={zoo / 'rgb.pt'}", zoo)]
    for program, word, folder in tried:
        done = subprocess.run(
            command(program, word), capture_output=True, text=True, env=environment(), cwd=tmp_path, timeout=300
        )
        assert done.returncode == 2 and not canary.exists(), done.stderr
        assert done.stderr.startswith(f"error: {folder}") and len(done.stderr.splitlines()) == 1
        assert "+evil._target_=torch.load" in done.stderr and "type it yourself" in done.stderr
    assert not (tmp_path / "multirun").exists()


def test_a_manifest_brings_no_environment(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the real program: only what manifests have reaches it, and the folder of the start is not entered."""
    outside, canary = victim(tmp_path)
    train("trainer=smoke", "schedule.epochs=1", "test=false")
    run = tmp_path / "single/run"
    told = json.loads((run / "manifest.json").read_text())
    modules = tmp_path / "start/mml_lightning"
    modules.mkdir(parents=True)
    for file in (modules / "__init__.py", modules.parent / "json.py"):
        file.write_text((outside / "sitecustomize.py").read_text())
    bad = {"PYTHONPATH": str(outside), "LD_PRELOAD": str(outside / "x.so"), "MML_STAMP": "/x", "OMP_NUM_THREADS": "1"}
    told["starts"][0] |= {"environment": bad, "folder": str(modules.parent)}
    # the cache of these tests lies elsewhere: files are not trusted with that
    told["overrides"] = [word for word in told["overrides"] if not word.startswith("paths.cache")]
    (run / "manifest.json").write_text(json.dumps(told))
    # the demo is made by programs of their own too
    again = [word for word in told["overrides"] if not word.startswith("data.")]
    done = subprocess.run(
        [sys.executable, "-m", "mml_lightning", "rerun", str(run)],
        **{"capture_output": True, "text": True, "env": environment(), "cwd": tmp_path, "timeout": 600},
    )
    assert not canary.exists(), done.stdout + done.stderr
    assert done.returncode == 0 and "equal: run and its rerun" in done.stdout, done.stdout + done.stderr
    assert f"started in {modules.parent}; relative paths are taken from here" in done.stdout and again
