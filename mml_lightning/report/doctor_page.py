"""What `mml doctor` found, in sentences, tables and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from markupsafe import Markup

from mml_lightning.evaluation.diagnosis import Alone, Diagnosis, Inside, Together
from mml_lightning.evaluation.metrics import ENSEMBLE, FUSED
from mml_lightning.evaluation.metrics.bootstrap import Interval
from mml_lightning.evaluation.metrics.calibration import Reliability
from mml_lightning.report.grid import Grid
from mml_lightning.report.html import grid_table
from mml_lightning.utils.templates import render

SCHEMA = 1
ROOM = {True: "room to learn", False: "no room to learn", None: "can't tell whether there is room to learn"}
YES = {True: "yes", False: "no", None: "?"}


def sentences(found: Diagnosis) -> list[str]:
    """What follows from the numbers: each network as a student, the networks together, joint models."""
    lines = [f"{s.evidence.student}: {ROOM[s.verdict.room]}: {s.verdict.reason}." for s in found.students]
    lines += [_together(one, found) for one in found.together]
    return lines + [_joint(one, found) for one in found.joint]


def grids(found: Diagnosis) -> list[Grid]:
    """Networks, those together, students and, where there are some, joint models."""
    tables = [_networks(found), _pairs(found), _students(found)]
    return [*tables, _inside(found)] if found.joint else tables


def markdown(found: Diagnosis) -> str:
    """Tables and, below them, sentences and notes."""
    told = "\n".join(f"- {line}" for line in sentences(found))
    notes = "".join(f"\n- {note}" for note in found.notes)
    tables = "\n".join(grid.markdown() for grid in grids(found))
    return f"{tables}\n## Conclusions\n\n{told}\n" + (f"\n## Notes\n{notes}\n" if notes else "")


def html(found: Diagnosis) -> str:
    """The page, which needs nothing from outside."""
    plots = [(f"{one.name}: ECE {100 * one.ece:.1f} %", _reliability(one)) for one in found.networks]
    title = "Doctor: " + ", ".join(one.name for one in found.networks)
    tables = [grid_table(grid) for grid in grids(found)]
    return str(render("doctor.html", title=title, told=sentences(found), notes=found.notes, tables=tables, plots=plots))


def as_json(found: Diagnosis) -> dict[str, Any]:
    """Everything, for `--json`; tensors become lists."""
    told = {"schema": SCHEMA, **asdict(found), "sentences": sentences(found)}
    for network, one in zip(told["networks"], found.networks, strict=True):
        network["bins"] = {name: getattr(one.bins, name).tolist() for name in ("count", "confidence", "accuracy")}
    return told


def span(one: Interval | None, digits: int = 1, scale: float = 1.0, sign: str = "") -> str | None:
    """An estimate with its interval, as text."""
    if one is None:
        return None
    value, low, high = (f"{scale * number:{sign}.{digits}f}" for number in (one.value, one.low, one.high))
    return f"{value} [{low}, {high}]"


def _networks(found: Diagnosis) -> Grid:
    rows: list[Mapping[str, Any]] = [
        {
            "network": one.name,
            "trained": f"inside {one.inside}" if one.inside else "alone",
            found.metric: span(one.quality),
            "ece": 100 * one.ece,
            "loss": one.loss,
            "train loss": one.train_loss,
            "val loss": one.val_loss,
            "gap": span(one.gap, 2),
        }
        for one in found.networks
    ]
    seeds = f"mean over {found.seeds} seeds, resampled like the videos" if found.seeds > 1 else "one seed"
    reported, val = found.videos["reported"], found.videos["val"]
    notes = [
        f"{found.metric}, ece and loss on {reported} videos of {found.split}; val loss on {val} of val; percent, "
        f"losses in nats; {seeds}",
        "in brackets the 95 % bootstrap interval; gap: val loss minus train loss",
    ]
    return Grid("Networks", list(rows[0]), rows, {"ece": 1}, notes)


def _pairs(found: Diagnosis) -> Grid:
    rows: list[Mapping[str, Any]] = []
    for one in found.together:
        only = " / ".join(f"{share:.1f}" for share in one.only.values())
        weights = " / ".join(f"{weight:.2f}" for weight in one.weights)
        rows.append(
            {
                "networks": " + ".join(one.members),
                "agreement": one.agreement,
                "q": one.q,
                "right alone": only,
                "none": one.neither,
                "oracle": one.oracle,
                "weights": weights,
                "fused": span(one.fused),
                "gain": span(one.gain, sign="+"),
            }
        )
    what = "labels" if found.metric == "map" else "videos"
    notes = [
        f"right alone: {what} that just this network has right, in the order of the names, as the weights; none: that "
        "none has right; oracle: that at least one has right",
        f"weights: found on {found.videos['weights']} other videos, of val, mean over the seeds; gain: of fused over "
        "the network that is best there",
    ]
    return Grid("Together", list(rows[0]), rows, {"agreement": 1, "none": 1, "oracle": 1}, notes)


def _students(found: Diagnosis) -> Grid:
    rows: list[Mapping[str, Any]] = [
        {
            "student": one.evidence.student,
            "teacher": one.evidence.teacher,
            "lead": span(one.evidence.lead, sign="+"),
            "rescued": span(one.evidence.rescued, 0, 100),
            "guessed": 100 * one.evidence.guessed,
            "gap": span(one.evidence.gap, 2, sign="+"),
            "room": YES[one.verdict.room],
            "at most": {True: one.evidence.lead.value, False: 0.0, None: None}[one.verdict.room],
        }
        for one in found.students
    ]
    notes = [
        "on val; rescued: what the teacher has right of what the student has wrong, percent; guessed: if it guessed",
        "room: lead, rescued and gap are all large enough (docs/doctor.md); at most: the lead, in points",
    ]
    return Grid("Room to learn", list(rows[0]), rows, {"guessed": 0, "at most": 1}, notes)


def _inside(found: Diagnosis) -> Grid:
    rows: list[Mapping[str, Any]] = [
        {
            "joint model": one.joint,
            "peer": one.peer,
            "alone": f"{one.network} {span(one.alone)}",
            "inside": span(one.inside),
            "change": span(one.change, sign="+"),
        }
        for one in found.joint
    ]
    notes = ["the last line of a joint model is its output, against the network that is best alone"]
    return Grid("Alone and inside a joint model", list(rows[0]), rows, {}, notes)


def _together(one: Together, found: Diagnosis) -> str:
    names = " + ".join(one.members)
    told = f"{names} together: {found.metric} {span(one.fused)}, {span(one.gain, sign='+')} over {one.best} alone"
    if one.gain.low > 0:
        return f"{told}: worth running them together."
    return f"{told}: {'worse than it' if one.gain.high < 0 else 'no gain beyond noise'}."


def _joint(one: Inside, found: Diagnosis) -> str:
    told = f"{found.metric} {span(one.inside)}, {one.network} alone {span(one.alone)}, {span(one.change, sign='+')}"
    place = 0 if one.change.low > 0 else 1 if one.change.high < 0 else 2
    if one.peer in (ENSEMBLE, FUSED):
        ends = ("the joint model is better", f"the joint model is worse than {one.network} alone")
        end = (*ends, "no difference beyond noise")[place]
        return f"{one.joint} as a whole ({one.peer}): {told}: {end}."
    ends = ("training them together helps it", "training them together costs it: train it alone")
    return f"{one.peer} inside {one.joint}: {told}: {(*ends, 'no change beyond noise')[place]}."


def _reliability(one: Alone) -> Markup:
    """What is said (across) and what comes true (up), a bar per bin."""
    size, bins = 220, _bins(one.bins)
    return render("svg/reliability.svg", size=size, bins=bins, label=f"reliability of {one.name}")


def _bins(bins: Reliability) -> Sequence[dict[str, Any]]:
    width = 1 / len(bins.count)
    total = float(bins.count.sum())
    rows = zip(bins.count.tolist(), bins.confidence.tolist(), bins.accuracy.tolist(), strict=True)
    return [
        {"left": place * width, "width": width, "count": int(count), "share": count / total, "said": said, "true": true}
        for place, (count, said, true) in enumerate(rows)
        if count
    ]
