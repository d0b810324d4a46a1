"""The diagnosis of networks against what the rest of the house says of the same scores."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mml_lightning.evaluation.aligned_scores import Network, RunScores
from mml_lightning.evaluation.diagnosis import Diagnosis, JointModel, diagnose
from mml_lightning.evaluation.ensemble_members import EnsembleMember, in_fold
from mml_lightning.evaluation.ensembles import measure_ensembles
from mml_lightning.evaluation.predictions import Predictions
from mml_lightning.utils.errors import UserError

CLASSES = tuple(f"class {k}" for k in range(6))
KINDS = pytest.mark.parametrize("several", [False, True])


def dump(split: str, peers: dict[str, float], several: bool = False, seed: int = 0, size: int = 80) -> Predictions:
    """Scores of peers that know the labels so well, videos in an order of their own."""
    generator = torch.Generator().manual_seed(100 * seed + len(split) + sum(map(ord, "".join(peers))))
    order = torch.randperm(size, generator=generator)
    hot = torch.nn.functional.one_hot(order % 6, 6) + several * torch.nn.functional.one_hot((order + 2) % 6, 6)
    logits = {
        peer: torch.randn(size, 2, 6, generator=generator) + known * hot[:, None] for peer, known in peers.items()
    }
    ids = tuple(f"{split}{i:03}" for i in order.tolist())
    return Predictions(ids, hot if several else order % 6, logits, CLASSES, multi_label=several, split=split)


def network(name: str, known: float, several: bool = False, seeds: int = 1, loss: float | None = 0.1) -> Network:
    runs = [
        RunScores(
            f"run{seed}", name, dump("val", {name: known}, several, seed), dump("test", {name: known}, several, seed)
        )
        for seed in range(seeds)
    ]
    return Network(name, name, [replace(run, train_loss=loss) for run in runs])


def pair(several: bool = False, seeds: int = 1) -> list[Network]:
    return [network("rgb", 0.6, several, seeds), network("flow", 1.4, several, seeds)]


@KINDS
def test_numbers_are_those_of_the_house(several: bool) -> None:
    networks = [*pair(several), network("rgbdiff", 1.0, several)]
    found = diagnose(networks)
    members = [
        EnsembleMember(n.name, n.runs[0].test or n.runs[0].val, n.name, held_out=n.runs[0].val) for n in networks
    ]
    expected = measure_ensembles(members, [(0, 1), (0, 2), (1, 2), (0, 1, 2)], search="val")
    assert (found.metric, found.split, found.videos) == (
        expected.metric,
        "test",
        {"val": 80, "weights": 80, "reported": 80},
    )
    for one, own in zip(found.networks, networks, strict=True):
        measured = (own.runs[0].test or own.runs[0].val).metrics()[own.name]
        assert one.quality.value == pytest.approx(measured[found.metric])
        if not several:
            assert (one.loss, one.ece) == pytest.approx((measured["loss"], measured["ece"]), abs=1e-6)
    by_members = {row.members: row for row in expected.rows}
    for together in found.together:
        row = by_members[together.members]
        assert together.weights == pytest.approx(row.weights)
        assert together.fused.value == pytest.approx(row.metrics[found.metric])
        if not several:
            assert together.oracle == pytest.approx(row.oracle)
            if len(row.members) == 2:
                assert together.q == pytest.approx(row.q)


@KINDS
def test_shares_add_up(several: bool) -> None:
    for one in diagnose(pair(several, seeds=2)).together:
        both = one.oracle - sum(one.only.values())
        assert 0 < both < 100 and one.oracle + one.neither == pytest.approx(100)
        assert one.agreement is not None and one.agreement >= both - 1e-9
        assert one.gain.low <= one.gain.value <= one.gain.high


@KINDS
def test_a_better_network_teaches_one_with_a_gap_and_not_the_other_way(several: bool) -> None:
    rgb, flow = diagnose(pair(several)).students
    assert (rgb.evidence.student, rgb.verdict.room) == ("rgb", True)
    assert (flow.evidence.student, flow.verdict.room) == ("flow", False)
    assert rgb.evidence.guessed == pytest.approx((1 + several) / 6)
    quiet = diagnose([network("rgb", 0.6, several, loss=5.0), network("flow", 1.4, several)])
    assert quiet.students[0].verdict.room is False and "slow its fitting" in quiet.students[0].verdict.reason
    untold = diagnose([network("rgb", 0.6, several, loss=None), network("flow", 1.4, several)])
    assert untold.students[0].verdict.room is None and untold.networks[0].gap is None


def test_nothing_is_tuned_on_what_is_reported() -> None:
    """Other labels of the test split change what is measured there, no weight and no verdict."""
    networks, found = pair(), diagnose(pair())
    shuffled = []
    for one in networks:
        test = one.runs[0].test
        assert test is not None
        shuffled.append(replace(one, runs=[replace(one.runs[0], test=replace(test, target=(test.target + 1) % 6))]))
    other = diagnose(shuffled)
    assert other.students == found.students
    assert other.together[0].weights == found.together[0].weights
    assert other.together[0].fused.value < 40 < found.together[0].fused.value


def test_without_a_test_split_weights_come_from_half_of_val() -> None:
    networks = [replace(one, runs=[replace(one.runs[0], test=None)]) for one in pair()]
    found = diagnose(networks)
    assert found.split == "val" and 0 < found.videos["reported"] < found.videos["val"] == 80
    assert any("weights come from one half of the validation videos" in note for note in found.notes)


def test_seeds_are_averaged() -> None:
    found = diagnose(pair(seeds=3))
    each = [dump("test", {"rgb": 0.6}, seed=seed).metrics()["rgb"]["top1"] for seed in range(3)]
    assert found.seeds == 3 and found.networks[0].quality.value == pytest.approx(sum(each) / 3)


def test_networks_are_compared_on_their_common_videos() -> None:
    rgb, flow = pair()
    test = flow.runs[0].test
    assert test is not None
    cut = replace(flow, runs=[replace(flow.runs[0], test=test.take(test.ids[:50]))])
    found = diagnose([rgb, cut])
    assert found.videos["reported"] == 50
    assert any("rgb of run0 lacks" in n or "flow of run0 lacks 30 videos" in n for n in found.notes)


def test_a_video_in_both_splits_is_in_one_half_only() -> None:
    """As in Charades, whose val and test are the same videos: one half for the weights, the other for the numbers."""
    both = [replace(one, runs=[replace(one.runs[0], test=one.runs[0].val)]) for one in pair()]
    found = diagnose(both)
    assert found.split == "test" and found.videos["weights"] + found.videos["reported"] == found.videos["val"] == 80
    assert any(note.startswith("80 videos") and "in both val and test" in note for note in found.notes)
    flipped = []  # other labels of the half that is reported change no weight
    for one in both:
        val = one.runs[0].val
        seen = torch.tensor([in_fold(video, 0.5) for video in val.ids])
        test = replace(val, target=torch.where(seen, val.target, (val.target + 1) % 6))
        flipped.append(replace(one, runs=[replace(one.runs[0], test=test)]))
    other = diagnose(flipped)
    assert other.together[0].weights == found.together[0].weights
    assert other.together[0].fused.value < 40 < found.together[0].fused.value


def test_a_network_that_diverged_is_refused() -> None:
    rgb, flow = pair()
    val = rgb.runs[0].val
    infinite = replace(val, logits={"rgb": torch.full_like(val.logits["rgb"], torch.inf)})
    with pytest.raises(UserError, match="rgb has infinite scores of val"):
        diagnose([replace(rgb, runs=[replace(rgb.runs[0], val=infinite)]), flow])


def test_one_video_has_no_halves() -> None:
    one = [replace(n, runs=[replace(n.runs[0], val=n.runs[0].val.take(["val000"]), test=None)]) for n in pair()]
    with pytest.raises(UserError, match="too few videos"):
        diagnose(one)


def inside(peers: dict[str, float], fused: float | None = None) -> JointModel:
    every = {**peers, **({} if fused is None else {"fused": fused})}
    val, test = dump("val", every), dump("test", every)
    members = {name: Network(f"mml/{name}", name, [RunScores("joint", name, val, test)], "mml") for name in every}
    return JointModel("mml", [members[name] for name in peers], members.get("fused"))


def test_the_textbook_failure_is_seen() -> None:
    """A joint model whose flow is far worse than flow alone, and which as a whole is worse than flow alone."""
    found = diagnose(pair(), [inside({"rgb": 0.6, "flow": 0.1})])
    rgb, flow, whole = found.joint
    assert (rgb.peer, rgb.network, flow.peer, flow.network) == ("rgb", "rgb", "flow", "flow")
    assert flow.change.high < 0 and (whole.peer, whole.network) == ("ensemble", "flow") and whole.change.high < 0


def test_the_fused_output_is_what_a_joint_model_says() -> None:
    *_, whole = diagnose(pair(), [inside({"rgb": 0.6, "flow": 0.1}, fused=4.0)]).joint
    assert whole.peer == "fused" and whole.change.low > 0


def test_a_diagnosis_is_the_same_again() -> None:
    def plain(found: Diagnosis) -> object:
        return found.students, [replace(one, only={}) for one in found.together]

    assert plain(diagnose(pair())) == plain(diagnose(pair()))
