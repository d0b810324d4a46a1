"""Batches that are on the device before they are asked for.

On the device's usual queue a copy waits for the step before it, and the step after it for the copy; on a queue of its
own it passes while the device computes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor


def prefetch_to_device(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """The same batches with their tensors on `device`; each is copied while the one before is in use.

    Args:
        batches: nested dicts and lists; host tensors in pinned memory, or the host waits for each copy.
    """
    module = torch.get_device_module(device)
    queue = module.Stream(device)
    waiting: list[tuple[Any, Any]] = []  # and what tells that they are there
    for batch in batches:
        with module.stream(queue):
            copied = apply_to_collection(batch, Tensor, lambda tensor: tensor.to(device, non_blocking=True))
            waiting.append((copied, queue.record_event()))
        if len(waiting) > 1:
            yield _arrived(*waiting.pop(0), module.current_stream(device))
    for copied, there in waiting:
        yield _arrived(copied, there, module.current_stream(device))


def _arrived(batch: Any, there: Any, current: Any) -> Any:
    """A batch that the current queue may use: not before it is there (the next one may still be on its way), and its
    memory is not given away before it is done with."""
    current.wait_event(there)
    return apply_to_collection(batch, Tensor, lambda tensor: _used_by(tensor, current))


def _used_by(tensor: Tensor, queue: Any) -> Tensor:
    if tensor.device.type != "cpu":
        tensor.record_stream(queue)
    return tensor
