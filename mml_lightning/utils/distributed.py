"""Ranks of a run. Imports neither torch nor Lightning until there are several."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
KEYS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # where Lightning looks, in this order


def gather_objects(value: T, ranks: int) -> list[T]:
    """What each of the `ranks` holds, in their order; all must ask at once. Of one rank its own."""
    told = [value] * ranks
    if ranks > 1:
        import torch.distributed

        torch.distributed.all_gather_object(told, value)
    return told


def gather_tensors(value: Tensor, group: Any = None) -> list[Tensor]:
    """The tensors of all ranks, which may differ in the length of each dimension, where `value` lies; NCCL carries
    them over the GPU of the rank."""
    import torch
    from torchmetrics.utilities.distributed import gather_all_tensors

    nccl = torch.distributed.get_backend(group) == "nccl"
    there = value.to(torch.device("cuda", torch.cuda.current_device())) if nccl else value
    return [part.to(value.device) for part in gather_all_tensors(there, group)]


def is_first_rank() -> bool:
    """As Lightning says, or will say: a process that has not imported it yet is known by its environment."""
    lightning = sys.modules.get("lightning_fabric.utilities.rank_zero")
    if lightning is not None and hasattr(lightning, "rank_zero_only"):
        return getattr(lightning.rank_zero_only, "rank", 0) in (0, None)
    return int(next((os.environ[key] for key in KEYS if key in os.environ), "0")) == 0
