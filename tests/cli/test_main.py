"""The `mml` command as a user meets it: exit codes, one-line errors, files written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

import mml_lightning
from mml_lightning.benchmarks.commands import BENCHES
from mml_lightning.cli.main import COMMANDS, main, parse
from mml_lightning.utils import program, terminal
from tests.patience import LONGEST


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two methods with two seeds each; B is better by 1.9 and 2.1."""
    for name, values in {"ce_rgb_from_scratch": (50.0, 52.0), "ml_rgb_from_ce": (51.9, 54.1)}.items():
        for seed, top1 in enumerate(values):
            run = tmp_path / "sweep" / f"{seed}_{name}"
            run.mkdir(parents=True)
            result = {
                "schema": 1,
                "status": "completed",
                "name": name,
                "stage": name.split("_")[0],
                "modality": ["rgb"],
                "seed": seed,
                "overrides": [f"stage={name.split('_')[0]}", f"seed={seed}"],
                "metrics": {"test": {"rgb": {"top1": top1}}},
            }
            (run / "result.json").write_text(json.dumps(result))
    return tmp_path / "sweep"


def run_module(*arguments: str, **options: str) -> subprocess.CompletedProcess[str]:
    """`python -m mml_lightning` in a process of its own."""
    root = str(Path(mml_lightning.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, **options}
    command = [sys.executable, "-m", "mml_lightning", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=LONGEST, check=False)


def test_report_prints_and_writes_the_table(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(sweep)]) == 0
    printed = capsys.readouterr().out
    assert "51.00 ± 1.41 (2)" in printed
    assert terminal.plain((sweep / "table.md").read_text()) in printed
    assert max(map(len, printed.split("wrote ")[0].splitlines())) <= 80
    assert {path.suffix for path in sweep.glob("table.*")} == {".md", ".csv", ".json", ".html"}


def test_several_directories_write_only_where_told(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [str(path) for path in sorted(sweep.iterdir())[:2]]
    assert main(["report", *both]) == 0
    assert "nothing written" in capsys.readouterr().out
    assert not list(tmp_path.rglob("table.*"))
    assert main(["report", *both, "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "table.csv").is_file()


def test_paired_compares_two_rows(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(sweep), "--paired", "ml_rgb_from_ce", "ce_rgb_from_scratch"]) == 0
    printed = capsys.readouterr().out
    # The half width is 12.706 * 0.1: just below the difference of 2.
    assert "mean +2.000" in printed and "[+0.729, +3.271]" in printed and "significant" in printed
    assert not list(sweep.glob("table.*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--paired", "typo", "ml_rgb_from_ce"], "the rows are: ce_rgb_from_scratch; ml_rgb_from_ce"),
        (["--paired", "ce_rgb_from_scratch", "ml_rgb_from_ce", "--metric", "top1"], "it has: test/rgb/top1"),
        (["--paired", "ce_rgb_from_scratch", "ml_rgb_from_ce", "--wandb"], "remove --wandb"),
        (["--metric", "test/rgb/top1"], "last part"),
        (["--metric", "top9"], "there are: top1"),
        (["--seeds", "0,1"], "needs --paired"),
        (["missing"], "is not a directory"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    sweep: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["report", str(sweep), *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("mml: error: ") and printed.err.count("\n") == 1
    assert message in printed.err and not printed.out


def test_other_exceptions_are_not_hidden(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("mml_lightning.report.tabulate", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["report", str(sweep)])


def test_wandb_flag_logs_offline(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    assert main(["report", str(sweep), "--wandb"]) == 0
    (file,) = tmp_path.rglob("table_0_*.table.json")
    assert len(json.loads(file.read_text())["data"]) == 2


def test_words_of_a_config_may_stand_anywhere() -> None:
    args = parse(["bench", "step", "seed=1", "--rounds", "2", "seed=2", "+a=b", "--steps", "3"])
    assert args.overrides == ["seed=1", "seed=2", "+a=b"] and (args.rounds, args.steps) == (2, 3)


@pytest.mark.parametrize(
    "words",
    [["bench", "step", "a=1", "--rounds", "2", "fast"], ["check", "--round=2"], ["report", "dir", "--out", "x", "a=1"]],
)
def test_unknown_words_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parse(words)
    assert left.value.code == 2 and f"unrecognized arguments: {words[-1]}" in capsys.readouterr().err


def test_module_and_its_exit_codes(tmp_path: Path) -> None:
    version = run_module("version")
    assert (version.returncode, version.stdout.strip()) == (0, mml_lightning.__version__)
    mistake = run_module("report", str(tmp_path))
    assert (mistake.returncode, mistake.stdout) == (2, "")
    assert mistake.stderr.startswith("mml: error: no runs") and "Traceback" not in mistake.stderr


@pytest.mark.parametrize(("words", "named"), [((), COMMANDS), (("bench",), BENCHES), (("bench", "step"), ["--json"])])
def test_help_names_every_command_and_loads_no_library(words: tuple[str, ...], named: Iterable[str]) -> None:
    shown = run_module(*words, "--help", PYTHONPROFILEIMPORTTIME="1")
    assert shown.returncode == 0 and all(name in shown.stdout for name in named)
    loaded = {line.rsplit("|", 1)[-1].strip() for line in shown.stderr.splitlines()}
    assert "argparse" in loaded
    assert not loaded & {"torch", "numpy", "pytorch_lightning", "hydra", "omegaconf", "wandb", "mml_lightning.report"}


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in program.NAMES])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert f"mml {name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", program.NAMES)
def test_train_and_eval_are_verbs_too(name: str) -> None:
    """The same programs as the files: their help, their errors and exit codes."""
    shown = run_module(name, "--help")
    assert shown.returncode == 0 and "python -m mml_lightning train stage=mml" in shown.stdout
    wrong = run_module(name, "optimzer.lr=1")
    assert (wrong.returncode, wrong.stdout) == (2, "") and "did you mean optimizer.lr" in wrong.stderr
