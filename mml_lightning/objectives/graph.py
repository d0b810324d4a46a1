"""The lesson graph: which peer learns from which, and the sum of named terms that follows.

    labels --> rgb  <==kl==>  flow <-- labels          ce: no edge; ml and mml: every peer <- all the others

Legend: B batch, K classes. Outputs are what peers return: `logits` {head: [B, K]} and `features`; targets are
{head: [B] or [B, K]}. Losses are computed in float32 (or float64) whatever the precision of the networks: differences
of half-precision features keep few digits, and their squares overflow.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mml_lightning.objectives.edges import FUSED, changed_rows, choose, expand_edges, weighted
from mml_lightning.objectives.efficiency import Efficiency, is_correct
from mml_lightning.objectives.lessons import LABEL_FREE, full_precision
from mml_lightning.objectives.projection import Projection
from mml_lightning.objectives.supervised import Supervised

Terms = dict[str, dict[str, Tensor]]
CROSS_ENTROPY = Supervised()


class Part(NamedTuple):
    """A summand of the loss: the weighted mean of `name` of `student` over `rows` samples that all of `peers` have
    seen."""

    student: str
    name: str
    peers: frozenset[str]
    value: Tensor
    rows: int


class Objective:
    """Sum of named, weighted terms per peer: a supervised term each, plus one term per incoming edge.

    Args:
        peers: names of all peers of the run.
        edges: declared graph, see :func:`expand_edges`.
        supervised_weight: factor of the supervised term.
        frozen: peers that only teach (a word or a list, see :func:`choose`): they get no term.
        headed: peers whose supervised term trains their classifier alone (MERS): the trunk learns from edges only.
        supervised: how logits are compared with labels.
        labels: whom labels teach: a word or a list, see :func:`choose`, or weights {name: factor of its term}. Peers
            that they do not teach learn through what they are fused to, or from edges.
        fused: whether the peers are fused, so that the graph may name :data:`FUSED`.
        efficiency: the price of using peers, one more term of what they are fused to; None where no gate learns.

    Raises:
        ValueError: the graph names unknown peers or lessons, freezes every peer, or teaches one nothing.
    """

    def __init__(
        self,
        peers: Sequence[str],
        edges: Sequence[Mapping[str, Any]] = (),
        supervised_weight: float = 1.0,
        frozen: str | Sequence[str] = (),
        headed: str | Sequence[str] = (),
        supervised: Supervised = CROSS_ENTROPY,
        labels: str | Sequence[str] | Mapping[str, float] = "all",
        fused: bool = False,
        efficiency: Efficiency | None = None,
    ) -> None:
        self.efficiency = efficiency
        self.peers = tuple(peers)
        self.frozen = frozenset(choose(frozen, peers))
        self.headed = frozenset(choose(headed, peers)) - self.frozen
        self.labels = {name: w for name, w in weighted(labels, peers, fused).items() if name not in self.frozen}
        self.edges = [edge for edge in expand_edges(edges, peers, fused) if edge.student not in self.frozen]
        if self.frozen == set(peers) and not self.joins:
            raise ValueError(f"objective.frozen={frozen} leaves no peer to train ({list(peers)}); add a student")
        if wrong := [edge for edge in self.edges if FUSED in edge.peers and edge.needs_features]:
            raise ValueError(
                f"lesson={wrong[0].lesson} compares features, and {FUSED} has logits only: use a lesson of logits"
            )
        taught = {*self.labels, *(edge.student for edge in self.edges)}
        if not self.joins and (idle := [p for p in peers if p not in taught and p not in self.frozen]):
            raise ValueError(
                f"objective.labels={labels} leaves {idle[0]} with nothing to learn from: name it, let labels teach "
                f"{FUSED}, or put it among objective.frozen"
            )
        self.supervised_weight = supervised_weight
        self.supervised = supervised

    @property
    def joins(self) -> bool:
        """Whether what the peers are fused to is taught: then they learn through it, and so does the fusion."""
        return FUSED in self.labels or any(edge.student == FUSED for edge in self.edges)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The peers and, where a term looks at it, :data:`FUSED`."""
        named = self.joins or any(FUSED in edge.peers for edge in self.edges)
        return (*self.peers, FUSED) if named else self.peers

    @property
    def learners(self) -> list[str]:
        """Those of the outputs that terms teach."""
        return [*(peer for peer in self.peers if peer not in self.frozen), *([FUSED] if self.joins else [])]

    @property
    def groups(self) -> set[frozenset[str]]:
        """The sets of peers that a term needs: each that learns, and student and teachers of each edge."""
        alone = {frozenset((name,)) for name in self.learners}
        return alone | {edge.peers for edge in self.edges}

    def check_features(self, shapes: Mapping[str, Mapping[str, Sequence[int]]]) -> None:
        """Try every lesson on the features of the networks that it is between.

        Args:
            shapes: {peer: {feature: its shape for one sample}}, `pooled` [D] and `map` [T, D, h, w].

        Raises:
            ValueError: a lesson compares features that can't be compared.
        """
        for edge in self.edges:
            outputs = {peer: _zeros(shapes.get(peer, {})) for peer in edge.peers}  # a fused output has no features
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
            found = [
                part
                for head, labels in target.items()
                for part in self._of_head(outputs, head, labels, present, epoch, known, len(target) > 1)
            ]
            return found if self.efficiency is None else [*found, self._price(outputs, target, present)]

    def _price(
        self, outputs: Mapping[str, Any], target: Mapping[str, Tensor], present: Mapping[str, Tensor] | None
    ) -> Part:
        """What the use of peers costs: fewer segments of a video that is right in every head are better."""
        assert self.efficiency is not None
        group, right = frozenset((FUSED,)), []
        for head, labels in target.items():
            seen, own = _present(group, outputs, labels, present)
            right.append(is_correct(seen[FUSED].logits[head], own))
        rates = {
            peer: full_precision(seen[FUSED].features[f"use_{peer}"]).squeeze(1) for peer in self.efficiency.weights
        }
        loss = self.efficiency(rates, torch.stack(right).all(dim=0))
        return Part(FUSED, "efficiency", group, _mean(loss), len(loss))

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
        for peer, weight in self.labels.items():
            group = frozenset((peer,))
            next(known, None)
            seen, own = _present(group, outputs, labels, present)
            loss = self.supervised(full_precision(seen[peer].logits[head]), own)
            yield Part(peer, name + suffix, group, self.supervised_weight * weight * _mean(loss), len(own))
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
        terms: Terms = {name: {} for name in self.learners}
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
    return {peer: changed_rows(output, lambda value: value[rows]) for peer, output in involved.items()}, labels[rows]


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
