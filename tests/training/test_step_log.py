"""Learning rates, gradient norms and training accuracy in the log of a run."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from mml_lightning.training.step_log import StepLog, gradient_norm
from tests.training import test_cohort as lab


class Rows(pl.loggers.logger.DummyLogger):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, Any]] = []

    def log_metrics(self, metrics: Any, step: Any = None) -> None:  # type: ignore[override]
        self.rows.append({**metrics, "step": step})


class Norms(pl.Callback):
    """The plain formula, before clipping."""

    def __init__(self) -> None:
        self.found: list[dict[str, float]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        norms = {}
        for name, peer in pl_module.peers.items():
            flat = torch.cat([p.grad.flatten() for p in peer.parameters() if p.grad is not None])
            norms[name] = float(flat.double().square().sum().sqrt())
        self.found.append(norms)


def test_rows_have_every_group_and_the_norm_before_clipping() -> None:
    cohort = lab.make_cohort({"rgb": lab.RGB, "flow": lab.FLOW}, lab.MUTUAL)
    cohort.log_every = 2
    rows, norms = Rows(), Norms()
    trainer = pl.Trainer(**{**lab.QUIET, "logger": rows}, max_epochs=1, callbacks=[StepLog(), norms])
    batches = [batch | {"complete": True} for batch in lab.batches(5)]
    trainer.fit(cohort, DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch))  # type: ignore[arg-type]
    told = [row for row in rows.rows if "grad_norm/rgb" in row]
    assert len(told) == 2, "steps 2 and 4"
    for row, measured in zip(told, norms.found[1::2], strict=True):
        for name, norm in measured.items():
            assert row[f"grad_norm/{name}"] == pytest.approx(norm, rel=1e-5)
        rates = {key: value for key, value in row.items() if key.startswith("lr/")}
        assert set(rates) == {f"lr/{group['name']}" for group in trainer.optimizers[0].param_groups}
        assert all(value > 0 for value in rates.values())


def test_a_network_without_gradients_has_norm_zero() -> None:
    assert float(gradient_norm(torch.nn.Linear(2, 2), torch.device("cpu"))) == 0.0


def test_the_log_of_a_run_has_them(train: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    train("data.batch_size=4", "schedule.epochs=2")
    with (tmp_path / "single/run/logs/metrics.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert any(row["grad_norm/rgb"] and float(row["grad_norm/rgb"]) > 0 for row in rows)
    assert any(row["train/rgb/top1"] and 0 <= float(row["train/rgb/top1"]) <= 100 for row in rows)
    assert [key for key in rows[0] if key.startswith("lr/rgb/")]
