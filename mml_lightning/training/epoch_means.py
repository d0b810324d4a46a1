"""Means of named values over an epoch, over all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Means:
    """Sums of values by name, each weighted by the size of its batch; they stay on their device until asked for.

    Its state is plain values and tensors, so that an epoch that is continued has the means of one that was not
    interrupted, to the last bit.
    """

    def __init__(self) -> None:
        self.sums: dict[str, tuple[Tensor, int]] = {}

    def add(self, name: str, value: Tensor, size: int) -> None:
        """A scalar that stands for `size` samples, possibly none. `name|1`, `name|2`, .. are means that :meth:`compute`
        adds to that of `name`."""
        if not size:
            return
        weighted = value.detach() * size
        sum_, count = self.sums.get(name, (0.0, 0))
        self.sums[name] = (sum_ + weighted, count + size)

    def compute(self, ranks: int = 1) -> dict[str, float]:
        """The means so far; with several ranks all must ask at once, and a name that only some have is theirs."""
        told: list[Any] = [{name: (float(sum_), count) for name, (sum_, count) in self.sums.items()}]
        if ranks > 1:
            own, told = told[0], [None] * ranks
            torch.distributed.all_gather_object(told, own)
        names = dict.fromkeys(name for rank in told for name in rank)
        parts = {name: [rank[name] for rank in told if name in rank] for name in names}
        means: dict[str, float] = {}
        for name, part in parts.items():
            key = name.partition("|")[0]
            means[key] = means.get(key, 0.0) + sum(p[0] for p in part) / sum(p[1] for p in part)
        return means

    def reset(self) -> None:
        self.sums.clear()

    def state(self) -> dict[str, list[Any]]:
        return {name: [sum_.cpu(), count] for name, (sum_, count) in self.sums.items()}

    def load(self, states: Sequence[dict[str, list[Any]]], device: torch.device) -> None:
        """Take over what one rank, or several, had seen."""
        self.reset()
        for state in states:
            for name, (sum_, count) in state.items():
                had, before = self.sums.get(name, (0.0, 0))
                self.sums[name] = (had + sum_.to(device), before + count)
