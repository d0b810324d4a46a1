"""Operations of a training step, counted."""

from __future__ import annotations

import logging
from collections.abc import Callable

from mml_lightning.backbones.cost import cost
from mml_lightning.training.cohort import Cohort

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
    """Operations of one training clip over all peers.

    Args:
        shapes: of the clips of each modality, [T, C, ...] as they come from the loader.
    """
    total = 0.0
    for name, peer in cohort.peers.items():
        modality = cohort.modalities[name]
        frames, _, *size = shapes[modality.name]
        counted = cost(peer, (1, frames, modality.channels, *size))
        total += 2 * counted.multiply_adds * (1 if name in cohort.frozen else TRAINING_PASSES)
    return total
