"""Callbacks and loggers that a config calls: which it may, and what is said of the others."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping, LearningRateMonitor

from mml_lightning.config import lightning_nodes, values
from mml_lightning.config.compose import compose
from mml_lightning.config.settings import Settings
from mml_lightning.utils.errors import UserError

Composed = Callable[..., tuple[Settings, list[str]]]
EARLY = "+callbacks.early._target_=lightning.pytorch.callbacks.EarlyStopping"
MONITOR = "+callbacks.early.monitor=val/rgb/top1"


class Own(pl.Callback):
    """Of a package of the user's."""

    def __init__(self, number: int = 1) -> None:
        self.number = number


def made(cfg: Settings) -> list[pl.Callback]:
    return lightning_nodes.callbacks(cfg, lightning_nodes.nodes(cfg, "callbacks"))


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_callbacks_of_lightning_are_made_by_either_name(composed: Composed, package: str) -> None:
    cfg, _ = composed(f"+callbacks.early._target_={package}.callbacks.EarlyStopping", MONITOR)
    values.check_job(cfg)
    (callback,) = made(cfg)
    assert isinstance(callback, EarlyStopping) and callback.monitor == "val/rgb/top1"


def test_options_come_as_a_list_and_each_brings_a_node(composed: Composed) -> None:
    cfg, _ = composed("callbacks=[default,early_stopping,lr_monitor]", "checkpoint.monitor=val/rgb/top1")
    values.check_job(cfg)
    assert list(lightning_nodes.nodes(cfg, "callbacks")) == ["early_stopping", "lr_monitor"]
    assert cfg.callbacks.epoch_lines and cfg.callbacks.checkpoint, "of default"
    cfg, _ = composed("callbacks=[default,lr_monitor]", "callbacks.lr_monitor=null")
    values.check_job(cfg)
    assert not made(cfg), "null switches one off"


def test_one_option_alone_has_the_others_as_in_default(composed: Composed) -> None:
    usual, alone = composed("callbacks=[default]")[0].callbacks, composed("callbacks=early_stopping")[0]
    values.check_job(alone)
    assert alone.callbacks == usual


@pytest.mark.parametrize("words", [("logger=none",), ("logger=csv",), ("logger=[csv]",), ("logger=[none,csv]",)])
def test_the_csv_log_needs_no_other(composed: Composed, words: Sequence[str]) -> None:
    cfg, _ = composed(*words)
    values.check_job(cfg)
    assert not cfg.logger.wandb and not lightning_nodes.loggers(cfg)


def test_loggers_stand_side_by_side(composed: Composed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    cfg, _ = composed("logger=[csv,tensorboard,wandb,mlflow]", "logger.project=mine")
    values.check_job(cfg)
    assert cfg.logger.wandb and cfg.logger.project == "mine"
    assert list(lightning_nodes.nodes(cfg, "logger")) == ["tensorboard", "mlflow"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([EARLY.replace("EarlyStopping", "EarlyStoping")], "EarlyStoping can't be found"),
        (["+callbacks.early._target_=torch.optim.SGD"], r"callbacks\.early: .*lr|callbacks\.early: .*params"),
        (
            ["+callbacks.x._target_=pytorch_lightning.loggers.TensorBoardLogger", "+callbacks.x.save_dir=x"],
            "not a Callback",
        ),
        (["+callbacks.x._target_=pytorch_lightning.callbacks.ModelSummary"], "leave it out"),
        (["+logger.x._target_=pytorch_lightning.loggers.CSVLogger"], r"logs/metrics\.csv is always written"),
        (["+logger.x._target_=pytorch_lightning.loggers.WandbLogger"], "logger=wandb"),
        ([EARLY, MONITOR, "+callbacks.early.patiense=3"], "patiense"),
        (["checkpoint.mode=up"], "checkpoint.mode=up is unknown"),
        (["checkpoint.export=first"], "checkpoint.export='first' is unknown"),
        (["checkpoint.monitor=3"], "must be the name of a metric"),
        (["+callbacks.x._target_=pytorch_lightning.callbacks.StochasticWeightAveraging"], r"use ema\.decay"),
        (["stage=lp_ft", "callbacks=[default,early_stopping]"], "before its last phase"),
        (["stage=lp_ft", "checkpoint.export=best"], "early phase"),
        (["ema.decay=0.9", "batch_norm.precise=2"], "leave out one"),
    ],
)
def test_mistakes_are_told_by_name(composed: Composed, words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said) as told:
        cfg = composed(*words)[0]
        values.check_job(cfg)
        made(cfg)
    assert len(str(told.value).splitlines()) == 1


def test_a_missing_extra_is_named(composed: Composed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in ("tensorboard", "mlflow"):
        with pytest.raises(UserError, match=rf"pip install 'mml_lightning\[{name}\]'"):
            values.check_job(composed(f"logger=[csv,{name}]")[0])


def test_a_callback_of_a_trusted_package(composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "habits_package.py").write_text(
        "import pytorch_lightning as pl\n\n\nclass Own(pl.Callback):\n    def __init__(self, number=1):\n"
        "        self.number = number\n"
    )
    words = ("+callbacks.own._target_=habits_package.Own", "+callbacks.own.number=4")
    with pytest.raises(UserError, match=r"type trusted=\[habits_package\]"):
        compose("train", [*words])
    cfg, _ = composed(*words, "trusted=[habits_package]")
    assert made(cfg)[0].number == 4  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "callbacks: {x: {_target_: pytorch_lightning.callbacks.ModelCheckpoint, dirpath: /tmp/x}}",
            "type it yourself",
        ),
        ("callbacks: {x: {_target_: pytorch_lightning.callbacks.LambdaCallback}}", "type it yourself"),
        ("callbacks: {x: {_target_: '${oc.env:HOME}'}}", "type it yourself"),
        ("logger: {x: {_target_: pytorch_lightning.loggers.CometLogger}}", "type it yourself"),
        (
            "logger: {x: {_target_: pytorch_lightning.loggers.TensorBoardLogger, save_dir: /tmp/x}}",
            "decides where logs go",
        ),
        ("logger: {x: {_target_: pytorch_lightning.loggers.MLFlowLogger, tracking_uri: 'http://x'}}", "where logs go"),
        ("backbone: {net: {_target_: pytorch_lightning.loggers.TensorBoardLogger}}", "configs may only call"),
    ],
)
def test_a_file_may_not_say_where_records_go(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "bad.yaml").write_text(f"# @package _global_\n{content}\n")
    with pytest.raises(UserError, match=said):
        compose("train", [f"hydra.searchpath=[file://{tmp_path}]", "experiment=bad"])


def test_but_it_may_name_what_only_looks_on(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "good.yaml").write_text(
        "# @package _global_\ndefaults: [{override /callbacks: [default, lr_monitor]}]\n"
        "callbacks: {mine: {_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/rgb/top1}}\n"
    )
    cfg = compose("train", [f"hydra.searchpath=[file://{tmp_path}]", "experiment=good"])
    assert {type(one) for one in made(cfg)} == {EarlyStopping, LearningRateMonitor}
