"""Edges of the lesson graph, and the words that name who stands at their ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from mml_lightning.objectives.lessons import LESSONS, Output, check_options, default_options, options_of

WORDS = ("all", "first", "rest", "others")
FUSED = "fused"  # what the peers are fused to: it may stand for a peer in a graph
OWN_FIELDS = ("lesson", "term", "weight", "start_epoch", "ramp_epochs", "stop_epoch", "detach", "project")


@dataclass(frozen=True)
class Edge:
    """One directed lesson: `student` <- `teachers`.

    Args:
        lesson: what is taught: one of :data:`mml_lightning.objectives.lessons.LESSONS`; those of other packages stand
            there by their importable name.
        options: the lesson's own settings.
        term: name of the term in logs and metric keys; the lesson's by default.
        weight: factor of the term.
        start_epoch, ramp_epochs: the weight is 0 before `start_epoch` and grows linearly over `ramp_epochs` from there.
        stop_epoch: the weight is 0 from there on; None: the lesson goes on to the end.
        detach: stop the gradient at the teachers (False lets the lesson change the teacher too).
        project: a learned linear map brings the student's features to the teachers' width first, see
            :mod:`mml_lightning.objectives.projection`; for lessons with a `site`.
    """

    student: str
    teachers: tuple[str, ...]
    lesson: str = "kl"
    options: Mapping[str, Any] = field(default_factory=dict)
    term: str = ""
    weight: float = 1.0
    start_epoch: float = 0.0
    ramp_epochs: float = 0.0
    stop_epoch: float | None = None
    detach: bool = True
    project: bool = False

    def __post_init__(self) -> None:
        if self.student in self.teachers:
            raise ValueError(f"peer {self.student} can't teach itself; remove it from its own teachers")
        if not self.teachers:
            raise ValueError(f"peer {self.student} has a lesson without teachers; a run with one peer has no edge")
        check_options(self.lesson, self.options)
        if self.start_epoch < 0 or self.ramp_epochs < 0:
            raise ValueError(f"start_epoch={self.start_epoch} and ramp_epochs={self.ramp_epochs} must not be negative")
        if self.stop_epoch is not None and self.stop_epoch <= self.start_epoch:
            raise ValueError(f"stop_epoch={self.stop_epoch} must come after start_epoch={self.start_epoch}")
        if not isinstance(self.project, bool):
            raise ValueError(f"project={self.project} must be true or false")
        if self.project and "site" not in options_of(self.lesson):
            raise ValueError(f"project=true is for lessons that compare features at a site, not for {self.lesson}")
        if not self.term:
            object.__setattr__(self, "term", self.lesson.rpartition(".")[2])

    @property
    def site(self) -> str:
        """The feature that is compared."""
        return str(self.options.get("site", default_options(self.lesson).get("site", "")))

    @property
    def projection(self) -> str:
        """The name of the student's features after the learned map."""
        return f"{self.lesson.replace('.', '_')}_{self.site}_from_{'_'.join(self.teachers)}"

    @property
    def needs_features(self) -> bool:
        """Whether the lesson compares more than logits."""
        silent = SimpleNamespace(logits={"": torch.zeros(2, 3)}, features={})
        try:
            self({name: silent for name in self.peers}, "", torch.zeros(2, dtype=torch.int64))
        except KeyError:
            return True
        return False

    @property
    def peers(self) -> frozenset[str]:
        """Student and teachers."""
        return frozenset((self.student, *self.teachers))

    def weight_at(self, epoch: float) -> float:
        """The factor in (fractional) `epoch`."""
        if epoch < self.start_epoch or (self.stop_epoch is not None and epoch >= self.stop_epoch):
            return 0.0
        since = epoch - self.start_epoch
        return self.weight * (min(1.0, since / self.ramp_epochs) if self.ramp_epochs else 1.0)

    def __call__(self, outputs: Mapping[str, Output], head: str, labels: Tensor) -> Tensor:
        """Unweighted loss per sample, [B]."""
        teachers: list[Any] = [outputs[t] for t in self.teachers]
        if self.detach:
            teachers = [changed_rows(t, lambda value: value.detach()) for t in teachers]
        student: Any = outputs[self.student]
        if self.project:
            features = {**student.features, self.site: student.features[self.projection]}
            student = SimpleNamespace(logits=student.logits, features=features)
        return LESSONS[self.lesson](student, teachers, head, labels, **self.options)


def expand_edges(specs: Sequence[Mapping[str, Any]], peers: Sequence[str], fused: bool = False) -> list[Edge]:
    """Edges of a declared graph for the peers of a run, and for what they are `fused` to, if they are.

    A spec has `students` (a word or a list, by default "all"), `teachers` (by default "others"), fields of
    :class:`Edge`, and the options of its lesson. Words are those of :func:`choose`.

    Raises:
        ValueError: a named peer is not in the run, or a field is unknown.
    """
    edges = []
    for spec in specs:
        own = {key: value for key, value in spec.items() if key in OWN_FIELDS}
        options = {k: v for k, v in spec.items() if k not in (*OWN_FIELDS, "students", "teachers")}
        for student in choose(spec.get("students", "all"), peers, fused=fused):
            teachers = choose(spec.get("teachers", "others"), peers, student, fused)
            edges.append(Edge(student=student, teachers=tuple(teachers), options=options, **own))
    return edges


def choose(value: Any, peers: Sequence[str], student: str | None = None, fused: bool = False) -> list[str]:
    """The peers that a word or a list names: all, first, rest (all but the first), others (all but the student). What
    they are `fused` to, if they are, goes by its name only.

    Raises:
        ValueError: a peer the run does not have.
    """
    words = {
        "all": list(peers),
        "first": list(peers[:1]),
        "rest": list(peers[1:]),
        "others": [peer for peer in peers if peer != student],
    }
    if isinstance(value, str):
        value = words.get(value, [value])
    unknown = [name for name in value if name not in peers and not (fused and name == FUSED)]
    if FUSED in unknown:
        raise ValueError(f"objective names {FUSED}, and the run fuses no outputs: choose fusion=weighted")
    if unknown:
        raise ValueError(
            f"objective names peer {unknown[0]!r}, the run has {list(peers)}; use those or one of {list(WORDS)}"
        )
    return list(value)


def weighted(labels: str | Sequence[str] | Mapping[str, float], peers: Sequence[str], fused: bool) -> dict[str, float]:
    """Factor of the supervised term of each output that labels teach, the peers in their order.

    Raises:
        ValueError: one is not there, or a factor is no number from 0 on.
    """
    words = [labels] if isinstance(labels, str) else labels
    declared = words if isinstance(words, Mapping) else dict.fromkeys(words, 1.0)
    found: dict[str, float] = {}
    for word, weight in declared.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight >= 0:
            raise ValueError(f"objective.labels.{word}={weight} must be a number from 0 on")
        found |= dict.fromkeys(choose(word, peers, fused=fused), float(weight))
    return {name: found[name] for name in (*peers, FUSED) if found.get(name)}


def changed_rows(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """An output with every tensor changed."""
    fields = {name: getattr(output, name, None) for name in ("logits", "features")}
    return SimpleNamespace(**{n: {k: change(v) for k, v in f.items()} for n, f in fields.items() if f is not None})
