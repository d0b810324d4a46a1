"""Operations of a training step, counted."""

from __future__ import annotations

import logging
from collections.abc import Callable

from torch import nn

from mml_lightning.backbones.cost import cost, training_multiply_adds
from mml_lightning.training.cohort import Cohort
from mml_lightning.training.phases import Phase

log = logging.getLogger(__name__)

TRAINING_PASSES = 3


def counted_or_none(count: Callable[[], float]) -> float | None:
    """What `count` finds by running a network on meta tensors; None where they don't suit it."""
    try:
        return count()
    except (RuntimeError, ValueError) as error:
        log.debug("not counted: %s", error)
        return None


def training_operations(cohort: Cohort, shapes: dict[str, tuple[int, ...]]) -> float:
    """Operations of one training clip over all peers; the mean over the epochs of all phases.

    Args:
        shapes: of the clips of each modality, [T, C, ...] as they come from the loader.
    """
    each = [operations_in(cohort, phase, shapes) for phase in cohort.phases]
    if len(each) == 1:
        return each[0]
    epochs = [phase.epochs for phase in cohort.phases]
    return sum(count * of for count, of in zip(each, epochs, strict=True)) / sum(epochs)


def operations_in(cohort: Cohort, phase: Phase, shapes: dict[str, tuple[int, ...]]) -> float:
    """The same in one phase."""
    total = 0.0
    for name, peer in cohort.peers.items():
        modality = cohort.modalities[name]
        frames, *segment = shapes[modality.name]
        clip = (1, frames, *modality.input_shape(segment))
        if name in phase.trains and not phase.whole(name):
            total += 2 * training_multiply_adds(peer, clip, in_phase(cohort, phase, name))
        else:
            total += 2 * cost(peer, clip).multiply_adds * (TRAINING_PASSES if name in phase.trains else 1)
    return total


def in_phase(cohort: Cohort, phase: Phase, name: str) -> Callable[[nn.Module], None]:
    """What makes a copy of a peer train what learns in a phase."""

    def prepare(copied: nn.Module) -> None:
        phase.set_gradients({name: copied}, cohort.learnable)
        phase.set_modes({name: copied}, cohort.freeze_bn)
        if phase.whole(name):
            copied.train()  # a batch norm that is frozen is counted as one that is not

    return prepare
