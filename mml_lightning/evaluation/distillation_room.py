"""Has a network room to learn from another? One rule, on numbers that are known before anything is distilled.

    decide(Evidence("rgb", "flow", "top1", lead=Interval(36.0, 29.1, 43.0), ...)).room    # True

docs/doctor.md tells the rule and how often it was right.
"""

from __future__ import annotations

from dataclasses import dataclass

from mml_lightning.evaluation.metrics import ENSEMBLE
from mml_lightning.evaluation.metrics.bootstrap import Interval

GAP = 0.1  # of the loss of a network that knows the class frequencies alone
BEYOND_GUESSING = 0.1  # of the labels that the student misses


@dataclass(frozen=True)
class Evidence:
    """What is known of a student and its best possible teacher, all of it on the validation split.

    Args:
        student: name of a network.
        teacher: name of another, or "ensemble": of all networks, the student's among them, weighted equally.
        metric: "top1" or "map".
        lead: of the teacher over the student in `metric`, in points of percent.
        rescued: share from 0 to 1 of the labels which the student misses that the teacher finds. A label is found if
            its class is among the n with the best scores, n being the number of labels of the video.
        guessed: what `rescued` would be if the teacher guessed.
        gap: validation loss minus training loss of the student, in nats; None where the training loss is unknown.
        prior_loss: loss of a network that says the class frequencies of the split, in nats.
    """

    student: str
    teacher: str
    metric: str
    lead: Interval
    rescued: Interval
    guessed: float
    gap: Interval | None
    prior_loss: float


@dataclass(frozen=True)
class Verdict:
    """`room` to learn: yes, no, or None where the training loss that would decide is unknown; and why, in a sentence
    without its full stop."""

    room: bool | None
    reason: str


def decide(evidence: Evidence) -> Verdict:
    """The rule: there is room where, each by the lower end of its 95 % interval,

    1. the teacher is better than the student: `lead` > 0;
    2. it is right where the student is wrong: `rescued` > `guessed` + :data:`BEYOND_GUESSING`;
    3. the student fits its training videos better than others: `gap` > :data:`GAP` x `prior_loss`. Without a gap a
       lesson can only slow the fitting.
    """
    student = evidence.student
    teacher = "the ensemble" if evidence.teacher == ENSEMBLE else evidence.teacher
    lead, rescued, gap = evidence.lead, evidence.rescued, evidence.gap
    led = f"{teacher} leads {student} by {_points(lead)}"
    if not lead.low > 0:  # nor where it is not a number
        return Verdict(False, f"{teacher} is not better than {student} by more than noise ({_points(lead)})")
    finds = f"{teacher} is right on {_percent(rescued)} of what {student} gets wrong"
    if not rescued.low > evidence.guessed + BEYOND_GUESSING:
        return Verdict(False, f"{led}, but {finds}, hardly more than guessing would ({100 * evidence.guessed:.0f} %)")
    if gap is None:
        return Verdict(None, f"{led} and {finds}, but the training loss of {student} is unknown")
    least = GAP * evidence.prior_loss
    fits = f"{student} has a gap of {_nats(gap)} between training and validation loss"
    if not gap.low > least:
        return Verdict(
            False, f"{led} and {finds}, but {fits}, not above {least:.2f}: a lesson would only slow its fitting"
        )
    return Verdict(True, f"{led}, {finds}, and {fits}, above {least:.2f}")


def _points(one: Interval) -> str:
    return f"{one.value:+.1f} points [{one.low:+.1f}, {one.high:+.1f}]"


def _percent(one: Interval) -> str:
    return f"{100 * one.value:.0f} % [{100 * one.low:.0f}, {100 * one.high:.0f}]"


def _nats(one: Interval) -> str:
    return f"{one.value:+.2f} nats [{one.low:+.2f}, {one.high:+.2f}]"
