"""Options of conf/loss say the defaults of their functions, weigh classes, and are refused where they don't fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mml_lightning.config import data as config_data
from mml_lightning.config import objective
from mml_lightning.config.settings import Settings
from mml_lightning.data.records.records import rows
from mml_lightning.objectives.supervised import LOSSES, Supervised, options_of, weighs_classes
from mml_lightning.runs.fingerprint import config_that_decides_weights
from mml_lightning.utils.errors import UserError
from tests.conftest import CONF

Composed = Callable[..., tuple[Settings, list[str]]]


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Words of a data set with several labels per video."""
    return ["data=demo_multilabel", f"data.root={tmp_path_factory.mktemp('several') / 'data'}"]


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_every_option_of_conf_says_the_defaults_of_its_function(name: str, composed: Composed) -> None:
    made = objective.loss(composed(f"loss={name}")[0])
    assert made == Supervised(name, options_of(name))
    assert ("class_weights" in composed(f"loss={name}")[0].plain("loss")) == weighs_classes(name)


def test_each_loss_has_an_option() -> None:
    assert sorted(path.stem for path in (CONF / "loss").iterdir()) == sorted(LOSSES)


def test_the_default_is_what_runs_had_before_there_was_the_key(composed: Composed) -> None:
    decide = [config_that_decides_weights(composed(*words)[0].plain()) for words in ([], ["loss=cross_entropy"])]
    assert "loss" not in decide[0] and decide[0] == decide[1]
    assert config_that_decides_weights(composed("loss=focal")[0].plain())["loss"]["name"] == "focal"
    assert "loss" in config_that_decides_weights(composed("loss.label_smoothing=0.1")[0].plain())


def test_classes_weigh_as_often_as_they_are_trained_on(composed: Composed, several: list[str]) -> None:
    cfg, _ = composed(*several, "loss=scaled_bce", "loss.class_weights=linear")
    data = config_data.dataset(cfg, ["train"])
    made = objective.weighted_loss(cfg, objective.loss(cfg), data)
    (head,) = data.heads.values()
    found = made.weights[len(head.classes)]
    labels = [label for row in rows(data.splits["train"]) for label in next(iter(row.target.values()))]
    counts = torch.tensor([labels.count(label) for label in range(len(head.classes))], dtype=torch.float64)
    torch.testing.assert_close(found, counts.clamp_min(1) / counts.mean())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["loss=lsep"], "loss=lsep is for several labels per video, data=demo has one: use loss=cross_entropy or"),
        (["several", "loss=focal", "+loss.class_weights=sqrt"], "loss=focal takes no weights of classes"),
        (["several", "loss=lsep", "+loss.gamma=2"], "loss.gamma is no option of loss=lsep; it has none"),
        (["several", "loss=focal", "loss.gamma=.inf"], "loss.gamma=.inf must be a finite number"),
        (["loss=focal", "loss.gamma=null"], "loss.gamma=None must be a finite number"),
        (["loss=focal", "loss.gamma=-1"], "loss.gamma=-1 must be 0 or more"),
        (["loss.label_smoothing=2"], "loss.label_smoothing=2 must be from 0 to 1"),
        (["loss.label_smoothing=-0.1"], "loss.label_smoothing=-0.1 must be from 0 to 1"),
    ],
)
def test_what_does_not_fit_is_one_line(
    words: list[str], message: str, several: list[str], train: Callable[..., dict[str, Any]]
) -> None:
    with pytest.raises(UserError, match=message):
        train(*(several if words[0] == "several" else []), *(word for word in words if word != "several"))


def test_networks_teach_each_other_under_a_ranking_loss(
    train: Callable[..., dict[str, Any]], several: list[str], tmp_path: Path
) -> None:
    words = [*several, "stage=mml", "modality=[rgb,rgbdiff]", "init=scratch", "objective.edges.0.kind=bernoulli"]
    result = train(*words, "loss=wlsep", "loss.class_weights=sqrt", "schedule.epochs=1", "trainer=smoke")
    assert result["status"] == "completed"
    logged = (tmp_path / "single/run/logs/metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/rgb/wlsep", "train/rgb/kl", "train/rgbdiff/wlsep"} <= set(logged)
