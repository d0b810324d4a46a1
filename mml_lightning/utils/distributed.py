"""Ranks of a run."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

T = TypeVar("T")


def gather_objects(value: T, ranks: int) -> list[T]:
    """What each of the `ranks` holds, in their order; all must ask at once. Of one rank its own."""
    told = [value] * ranks
    if ranks > 1:
        torch.distributed.all_gather_object(told, value)
    return told


def gather_tensors(value: Tensor, group: Any = None) -> list[Tensor]:
    """The tensors of all ranks, which may differ in the length of each dimension, where `value` lies; NCCL carries
    them over the GPU of the rank."""
    nccl = torch.distributed.get_backend(group) == "nccl"
    there = value.to(torch.device("cuda", torch.cuda.current_device())) if nccl else value
    return [part.to(value.device) for part in gather_all_tensors(there, group)]


def is_first_rank() -> bool:
    return getattr(rank_zero_only, "rank", 0) in (0, None)
