"""The lesson graph: which peer learns from which, and the sum of named terms that follows.

    labels --> rgb  <==kl==>  flow <-- labels          ce: no edge; ml and mml: every peer <- all the others

Legend: B batch, K classes. Outputs are what peers return: `logits` {head: [B, K]} and `features`; targets are
{head: [B] or [B, K]}. Losses are computed in float32 (or float64) whatever the precision of the networks: differences
of half-precision features keep few digits, and their squares overflow.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mml_lightning.objectives.lessons import (
    LABEL_FREE,
    LESSONS,
    Output,
    check_options,
    default_options,
    full_precision,
    options_of,
)
from mml_lightning.objectives.projection import Projection
from mml_lightning.objectives.supervised import Supervised

Terms = dict[str, dict[str, Tensor]]
WORDS = ("all", "first", "rest", "others")
CROSS_ENTROPY = Supervised()


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
            teachers = [_rows(t, lambda value: value.detach()) for t in teachers]
        student: Any = outputs[self.student]
        if self.project:
            features = {**student.features, self.site: student.features[self.projection]}
            student = SimpleNamespace(logits=student.logits, features=features)
        return LESSONS[self.lesson](student, teachers, head, labels, **self.options)


class Part(NamedTuple):
    """A summand of the loss: the weighted mean of `name` of `student` over `rows` samples that all of `peers` have
    seen."""

    student: str
    name: str
    peers: frozenset[str]
    value: Tensor
    rows: int


OWN_FIELDS = ("lesson", "term", "weight", "start_epoch", "ramp_epochs", "stop_epoch", "detach", "project")


def expand_edges(specs: Sequence[Mapping[str, Any]], peers: Sequence[str]) -> list[Edge]:
    """Edges of a declared graph for the peers of a run.

    A spec has `students` (a word or a list, by default "all"), `teachers` (by default "others"), fields of
    :class:`Edge`, and the options of its lesson. Words are those of :func:`choose`.

    Raises:
        ValueError: a named peer is not in the run, or a field is unknown.
    """
    edges = []
    for spec in specs:
        own = {key: value for key, value in spec.items() if key in OWN_FIELDS}
        options = {k: v for k, v in spec.items() if k not in (*OWN_FIELDS, "students", "teachers")}
        for student in choose(spec.get("students", "all"), peers):
            teachers = choose(spec.get("teachers", "others"), peers, student)
            edges.append(Edge(student=student, teachers=tuple(teachers), options=options, **own))
    return edges


def choose(value: Any, peers: Sequence[str], student: str | None = None) -> list[str]:
    """The peers that a word or a list names: all, first, rest (all but the first), others (all but the student).

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
    unknown = [name for name in value if name not in peers]
    if unknown:
        raise ValueError(
            f"objective names peer {unknown[0]!r}, the run has {list(peers)}; use those or one of {list(WORDS)}"
        )
    return list(value)


class Objective:
    """Sum of named, weighted terms per peer: a supervised term each, plus one term per incoming edge.

    Args:
        peers: names of all peers of the run.
        edges: declared graph, see :func:`expand_edges`.
        supervised_weight: factor of the supervised term.
        frozen: peers that only teach (a word or a list, see :func:`choose`): they get no term.
        headed: peers whose supervised term trains their classifier alone (MERS): the trunk learns from edges only.
        supervised: how logits are compared with labels.

    Raises:
        ValueError: the graph names unknown peers or lessons, or freezes every peer.
    """

    def __init__(
        self,
        peers: Sequence[str],
        edges: Sequence[Mapping[str, Any]] = (),
        supervised_weight: float = 1.0,
        frozen: str | Sequence[str] = (),
        headed: str | Sequence[str] = (),
        supervised: Supervised = CROSS_ENTROPY,
    ) -> None:
        self.peers = tuple(peers)
        self.frozen = frozenset(choose(frozen, peers))
        self.headed = frozenset(choose(headed, peers)) - self.frozen
        if self.frozen == set(peers):
            raise ValueError(f"objective.frozen={frozen} leaves no peer to train ({list(peers)}); add a student")
        self.edges = [edge for edge in expand_edges(edges, peers) if edge.student not in self.frozen]
        self.supervised_weight = supervised_weight
        self.supervised = supervised

    @property
    def groups(self) -> set[frozenset[str]]:
        """The sets of peers that a term needs: each that learns, and student and teachers of each edge."""
        alone = {frozenset((peer,)) for peer in self.peers if peer not in self.frozen}
        return alone | {edge.peers for edge in self.edges}

    def check_features(self, shapes: Mapping[str, Mapping[str, Sequence[int]]]) -> None:
        """Try every lesson on the features of the networks that it is between.

        Args:
            shapes: {peer: {feature: its shape for one sample}}, `pooled` [D] and `map` [T, D, h, w].

        Raises:
            ValueError: a lesson compares features that can't be compared.
        """
        for edge in self.edges:
            outputs = {peer: _zeros(shapes[peer]) for peer in edge.peers}
            if edge.project:
                features, learned = outputs[edge.student].features, self.projections(shapes)[edge.student]
                features[edge.projection] = learned[edge.projection](features)
            try:
                edge(outputs, "", torch.tensor([0, 1]))
            except (RuntimeError, ValueError):
                student, *teachers = (_described(peer, shapes[peer]) for peer in (edge.student, *edge.teachers))
                raise ValueError(
                    f"lesson={edge.lesson} can't compare the features of {student} with those of "
                    f"{' and '.join(teachers)}: choose networks of one width and size (backbone=, "
                    "backbone.<modality>=), objective.edges.<n>.project=true where widths alone differ, or a lesson of "
                    "logits (objective=kd, d3d, mutual)"
                ) from None

    def projections(self, shapes: Mapping[str, Mapping[str, Sequence[int]]], seed: int = 0) -> dict[str, nn.ModuleDict]:
        """{student: its learned maps} of the edges that want one.

        Args:
            shapes: as of :meth:`check_features`.
            seed: of their first weights.
        """
        found: dict[str, nn.ModuleDict] = {}
        for edge in self.edges:
            if edge.project:
                axis = 0 if edge.site == "pooled" else 1
                width, target = (shapes[peer][edge.site][axis] for peer in (edge.student, edge.teachers[0]))
                learned = found.setdefault(edge.student, nn.ModuleDict())
                learned[edge.projection] = Projection(edge.site, width, target, seed)
        return found

    def __call__(
        self,
        outputs: Mapping[str, Any],
        target: Mapping[str, Tensor],
        present: Mapping[str, Tensor] | None = None,
        epoch: float = 0.0,
    ) -> Terms:
        """Terms {peer: {term: weighted scalar}}, see :meth:`parts`."""
        return self.summed(self.parts(outputs, target, present, epoch))

    def parts(
        self,
        outputs: Mapping[str, Any],
        target: Mapping[str, Tensor],
        present: Mapping[str, Tensor] | None = None,
        epoch: float = 0.0,
        by_others: Sequence[Part] = (),
    ) -> list[Part]:
        """The summands of the loss.

        Args:
            outputs: what each peer returned; rows of absent samples may hold anything.
            target: per head, class indices [B] or multi-hot [B, K].
            present: per peer, [B] bool: samples that have its modality. A part is the mean over samples whose student
                and teachers are all present, 0 where there is none; None means all are.
            epoch: for edges whose weight grows.
            by_others: the same by other labels; a lesson that looks at no label is not given a second time.
        """
        known = iter(by_others)
        device = next(iter(target.values())).device.type
        with torch.autocast(device, enabled=False):
            return [
                part
                for head, labels in target.items()
                for part in self._of_head(outputs, head, labels, present, epoch, known, len(target) > 1)
            ]

    def _of_head(
        self,
        outputs: Mapping[str, Any],
        head: str,
        labels: Tensor,
        present: Mapping[str, Tensor] | None,
        epoch: float,
        known: Iterator[Part],
        several: bool,
    ) -> Iterator[Part]:
        name, suffix = self.supervised.term(labels), f"_{head}" if several else ""
        for peer in self.peers:
            if peer in self.frozen:
                continue
            group = frozenset((peer,))
            next(known, None)
            seen, own = _present(group, outputs, labels, present)
            loss = self.supervised(full_precision(seen[peer].logits[head]), own)
            yield Part(peer, name + suffix, group, self.supervised_weight * _mean(loss), len(own))
        for edge in self.edges:
            same = next(known, None)
            if same is not None and edge.lesson in LABEL_FREE:
                yield same
                continue
            seen, own = _present(edge.peers, outputs, labels, present)
            # what compares the samples of a batch is not asked about none
            loss = edge(seen, head, own) if len(own) else full_precision(seen[edge.student].logits[head])
            yield Part(edge.student, edge.term + suffix, edge.peers, edge.weight_at(epoch) * _mean(loss), len(own))

    def summed(self, parts: Sequence[Part], weight: Callable[[frozenset[str], int], float] | None = None) -> Terms:
        """Parts as terms {peer: {term: scalar}}; a student with several edges of one name sums them.

        Args:
            weight: of a part, from its peers and rows; None: 1.
        """
        terms: Terms = {peer: {} for peer in self.peers if peer not in self.frozen}
        for part in parts:
            factor = 1.0 if weight is None else weight(part.peers, part.rows)
            value, own = part.value if factor == 1.0 else factor * part.value, terms[part.student]
            own[part.name] = own[part.name] + value if part.name in own else value
        return terms


def total(terms: Terms) -> Tensor:
    """The scalar to minimise: the sum of all terms of all peers."""
    values = [value for peer_terms in terms.values() for value in peer_terms.values()]
    result = values[0]
    for value in values[1:]:
        result = result + value
    return result


def _present(
    peers: Collection[str], outputs: Mapping[str, Any], labels: Tensor, present: Mapping[str, Tensor] | None
) -> tuple[Mapping[str, Any], Tensor]:
    """Outputs and labels of the samples that every one of `peers` has seen.

    Absent samples are left out before a lesson looks at them: they may carry anything, NaN included, and some lessons
    compare the samples of a batch with each other.
    """
    involved = {peer: outputs[peer] for peer in peers}
    if present is None:
        return involved, labels
    together = torch.stack([present[peer] for peer in peers]).all(0)
    if bool(together.all()):
        return involved, labels
    rows = together.nonzero().squeeze(1).to(labels.device)
    return {peer: _rows(output, lambda value: value[rows]) for peer, output in involved.items()}, labels[rows]


def _rows(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """An output with every tensor changed."""
    fields = {name: getattr(output, name, None) for name in ("logits", "features")}
    return SimpleNamespace(**{n: {k: change(v) for k, v in f.items()} for n, f in fields.items() if f is not None})


def _zeros(features: Mapping[str, Sequence[int]]) -> SimpleNamespace:
    """The output of a network for two samples, as far as its shapes go."""
    made = {name: torch.zeros(2, *shape) for name, shape in features.items()}
    return SimpleNamespace(logits={"": torch.zeros(2, 3)}, features=made)


def _described(peer: str, features: Mapping[str, Sequence[int]]) -> str:
    frames, _, height, width = features["map"]
    return f"{peer} ({features['pooled'][0]} wide, map of {frames} x {height} x {width})"


def _mean(per_sample: Tensor) -> Tensor:
    """Mean over the samples; 0 where there is none, still connected to the network."""
    return per_sample.mean() if len(per_sample) else per_sample.sum()
