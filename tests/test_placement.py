"""One peer per rank: the losses and weights of one process that trains both."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mml_lightning.errors import UserError

Shell = Callable[..., subprocess.CompletedProcess[str]]
PLACED = ("placement=peer", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.num_threads=1")
MML = ("stage=mml", "modality=[rgb,flow]")


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "logs" / "metrics.csv").open() as handle:
        return [{key: value for key, value in row.items() if "time" not in key} for row in csv.DictReader(handle)]


@pytest.mark.slow
def test_two_ranks_with_a_peer_each_are_one_process_with_both(
    shell: Shell,
    train: Callable[..., Any],
    tmp_path: Path,
    one_directory: Callable[..., Path],
    same_weights: Callable[[Path, Path], None],
) -> None:
    """To the last bit, with batch norms, dropout, clipping, momentum and a lesson; and after a resume in the middle."""
    own = (*MML, "schedule=constant", "schedule.epochs=2", "optimizer.clip_norm=0.5", "backbone.net.dropout=0.3")
    together = train(*own, run="together")
    done = shell("train", *own, *PLACED, "name=apart")
    assert done.returncode == 0, done.stdout + done.stderr
    apart = one_directory(tmp_path / "single", "*_apart")
    told = json.loads((apart / "result.json").read_text())
    assert told["metrics"] == together["metrics"] and told["steps"] == together["steps"]
    for peer in ("rgb", "flow"):
        same_weights(apart / "peers" / f"{peer}.pt", tmp_path / "single" / "together" / "peers" / f"{peer}.pt")
    losses = [
        [{k: v for k, v in row.items() if k.startswith("train/")} for row in rows(run)]
        for run in (apart, tmp_path / "single" / "together")
    ]
    assert losses[0] == losses[1] and any(row["train/flow/kl"] for row in losses[0])
    # the optimiser's state of both peers has come along, and the run goes on from it
    more = shell("train", f"resume={apart}", "schedule.epochs=3", plain=True)
    assert more.returncode == 0, more.stdout + more.stderr
    train(*own, "schedule.epochs=3", run="longer")
    same_weights(apart / "peers" / "flow.pt", tmp_path / "single" / "longer" / "peers" / "flow.pt")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("placement=near",), r"placement=near is unknown; use one of \['shared', 'peer'\]"),
        (("placement=peer",), r"the run has 2 \(rgb, flow\): use trainer=ddp trainer\.devices=2"),
        (("placement=peer", "trainer.devices=2", "objective.frozen=[flow]"), r"flow only teaches"),
        (
            ("placement=peer", "trainer.devices=2", "objective.edges=[{students: all, lesson: feature_mse}]"),
            r"sends logits only, lesson feature_mse of rgb needs features; use placement=shared",
        ),
        (("placement=peer", "trainer.devices=2", "batch_norm.precise=2"), r"every peer sees the whole batch; leave"),
    ],
)
def test_what_can_not_be_placed_so_is_said(
    train: Callable[..., Any], tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train(*MML, *words)
    assert not (tmp_path / "single").exists()
