"""Random numbers of networks that are computed at the same time: each thread draws from a generator of its own.

torch's default generator of a CPU is everybody's, so what one thread draws from it depends on the others. A thread that
has begun to draw for itself leaves it alone.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor
from torch.nn import functional


class _Own(threading.local):
    generator: torch.Generator | None = None  # torch's default one


_OWN = _Own()


def begin() -> None:
    """From now on this thread has a generator of its own."""
    _OWN.generator = torch.Generator()


def seed(number: int, device: torch.device) -> None:
    """Seed what :func:`dropout` draws from in this thread, and on a GPU."""
    if device.type != "cpu":
        torch.manual_seed(number)
    else:  # `torch.manual_seed` would write down the call stack in case a GPU is used later
        (_OWN.generator or torch.default_generator).manual_seed(number)


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """`torch.nn.functional.dropout`, to the bit; drawn from the generator of this thread, if it has one."""
    if _OWN.generator is None or not training or not 0 < p < 1 or x.device.type != "cpu":
        return functional.dropout(x, p, training)
    return x * torch.empty_like(x).bernoulli_(1 - p, generator=_OWN.generator).div_(1 - p)
