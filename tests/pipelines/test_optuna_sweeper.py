"""A search for settings: what is drawn, what a killed sweep does again, and what is told in the end."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from mml_lightning.pipelines import optuna_sweeper
from mml_lightning.pipelines.optuna_sweeper import BEST, TABLE, OptunaSweeper
from mml_lightning.utils.errors import UserError
from tests.patience import LONGEST

optuna = pytest.importorskip("optuna", reason="needs the extra sweep")
Shell = Callable[..., subprocess.CompletedProcess[str]]
RANGE = "optimizer.lr=tag(log,interval(0.001,0.1))"


def distribution(word: str) -> Any:
    return optuna_sweeper._distribution(OverridesParser.create().parse_override(word))


def test_ranges_of_hydra_are_those_of_optuna() -> None:
    found = optuna.distributions
    assert distribution("a=interval(0,2)") == found.FloatDistribution(0, 2)
    assert distribution("a=tag(log,interval(0.1,2))") == found.FloatDistribution(0.1, 2, log=True)
    assert distribution("a=int(interval(1,5))") == found.IntDistribution(1, 5)
    assert distribution("a=choice(ce,ml)") == found.CategoricalDistribution(["ce", "ml"])
    assert distribution("a=range(1,4)") == found.CategoricalDistribution(["1", "2", "3"])


@pytest.mark.parametrize("word", ["a=interval(2,1)", "a=tag(log,interval(0,1))"])
def test_a_range_that_is_none_is_a_mistake(word: str) -> None:
    with pytest.raises(UserError, match=r"^a: "):
        distribution(word)


class Launcher:
    """Runs a trial as the square of the distance from 0.02."""

    def __init__(self, stop_at: int | None = None, fails: bool = False) -> None:
        self.stop_at, self.fails = stop_at, fails
        self.jobs: list[tuple[int, list[str]]] = []

    def launch(self, batch: list[list[str]], initial_job_idx: int) -> list[Any]:
        results = []
        for number, words in enumerate(batch, start=initial_job_idx):
            self.jobs.append((number, words))
            if len(self.jobs) == self.stop_at:
                raise KeyboardInterrupt
            rate = float(next(word for word in words if word.startswith("optimizer.lr=")).partition("=")[2])
            results.append(SimpleNamespace(return_value=None if self.fails else (rate - 0.02) ** 2))
        return results


def sweep(folder: Path, launcher: Launcher, *words: str, trials: int = 4, **more: Any) -> Any:
    sweeper = OptunaSweeper(trials=trials, startup=2, **more)
    sweeper.config = OmegaConf.create(
        {
            "hydra": {"sweep": {"dir": str(folder)}},
            "checkpoint": {"monitor": "val/rgb/loss", "mode": None},
            "trainer": {"limit_val_batches": None},
        }
    )
    sweeper.launcher, sweeper.context = launcher, SimpleNamespace(config_loader=None)  # type: ignore[assignment]
    return sweeper.sweep(list(words or (RANGE, "stage=ce")))


def test_a_sweep_that_is_killed_repeats_no_trial_that_has_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = Launcher(stop_at=3)
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path, first)
    second = Launcher()
    best = sweep(tmp_path, second)
    assert [number for number, _ in first.jobs] == [0, 1, 2] and [number for number, _ in second.jobs] == [2, 3]
    assert first.jobs[2] == second.jobs[0], "the same values, and in its own directory with resume=auto"
    assert second.jobs[0][1][0] == "stage=ce" and second.jobs[0][1][-1] == "resume=auto"
    drawn = [words[1] for _, words in first.jobs[:2] + second.jobs]
    assert len(set(drawn)) == 4, "no value twice"
    with (tmp_path / TABLE).open(newline="") as handle:
        table = list(csv.DictReader(handle))
    values = [float(row["value"]) for row in table]
    assert len(table) == 4 and values == sorted(values), "less is better of a loss"
    told = yaml.safe_load((tmp_path / BEST).read_text())
    assert told["value"] == best == min((float(w.partition("=")[2]) - 0.02) ** 2 for w in drawn)
    assert told["overrides"][0] == "stage=ce" and told["overrides"][1] in drawn
    assert "best: trial" in capsys.readouterr().out
    third = Launcher()
    sweep(tmp_path, third)
    assert not third.jobs, "it has ended"
    sweep(tmp_path, third, trials=5)
    assert [number for number, _ in third.jobs] == [4]


def test_other_ranges_are_another_sweep(tmp_path: Path) -> None:
    sweep(tmp_path, Launcher(), trials=1)
    with pytest.raises(UserError, match=r"searches optimizer.lr in other ranges: choose another hydra\.sweep\.dir"):
        sweep(tmp_path, Launcher(), "optimizer.lr=interval(0,1)")
    with pytest.raises(UserError, match=r"trials with other settings \(.*data\.batch_size=8.*\)"):
        sweep(tmp_path, Launcher(), RANGE, "data.batch_size=8")
    with pytest.raises(UserError, match="nothing is searched"):
        sweep(tmp_path, Launcher(), "stage=ce")


def test_a_damaged_study_is_told(tmp_path: Path) -> None:
    (tmp_path / optuna_sweeper.DATABASE).write_text("no database")
    with pytest.raises(UserError, match="can't be used"):
        sweep(tmp_path, Launcher())


def test_trials_that_all_fail_end_the_sweep(tmp_path: Path) -> None:
    launcher = Launcher(fails=True)
    with pytest.raises(UserError, match="the first 3 trials failed"):
        sweep(tmp_path, launcher, trials=20)


@pytest.mark.parametrize("word", ["trials=0", "jobs=0", "seed=-1", "startup=x"])
def test_wrong_settings_are_told(word: str) -> None:
    key, _, value = word.partition("=")
    with pytest.raises(UserError, match=rf"hydra\.sweeper\.{key}"):
        OptunaSweeper(**{key: int(value) if value.lstrip("-").isdigit() else value})  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_real_sweep_killed_and_resumed(
    shell: Shell, started: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "sweep" / "lr"
    words = ("-m", "hydra/sweeper=optuna", RANGE, "hydra.sweeper.trials=3", f"hydra.sweep.dir={folder}", "test=false")
    process = started(*words, "schedule.epochs=8")
    deadline = time.monotonic() + LONGEST
    while not list(folder.glob("1_*/checkpoints/last.ckpt")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=LONGEST)
    before = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/result.json")}
    done = shell("train", *words, "schedule.epochs=8")
    assert done.returncode == 0, done.stdout + done.stderr
    after = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/result.json")}
    assert len(after) == 3 and {told["status"] for told in after.values()} == {"completed"}
    first, second = sorted(before)[:2]
    assert after[first] == before[first], "not repeated"
    assert after[second]["overrides"] == before[second]["overrides"] and after[second]["resumed"], "went on"
    assert "trial 1 was running: resuming it" in done.stdout and "best: trial" in done.stdout
    with (folder / TABLE).open(newline="") as handle:
        assert sorted(row["trial"] for row in csv.DictReader(handle)) == ["0", "1", "2"]
    assert yaml.safe_load((folder / BEST).read_text())["value"] == max(
        one["monitored"]["value"] for one in after.values()
    )
