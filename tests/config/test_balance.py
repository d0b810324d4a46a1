"""The group `balance` in runs: what is modulated is logged, what is blended comes from the logs of runs."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mml_lightning.config import balance, peers
from mml_lightning.config.settings import Settings
from mml_lightning.utils.errors import UserError

Composed = Callable[..., tuple[Settings, list[str]]]
Train = Callable[..., dict[str, Any]]
JOINT = ("stage=fusion", "modality=[rgb,flow]", "init=scratch")


def log(run: Path, name: str, losses: list[tuple[float, float | None]]) -> Path:
    """A run whose log has such losses of train and val, epoch by epoch."""
    (run / "logs").mkdir(parents=True)
    lines = [f"epoch,train/{name}/ce,val/{name}/loss"]
    for epoch, (train, val) in enumerate(losses):
        lines += [f"{epoch},{train},"] + ([f"{epoch},,{val}"] if val is not None else [])
    (run / "logs/metrics.csv").write_text("\n".join(lines) + "\n")
    return run


def test_blended_weights_come_from_the_logs(composed: Composed, tmp_path: Path) -> None:
    rgb = log(tmp_path / "a", "rgb", [(3.0, None), (2.0, 2.2), (1.0, None), (0.5, 1.2)])
    flow = log(tmp_path / "b", "flow", [(2.0, 2.0), (1.0, 1.5)])
    fused = log(tmp_path / "c", "fused", [(2.0, 2.0), (0.5, 1.0)])
    curves = f"balance.curves={{rgb: {rgb}, flow: {flow}, fused: {fused}}}"
    cfg, _ = composed(*JOINT, "balance=gblend", curves)
    assert balance.blended(cfg, ["rgb", "flow"]) == pytest.approx({"rgb": 0.4, "flow": 0.2, "fused": 0.4})
    with pytest.raises(UserError, match="needs a run of each of rgb, flow, fused alone"):
        balance.blended(composed(*JOINT, "balance=gblend")[0], ["rgb", "flow"])
    with pytest.raises(UserError, match=r"there is no metrics\.csv of a run"):
        balance.curve(tmp_path / "nowhere", "rgb")
    with pytest.raises(UserError, match=r"its log has 1: use a run with trainer\.validations"):
        balance.curve(log(tmp_path / "d", "rgb", [(2.0, None), (1.0, 1.0)]), "rgb")


def test_a_run_tells_how_gradients_were_modulated(train: Train, tmp_path: Path) -> None:
    train(*JOINT, "balance=ogm_ge", "balance.alpha=1.0", "schedule.epochs=1", "test=false")
    with (tmp_path / "single/run/logs/metrics.csv").open() as handle:
        rows = [row for row in csv.DictReader(handle) if row["train/loss_epoch"]]
    factors = [float(rows[0][f"train/{name}/balance"]) for name in ("rgb", "flow")]
    assert all(0 < factor <= 1 for factor in factors) and min(factors) < 1


def test_nothing_to_balance_is_refused(train: Train) -> None:
    with pytest.raises(UserError, match="balance=ogm_ge is for peers that learn through one output: use stage=fusion"):
        train("stage=mml", "modality=[rgb,flow]", "init=scratch", "balance=ogm_ge")


def test_networks_to_start_from_know_nothing_of_joint_training(composed: Composed) -> None:
    """The command that makes them would refuse it, and weights do not depend on it."""
    cfg, typed = composed("stage=fusion", "modality=[rgb,flow]", "fusion=fc2", "fusion.hidden=8", "balance=ogm_ge")
    assert not [word for word in peers.shared(cfg, typed) if word.startswith(("fusion", "balance"))]
