"""How the parameters that learn are optimised: groups, rates, schedule, clipping."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from mml_lightning.fusion.fuse import Fusion
from mml_lightning.fusion.gates import Gate
from mml_lightning.training.parameter_groups import parameter_groups, slowfast_parameter_groups, tsn_parameter_groups


@dataclass(frozen=True)
class OptimiserPlan:
    """How the peers are optimised.

    Args:
        optimizer: parameter groups -> optimiser.
        groups: "tsn" (biases twice as fast and not decayed, a new head five times faster), "slowfast" (norms not
            decayed) or "plain" (norms and biases not decayed).
        lr, weight_decay: base values of the groups.
        clip_norm: largest gradient norm of one peer; None for no clipping.
        fresh_heads: peers whose head is new, which the TSN rule lets learn five times faster (MML turns it off for
            heads carried over from an earlier stage).
        fast_stems: peers whose first convolution learns as fast as a new head (TSM's rule for flow; MML dropped it).
        factor: epoch -> learning-rate factor.
        epochs: length of the run.
        interval: the factor is taken once per "epoch" (TSM, MML) or per "step", with fractional epochs.
    """

    optimizer: Callable[[Iterable[dict[str, Any]]], torch.optim.Optimizer]
    groups: str
    lr: float
    weight_decay: float
    factor: Callable[[float], float]
    epochs: int
    clip_norm: float | None = None
    fresh_heads: frozenset[str] = field(default_factory=frozenset)
    fast_stems: frozenset[str] = field(default_factory=frozenset)
    interval: str = "epoch"

    def parameter_groups(self, peer: str, net: nn.Module) -> list[dict[str, Any]]:
        """The groups of one peer, named `<peer>/<group>`; fusions and gates have groups of their own."""
        if isinstance(net, Fusion | Gate):
            groups = net.optimiser_groups(self.lr, self.weight_decay)
        elif self.groups == "tsn":
            head, stem = peer in self.fresh_heads, peer in self.fast_stems
            groups = tsn_parameter_groups(net, self.lr, self.weight_decay, fc_lr5=head, flow_stem_lr5=stem)
        elif self.groups == "slowfast":
            groups = slowfast_parameter_groups(net, self.lr, self.weight_decay)
        else:
            groups = parameter_groups(net, self.lr, self.weight_decay)
        return [group | {"name": f"{peer}/{group['name']}"} for group in groups]
