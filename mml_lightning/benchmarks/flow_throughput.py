"""How many pairs a second our TV-L1 solves in large batches, and how much of the device's bandwidth that takes.

The bytes are those of the operands of every operation, each read or written once, views for nothing: what the method
as it is programmed moves. Caches can save some of it, so a share above one is possible on a CPU. The peak is that of
copying a large tensor on the same device.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mml_lightning.optical_flow import MOTIONS, PRESETS, synthetic_pair, tvl1_pairs

COPIED = 2**28  # bytes of the tensor whose copying shows the peak


@dataclass(frozen=True)
class Throughput:
    """Pairs per second, and bytes per second (10^9) that the operations move and that a copy reaches."""

    pairs_per_s: float
    gb_per_s: float
    peak_gb_per_s: float

    @property
    def bandwidth(self) -> float:
        """Share of what a copy reaches."""
        return self.gb_per_s / self.peak_gb_per_s


class OperandBytes(TorchDispatchMode):
    """Counts in `moved` the bytes of the tensors that operations read and write."""

    moved = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        result = func(*args, **given)
        given.pop("out", None)  # is the result
        if not func.is_view:
            self.moved += sum(x.nbytes for x in tree_leaves((args, given, result)) if isinstance(x, Tensor))
        return result


def throughput(
    preset: str, pairs: int, size: tuple[int, int], device: str = "cpu", repeats: int = 3, copied: int = COPIED
) -> Throughput:
    """`pairs` synthetic pairs of `size` (H, W) solved in one batch; the least time of `repeats` counts.

    Args:
        copied: bytes of the tensor that is copied.
    """
    pair = synthetic_pair(MOTIONS["translation"], *size, 11)
    first, second = (image[None, None].repeat(pairs, 1, 1, 1).to(device) for image in (pair.first, pair.second))
    settings = PRESETS[preset]
    seconds = _least(lambda: tvl1_pairs(first, second, settings), repeats)
    with OperandBytes() as counted:
        tvl1_pairs(first, second, settings)
    source = torch.zeros(copied, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copying = _least(lambda: target.copy_(source), repeats)
    return Throughput(pairs / seconds, counted.moved / seconds / 1e9, 2 * copied / copying / 1e9)


def _least(call: Callable[[], Tensor], repeats: int) -> float:
    """Seconds of the quickest of `repeats` calls, after one that is not counted."""
    found = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        result = call()
        if result.is_cuda:
            torch.cuda.synchronize(result.device)
        found.append(time.perf_counter() - start)
    return min(found[1:])
