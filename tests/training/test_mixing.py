"""Mixup and CutMix against the plain formulas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mml_lightning.config import training as config_training
from mml_lightning.engine import train as engine_train
from mml_lightning.objectives.graph import Objective
from mml_lightning.objectives.lessons import LABEL_FREE, LESSONS
from mml_lightning.training.mixing import Mix, Mixing
from mml_lightning.utils.errors import UserError
from tests.runs.test_resume import Cut, assert_equal_runs
from tests.training import test_cohort as lab
from tests.training import test_missing as missing


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


@settings(max_examples=10, deadline=None)
@given(st.lists(st.text("01", min_size=4, max_size=4), min_size=1, max_size=3), st.integers(1, 3), st.booleans())
def test_a_step_with_missing_modalities_has_the_gradient_of_the_plain_formula(
    tmp_path_factory: pytest.TempPathFactory, masks: list[str], together: int, cuts: bool
) -> None:
    """Each term is the mean over the mixed samples of the step of which both videos have its modalities."""
    mixing = Mixing(None, 1.0, side=16) if cuts else Mixing(0.4)
    usual: dict[str, Any] = {"clip": None, "dropout": 0.0, "freeze_bn": "stats"}
    cohort = lab.make_cohort({"rgb": lab.RGB, "flow": lab.FLOW}, lab.MUTUAL, mixing=mixing, **usual)
    cohort.set_modes()
    step = missing.masked(*masks)[:together]
    terms: dict[frozenset[str], list[torch.Tensor]] = {group: [] for group in cohort.objective.groups}
    for number, batch in enumerate(step):
        mix, target = mixing.draw(4, cohort.seed, 0, number, 0), batch["target"]["label"]
        assert mix is not None
        for row in range(4):
            other = (row - mix.shift) % 4
            both = [n for n, m in cohort.modalities.items() if all(batch["present"][m.name][[row, other]])]
            outputs = {}
            for name in both:
                own, partner = (
                    cohort.modalities[name](batch["clips"][name][one : one + 1].flatten(0, 1)).double()
                    for one in (row, other)
                )
                mixed = Mix(1, mix.share, mix.box).clips(torch.cat([own, partner]))
                outputs[name] = cohort.peers[name](mixed[:1])
            filled = {name: outputs.get(name, next(iter(outputs.values()), None)) for name in cohort.peers}
            present = {name: torch.tensor([name in both]) for name in cohort.peers}
            own, partner = (cohort.objective.parts(filled, {"label": target[[one]]}, present) for one in (row, other))
            for group, found in terms.items():
                if group <= set(both):
                    pairs = [(a.value, b.value) for a, b in zip(own, partner, strict=True) if a.peers == group]
                    found.append(sum((mix.share * a + (1 - mix.share) * b for a, b in pairs), torch.zeros(())))
    loss = sum(torch.stack(found).mean() for found in terms.values() if found)
    names, parameters = zip(*((n, p) for n, p in cohort.named_parameters() if p.requires_grad), strict=True)
    expected = torch.autograd.grad(loss, parameters, allow_unused=True)
    found = missing.gradients(cohort, tmp_path_factory.mktemp("fit"), step, together)
    for name, value in zip(names, expected, strict=True):
        if value is None:
            assert not found.get(name, torch.zeros(1)).any()
        else:
            torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("lesson", sorted(LESSONS))
def test_a_lesson_that_looks_at_no_label_says_the_same_whatever_they_are(lesson: str) -> None:
    def output(seed: int) -> Any:
        make = torch.Generator().manual_seed(seed)
        shapes = {"pooled": (4, 6), "map": (4, 2, 6, 3, 3)}
        features = {name: torch.rand(*shape, generator=make) for name, shape in shapes.items()}
        return type("Out", (), {"logits": {"": torch.randn(4, 3, generator=make)}, "features": features})()

    values = [
        LESSONS[lesson](output(0), [output(1)], "", torch.tensor(labels)) for labels in ([0, 1, 2, 0], [2, 2, 0, 1])
    ]
    assert torch.equal(*values) is (lesson in LABEL_FREE)


def test_it_is_not_given_a_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = {name: torch.randn(4, 3) for name in ("rgb", "flow")}
    outputs = {name: type("Out", (), {"logits": {"label": value}, "features": {}})() for name, value in logits.items()}
    objective, labels = Objective(["rgb", "flow"], lab.MUTUAL), {"label": torch.tensor([0, 1, 2, 0])}
    own = objective.parts(outputs, labels)
    monkeypatch.setitem(LESSONS, "kl", lambda *_, **__: pytest.fail("a second time"))
    mix = Mix(2, 0.6)
    mixed = mix.parts(own, objective.parts(outputs, mix.partners(labels), by_others=own))
    assert [part.value is before.value for part, before in zip(mixed, own, strict=True)] == [False, False, True, True]


def test_cutmix_of_no_pictures_is_told_before_the_run(
    composed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg, _ = composed("mix.cutmix=1.0")
    sound = type("Sound", (), {"segment": lambda *_: ((1, 16000), torch.int16)})()
    specs: Any = [type("Spec", (), {"name": "rgb", "modality": lab.RGB})()]
    assert config_training.mixing(cfg, specs) == Mixing(None, 1.0, side=int(cfg.transforms.output))
    monkeypatch.setattr(config_training.config_data, "sources", lambda cfg: {"frames": sound})
    with pytest.raises(UserError, match=r"mix\.cutmix cuts pictures, and rgb looks at none"):
        config_training.mixing(cfg, specs)
    assert config_training.mixing(composed("mix.mixup=0.2")[0], specs) is not None


def test_segments_of_a_video_are_mixed_with_those_of_its_partner() -> None:
    clips = torch.arange(6.0).view(6, 1, 1, 1, 1)  # three videos of two segments
    mix = Mix(1, 0.75)
    assert mix.clips(clips, views=2).flatten().tolist() == [1.0, 2.0, 1.5, 2.5, 3.5, 4.5]
    assert mix.clips(clips, torch.tensor([0, 2]), 2).flatten().tolist() == [1.0, 2.0, 3.5, 4.5]
