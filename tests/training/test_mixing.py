"""Mixup and CutMix against the plain formulas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mml_lightning.engine import train as engine_train
from mml_lightning.training.mixing import Mix, Mixing
from mml_lightning.utils.errors import UserError
from tests.runs.test_resume import Cut, assert_equal_runs


def test_mixup_is_the_formula() -> None:
    clips = torch.randn(4, 2, 3, 5, 5)
    partner = clips[[3, 0, 1, 2]]
    assert torch.allclose(Mix(1, 0.3).clips(clips), 0.3 * clips + 0.7 * partner)
    assert Mix(1, 0.3).partners({"label": torch.tensor([0, 1, 2, 3])})["label"].tolist() == [3, 0, 1, 2]


def test_cutmix_puts_the_same_box_into_every_frame_and_modality() -> None:
    mix = Mix(1, 0.75, (0.0, 0.5, 0.5, 1.0))
    for channels in (3, 10):
        clips = torch.arange(2.0).view(2, 1, 1, 1, 1).expand(2, 3, channels, 8, 8)
        mixed = mix.clips(clips)
        box = torch.zeros(8, 8, dtype=torch.bool)
        box[:4, 4:] = True
        assert torch.equal(mixed[0], box.float().expand(3, channels, 8, 8))
        assert mixed[0, 0, 0].mean() == pytest.approx(1 - mix.share)
    with pytest.raises(UserError, match="cuts pictures"):
        mix.clips(torch.randn(2, 1, 16000))


@pytest.mark.parametrize("mixing", [Mixing(0.4), Mixing(None, 1.0, side=32), Mixing(0.4, 1.0, 0.5, side=32)])
def test_a_draw_is_that_of_its_key_and_its_share_that_of_its_box(mixing: Mixing) -> None:
    draws = [mixing.draw(8, 0, epoch, step, 0) for epoch in range(5) for step in range(40)]
    assert draws == [mixing.draw(8, 0, epoch, step, 0) for epoch in range(5) for step in range(40)]
    found = [one for one in draws if one is not None]
    assert len(found) == 200 if mixing.probability == 1 else 60 < len(found) < 140
    assert {one.shift for one in found} == set(range(1, 8)) and len({one.share for one in found}) > 30
    for one in found:
        if one.box is not None:
            top, bottom, left, right = one.box
            assert 1 - one.share == pytest.approx((bottom - top) * (right - left))
    cuts = [one for one in found if one.box is not None]
    assert bool(cuts) == (mixing.cutmix is not None) and (len(cuts) < len(found) or mixing.mixup is None)
    assert mixing.draw(1, 0, 0, 0, 0) is None, "nobody to mix with"


def test_both_labels_count_by_their_shares() -> None:
    from mml_lightning.objectives.graph import Objective
    from tests.training import test_cohort as lab

    logits = {name: torch.randn(4, 3) for name in ("rgb", "flow")}
    outputs = {name: type("Out", (), {"logits": {"label": value}, "features": {}})() for name, value in logits.items()}
    objective, mix = Objective(["rgb", "flow"], lab.MUTUAL), Mix(2, 0.6)
    labels = torch.tensor([0, 1, 2, 0])
    soft = 0.6 * F.one_hot(labels, 3).float() + 0.4 * F.one_hot(labels.roll(2), 3).float()
    own = objective.parts(outputs, {"label": labels})
    parts = mix.parts(own, objective.parts(outputs, mix.partners({"label": labels})))
    found = {(part.student, part.name): part.value for part in parts}
    for name, value in logits.items():
        torch.testing.assert_close(found[name, "ce"], F.cross_entropy(value, soft))
    for part in own:
        if part.name == "kl":
            torch.testing.assert_close(found[part.student, "kl"], part.value)
    hot = {"label": F.one_hot(labels, 3)}
    parts = mix.parts(objective.parts(outputs, hot), objective.parts(outputs, mix.partners(hot)))
    torch.testing.assert_close(parts[0].value, F.binary_cross_entropy_with_logits(logits["rgb"], soft))


def test_a_cut_run_equals_a_whole_one(
    train: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_weights: Any
) -> None:
    words = ("stage=mml", "modality=[rgb,flow]", "mix.mixup=0.4", "mix.cutmix=1.0")
    train(*words, run="whole")
    plain = engine_train.training_callbacks
    with monkeypatch.context() as patch:
        patch.setattr(
            engine_train, "training_callbacks", lambda *given: [*plain(*given), Cut("on_train_batch_start", 5)]
        )
        with pytest.raises(ConnectionResetError):
            train(*words, run="cut")
    train(*words, "resume=auto", run="cut")
    assert_equal_runs(tmp_path / "single/whole", tmp_path / "single/cut", same_weights)


@pytest.mark.parametrize("word", ["mix.mixup=0", "mix.cutmix=much", "mix.probability=2", "mix.mixup=true"])
def test_wrong_settings_are_told(train: Callable[..., dict[str, Any]], word: str) -> None:
    with pytest.raises(UserError, match=word.partition("=")[0]):
        train(word)


def test_missing_modalities_are_refused(train: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(UserError, match=r"mix\.mixup can't be had with data\.missing=mask"):
        train("mix.mixup=0.2", "data.missing=mask")
