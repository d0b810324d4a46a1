"""Ensembles of score dumps: joined by id, compared on one set of videos, weights never searched on what is reported."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mml_lightning.evaluation import predictions
from mml_lightning.evaluation.ensemble_members import EnsembleMember, in_fold
from mml_lightning.evaluation.ensembles import enumerate_ensembles, measure_ensembles, one_per_group, subsets
from mml_lightning.evaluation.metrics import Scoring
from mml_lightning.evaluation.predictions import Predictions
from mml_lightning.utils.errors import UserError

CLASSES = tuple(f"class {k}" for k in range(7))


def make(seed: int, *, several: bool = False, size: int = 40, prefix: str = "v", views: int = 2) -> Predictions:
    """Scores of one network, its videos in an order of its own; labels depend on the video alone."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(size, generator=generator)
    hot = torch.nn.functional.one_hot(order % 7, 7) + several * torch.nn.functional.one_hot((order + 2) % 7, 7)
    return Predictions(
        ids=tuple(f"{prefix}{i:03}" for i in order.tolist()),
        target=hot if several else order % 7,
        logits={"net": torch.randn(size, views, 7, generator=generator) + 1.5 * hot[:, None]},
        classes=CLASSES,
        multi_label=several,
    )


def trio(**options: object) -> list[EnsembleMember]:
    return [EnsembleMember(name, make(seed, **options)) for seed, name in enumerate("abc")]  # type: ignore[arg-type]


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("kind", ["probs", "logits"])
def test_numbers_are_those_of_joined_dumps(several: bool, kind: str) -> None:
    members = trio(several=several)
    scoring = Scoring(pooling="probs", ensemble=kind)
    found = measure_ensembles(members, subsets(3, [2, 3]), scoring=scoring)
    metric = "map" if several else "top1"
    assert (found.metric, found.videos, len(found.rows)) == (metric, 40, 4)
    assert [row.metrics[metric] for row in found.rows] == sorted((r.metrics[metric] for r in found.rows), reverse=True)
    by_name = {member.name: member for member in members}
    for row in [*found.singles, *found.rows]:
        joined, _ = predictions.join([by_name[name].dump for name in row.members], row.members)
        measured = replace(joined, scoring=scoring).metrics()
        expected = measured["ensemble" if len(row.members) > 1 else "net"]
        expected.pop("loss", None)
        expected.pop("ece", None)
        assert row.metrics == pytest.approx(expected, abs=1e-9)
        alone = [single.metrics[metric] for single in found.singles if single.members[0] in row.members]
        assert row.gain == pytest.approx(row.metrics[metric] - max(alone))
        assert row.oracle is not None and row.oracle >= max(alone) - 1e-9
        assert row.weights == pytest.approx([1 / len(row.members)] * len(row.members))


def test_oracle_and_complementarity_by_hand() -> None:
    target = torch.tensor([0, 0, 1, 1])
    right = {"a": [1, 1, 1, 0], "b": [1, 0, 0, 1]}
    members = []
    for name, marks in right.items():
        logits = torch.zeros(4, 1, 2)
        for row, (label, mark) in enumerate(zip(target.tolist(), marks, strict=True)):
            logits[row, 0, label if mark else 1 - label] = 5.0
        members.append(EnsembleMember(name, Predictions(("w", "x", "y", "z"), target, {"net": logits}, ("no", "yes"))))
    (row,) = measure_ensembles(members, [(0, 1)]).rows
    assert (row.oracle, row.disagreement) == (100.0, 75.0)
    assert row.q == pytest.approx((1 * 0 - 2 * 1) / (1 * 0 + 2 * 1))


def test_one_per_group_and_its_sums_of_ranks() -> None:
    groups = {
        "rgb": trio()[:2],
        "flow": [EnsembleMember(n, make(s)) for s, n in ((5, "d"), (6, "e"))],
        "diff": trio()[2:],
    }
    found = enumerate_ensembles(groups)
    assert len(found.rows) == 4 and all(len(row.members) == 3 for row in found.rows)
    assert {name: group for name, group in found.groups.items()} == dict(a="rgb", b="rgb", d="flow", e="flow", c="diff")
    for members in groups.values():
        assert sum(found.rank_sums[member.name] for member in members) == 4 * 3 / 2
    assert one_per_group(["x", "y", "x"]) == [(0, 1), (2, 1)]
    with pytest.raises(UserError, match="group flow has no member"):
        enumerate_ensembles({"rgb": trio(), "flow": []})


def test_weights_of_members_and_groups() -> None:
    members = trio()
    (equal,) = measure_ensembles(members, [(0, 1, 2)]).rows
    (mostly,) = measure_ensembles(members, [(0, 1, 2)], weights={"a": 1e9}).rows
    assert mostly.metrics != equal.metrics
    assert mostly.metrics == pytest.approx(measure_ensembles(members, [(0, 1)]).singles[0].metrics)
    (row,) = enumerate_ensembles({"x": members[:1], "y": members[1:2]}, weights={"x": 1, "y": 3}).rows
    assert row.weights == (0.25, 0.75)
    for weights, message in (({"q": 1.0}, "weights name q"), ({"a": 0.0}, "above 0"), ({"a": float("nan")}, "above 0")):
        with pytest.raises(UserError, match=message):
            measure_ensembles(members, [(0, 1)], weights=weights)


def test_missing_videos_are_refused_and_named() -> None:
    a, b, c = (member.dump for member in trio())
    b = b.take(b.ids[:-2])
    c.logits["net"][0, 1] = torch.nan  # never seen
    members = [EnsembleMember("a", a), EnsembleMember("b", b), EnsembleMember("c", c)]
    with pytest.raises(
        UserError, match=r"b lacks 2 videos \(v\d+, v\d+\); c lacks 1 video .*--intersect .* the 3[78] "
    ):
        measure_ensembles(members, [(0, 1, 2)])
    found = measure_ensembles(members, [(0, 1, 2)], intersect=True)
    assert set(found.missing) == {"b", "c"} and found.missing["c"] == [c.ids[0]]
    assert found.videos == len(set(b.ids) - {c.ids[0]})


def test_other_classes_and_other_labels_are_refused() -> None:
    a, b, _ = trio()
    with pytest.raises(UserError, match="a and b have different classes"):
        measure_ensembles([a, replace(b, dump=replace(b.dump, classes=CLASSES[::-1]))], [(0, 1)])
    with pytest.raises(UserError, match=r"a and b label video v\d+ differently"):
        measure_ensembles([a, replace(b, dump=replace(b.dump, target=(b.dump.target + 1) % 7))], [(0, 1)])
    with pytest.raises(UserError, match="two members are called a"):
        measure_ensembles([a, a], [(0, 1)])
    with pytest.raises(UserError, match=r"metric top9 is unknown here; use one of top1, top5, mean_class"):
        measure_ensembles([a, b], [(0, 1)], metric="top9")
    with pytest.raises(UserError, match="no peer flow; it has net"):
        EnsembleMember("a", a.dump, "flow")
    with pytest.raises(UserError, match="choose one"):
        EnsembleMember("a", replace(a.dump, logits={"x": a.logits, "y": a.logits}))


def test_videos_without_a_label_are_in_no_number() -> None:
    members = trio()
    unknown = members[0].dump.ids[3]
    for member in members:
        member.dump.target[member.dump.ids.index(unknown)] = -1
    found = measure_ensembles(members, [(0, 1)])
    assert found.videos == 39 and found.notes == ["1 videos have no label: not counted"]
    for member in members:
        member.dump.target[:] = -1
    with pytest.raises(UserError, match="no video has a label"):
        measure_ensembles(members, [(0, 1)])


@pytest.mark.parametrize("several", [False, True])
def test_weights_are_searched_on_the_held_out_fold_alone(several: bool) -> None:
    """Scores of the reported videos may change as they like: the weights stay."""
    members = trio(several=several, size=80)
    first = measure_ensembles(members, [(0, 1, 2), (0, 1)], search="fold", fold=0.4)
    assert first.searched + first.videos == 80 and 0 < first.searched < 60
    changed = [replace(m, dump=replace(m.dump, logits={"net": m.logits.clone()})) for m in members]
    for member in changed:
        for row, video in enumerate(member.dump.ids):
            if not in_fold(video, 0.4):
                member.logits[row] = -member.logits[row]
    second = measure_ensembles(changed, [(0, 1, 2), (0, 1)], search="fold", fold=0.4)
    told = [{row.members: row.weights for row in found.rows} for found in (first, second)]
    assert told[0] == told[1]
    assert [row.metrics for row in first.rows] != [row.metrics for row in second.rows]


def test_weights_are_searched_on_val_and_applied_to_test() -> None:
    members = [replace(m, held_out=make(seed, prefix="w")) for seed, m in enumerate(trio(), start=7)]
    found = measure_ensembles(members, [(0, 1, 2)], search="val")
    assert (found.searched, found.videos) == (40, 40)
    (row,) = found.rows
    given = measure_ensembles(
        members, [(0, 1, 2)], weights={n: w or 1e-12 for n, w in zip("abc", row.weights, strict=True)}
    )
    assert row.metrics == pytest.approx(given.rows[0].metrics)
    same = [replace(member, held_out=member.dump) for member in members]
    with pytest.raises(UserError, match=r"40 videos .* would be in both the search and the report"):
        measure_ensembles(same, [(0, 1)], search="val")
    with pytest.raises(UserError, match="a has no scores of val"):
        measure_ensembles(trio(), [(0, 1)], search="val")
    with pytest.raises(UserError, match="leaves one side empty"):
        measure_ensembles(trio(), [(0, 1)], search="fold", fold=0.0)
    with pytest.raises(UserError, match="search=luck is unknown"):
        measure_ensembles(trio(), [(0, 1)], search="luck")


def test_folds_are_those_of_the_ids() -> None:
    share = sum(in_fold(str(i), 0.3) for i in range(4000)) / 4000
    assert share == pytest.approx(0.3, abs=0.03)
    assert not any(in_fold(str(i), 0.0) for i in range(50)) and all(in_fold(str(i), 1.0) for i in range(50))
    assert all(in_fold(str(i), 0.5) for i in range(300) if in_fold(str(i), 0.2)), "a larger fold holds the smaller"
