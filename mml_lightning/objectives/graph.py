"""The lesson graph: which peer learns from which, and the sum of named terms that follows.

    labels --> rgb  <==kl==>  flow <-- labels          ce: no edge; ml and mml: every peer <- all the others

Legend: B batch, K classes. Outputs are anything with a `logits` dict {head: [B, K]}; targets are {head: [B] or [B, K]}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from mml_lightning.objectives.divergences import AGGREGATES, KINDS, kl_divergence
from mml_lightning.objectives.supervised import cross_entropy

Terms = dict[str, dict[str, Tensor]]


class HasLogits(Protocol):
    @property
    def logits(self) -> Mapping[str, Tensor]: ...


@dataclass(frozen=True)
class Edge:
    """One directed lesson: `student` <- `teachers`, by KL divergence on logits.

    Args:
        term: name of the term in logs and metric keys.
        weight: factor of the term.
        detach: stop the gradient at the teachers (False lets the lesson change the teacher too).
        aggregate, temperature, kind: see :func:`mml_lightning.objectives.divergences.kl_divergence`.
    """

    student: str
    teachers: tuple[str, ...]
    term: str = "kl"
    weight: float = 1.0
    temperature: float = 1.0
    aggregate: str = "mean_logits"
    kind: str = "softmax"
    detach: bool = True

    def __post_init__(self) -> None:
        if self.student in self.teachers:
            raise ValueError(f"peer {self.student} can't teach itself; remove it from its own teachers")
        if not self.teachers:
            raise ValueError(f"peer {self.student} has a lesson without teachers; a run with one peer has no edge")
        if self.temperature <= 0:
            raise ValueError(f"temperature={self.temperature} must be positive")
        if self.aggregate not in AGGREGATES or self.kind not in KINDS:
            raise ValueError(f"edge of {self.student}: aggregate is one of {AGGREGATES}, kind one of {KINDS}")

    def __call__(self, outputs: Mapping[str, HasLogits], head: str, multi_label: bool) -> Tensor:
        """Unweighted divergence per sample, [B]."""
        teachers = [outputs[t].logits[head] for t in self.teachers]
        if self.detach:
            teachers = [t.detach() for t in teachers]
        return kl_divergence(
            outputs[self.student].logits[head],
            teachers,
            aggregate=self.aggregate,
            temperature=self.temperature,
            kind=self.kind,
            multi_label=multi_label,
        )


def expand_edges(specs: Sequence[Mapping[str, Any]], peers: Sequence[str]) -> list[Edge]:
    """Edges of a declared graph for the peers of a run.

    A spec has `students` ("all" or a list), `teachers` ("others" or a list) and the other fields of :class:`Edge`.

    Raises:
        ValueError: a named peer is not in the run, or a field is unknown.
    """
    edges = []
    for spec in specs:
        fields = {k: v for k, v in spec.items() if k not in ("students", "teachers")}
        students = _named(spec.get("students", "all"), "all", peers, peers)
        for student in students:
            teachers = _named(spec.get("teachers", "others"), "others", [p for p in peers if p != student], peers)
            try:
                edges.append(Edge(student=student, teachers=tuple(teachers), **fields))
            except TypeError as error:
                raise ValueError(f"objective edge {dict(spec)}: {error}") from None
    return edges


class Objective:
    """Sum of named, weighted terms per peer: a supervised term each, plus one term per incoming edge.

    Args:
        peers: names of all peers of the run.
        edges: declared graph, see :func:`expand_edges`.
        supervised_weight: factor of the supervised term.
        frozen: peers that only teach: they get no term.
        supervised: (logits [B, K], target) -> loss per sample [B].
    """

    def __init__(
        self,
        peers: Sequence[str],
        edges: Sequence[Mapping[str, Any]] = (),
        supervised_weight: float = 1.0,
        frozen: Sequence[str] = (),
        supervised: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    ) -> None:
        self.peers = tuple(peers)
        self.frozen = frozenset(frozen)
        self.edges = [e for e in expand_edges(edges, peers) if e.student not in self.frozen]
        self.supervised_weight = supervised_weight
        self.supervised = supervised

    def __call__(
        self,
        outputs: Mapping[str, HasLogits],
        target: Mapping[str, Tensor],
        present: Mapping[str, Tensor] | None = None,
    ) -> Terms:
        """Terms {peer: {term: weighted scalar}}.

        Args:
            outputs: per peer, logits {head: [B, K]}.
            target: per head, class indices [B] or multi-hot [B, K].
            present: per peer, [B] bool: samples that have its modality. A term is the mean over samples whose student
                and teachers are all present; None means all are.
        """
        terms: Terms = {peer: {} for peer in self.peers if peer not in self.frozen}
        for head, labels in target.items():
            suffix = "" if len(target) == 1 else f"_{head}"
            multi_label = labels.ndim > 1
            name = "bce" if multi_label else "ce"
            for peer, peer_terms in terms.items():
                loss = self.supervised(outputs[peer].logits[head], labels)
                peer_terms[name + suffix] = self.supervised_weight * _mean(loss, [peer], present)
            for edge in self.edges:
                loss = edge(outputs, head, multi_label)
                key = edge.term + suffix
                value = edge.weight * _mean(loss, [edge.student, *edge.teachers], present)
                # a student with several edges of one name sums them
                terms[edge.student][key] = terms[edge.student][key] + value if key in terms[edge.student] else value
        return terms


def total(terms: Terms) -> Tensor:
    """The scalar to minimise: the sum of all terms of all peers."""
    values = [value for peer_terms in terms.values() for value in peer_terms.values()]
    result = values[0]
    for value in values[1:]:
        result = result + value
    return result


def _mean(per_sample: Tensor, involved: Sequence[str], present: Mapping[str, Tensor] | None) -> Tensor:
    if present is None:
        return per_sample.mean()
    weight = per_sample.new_ones(per_sample.shape)
    for peer in involved:
        weight = weight * present[peer].to(weight.dtype)
    # absent samples may carry anything, NaN included: select, don't multiply
    return per_sample.where(weight > 0, per_sample.new_zeros(())).sum() / weight.sum().clamp(min=1.0)


def _named(value: Any, keyword: str, default: Sequence[str], peers: Sequence[str]) -> list[str]:
    names = list(default) if value == keyword else [value] if isinstance(value, str) else list(value)
    unknown = [name for name in names if name not in peers]
    if unknown:
        raise ValueError(f"objective names peer {unknown[0]!r}, the run has {list(peers)}; use those or '{keyword}'")
    return names
