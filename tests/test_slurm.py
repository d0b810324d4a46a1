"""Preempted jobs of a real Slurm on this machine save, go back into the queue and end with the same numbers."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import kills, slurm
from tests.conftest import ROOT, assert_same_weights, environment, only
from tests.patience import LONGEST, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(slurm.missing() is not None, reason=str(slurm.missing())),
]
SETTINGS = [*kills.SMALL, "schedule.epochs=3"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with slurm.cluster(tmp_path_factory.mktemp("slurm")) as variables:
        yield environment(**variables)


def settings(demo: Path, root: Path) -> list[str]:
    return [*SETTINGS, f"data.root={demo / 'data'}", f"paths.cache={demo / 'cache'}", f"paths.root={root}"]


def test_a_job_of_two_ranks_is_requeued_by_its_exit_code(cluster: dict[str, str], demo: Path, tmp_path: Path) -> None:
    """What docs/clusters.md shows, with RequeueExit=75 in slurm.conf."""
    own = ["stage=mml", "modality=[rgb,flow]", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    words = [sys.executable, str(ROOT / "train.py"), *settings(demo, tmp_path), *own]
    folder, output = tmp_path / "cut", tmp_path / "job.out"
    script = tmp_path / "job.sh"
    line = " ".join(f"'{word}'" for word in [*words, f"hydra.run.dir={folder}", "resume=auto"])
    script.write_text(f"#!/bin/bash\n#SBATCH --requeue --ntasks-per-node=2 --open-mode=append\nsrun {line}\n")
    sent = subprocess.run(
        ["sbatch", "-o", str(output), str(script)], env=cluster, capture_output=True, text=True, check=True
    )
    job = sent.stdout.split()[-1]
    wait_for((folder / "checkpoints/last.ckpt").exists, "a checkpoint")
    subprocess.run(["scancel", "--signal=USR1", job], env=cluster, check=True)
    state = wait_for(lambda: (s := slurm.state(job, cluster))["JobState"] in slurm.ENDED and s, "the end of the job")
    assert state["JobState"] == "COMPLETED" and state["Restarts"] == "1", output.read_text()
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "completed" and len(result["resumed"]) == 1
    whole = subprocess.run([*words, f"hydra.run.dir={tmp_path / 'whole'}"], env=environment(), capture_output=True)
    assert whole.returncode == 0, whole.stdout
    for peer in ("rgb", "flow"):
        assert_same_weights(folder / f"peers/{peer}.pt", tmp_path / f"whole/peers/{peer}.pt")
    assert (folder / "logs/metrics.csv").read_text() == (tmp_path / "whole/logs/metrics.csv").read_text()


@pytest.mark.skipif(
    importlib.util.find_spec("hydra_plugins") is None,  # nothing else here brings plugins along
    reason="hydra-submitit-launcher is not installed (pip install -e '.[slurm]')",
)
def test_a_job_of_a_sweep_is_requeued_by_its_launcher(cluster: dict[str, str], demo: Path, tmp_path: Path) -> None:
    launcher = ["hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=30", "hydra.launcher.cpus_per_task=1"]
    given = ["-m", *launcher, *settings(demo, tmp_path), "resume=auto", "seed=0"]
    sweep = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *given],
        env=cluster,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for(lambda: list(tmp_path.glob("sweep/*/*/checkpoints/last.ckpt")), "a checkpoint", sweep)
    jobs = subprocess.run(["squeue", "-h", "-o", "%A"], env=cluster, capture_output=True, text=True).stdout.split()
    subprocess.run(["scancel", "--signal=USR2", *jobs], env=cluster, check=True)
    said, _ = sweep.communicate(timeout=LONGEST)
    assert sweep.returncode == 0, said
    folder = only(only(tmp_path / "sweep"), "0_*")
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "completed" and len(result["resumed"]) == 1, said
    alone = tmp_path / "alone"
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *settings(demo, tmp_path), f"hydra.run.dir={alone}"],
        env=environment(),
        capture_output=True,
    )
    assert done.returncode == 0, done.stdout
    assert_same_weights(folder / "peers/rgb.pt", alone / "peers/rgb.pt")
    assert os.path.getsize(folder / "logs/metrics.csv") == os.path.getsize(alone / "logs/metrics.csv")
