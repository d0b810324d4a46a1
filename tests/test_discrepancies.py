"""Where the MML paper and its published program differ, both sides are an option: one test for each difference.

D1 to D13 are about sampling, P1 to P10 about the rest; docs/protocols.md lists them with the options. Frames count
from 1, as in the published tables.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mml_lightning import sampling
from mml_lightning.backbones.stem import convert_stem
from mml_lightning.config import peers, training
from mml_lightning.config.compose import compose
from mml_lightning.config.settings import Settings
from mml_lightning.data.flow.cache import FlowSettings
from mml_lightning.data.loading.draws import training_crop
from mml_lightning.evaluation import metrics
from mml_lightning.objectives import Objective, kl_divergence
from mml_lightning.objectives.supervised import cross_entropy
from mml_lightning.pipelines import plan as pipelines_plan
from mml_lightning.training.parameter_groups import tsn_parameter_groups
from tests.data.flow_of import flow_of
from tests.data.videos import moving
from tests.sampling.starts import WINDOWS, clips, one_based, support, train

ROOT = Path(__file__).parents[1]
HALF, ZERO = [3, 7, 12, 17, 21, 26, 31, 35], [1, 5, 10, 14, 19, 24, 28, 33]
POLICIES = ("code", "paper", "fixed")
Composed = Callable[..., tuple[Settings, list[str]]]

Z1, Z2, Z3 = (
    torch.tensor(values, dtype=torch.float64)
    for values in ([[2, 1, 0.1], [0.5, -1, 1.5]], [[0, 1, 3], [1, 1, 0]], [[1, 0, -2], [-1, 2, 0.5]])
)


def every(first: int, step: int, number: int = 8) -> list[int]:
    return list(range(first, first + step * number, step))


def offset(counts: dict[str, int], policy: str, mode: str = "uniform") -> set[int]:
    """Distances of the RGB starts from those of flow."""
    seen = support(counts, 8, mode, policy, draws=400)
    return set((seen["RGB"] - seen["Flow"]).ravel().tolist())


def first_frames(count: int, dense: int, policy: str) -> list[int]:
    return [clip[0] for clip in clips(count, uniform=0, dense=dense, policy=policy)]


# Sampling: `sampling.policy` and `views.policy`


def test_d1_the_tail_of_the_video_is_drawn_by_the_paper_only():
    seen = {policy: support({"RGB": 37}, 8, "uniform", policy)["RGB"] + 1 for policy in POLICIES}
    assert [sorted(set(seen["code"][:, j])) for j in (0, 7)] == [[1, 2, 3, 4], [29, 30, 31, 32]]
    for policy in ("paper", "fixed"):
        assert set(seen[policy].ravel()) == set(range(1, 38))
        assert set(seen[policy][:, 0]) == {1, 2, 3, 4, 5} and seen[policy][:, 7].min() == 33
    # fewer places than segments: the program has fallbacks, the paper's parts need none
    assert set(support({"RGB": 7}, 8, "uniform", "code")["RGB"].ravel()) == {0}
    assert set(support({"RGB": 7}, 8, "uniform", "paper")["RGB"].ravel()) == set(range(7))


def test_d2_the_last_dense_start_is_drawn_by_the_paper_only():
    first = {policy: set(support({"RGB": 37}, 8, "dense", policy)["RGB"][:, 0] + 1) for policy in POLICIES}
    assert first == {"code": set(range(1, 6)), "paper": set(range(1, 10)), "fixed": set(range(1, 10))}
    assert set(support({"RGB": 34}, 8, "dense", "code")["RGB"][:, 0] + 1) == {1, 2}
    assert set(support({"RGB": 33}, 8, "dense", "code")["RGB"][:, 0] + 1) == {1}
    # a short video: the program wraps around, ours shrinks
    assert one_based(train({"RGB": 20}, 8, "dense", policy="code")["RGB"]) == [1, 5, 9, 13, 17, 1, 5, 9]
    for policy in ("paper", "fixed"):
        assert one_based(train({"RGB": 20}, 8, "dense", policy=policy)["RGB"]) == [1, 3, 6, 9, 11, 14, 17, 20]


def test_d3_the_paper_does_not_count_the_window():
    last = {policy: support({"Flow": 36}, 8, "uniform", policy)["Flow"].max() + 1 for policy in POLICIES}
    assert last == {"code": 32, "paper": 36, "fixed": 32}
    assert clips(36, modality="Flow", policy="paper") == clips(36, policy="paper")
    assert clips(36, modality="Flow", policy="code") == clips(36, modality="Flow") == [every(3, 4)]
    # dense clips of the program don't count it either, and repeat the last item where the window passes the end
    dense = {
        p: sampling.test_starts({"Flow": 36}, WINDOWS, num_segments=8, uniform=0, dense=2, policy=p) for p in POLICIES
    }
    assert {p: int(starts["Flow"][-1, -1]) + 1 for p, starts in dense.items()} == {"code": 33, "paper": 36, "fixed": 32}
    assert sampling.window_indices([32], 5, 36).tolist() == [[32, 33, 34, 35, 35]]


def test_d4_the_free_range_of_a_dense_clip():
    """T' = T - x (N - 1) = 9 places in the paper, T - D = 5 in the program: x fewer."""
    places = {p: len(set(support({"RGB": 37}, 8, "dense", p)["RGB"][:, 0])) for p in POLICIES}
    assert places == {"code": 5, "paper": 9, "fixed": 9}


def test_d5_the_start_of_a_single_dense_clip():
    assert clips(37, uniform=0, dense=1, policy="code") == [every(3, 4)]
    assert clips(37, uniform=0, dense=1, policy="paper") == clips(37, uniform=0, dense=1) == [every(5, 4)]
    # T' = 10: start 10 / 2 in the paper, the middle of 0 .. 9 rounded down here
    assert [first_frames(38, 1, policy) for policy in ("paper", "fixed")] == [[6], [5]]


def test_d6_the_starts_of_several_dense_clips():
    assert [first_frames(37, 3, policy) for policy in POLICIES] == [[1, 3, 6], [1, 5, 9], [1, 5, 9]]
    # T' = 10: the paper's middle clip starts at 10 / 2, half way between the legal starts 0 and 9 is 4
    assert [first_frames(38, 3, policy) for policy in ("paper", "fixed")] == [[1, 6, 10], [1, 5, 10]]
    # the last clip of the paper would end one item past the video
    for policy in ("paper", "fixed"):
        assert clips(38, uniform=0, dense=2, policy=policy)[1][-1] == 38


def test_d7_the_single_uniform_clip(hydra: None):
    assert clips(37, policy="code") == clips(37) == [HALF]
    assert clips(37, policy="paper") == [ZERO]
    views = {name: compose("train", overrides=[f"views={name}"]).views for name in ("center", "uniform1_zero")}
    assert {name: (v.uniform, v.policy) for name, v in views.items()} == {
        "center": (1, "fixed"),
        "uniform1_zero": (1, "paper"),
    }


def test_d8_the_number_and_order_of_uniform_clips():
    assert clips(37, uniform=2, policy="code") == clips(37, uniform=2) == [HALF, ZERO]
    assert clips(37, uniform=2, policy="paper") == [ZERO, HALF]
    third = [ZERO, [2, 7, 11, 16, 21, 25, 30, 34], [4, 8, 13, 17, 22, 27, 31, 36]]
    assert clips(37, uniform=3, policy="paper") == clips(37, uniform=3)[::-1] == third
    with pytest.raises(ValueError, match="at most 2"):
        clips(37, uniform=3, policy="code")


def test_d9_the_stride_of_the_paper_fits_the_video():
    assert clips(7, uniform=0, dense=1, policy="code") == [[1, 5, 2, 6, 3, 7, 4, 1]]
    for policy in ("paper", "fixed"):
        assert clips(7, uniform=0, dense=1, policy=policy) == [[1, 1, 2, 3, 4, 5, 6, 7]]
        assert clips(20, uniform=0, dense=1, policy=policy) == [[1, 3, 6, 9, 11, 14, 17, 20]]


def test_d10_offsets_of_three_modalities():
    counts = {"RGBDiff": 37, "Flow": 36, "RGB": 37}
    seen = {policy: support(counts, 8, "uniform", policy, draws=300) for policy in POLICIES}
    assert (seen["code"]["RGBDiff"] != seen["code"]["RGB"]).any()
    assert (seen["paper"]["RGBDiff"] == seen["paper"]["RGB"]).all()
    two = {"RGB": 37, "Flow": 36}
    assert offset(two, "code") == offset(two, "paper") == {0, 1}  # of two modalities both say unif{0 .. N - n}


def test_d11_validation_of_short_videos():
    def val(count: int, policy: Any) -> Any:
        return one_based(sampling.val_starts({"RGB": count}, WINDOWS, num_segments=8, policy=policy)["RGB"])

    assert val(8, "code") == [[1] * 8] and val(8, "fixed") == val(8, "paper") == [every(1, 1)]
    assert val(37, "code") == val(37, "fixed") == [HALF] and val(37, "paper") == [ZERO]


def test_d12_the_length_of_a_dense_clip_is_an_option(hydra: None):
    """The program's default of 32 is x = 4 for 8 frames, but x = 2 for 16, where 64 keeps x = 4."""
    for policy in POLICIES:
        steps = {
            (n, length): set(np.diff(clips(300, n, uniform=0, dense=1, dense_length=length, policy=policy)[0]).tolist())
            for n, length in ((8, 32), (16, 32), (16, 64), (8, 64))
        }
        assert steps == {(8, 32): {4}, (16, 32): {2}, (16, 64): {4}, (8, 64): {8}}
    cfg = compose("train", overrides=["sampling=random", "sampling.dense_length=64", "views=uniform2_dense1_full"])
    assert (cfg.sampling.dense_length, cfg.views.dense_length) == (64, 32)


def test_d13_the_number_of_flow_items():
    """Computed flow has N - 1 items for N frames; what is listed is taken as listed."""
    assert len(flow_of(moving(4, 1, 0, 32, 24), FlowSettings())) == 3
    rng = np.random.RandomState(0)
    starts = sampling.train_starts(
        {"RGB": 37, "Flow": 30}, WINDOWS, num_segments=8, mode="random", policy="code", rng=rng
    )
    assert [one_based(row) for row in starts.values()] == [every(8, 4), every(1, 4)]
    listed = {"RGB": 37, "Flow": 30}
    assert offset(listed, "code") == offset(listed, "paper") == set(range(8))


# Everything else


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [
        ("mean_probs", [0.78396807, 1.10806282, 0.86380112]),
        ("mean_logits", [0.79482641, 1.18435604, 0.98036431]),
    ],
)
def test_p1_what_two_teachers_say_together(hydra: None, aggregate: str, expected: list[float]):
    """Equation 4 averages probabilities, the program logits."""
    triples = ((Z1, [Z2, Z3]), (Z2, [Z1, Z3]), (Z3, [Z1, Z2]))
    lessons = [kl_divergence(student, teachers, aggregate=aggregate).mean() for student, teachers in triples]
    close = {"rtol": 0, "atol": 1e-7}
    torch.testing.assert_close(torch.stack(lessons), torch.tensor(expected, dtype=torch.float64), **close)
    cfg = compose("train", overrides=["stage=mml", f"objective.edges.0.aggregate={aggregate}"])
    outputs = {name: SimpleNamespace(logits={"label": z}) for name, z in zip("abc", (Z1, Z2, Z3), strict=True)}
    terms = Objective(list("abc"), cfg.plain("objective.edges"))(outputs, {"label": torch.tensor([0, 2])})
    assert np.allclose([terms[name]["kl"].item() for name in "abc"], expected, **close)


def test_p2_stems_are_converted_from_any_number_of_channels():
    """The paper gives the rule for three channels; the program takes the mean of whatever there is."""
    rgb = torch.randn(4, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    flow = convert_stem(rgb, 10)
    assert all(torch.equal(flow[:, c], rgb.mean(dim=1)) for c in range(10))
    torch.testing.assert_close(convert_stem(flow, 15)[:, 7], flow.mean(dim=1))


def box_scales(crop: Any) -> set[float]:
    boxes = [crop(320, 240, random.Random(seed))[0] for seed in range(400)]
    return {round(box.width / 240, 2) for box in boxes}


def test_p3_scales_and_flips(hydra: None):
    """TSM: flow and differences have three scales and always flips, labels stay. MML: four scales and no flip."""
    mml, tsm = (compose("train", [f"transforms={name}"]).plain("transforms") for name in ("multiscale", "tsm"))
    three, four = {1.0, 0.88, 0.75}, {1.0, 0.88, 0.75, 0.66}
    tsm, mml = ({**settings, "output": 224, "scales": [1, 0.875, 0.75, 0.66]} for settings in (tsm, mml))
    for name in ("rgb", "flow", "rgbdiff"):
        own = name != "rgb"
        assert box_scales(training_crop(mml, [name])) == four
        assert box_scales(training_crop(tsm, [name])) == (three if own else four)
        flips = [training_crop(tsm, [name])(320, 240, random.Random(seed))[0].flip for seed in range(300)]
        assert 100 < sum(flips) < 200 if own else not any(flips)
        assert not any(training_crop(mml, [name])(320, 240, random.Random(seed))[0].flip for seed in range(50))
    assert (mml["mirror_labels"], tsm["mirror_labels"]) == (True, False)
    with pytest.raises(ValueError, match=r"rgb and flow differently.*transforms=multiscale"):
        training_crop(tsm, ["rgb", "flow"])
    assert box_scales(training_crop(tsm, ["flow", "rgbdiff"])) == three


def test_p3_rates(hydra: None):
    """TSM: a flow stem five times faster. MML: not; a new classifier 5 and 10 times, a tuned one 1 and 2 times."""
    net = torch.nn.Sequential(torch.nn.Conv2d(10, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4, 2))

    def rates(**options: bool) -> dict[str, float]:
        return {g["name"]: round(g["lr"], 6) for g in tsn_parameter_groups(net, 1.0, 0.0, **options)}

    assert rates(flow_stem_lr5=True)["first_conv_weight"] == 5 and rates()["first_conv_weight"] == 1
    assert (rates()["fc_weight"], rates()["fc_bias"]) == (5, 10)
    assert (rates(fc_lr5=False)["weight"], rates(fc_lr5=False)["bias"]) == (1, 2)
    assert [compose("train", overrides=[f"optimizer={o}"]).optimizer.lr for o in ("sgd_mml", "sgd_tsn")] == [
        0.025,
        0.01,
    ]
    plan = training.optimiser_plan(compose("train", overrides=["optimizer.flow_stem_lr5=true"]), {}, ["flow"])
    stems = {peer: plan.parameter_groups(peer, net)[0] for peer in ("rgb", "flow")}
    assert stems["flow"]["name"] == "flow/first_conv_weight"
    assert stems["flow"]["lr"] == pytest.approx(5 * stems["rgb"]["lr"])


@pytest.mark.parametrize("modality", ["flow", "rgbdiff"])
def test_p4_two_peers_of_one_modality_see_the_same_windows(composed: Composed, modality: str):
    """The program gave each of two flow networks half of the window."""
    specs = peers.peer_specs(*composed("stage=ml", f"modality=[{modality}]"))
    assert [spec.name for spec in specs] == [modality, f"{modality}_1"]
    assert specs[0].modality == specs[1].modality
    assert {"flow": 5, "rgbdiff": 6}[modality] == specs[0].modality.window


def test_p5_several_labels_per_video():
    """Binary cross-entropy is in the paper only."""
    target = torch.tensor([[1.0, 0, 1], [0, 0, 1]])
    assert abs(cross_entropy(Z1, target).mean().item() - 0.59555638) < 1e-7


def test_p6_the_ensemble_averages_probabilities_or_logits(hydra: None):
    one, two = torch.tensor([[4.0, 0.0]]), torch.tensor([[-5.0, 0.0]]).double()
    scores = [value.double().log_softmax(dim=-1) for value in (one, two)]
    probs, logits = (metrics.ensemble(scores, kind=kind).exp() for kind in ("probs", "logits"))
    expected = torch.stack([score.exp() for score in scores]).mean(dim=0)
    torch.testing.assert_close(probs, expected)
    torch.testing.assert_close(logits, torch.tensor([[-0.5, 0.0]]).double().softmax(dim=-1))
    for kind in ("probs", "logits"):
        cfg = compose("train", overrides=[f"views.ensemble={kind}"])
        assert training.scoring(cfg).ensemble == kind


def test_p7_three_steps_or_two(composed: Composed):
    """The paper's pipeline has three parts; the smallest one of the program's page has two."""
    stages = {}
    for name in ("mml", "reduced_mml"):
        cfg, typed = composed(f"pipeline={name}")
        stages[name] = [run.cfg.stage.name for run in pipelines_plan.plan_runs(cfg, typed)]
    assert stages == {"mml": ["ce", "ml", "mml"], "reduced_mml": ["ce", "reduced_mml"]}


def test_p8_modalities_from_the_same_frames():
    """The paper says "from the same frames" and prints an offset; ours looks at windows around the RGB frame."""
    counts = {"RGB": 37, "Flow": 36}
    assert offset(counts, "code") == offset(counts, "paper") == {0, 1}
    # starts 0 .. 31 of flow lie along 0 .. 36 of RGB, whose frame is one of the six of the window
    assert offset(counts, "fixed") == set(range(6))
    longer = {"RGB": 37, "Flow": 30}
    assert max(offset(longer, "code")) == 7  # two frames past the window
    independent = support({"RGBDiff": 37, "Flow": 30, "RGB": 37}, 8, "uniform", "code", draws=400)
    assert set((independent["RGBDiff"] - independent["RGB"]).ravel()) == set(range(-7, 8))


def test_p9_peers_learn_from_the_same_forward_pass():
    """Updates are simultaneous: both lessons come from one set of outputs, and no teacher feels its lesson."""
    zs = {"a": Z1.clone().requires_grad_(), "b": Z2.clone().requires_grad_()}
    outputs = {name: SimpleNamespace(logits={"label": z}) for name, z in zs.items()}
    terms = Objective(["a", "b"], [{"students": "all", "teachers": "others"}])(outputs, {"label": torch.tensor([0, 2])})
    lessons = [terms["a"]["kl"].item(), terms["b"]["kl"].item()]
    assert np.allclose(lessons, [1.22123311, 1.28492977], rtol=0, atol=1e-7)
    terms["a"]["kl"].backward()
    assert zs["a"].grad is not None and zs["b"].grad is None


def test_p10_views_have_a_dense_length_of_their_own(hydra: None):
    lengths = {
        name: compose("train", overrides=[f"views={name}"]).views.dense_length for name in ("center", "dense10x3")
    }
    assert lengths == {"center": 32, "dense10x3": 64}
    cfg = compose("train", overrides=["sampling=dense", "sampling.dense_length=16", "views.dense_length=48"])
    assert (cfg.sampling.dense_length, cfg.views.dense_length) == (16, 48)


def test_no_difference_is_left_out():
    names = [f"d{i}" for i in range(1, 14)] + [f"p{i}" for i in range(1, 11)]
    tested = set(re.findall(r"^def test_([dp]\d+)_", Path(__file__).read_text(), re.MULTILINE))
    page = (ROOT / "docs" / "protocols.md").read_text()
    listed = {name.lower() for name in re.findall(r"^\| ([DP]\d+) \|", page, re.MULTILINE)}
    assert tested == listed == set(names)
