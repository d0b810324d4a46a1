"""Errors of a dump: mistakes, confusions and comparisons count the same videos as the metrics."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mml_lightning.evaluation import errors
from mml_lightning.evaluation.predictions import Predictions
from mml_lightning.utils.errors import UserError
from tests.evaluation.test_predictions import make

IDS = tuple(f"v{i}" for i in range(40))


def good(seed: int = 0, several: bool = False, peers: tuple[str, ...] = ("rgb", "flow")) -> Predictions:
    """Scores that tell something."""
    dump = make(IDS, *peers, seed=seed, several=several)
    hot = dump.target if several else torch.nn.functional.one_hot(dump.target, 7)
    return replace(dump, logits={peer: value + 1.5 * hot[:, None] for peer, value in dump.logits.items()})


@pytest.mark.parametrize("output", ["rgb", "flow", "ensemble"])
def test_mistakes_are_what_the_accuracy_lacks(output: str) -> None:
    dump = good()
    judged = errors.judge(dump, output)
    found = errors.mistakes(judged)
    assert len(found) == judged.wrong == round(40 * (1 - dump.metrics()[output]["top1"] / 100))
    assert [case.p_predicted for case in found] == sorted((case.p_predicted for case in found), reverse=True)
    probs = dump.pooled[output].exp()
    for case in found:
        row = dump.ids.index(case.video)
        assert case.given == dump.target[row] and case.predicted == probs[row].argmax()
        assert case.p_predicted == pytest.approx(float(probs[row].max())) and case.p_given <= case.p_predicted
    assert errors.mistakes(judged, 3) == found[:3]
    counted = errors.confusions(judged)
    assert sum(count for *_, count, _ in counted) == len(found)
    assert sorted(video for *_, ids in counted for video in ids) == sorted(case.video for case in found)


def test_several_labels_are_judged_one_by_one() -> None:
    dump = good(several=True)
    judged = errors.judge(dump, "rgb")
    probs = dump.pooled["rgb"].exp()
    false = [(float(probs[n, k]), n, k) for n in range(40) for k in range(7) if not dump.target[n, k]]
    highest = sorted(false, key=lambda one: -one[0])[:5]
    assert [(IDS.index(c.video), c.predicted, c.given) for c in errors.false_positives(judged, 5)] == [
        (n, k, None) for _, n, k in highest
    ]
    missed = errors.false_negatives(judged, 1000)
    assert len(missed) == int(judged.given.sum() - judged.found.sum()) and all(
        case.predicted is None for case in missed
    )
    assert [case.p_given for case in missed] == sorted(case.p_given for case in missed)


def test_what_two_outputs_have_right_adds_up() -> None:
    dump = good()
    rgb, flow = (errors.judge(dump, peer) for peer in ("rgb", "flow"))
    pair = errors.compare(rgb, flow)
    assert pair.both + pair.only_first + pair.only_second + pair.neither == pair.videos == 40
    assert pair.both + pair.only_first == 40 - rgb.wrong and pair.both + pair.only_second == 40 - flow.wrong
    assert len(pair.better) == pair.only_second == len(pair.second_right)
    assert {one.video for one in pair.first_right} == set(pair.worse)
    gaps = [one.p_right - one.p_wrong for one in pair.second_right]
    assert gaps == sorted(gaps, reverse=True)
    for one in pair.first_right:
        row = IDS.index(one.video)
        assert one.label == dump.target[row] != one.predicted == dump.pooled["flow"][row].argmax()
    turned = errors.compare(flow, rgb)
    assert (turned.only_first, turned.only_second, turned.p) == (pair.only_second, pair.only_first, pair.p)
    assert dict(turned.gained) == pytest.approx({name: -value for name, value in pair.gained})


@pytest.mark.parametrize("several", [False, True])
def test_two_runs_are_compared_on_what_both_have(several: bool) -> None:
    before, now = good(1, several).take(IDS[5:]), good(2, several).take(IDS[:30][::-1])
    (one, other), alone = errors.on_common({"before": before, "now": now})
    assert one.ids == other.ids == IDS[5:30] and alone == {"before": list(IDS[30:]), "now": list(IDS[:5][::-1])}
    change = errors.compare(errors.judge(one, "rgb"), errors.judge(other, "rgb"), ("a", "b"))
    assert (change.first, change.second, change.videos) == ("a", "b", 25)
    whole = errors.compare(errors.judge(before, "rgb"), errors.judge(now, "rgb"))
    assert (whole.better, whole.worse, whole.p) == (change.better, change.worse, change.p)


def test_the_same_run_has_no_changes() -> None:
    judged = errors.judge(good(), "rgb")
    same = errors.compare(judged, judged)
    assert (same.only_first, same.only_second, same.p) == (0, 0, 1.0) and not any(v for _, v in same.gained)


def test_videos_without_a_label_or_a_score_are_left_out() -> None:
    dump = good()
    target, rgb = dump.target.clone(), dump.logits["rgb"].clone()
    target[:3], rgb[3:7] = -1, torch.nan
    dump = replace(dump, target=target, logits={**dump.logits, "rgb": rgb})
    outputs = errors.judge_all(dump)
    assert {name: len(one.ids) for name, one in outputs.items()} == {"rgb": 33, "flow": 37, "ensemble": 37}
    assert errors.compare(outputs["rgb"], outputs["flow"]).videos == 33


def test_what_can_not_be_judged_is_said() -> None:
    dump = good()
    with pytest.raises(UserError, match="there is no output audio; use one of rgb, flow, ensemble"):
        errors.judge(dump, "audio")
    with pytest.raises(UserError, match="no video of test has both a label and scores of rgb"):
        errors.judge(replace(dump, target=torch.full((40,), -1)), "rgb")
    other = replace(dump, classes=tuple("hijklmn"))
    with pytest.raises(UserError, match="different classes"):
        errors.on_common({"a": dump, "b": other})
    with pytest.raises(UserError, match="no common video"):
        first, second = (errors.judge(dump.take(ids), "rgb") for ids in (IDS[:9], IDS[9:]))
        errors.compare(first, second)
