"""Peers that learn through what they are fused to: gradients of the plain formula; the fusion is a part of its own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mml_lightning.fusion.fuse import Fusion
from mml_lightning.training.cohort import Cohort
from mml_lightning.training.mixing import Mix, Mixing
from mml_lightning.training.side_by_side import InTurn, SideBySide
from tests.training.test_cohort import CLASSES, FLOW, RGB, make_cohort, train
from tests.training.test_missing import gradients, masked

PEERS = {"rgb": RGB, "flow": FLOW}
QUIET: dict[str, Any] = {"clip": None, "dropout": 0.0, "freeze_bn": "stats"}


def joint(rule: str = "weighted", **options: Any) -> Cohort:
    torch.manual_seed(3)
    fusion = Fusion(rule, {"rgb": 64, "flow": 64}, {"label": CLASSES}, hidden=6, dropout=0.0).double()
    return make_cohort(PEERS, **{"fusion": fusion, "labels": "fused", **QUIET, **options})


def logits_of(cohort: Cohort, batch: Any, row: int, other: int, mix: Mix | None) -> tuple[torch.Tensor, bool]:
    """Fused logits [1, K] of a video alone, and whether there is anything of it."""
    outputs, features, gate = {}, {}, {}
    for name, modality in cohort.modalities.items():
        if all(batch["present"][modality.name][[row, other]]):
            clips = modality(batch["clips"][name][[row, other]].flatten(0, 1)).double()
            clips = clips if mix is None else Mix(1, mix.share, mix.box).clips(clips)
            output = cohort.peers[name](clips[:1])
            outputs[name], features[name] = output.logits, output.features["pooled"]
            gate[name] = torch.ones(1, 1)
        else:
            outputs[name] = {"label": torch.zeros(1, CLASSES).double()}
            features[name], gate[name] = torch.zeros(1, 64).double(), torch.zeros(1, 1)
    apart = {name: {"label": value["label"][:, None]} for name, value in outputs.items()}
    fused = cohort.fusion(apart, gate, {name: value[:, None] for name, value in features.items()})["label"][:, 0]
    return fused, any(bool(value) for value in gate.values())


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.text("01", min_size=4, max_size=4), min_size=1, max_size=2),
    st.integers(1, 2),
    st.booleans(),
    st.sampled_from(["weighted", "max", "fc2"]),
)
def test_a_step_has_the_gradient_of_the_plain_formula(
    tmp_path_factory: pytest.TempPathFactory, masks: list[str], together: int, mixes: bool, rule: str
) -> None:
    """The mean over all videos of the step, of which some have no flow, mixed or not, in one batch or two."""
    mixing = Mixing(0.4) if mixes else Mixing()
    cohort = joint(rule, mixing=mixing)
    cohort.set_modes()
    step, losses = masked(*masks)[:together], []
    for number, batch in enumerate(step):
        mix, target = mixing.draw(4, cohort.seed, 0, number, 0), batch["target"]["label"]
        for row in range(4):
            other = row if mix is None else (row - mix.shift) % 4
            fused, seen = logits_of(cohort, batch, row, other, mix)
            assert seen, "all have frames"
            own, partner = (F.cross_entropy(fused, target[[one]]) for one in (row, other))
            losses.append(own if mix is None else mix.share * own + (1 - mix.share) * partner)
    names, parameters = zip(*((n, p) for n, p in cohort.named_parameters() if p.requires_grad), strict=True)
    expected = torch.autograd.grad(torch.stack(losses).mean(), parameters, allow_unused=True)
    found = gradients(cohort, tmp_path_factory.mktemp("fit"), step, together)
    for name, value in zip(names, expected, strict=True):
        if value is None:
            assert not found.get(name, torch.zeros(1)).any(), name
        else:
            torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-9, msg=name)


def test_the_fusion_is_a_part_of_its_own(tmp_path: Any) -> None:
    """Its own group of the optimiser, its own norm to be clipped by, its own training mode."""
    cohort = joint("fc2", clip=0.05)
    trainer = train(cohort, tmp_path)
    groups = {group["name"]: group for group in trainer.optimizers[0].param_groups}
    assert groups["fusion/weights"]["weight_decay"] == 5e-4
    assert [*cohort.trained_peers] == ["rgb", "flow", "fusion"] and cohort.fusion.training
    assert {"train/fused/ce", "train/fused/top1", "train/rgb/top1"} <= set(trainer.callback_metrics)
    for part in cohort.parts.values():
        for parameter in part.parameters():
            parameter.grad = torch.ones_like(parameter)
    cohort.configure_gradient_clipping(trainer.optimizers[0])
    for part in cohort.parts.values():
        norm = torch.stack([p.grad.norm() for p in part.parameters()]).norm()
        assert float(norm) == pytest.approx(0.05, rel=1e-4)


def test_several_segments_are_one_video(tmp_path: Any) -> None:
    """Two equal segments give the gradient of one, in batch norms that look at running statistics."""

    def found(batches: Any) -> dict[str, torch.Tensor]:
        return gradients(joint(), tmp_path, batches, 1)

    single = masked("1011")
    double = copy.deepcopy(single)
    for batch in double:
        batch["clips"] = {name: clips.repeat(1, 2, 1, 1, 1, 1) for name, clips in batch["clips"].items()}
    one, two = found(single), found(double)
    assert one.keys() == two.keys() and any(key.startswith("fusion.") for key in one)
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-6, atol=1e-9, msg=key)


def test_side_by_side_gives_the_same_bits(tmp_path: Any) -> None:
    """Also what the fusion draws, in the main thread."""

    def found(beside: InTurn) -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        fusion = Fusion("fc2", {"rgb": 64, "flow": 64}, {"label": CLASSES}, hidden=6, dropout=0.5).double()
        cohort = joint(fusion=fusion, dropout=0.5, freeze_bn="none")
        cohort.beside = beside
        return gradients(cohort, tmp_path, masked("1011"), 1)

    alone, together = found(InTurn()), found(SideBySide(["rgb", "flow"], 2))
    assert alone.keys() == together.keys() and all(torch.equal(alone[key], together[key]) for key in alone)
