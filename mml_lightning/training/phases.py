"""Phases of a stage: each has trained parts, an objective, an optimiser and a schedule of its own.

    epoch   0 .. 2   head   trains rgb.head               the trunk is in eval mode, has no gradient, is in no optimiser
            3 ..     all    trains rgb                    a fresh optimiser, a schedule from its beginning

What a phase does not train is frozen: it has no gradient, is in no optimiser, and is in eval mode, batch norms and
dropout included. A stage that declares no phases is one phase, which trains whatever its objective does not freeze.

Two phases may take turns, an epoch each; each goes on with its own optimiser and schedule (:class:`Turns`):

    epoch   5 7 9 ..   main     trains rgb, audio, fusion
            6 8 10 ..  policy   trains gate
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from mml_lightning.backbones.batch_norm import freeze_batch_norm
from mml_lightning.objectives.graph import Objective
from mml_lightning.training.optimiser_plan import OptimiserPlan
from mml_lightning.utils.distributed import is_first_rank

log = logging.getLogger(__name__)

Peers = Mapping[str, nn.Module] | nn.ModuleDict
WHOLE = ("",)  # of a peer: the prefix of every name
FUSION, GATE = "fusion", "gate"  # parts of a stage that no peer may be called
PARTS: dict[str, tuple[str, ...]] = {"head": ("dropout", "heads"), "trunk": ("net",)}
"""Words for parts of a peer, and the modules that they mean; all others are names of modules."""


@dataclass(frozen=True)
class Phase:
    """Args:
    name: "" where a stage declares no phases.
    first: its first epoch, counted from 0.
    epochs: how many it takes.
    objective: its lessons; peers that it does not train are frozen in it.
    plan: its optimiser and schedule; epochs are counted from its first one.
    trains: {peer: names of the modules that learn}, :data:`WHOLE` for all of it. Others only teach.
    words: the same as it was typed.
    stride: 2 for one that takes turns with another: every second epoch from the first is its own.
    frozen_trains: what does not learn is in training mode all the same: its batch norms go on moving and its dropout
        is on, as in the released AdaMML.
    """

    name: str
    first: int
    epochs: int
    objective: Objective
    plan: OptimiserPlan
    trains: Mapping[str, tuple[str, ...]]
    words: tuple[str, ...] = ()
    stride: int = 1
    frozen_trains: bool = False

    def begun(self, epoch: int) -> int:
        """How many epochs of it come before `epoch`: for one of its own, its number from 0."""
        return max(0, -((self.first - epoch) // self.stride))

    def has(self, epoch: int) -> bool:
        """Whether `epoch` is its own."""
        return epoch in range(self.first, self.first + self.epochs * self.stride, self.stride)

    def covers(self, peer: str, key: str) -> bool:
        """Whether a parameter `key` of `peer` learns. A learned map between features does where an edge asks for it."""
        kind, _, rest = key.partition(".")
        asked = {edge.projection for edge in self.objective.edges if edge.project and edge.student == peer}
        if kind == "projections" and rest.partition(".")[0] not in asked:
            return False
        return any(not part or key == part or key.startswith(f"{part}.") for part in self.trains.get(peer, ()))

    def reaches(self, peer: str, module: str) -> bool:
        """Whether something learns in a module of `peer`."""
        return any(
            not part or f"{part}.".startswith(f"{module}.") or f"{module}.".startswith(f"{part}.")
            for part in self.trains.get(peer, ())
        )

    def whole(self, peer: str) -> bool:
        """Whether all of a peer learns."""
        return self.trains.get(peer) == WHOLE

    def set_gradients(self, peers: Peers, learn: frozenset[str]) -> None:
        """Which parameters learn; gradients of an earlier phase are let go of.

        Args:
            learn: all that may, see :func:`learnable`.
        """
        for name, peer in peers.items():
            for key, parameter in peer.named_parameters():
                parameter.requires_grad_(f"{name}.{key}" in learn and self.covers(name, key))
                parameter.grad = None

    def set_modes(self, peers: Peers, freeze_bn: str) -> None:
        """Training mode for what learns, eval mode for the rest.

        Args:
            freeze_bn: which batch norms of what learns stay as they are, see `freeze_batch_norm`.
        """
        for name, peer in peers.items():
            peer.train(self.whole(name) or self.frozen_trains)
            for part in self.trains.get(name, ()):
                peer.get_submodule(part).train()
            if name in self.trains or self.frozen_trains:
                freeze_batch_norm(peer, freeze_bn)


def one_phase(objective: Objective, plan: OptimiserPlan) -> Phase:
    """The phase of a stage that declares none."""
    trains = {peer: WHOLE for peer in objective.peers if peer not in objective.frozen}
    if objective.joins:
        trains |= {FUSION: WHOLE, GATE: WHOLE}
    return Phase("", 0, plan.epochs, objective, plan, trains)


def modules_of(peer: nn.Module, part: str) -> tuple[str, ...]:
    """Names of the modules that a word means, :data:`WHOLE` for "".

    Raises:
        ValueError: it means none; names those there are.
    """
    known = dict(peer.named_modules())
    if found := tuple(name for name in PARTS.get(part, (part,)) if name in known):
        return found
    above = part
    while above not in known:
        above = above.rpartition(".")[0]
    inside = [f"{above}.{name}" if above else name for name, _ in known[above].named_children()]
    there = [*([] if above else PARTS), *inside]
    raise ValueError(f"there is no {part}" + (f"; there are {', '.join(there)}" if there else f" below {above}"))


def check_reached(phase: Phase) -> None:
    """Raises:
    ValueError: a term would teach nothing, since all that it is about is frozen.
    """
    for name in phase.objective.headed:
        if not phase.reaches(name, "heads"):
            raise ValueError(f"labels teach the head of {name} alone (objective.headed), which is not trained here")
    for edge in phase.objective.edges:
        learned = edge.project and phase.covers(edge.student, f"projections.{edge.projection}")
        if edge.needs_features and not learned and not phase.reaches(edge.student, "net"):
            raise ValueError(
                f"lesson={edge.lesson} compares features of {edge.student}, whose trunk is not trained here: train it, "
                "or give the phase an objective without that lesson"
            )


def phase_of(phases: Sequence[Phase], epoch: int) -> Phase:
    """The phase that an epoch belongs to; what comes after the last one belongs to it."""
    return next((phase for phase in phases if phase.has(epoch)), phases[-1])


def rounds(phases: Sequence[Phase], part: str, epoch: int) -> int:
    """How many epochs before `epoch` have trained `part`."""
    return sum(min(phase.epochs, phase.begun(epoch)) for phase in phases if part in phase.trains)


def learnable(peers: Peers) -> frozenset[str]:
    """Names of all parameters that may learn, `<peer>.<name>`: a network may have others."""
    return frozenset(f"{n}.{key}" for n, peer in peers.items() for key, p in peer.named_parameters() if p.requires_grad)


def never_trained(phases: Sequence[Phase], peers: Iterable[str]) -> frozenset[str]:
    """The peers that only teach, in all phases."""
    return frozenset(peers) - {name for phase in phases for name in phase.trains}


def state(phases: Sequence[Phase], now: Phase) -> dict[str, Any]:
    """What a checkpoint keeps; nothing of a stage that declares no phases."""
    return {"phase": {"number": phases.index(now), "name": now.name}} if now.name else {}


def restored(phases: Sequence[Phase], checkpoint: Mapping[str, Any]) -> Phase:
    """The phase that a checkpoint was written in."""
    return phases[int(checkpoint.get("phase", {}).get("number", 0))]


def column(phases: Sequence[Phase], now: Phase) -> dict[str, float]:
    """What rows of the log tell, counted from 0 as epochs are; nothing of a stage that declares no phases."""
    return {"phase": float(phases.index(now))} if now.name else {}


def say(phases: Sequence[Phase], now: Phase) -> None:
    """That a phase begins, once per run."""
    if is_first_rank():
        log.info("phase %d of %d, %s", phases.index(now) + 1, len(phases), describe(now))


def describe(phase: Phase) -> str:
    """head (epoch 1 to 3): trains rgb.head, lr 0.01"""
    last = phase.first + (phase.epochs - 1) * phase.stride + 1
    where = f"epoch {phase.first + 1}" + (f" to {last}" if phase.epochs > 1 else "")
    where += ", every second one" if phase.stride > 1 else ""
    return f"{phase.name} ({where}): trains {', '.join(phase.words)}, lr {phase.plan.lr:g}"
