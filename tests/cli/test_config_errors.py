"""Mistakes on the command line that Hydra would answer in several lines."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from torch._inductor.exc import InvalidCxxCompiler

from mml_lightning.cli.config_errors import known_keys, one_line, unknown_key
from mml_lightning.engine import job

CONF = Path(__file__).parents[2] / "conf"
Shell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("stage=mmml", "stage=mmml is unknown; use one of ['adamml', 'born_again', 'ce', "),
        ("optimizer.lrr=0.1", "unknown setting optimizer.lrr; did you mean optimizer.lr "),
        ("stagee=ml", "unknown setting stagee; did you mean stage "),
        ("modality=[rgb", "can't read 'modality=[rgb'; quote values with"),
        ("paths.root=/proc/nowhere", "can't write /proc/nowhere"),
        (
            f"train{'a' * 300}er.accelerator=cpu",
            "trainaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa... (319 characters): unknown setting;",
        ),
        ("name=a/b", "name='a/b' must be a folder name"),
        ("logger.wandb=tru", "logger.wandb=tru must be true or false"),
        ("init=ce:rgb_1", "was never trained; make it with: python train.py stage=ce 'modality=[rgb]' init=scratch"),
        ("init=~/nowhere.pt", "init.rgb="),
    ],
)
def test_one_line_and_a_remedy(shell: Shell, typed: str, answer: str) -> None:
    done = shell("train", typed)
    assert done.returncode == 2
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    assert len(said) == 1 and answer in said[0], said


def test_every_group_and_key_is_known() -> None:
    keys = set(known_keys(CONF))
    assert keys >= {"stage", "optimizer", "optimizer.lr", "seed", "modality.flow.window", "hydra.run.dir"}


def test_the_last_part_of_a_key_is_searched_where_nothing_is_alike() -> None:
    assert "schedule.factor.warmup_epochs" in unknown_key("schedule.warmup", CONF)
    assert "--help" in unknown_key("zzz", CONF)


def test_errors_without_a_file() -> None:
    for error in (OSError(errno.ENAMETOOLONG, "File name too long"), OSError(errno.EIO, "Input/output error")):
        assert (error.strerror or "") in one_line(error, CONF) and "None" not in one_line(error, CONF)


def test_a_compiler_that_is_missing_is_named() -> None:
    told = str(job.not_begun(InvalidCxxCompiler(), ["backbone=tiny"]))
    assert told.startswith("torch.compile fails here (InvalidCxxCompiler: ") and "leave out step.compile=true" in told
