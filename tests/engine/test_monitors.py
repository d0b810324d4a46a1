"""Early stopping, the best checkpoint, loggers and callbacks of the config in runs of this process."""

from __future__ import annotations

import csv
import importlib.util
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from mml_lightning.config.compose import changed
from mml_lightning.config.settings import Settings
from mml_lightning.engine import train as engine_train
from mml_lightning.engine.monitors import settle
from mml_lightning.training.best_checkpoint import BEST
from mml_lightning.utils.errors import UserError
from tests.runs.test_resume import Cut, assert_equal_runs
from tests.training import test_cohort as lab

Train = Callable[..., dict[str, Any]]
Composed = Callable[..., tuple[Settings, list[str]]]
Same = Callable[[Path, Path], None]
STOPS = ("callbacks=[default,early_stopping]", "callbacks.early_stopping.patience=1", "optimizer.lr=0")
MLFLOW = importlib.util.find_spec("mlflow") is not None
TENSORBOARD = importlib.util.find_spec("tensorboard") is not None


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "logs" / "metrics.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.mark.skipif(not TENSORBOARD, reason="needs the extra tensorboard")
def test_early_stopping_lr_monitor_best_checkpoint_tensorboard_and_csv_in_one_run(
    train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture, same_weights: Same
) -> None:
    """And a resume of the run that has stopped trains nothing and leaves the same."""
    caplog.set_level(logging.INFO)
    words = (
        *("callbacks=[default,early_stopping,lr_monitor]", "logger=[csv,tensorboard]", "checkpoint.export=best"),
        *("checkpoint.monitor=val/rgb/loss", "callbacks.early_stopping.patience=2", "trainer.validations=null"),
        *("schedule.epochs=9", "checkpoint.mode=max", "data.batch_size=4"),  # a loss that falls: the first is best
    )
    result, run = train(*words), tmp_path / "single" / "run"
    assert result["status"] == "completed" and result["limited"] == [] and result["zoo"]
    assert "did not improve in the last 2 records" in result["stopped_early"] and 3 <= result["epochs"] < 9
    best = result["checkpoint"]["best"]
    assert result["checkpoint"]["exported"] == "best" and best["epoch"] == result["epochs"] - 2
    assert best["value"] == pytest.approx(max(float(row["val/rgb/loss"]) for row in rows(run) if row["val/rgb/loss"]))
    assert best["value"] == pytest.approx(result["metrics"]["val"]["rgb"]["loss"], abs=1e-3), "of what is exported"
    content = torch.load(run / "checkpoints" / BEST, weights_only=True)
    told = torch.load(run / "peers" / "rgb.pt", weights_only=True)
    assert all(
        torch.equal(told["state_dict"][key], content["state_dict"][f"peers.rgb.{key}"]) for key in told["state_dict"]
    )
    assert (
        told["provenance"]["weights"] == "best"
        and told["provenance"]["steps"] == best["step"] == content["global_step"]
    )
    assert "val/rgb/loss, higher is better" in caplog.text and "checkpoint.mode=max: val/rgb/loss is" in caplog.text
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert {"val/rgb/top1", "train/rgb/ce", "test/rgb/top1"} <= set(events.Tags()["scalars"])
    assert any(key.startswith("lr-") for row in rows(run) for key in row)

    again, log = (tmp_path / "before"), (run / "logs" / "metrics.csv").read_text()
    again.mkdir()
    (run / "peers").rename(again / "peers")
    resumed = train(*words, f"resume={run}")
    assert (resumed["epochs"], resumed["steps"], resumed["metrics"]) == tuple(
        result[k] for k in ("epochs", "steps", "metrics")
    )
    assert (run / "logs" / "metrics.csv").read_text() == log and resumed["checkpoint"] == result["checkpoint"]
    same_weights(run / "peers" / "rgb.pt", again / "peers" / "rgb.pt")


@pytest.mark.skipif(not MLFLOW, reason="needs the extra mlflow")
def test_mlflow_has_settings_and_metrics_and_a_resume_is_a_second_record(train: Train, tmp_path: Path) -> None:
    words = ("logger=[csv,mlflow]", "trainer=smoke")
    result, run = train(*words), tmp_path / "single" / "run"
    train(*words, f"resume={run}", "resume_force=true", "trainer.limit_epochs=2")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'demo'")
    second, first = client.search_runs([experiment.experiment_id])  # the newest first
    assert [record.info.status for record in (first, second)] == ["FINISHED", "FINISHED"]
    assert first.info.run_name == result["name"] and first.data.params["config/seed"] == "0"
    assert first.data.metrics["val/rgb/top1"] == pytest.approx(result["metrics"]["val"]["rgb"]["top1"])
    assert first.data.metrics["epoch"] == 1 and second.data.metrics["epoch"] == 2
    assert not list(Path.cwd().glob("mlruns")), "nothing but the database"


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_validation_epoch_end"])
def test_a_run_that_is_killed_goes_on_with_its_best_checkpoint_and_patience(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_weights: Same, hook: str
) -> None:
    words = ("callbacks=[default,early_stopping]", "callbacks.early_stopping.patience=2", "checkpoint.export=best")
    words = (*words, "checkpoint.monitor=train/loss", "checkpoint.mode=max", "schedule.epochs=5")
    train(*words, run="whole")
    plain = engine_train.training_callbacks
    calls = 8 if hook == "on_train_batch_start" else 2
    with monkeypatch.context() as patch:
        patch.setattr(engine_train, "training_callbacks", lambda *given: [*plain(*given), Cut(hook, calls)])
        with pytest.raises(ConnectionResetError):
            train(*words, run="cut")
    train(*words, "resume=auto", run="cut")
    assert_equal_runs(tmp_path / "single/whole", tmp_path / "single/cut", same_weights)
    first, second = (json.loads((tmp_path / "single" / run / "result.json").read_text()) for run in ("whole", "cut"))
    assert first["checkpoint"] == second["checkpoint"] and first["stopped_early"] == second["stopped_early"]


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        (("schedule.epochs=3", "trainer.validations=2"), [6, 9]),
        pytest.param(
            *(("schedule.epochs=4", "trainer.validations=2", "+trainer.max_steps=8"), [6, 8]), marks=pytest.mark.slow
        ),
        pytest.param(
            *(("schedule.epochs=4", "trainer.validations=2", "+callbacks.out._target_=habits_out.Out"), [6, 8]),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["epochs", "steps", "time"],
)
def test_the_best_is_chosen_among_all_that_was_validated_the_end_included(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], steps: list[int]
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "habits_out.py").write_text(  # what ends a run as a timer does
        "import pytorch_lightning as pl\n\n\nclass Out(pl.Callback):\n"
        "    def on_train_batch_end(self, trainer, *_):\n        trainer.should_stop = trainer.global_step >= 8\n"
    )
    ends = []
    for mode in ("min", "max"):  # by one of the two the end is the best
        kept = ("checkpoint.monitor=val/rgb/loss", f"checkpoint.mode={mode}", "trusted=[habits_out]", "test=false")
        result = train(*words, *kept, run=mode)
        found = [row for row in rows(tmp_path / "single" / mode) if row["val/rgb/loss"]]
        assert [int(row["step"]) + 1 for row in found] == steps
        losses = [float(row["val/rgb/loss"]) for row in found]
        best = result["checkpoint"]["best"]
        assert best["value"] == pytest.approx(min(losses) if mode == "min" else max(losses))
        ends.append(best["step"])
    assert sorted(ends) == steps


def test_a_resume_that_can_not_know_the_best_epoch_is_refused_before_it_trains(train: Train, tmp_path: Path) -> None:
    by_top1, by_loss = "checkpoint.monitor=val/rgb/top1", "checkpoint.monitor=val/rgb/loss"
    best, run = "checkpoint.export=best", tmp_path / "single/run"
    small = ("schedule.epochs=1", "test=false")
    train(*small, run="none")
    with pytest.raises(UserError, match=r"in the 1 epoch that is done the run has kept no best.*export=last"):
        train(*small, best, f"resume={tmp_path / 'single/none'}", run="none")
    train(*small, by_top1)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    for words in ((by_loss,), (by_top1, "checkpoint.mode=min"), (by_loss, "schedule.epochs=2")):
        with pytest.raises(UserError, match=r"it was kept by val/rgb/top1 \(max\).*checkpoint\.monitor=val/rgb/top1"):
            train(*small, *words, best, f"resume={run}")
    (run / "checkpoints" / BEST).rename(run / "checkpoints" / "away")
    with pytest.raises(UserError, match=r"best\.ckpt is gone.*checkpoint\.export=last"):
        train(*small, by_top1, best, f"resume={run}")
    (run / "checkpoints" / "away").rename(run / "checkpoints" / BEST)
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    assert train(*small, by_top1, best, f"resume={run}")["checkpoint"]["exported"] == "best"
    assert train(*small, by_loss, f"resume={run}")["checkpoint"]["exported"] == "last"


def test_a_patience_that_is_changed_counts_after_a_resume(
    train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    never = ("callbacks.early_stopping.min_delta=1000", "trainer.validations=null")  # nothing is as much better
    words, run = (*STOPS, *never, "schedule.epochs=6", "test=false"), tmp_path / "single/run"
    assert train(*words)["epochs"] == 2
    longer = train(*words, "callbacks.early_stopping.patience=3", "resume_force=true", f"resume={run}")
    assert "had patience 1 and has 3 now" in caplog.text
    assert longer["epochs"] == 4 and "in the last 3 records" in longer["stopped_early"]
    assert train(*words, "callbacks.early_stopping.patience=2", "resume_force=true", f"resume={run}")["epochs"] == 4


@pytest.mark.parametrize(
    ("epochs", "validations", "metric", "measured"),
    [
        (36, "3", "val/rgb/top1", 3),
        (5, "null", "val/rgb/top1", 5),
        (5, "3", "val/rgb/top1", 3),
        (6, "2", "train/loss", 6),
    ],
)
def test_a_patience_that_can_not_run_out_is_told(
    composed: Composed, caplog: pytest.LogCaptureFixture, epochs: int, validations: str, metric: str, measured: int
) -> None:
    """The first measurement improves on nothing; the last ends a run that has ended."""
    cohort = lab.make_cohort({"rgb": lab.RGB})
    data: Any = type("Data", (), {"splits": {}})()
    stopping = ("callbacks=[default,early_stopping]", f"callbacks.early_stopping.monitor={metric}")
    cfg, _ = composed(*stopping, f"schedule.epochs={epochs}", f"trainer.validations={validations}")
    for patience in range(1, 8):
        caplog.clear()
        settle(changed(cfg, {"callbacks.early_stopping.patience": patience}), cohort, data)
        assert ("can't end this run early" in caplog.text) is (patience + 1 >= measured), patience


@pytest.mark.parametrize(
    "words",
    [
        ("callbacks.early_stopping.monitor=train/loss", "checkpoint.monitor=val/rgb/top1"),
        ("+callbacks.early_stopping.check_on_train_epoch_end=true",),
    ],
)
def test_what_would_stop_where_val_is_not_measured_is_refused(composed: Composed, words: tuple[str, ...]) -> None:
    cohort = lab.make_cohort({"rgb": lab.RGB})
    data: Any = type("Data", (), {"splits": {}})()
    cfg, _ = composed("callbacks=[default,early_stopping]", "schedule.epochs=6", "trainer.validations=3", *words)
    with pytest.raises(UserError, match=r"val is measured after every 2 epochs only: set trainer\.validations=null"):
        settle(cfg, cohort, data)
    settle(changed(cfg, {"trainer.validations": None}), cohort, data)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("checkpoint.monitor=val/rgb/top2",),
            r"checkpoint\.monitor=val/rgb/top2 is not a metric of this run; did you mean",
        ),
        (("checkpoint.monitor=test/rgb/top1",), "the test split is not evaluated during training"),
        (
            (*STOPS, "callbacks.early_stopping.monitor=val/flow/top1"),
            r"callbacks\.early_stopping\.monitor=val/flow/top1 is",
        ),
        (
            (*STOPS, "callbacks.early_stopping.monitor=val/rgb/loss", "trainer.limit_val_batches=0"),
            "there are train/loss",
        ),
        ((*STOPS, "callbacks.early_stopping.mode=up"), r"callbacks\.early_stopping\.mode=up is unknown"),
        (("callbacks=none", "checkpoint.export=best"), r"callbacks\.checkpoint=false writes none"),
    ],
)
def test_a_metric_that_the_run_does_not_have_is_told_before_it_trains(
    train: Train, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        train(*words)
    assert not (tmp_path / "single/run/result.json").exists()


def test_the_state_of_an_own_callback_goes_through_a_resume(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "habits_counting.py").write_text(
        "import pytorch_lightning as pl\n\n\nclass Counting(pl.Callback):\n    seen = 0\n\n"
        "    def on_train_batch_end(self, *_):\n        self.seen += 1\n\n"
        "    def state_dict(self):\n        return {'seen': self.seen}\n\n"
        "    def load_state_dict(self, state):\n        self.seen = state['seen']\n\n"
        "    def on_fit_end(self, trainer, module):\n        print('seen', self.seen)\n\n\n"
        "class Odd(pl.Callback):\n    def state_dict(self):\n        return {'what': self}\n"
    )
    own = ("trusted=[habits_counting]", "+callbacks.mine._target_=habits_counting.Counting")
    train(*own)
    content = torch.load(tmp_path / "single/run/checkpoints/last.ckpt", weights_only=True)
    assert content["callbacks"]["Counting"] == {"seen": 6}
    train(*own, "resume=auto", "schedule.epochs=3")
    content = torch.load(tmp_path / "single/run/checkpoints/last.ckpt", weights_only=True)
    assert content["callbacks"]["Counting"] == {"seen": 9}
    with pytest.raises(UserError, match="the state of callback Odd holds a Odd"):
        train("trusted=[habits_counting]", "+callbacks.mine._target_=habits_counting.Odd", run="odd")


def test_what_changes_weights_is_another_run_and_what_looks_on_is_not(composed: Composed) -> None:
    from mml_lightning.runs.fingerprint import config_that_decides_weights as decides

    usual = decides(composed()[0].plain())
    for words in (
        ["callbacks=[default,lr_monitor]"],
        ["checkpoint.monitor=val/rgb/top1"],
        ["logger=[csv,tensorboard]"],
    ):
        assert decides(composed(*words)[0].plain()) == usual
    names = ("lightning.pytorch", "pytorch_lightning")
    early = [f"+callbacks.early._target_={name}.callbacks.EarlyStopping" for name in names]
    one, two = (decides(composed(word, "+callbacks.early.monitor=train/loss")[0].plain()) for word in early)
    assert one == two != usual
    assert decides(composed("checkpoint.export=best")[0].plain()) != usual


def test_val_that_is_test_is_said(
    train: Train, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mml_lightning.engine import monitors

    caplog.set_level(logging.INFO)
    train("schedule.epochs=1", "checkpoint.monitor=val/rgb/top1")
    assert "val is the test split" not in caplog.text
    data = type("Data", (), {"splits": {"val": [(1, {"f": "a"})], "test": [(2, {"f": "a"})]}})()
    monkeypatch.setattr(monitors, "rows", lambda records: records)
    assert monitors._common(data) == "val is the test split"  # type: ignore[arg-type]


def test_an_own_progress_bar_stands_in_for_ours(composed: Composed, tmp_path: Path) -> None:
    from mml_lightning.config import lightning_nodes
    from mml_lightning.engine.trainer import make_trainer

    cfg, _ = composed("+callbacks.bar._target_=lightning.pytorch.callbacks.RichProgressBar")
    own = lightning_nodes.callbacks(cfg, lightning_nodes.nodes(cfg, "callbacks"))
    trainer = make_trainer(cfg, tmp_path, own)
    assert [one for one in trainer.callbacks if isinstance(one, pl.callbacks.ProgressBar)] == own  # type: ignore[attr-defined]
