"""Ranks of a run."""

from __future__ import annotations

from typing import TypeVar

import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only

T = TypeVar("T")


def gather_objects(value: T, ranks: int) -> list[T]:
    """What each of the `ranks` holds, in their order; all must ask at once. Of one rank its own."""
    told = [value] * ranks
    if ranks > 1:
        torch.distributed.all_gather_object(told, value)
    return told


def is_first_rank() -> bool:
    return getattr(rank_zero_only, "rank", 0) in (0, None)
