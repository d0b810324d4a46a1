"""The programs as a user starts them: single runs, sweeps with a failed job, kill and resume, Ctrl-C, --help."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.patience import wait_for

ROOT = Path(__file__).parents[1]
Shell = Callable[..., subprocess.CompletedProcess[str]]
OneDirectory = Callable[..., Path]


def results(folder: Path) -> dict[str, dict[str, Any]]:
    return {file.parent.name: json.loads(file.read_text()) for file in sorted(folder.glob("*/result.json"))}


def test_sweep_over_inits_and_seeds(
    shell: Shell,
    train: Callable[..., Any],
    tmp_path: Path,
    one_directory: OneDirectory,
    same_weights: Callable[[Path, Path], None],
) -> None:
    """ce was trained for seed 0 only: the jobs of seed 1 that start from it fail with advice, the others go on."""
    short = ("schedule.epochs=1",)
    train(*short, run="ce0")
    grid = ("init.rgb=scratch,ce", "init.flow=scratch,ce", "seed=0,1")
    done = shell("train", "-m", "stage=mml", "modality=[rgb,flow]", *grid, *short, "trainer=cpu")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    sweep = one_directory(tmp_path / "sweep")
    assert sweep.name.endswith("_init.rgb+init.flow+seed")
    told = results(sweep)
    assert len(told) == 8
    failed = {name: result for name, result in told.items() if result["status"] == "failed"}
    assert len(failed) == 3 and all(result["seed"] == 1 and "ce" in result["name"] for result in failed.values())
    for name, result in failed.items():
        assert "was never trained; make it with: python train.py stage=ce" in result["error"]
        assert result["error"] in (sweep / name / "train.log").read_text()
        assert {path.name for path in (sweep / name).iterdir()} == {".hydra", "result.json", "train.log"}
    assert sum(result["status"] == "completed" for result in told.values()) == 5
    for file in ("table.md", "table.csv", "table.html", "table.json"):
        assert (sweep / file).stat().st_size > 0
    with (sweep / "table.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert {row["init"] for row in rows} >= {"scratch", "ce"}
    # a job of the sweep is the same run as the same command alone
    job = next(sweep / name for name, result in told.items() if result["seed"] == 0 and "ce+scratch" in result["name"])
    train("stage=mml", "modality=[rgb,flow]", "init.rgb=ce", *short, "trainer=cpu", run="alone")
    for peer in ("rgb", "flow"):
        same_weights(job / "peers" / f"{peer}.pt", tmp_path / f"single/alone/peers/{peer}.pt")


def test_a_crash_keeps_its_log_and_its_neighbours(shell: Shell, tmp_path: Path, one_directory: OneDirectory) -> None:
    broken = "+optimizer.optimizer.differentiable=false,true"  # no such step is possible, as torch finds at the first
    done = shell("train", "-m", broken, "schedule.epochs=1", "trainer=smoke", "logger=wandb")
    assert done.returncode == 1
    sweep = one_directory(tmp_path / "sweep")
    told = list(results(sweep).values())
    assert [result["status"] for result in told] == ["completed", "failed"]
    assert "RuntimeError" in told[1]["error"]
    log = next(sweep.glob("1_*")) / "train.log"
    assert "Traceback" in log.read_text() and "the run failed" in log.read_text()
    assert "failed" in (sweep / "table.md").read_text()
    assert len(list(sweep.glob("0_*/wandb/offline-run-*"))) == 1, "each job has a W&B run of its own"
    assert len(list(sweep.glob("wandb/offline-run-*"))) == 1, "and the table has one"
    assert (done.stdout + done.stderr).count("W&B is offline") == 1


def last_epoch(process: subprocess.Popen[str], log: Path, line: str) -> None:
    """Wait until the run has said `line`."""

    def said() -> bool:
        return any(line in file.read_text() for file in log.glob("single/*/train.log"))

    wait_for(said, line, process)


def test_killed_run_resumes_in_its_directory_with_the_same_numbers(
    shell: Shell,
    started: Callable[..., subprocess.Popen[str]],
    train: Callable[..., Any],
    tmp_path: Path,
    one_directory: OneDirectory,
    same_weights: Callable[[Path, Path], None],
) -> None:
    process = started("schedule.epochs=8")
    last_epoch(process, tmp_path, "epoch 3/8")
    process.kill()
    process.communicate()
    folder = one_directory(tmp_path / "single")
    assert json.loads((folder / "result.json").read_text())["status"] == "running"
    done = shell("train", f"resume={folder}", plain=True)
    assert done.returncode == 0, done.stderr
    assert one_directory(tmp_path / "single") == folder
    result = json.loads((folder / "result.json").read_text())
    assert (result["status"], result["epochs"]) == ("completed", 8)
    log = (folder / "train.log").read_text()
    assert log.count("epoch 2/8") == 1 and log.count("epoch 8/8") == 1
    whole = train("schedule.epochs=8", run="whole")
    assert whole["metrics"] == result["metrics"]
    same_weights(folder / "peers/rgb.pt", tmp_path / "single/whole/peers/rgb.pt")


def interrupt(process: subprocess.Popen[str], log: Path) -> tuple[str, str]:
    """Ctrl-C, pressed again by a user who sees the run go on: an interrupt that falls into a destructor is swallowed by
    Python."""

    def rows() -> int:
        return sum(file.read_text().count("\n") for file in log.glob("single/*/logs/metrics.csv"))

    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        before = rows()
        wait_for(lambda: process.poll() is not None or rows() > before + 6, "the end")  # noqa: B023
    return process.communicate()


def test_ctrl_c_says_how_to_continue(
    started: Callable[..., subprocess.Popen[str]], tmp_path: Path, one_directory: OneDirectory
) -> None:
    process = started("schedule.epochs=1000")
    last_epoch(process, tmp_path, "epoch 1/1000")
    said, errors = interrupt(process, tmp_path)
    assert process.returncode == 130, said + errors
    folder = one_directory(tmp_path / "single")
    assert f"interrupted; continue with: python train.py resume={folder}" in said
    assert "Traceback" not in said + errors
    told = json.loads((folder / "result.json").read_text())
    assert (told["status"], told["error"]) == ("failed", "interrupted")
    assert not (tmp_path / "zoo").exists()


def test_eval_of_a_run_directory_brings_back_its_settings(
    shell: Shell, train: Callable[..., Any], tmp_path: Path, one_directory: OneDirectory
) -> None:
    done = shell("train", "schedule.epochs=1", "trainer=smoke", "views=uniform2", "trainer.limit_test_batches=1.0")
    assert done.returncode == 0, done.stderr
    assert "%|" not in done.stderr + done.stdout, "a progress bar is for terminals"
    run = one_directory(tmp_path / "single")
    trained = json.loads((run / "result.json").read_text())
    done = shell("eval", f"ckpt={run}", plain=True)
    assert done.returncode == 0, done.stderr
    measured = json.loads(next(tmp_path.glob("single/*eval_test_uniform2/result.json")).read_text())
    assert measured["metrics"]["test"] == trained["metrics"]["test"]
    done = shell("eval", f"ckpt={run}", "-m", "views=center,uniform2", plain=True)
    assert done.returncode == 0, done.stderr
    assert len(results(one_directory(tmp_path / "sweep"))) == 2


def test_help_lists_every_option_without_heavy_imports(tmp_path: Path) -> None:
    spy = (
        "import sys, runpy\n"
        "sys.argv = ['train.py', '--help']\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        f"try:\n    runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "heavy = {'torch', 'pytorch_lightning', 'numpy', 'wandb', 'cv2', 'av', 'decord'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", spy], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "python train.py stage=mml modality=[rgb,flow]" in done.stdout
    for group in (path for path in (ROOT / "conf").iterdir() if path.is_dir() and path.name not in ("hydra", "paths")):
        assert f"\n{group.name}=\n" in done.stdout
        for option in group.glob("*.yaml"):
            assert f"\n  {option.stem} " in done.stdout
    assert not list(tmp_path.iterdir())
