"""One peer per rank: every process trains one network on the whole batch, and only logits travel.

    placement=shared   rank 0: rgb, flow on a half of the batch   rank 1: rgb, flow on the other half; gradients travel
    placement=peer     rank 0: rgb on the batch                   rank 1: flow on the batch; logits travel

Teachers are detached, so the gradient of a peer needs of the others their logits and nothing else: the losses and the
weights are those of one process that trains all peers, to the last bit on one kind of machine. Every rank holds the
weights of all peers, but activations, gradients, the optimiser's state of its own alone; before anything is measured
or saved the ranks give each other what they have trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn

from mml_lightning.backbones.peer import PeerOutput
from mml_lightning.objectives.graph import Objective
from mml_lightning.training.batch_norm import NormSettings
from mml_lightning.utils.errors import UserError

PLACEMENTS = ("shared", "peer")


class OnePeerPerRank(DDPStrategy):
    """Processes as under DDP, of which the n-th trains the n-th of `peers`."""

    def __init__(self, peers: Sequence[str]) -> None:
        super().__init__()
        self.peers = tuple(peers)

    @property
    def own(self) -> str:
        """The peer of this rank."""
        return self.peers[self.global_rank]

    def configure_ddp(self) -> None:
        """No gradient is averaged: nothing to wrap."""

    def exchange(self, output: PeerOutput) -> dict[str, PeerOutput]:
        """What every peer says of the batch: `output` is the own one's; of the others logits without gradient."""
        told: dict[str, dict[str, Tensor]] = {name: {} for name in self.peers}
        for head, logits in output.logits.items():
            parts = [torch.empty_like(logits) for _ in self.peers]
            torch.distributed.all_gather(parts, logits.detach().contiguous())
            for name, part in zip(self.peers, parts, strict=True):
                told[name][head] = part
        return {name: output if name == self.own else PeerOutput(told[name], {}) for name in self.peers}

    def agree(self, flags: Tensor) -> Tensor:
        """[P] float, per peer: the largest that any rank says, on the device."""
        torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
        return flags

    def share(self) -> None:
        """Make all ranks hold what each has trained: weights, buffers, the optimiser's state."""
        module = self.lightning_module
        assert module is not None
        for rank, name in enumerate(self.peers):
            peer: nn.Module = module.peers[name]  # type: ignore[index, union-attr, assignment]
            for tensor in (*peer.parameters(), *peer.buffers()):
                torch.distributed.broadcast(tensor.data, rank)
            for optimizer in self.optimizers:
                own = {parameter for group in optimizer.param_groups for parameter in group["params"]}
                states: list[Any] = [[optimizer.state[p] for p in peer.parameters() if p in own]]
                torch.distributed.broadcast_object_list(states, rank, device=self.root_device)
                if rank != self.global_rank:
                    for parameter, state in zip((p for p in peer.parameters() if p in own), states[0], strict=True):
                        optimizer.state[parameter] = _on(state, parameter.device)

    def on_train_end(self) -> None:
        self.share()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        self.share()
        return super().lightning_module_state_dict()


def _on(state: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """What lay on the sender's device, a fused optimiser's count of steps among it; what it keeps on the host stays."""
    return {
        key: value.to(device) if isinstance(value, Tensor) and value.device.type == device.type else value
        for key, value in state.items()
    }


def strategy_of(trainer: pl.Trainer | None) -> OnePeerPerRank | None:
    """The strategy of `trainer` if it puts one peer on each rank."""
    strategy = getattr(trainer, "strategy", None)
    return strategy if isinstance(strategy, OnePeerPerRank) else None


def make_strategy(
    placement: str, objectives: Sequence[Objective], norms: NormSettings, devices: Any, nodes: int
) -> OnePeerPerRank | None:
    """What `placement` makes of the trainer's strategy; None for no change.

    Args:
        objectives: of each phase of the run.

    Raises:
        UserError: it is unknown, or this run can't be placed so.
    """
    if placement not in PLACEMENTS:
        raise UserError(f"placement={placement} is unknown; use one of {list(PLACEMENTS)}")
    if placement == "shared":
        return None
    peers = objectives[0].peers
    if len(peers) < 2 or devices != len(peers) or nodes != 1:
        raise UserError(
            f"placement=peer puts one peer on each rank, the run has {len(peers)} ({', '.join(peers)}): use "
            f"trainer=ddp trainer.devices={len(peers)}, or placement=shared"
        )
    for frozen in (one.frozen for one in objectives if one.frozen):
        idle = ", ".join(sorted(frozen))
        phase = " in a phase" if len(objectives) > 1 else ""
        raise UserError(f"placement=peer trains a peer on each rank, {idle} only teaches{phase}; use placement=shared")
    if any(len(one.outputs) > len(one.peers) for one in objectives):
        raise UserError(
            "placement=peer sends logits only, and what the peers are fused to needs gradients of them; use "
            "placement=shared"
        )
    for edge in (edge for one in objectives for edge in one.edges):
        if not edge.detach or edge.needs_features:
            what = "features" if edge.detach else "gradients of its teachers"
            lesson = f"lesson {edge.lesson} of {edge.student}"
            raise UserError(f"placement=peer sends logits only, {lesson} needs {what}; use placement=shared")
    if norms.sync or norms.precise or norms.group_size is not None:
        raise UserError(
            "placement=peer: every peer sees the whole batch; remove batch_norm.sync, group_size and precise"
        )
    return OnePeerPerRank(peers)
