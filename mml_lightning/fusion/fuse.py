"""The outputs of several peers to one, segment by segment.

Legend: B videos, V segments (clips, views), K classes, D width of a peer's pooled features.

A fusion is a module. It is given the peers' logits and a gate, which says how much each peer counts in a segment: 1
where it is used, 0 where it is skipped or the video lacks its modality. The logits of a video are the mean over its
segments. Peers are matched by name, never by position.

    average          (1/M) sum of u_m z_m                     all of these: a skipped peer counts as logits of 0, a
    weighted         sum of w_m u_m z_m                       segment without any peer as well (`renormalise` divides
    class_weighted   the same with a weight per class         by the sum of what counts instead)
    max              largest u_m z_m of the peers that count, class by class
    fc2              two layers of the joined pooled features, those of skipped peers 0

Source: Panda et al., "AdaMML", ICCV 2021, and its released code: M - 1 free weights, each 1/M at first, the last one 1
minus their sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Logits = Mapping[str, Tensor]
"""{peer: [B, V, K]}"""
Gates = Mapping[str, Tensor]
"""{peer: [B, V], from 0 to 1}"""

SUMS = ("average", "weighted", "class_weighted")
LEARNED = ("weighted", "class_weighted", "fc2")
RULES = (*SUMS, "max", "fc2")


class Weights(nn.Module):
    """A weight per peer, or per peer and class; they add up to 1.

    Args:
        peers: the last one has no parameter of its own.
        shape: of a weight: [] or [K].
    """

    def __init__(self, peers: Sequence[str], shape: Sequence[int] = ()) -> None:
        super().__init__()
        *free, self.last = peers
        self.free = nn.ParameterDict({peer: nn.Parameter(torch.full(tuple(shape), 1 / len(peers))) for peer in free})

    def forward(self) -> dict[str, Tensor]:
        """{peer: [] or [K]}"""
        free = dict(self.free.items())
        return {**free, self.last: 1 - torch.stack(list(free.values())).sum(0)}


class WeightedSum(nn.Module):
    """Sum of logits, see the module.

    Args:
        weights: None: all peers alike.
        renormalise: divide by the sum of weights and gates that count.
    """

    def __init__(self, peers: Sequence[str], weights: Weights | None, renormalise: bool) -> None:
        super().__init__()
        self.peers, self.weights, self.renormalise = tuple(peers), weights, renormalise

    def forward(self, logits: Logits, gate: Gates, features: Logits) -> Tensor:
        weights = self.weights() if self.weights is not None else {}
        total, mass = torch.tensor(0.0), torch.tensor(0.0)
        for peer, values in logits.items():
            share = gate[peer].to(values)[..., None]
            if peer in weights:
                share = share * weights[peer].to(values)
            total = total.to(values) + values * share
            mass = mass.to(values) + share
        if self.renormalise:
            return total / torch.where(mass == 0, 1.0, mass)
        return total if self.weights is not None else total / len(self.peers)


class Largest(nn.Module):
    """The largest logit of those that count, class by class."""

    def forward(self, logits: Logits, gate: Gates, features: Logits) -> Tensor:
        counted = torch.stack([gate[peer] for peer in logits])[..., None] > 0
        values = torch.stack([gate[peer].to(value)[..., None] * value for peer, value in logits.items()])
        largest = torch.where(counted, values, -torch.inf).max(dim=0).values
        return torch.where(counted.any(dim=0), largest, 0.0)


class JoinedFeatures(nn.Module):
    """Classes from the pooled features of all peers, side by side.

    Args:
        widths: {peer: D}, in the order in which they are joined.
        classes: K.
        hidden: width of both layers.
        dropout: before the classifier.
    """

    def __init__(self, widths: Mapping[str, int], classes: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.widths = dict(widths)
        self.layers = nn.Sequential(
            nn.Linear(sum(self.widths.values()), hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, classes),
        )

    def forward(self, logits: Logits, gate: Gates, features: Logits) -> Tensor:
        joined = torch.cat([gate[peer].to(features[peer])[..., None] * features[peer] for peer in self.widths], dim=-1)
        counted = torch.stack([gate[peer] > 0 for peer in self.widths]).any(dim=0)
        return torch.where(counted[..., None], self.layers(joined), 0.0)


class Fusion(nn.Module):
    """How the outputs of peers are fused, head by head.

    Args:
        rule: one of :data:`RULES`.
        peers: {peer: D} of all peers; the last one's weight is what the others leave.
        num_classes: {head: K}.
        renormalise: see the module; None: as published, and for `average` the mean over those that count.
        hidden, dropout: of `fc2`.
        weight_decay: of its parameters; None: that of the run.

    Raises:
        ValueError: the rule is unknown, there are fewer than two peers, or `renormalise` means nothing to the rule.
    """

    def __init__(
        self,
        rule: str,
        peers: Mapping[str, int],
        num_classes: Mapping[str, int],
        renormalise: bool | None = None,
        hidden: int = 2048,
        dropout: float = 0.5,
        weight_decay: float | None = None,
    ) -> None:
        super().__init__()
        if rule not in RULES:
            raise ValueError(f"{rule!r} is no fusion; use one of {', '.join(RULES)}")
        if len(peers) < 2:
            raise ValueError(f"there are no two peers to fuse, only {', '.join(peers) or 'none'}")
        if renormalise is not None and rule not in SUMS:
            raise ValueError(f"renormalise={renormalise} means nothing to {rule}, which adds up no logits")
        self.rule, self.widths, self.num_classes = rule, dict(peers), dict(num_classes)
        self.renormalise = rule == "average" if renormalise is None else renormalise
        self.hidden, self.dropout, self.weight_decay = hidden, dropout, weight_decay
        self.heads = nn.ModuleDict({head: self._head(classes) for head, classes in self.num_classes.items()})

    def _head(self, classes: int) -> nn.Module:
        if self.rule == "max":
            return Largest()
        if self.rule == "fc2":
            return JoinedFeatures(self.widths, classes, self.hidden, self.dropout)
        shape = (classes,) if self.rule == "class_weighted" else ()
        weights = None if self.rule == "average" else Weights(self.peers, shape)
        return WeightedSum(self.peers, weights, self.renormalise)

    @property
    def peers(self) -> tuple[str, ...]:
        return tuple(self.widths)

    @property
    def takes_features(self) -> bool:
        """Whether it looks at the pooled features of the peers."""
        return self.rule == "fc2"

    @property
    def learned(self) -> bool:
        """Whether it has parameters."""
        return self.rule in LEARNED

    @property
    def arch(self) -> dict[str, Any]:
        """Plain values from which the same fusion is made again with fresh weights: the arguments."""
        given = {"rule": self.rule, "peers": dict(self.widths), "num_classes": dict(self.num_classes)}
        return given | {
            "renormalise": self.renormalise if self.rule in SUMS else None,
            **{"hidden": self.hidden, "dropout": self.dropout, "weight_decay": self.weight_decay},
        }

    def optimiser_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """One group; weights decay whatever their number of dimensions, as published."""
        learn = [parameter for parameter in self.parameters() if parameter.requires_grad]
        decay = weight_decay if self.weight_decay is None else self.weight_decay
        return [{"name": "weights", "params": learn, "lr": lr, "weight_decay": decay}] if learn else []

    def weights_told(self) -> dict[str, dict[str, float]]:
        """{head: {peer: weight}}, of class-wise weights their mean; empty for rules without."""
        told: dict[str, dict[str, float]] = {}
        for head, one in self.heads.items():
            if isinstance(one, WeightedSum) and one.weights is not None:
                told[head] = {peer: float(weight.detach().mean()) for peer, weight in one.weights().items()}
        return told

    def forward(
        self,
        logits: Mapping[str, Mapping[str, Tensor]],
        gate: Gates,
        features: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Fused logits {head: [B, V, K]}, in float32 under autocast too; 0 where no peer counts.

        Args:
            logits: {peer: {head: [B, V, K]}}. What a closed gate hides may be anything, unless the gate learns: then
                its gradient is made of it.
            gate: {peer: [B, V]}. Peers that it lacks are skipped.
            features: pooled features {peer: [B, V, D]}, for fusions that take them.
        """
        known = [peer for peer in self.peers if peer in logits and peer in gate]
        opened = {peer: gate[peer] for peer in known}
        looked_at = {peer: _shown((features or {})[peer], gate[peer]) for peer in known if self.takes_features}
        fused = {}
        with torch.autocast(next(iter(gate.values())).device.type, enabled=False):
            for head, rule in self.heads.items():
                if any(head not in logits[peer] for peer in known):
                    continue
                shown = {peer: _shown(logits[peer][head], gate[peer]) for peer in known}
                fused[head] = rule(shown, opened, looked_at)
        return fused


def _shown(values: Tensor, gate: Tensor) -> Tensor:
    """Values [B, V, ..] in at least float32, 0 where a gate that does not learn is closed."""
    values = values if values.dtype == torch.float64 else values.float()
    return values if gate.requires_grad else torch.where((gate > 0)[..., None], values, 0.0)


def present_as_gate(present: Mapping[str, Tensor], views: int) -> dict[str, Tensor]:
    """The gate of peers that count wherever they have seen the video: {peer: [B] bool} -> {peer: [B, V]}."""
    return {peer: seen[:, None].expand(-1, views) for peer, seen in present.items()}
