"""Values on their way from the device to the host while the device goes on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class HostCopy:
    """The values of a tensor as they are when the device comes to this point.

    Ask for them as soon as they are computed, and read them when the device has been given more to do: it does that
    while the host waits.
    """

    def __init__(self, tensor: Tensor) -> None:
        cuda = tensor.device.type == "cuda"
        self._values = tensor.to("cpu", non_blocking=cuda)  # into pinned memory
        self._there = torch.cuda.current_stream(tensor.device).record_event() if cuda else None

    def tolist(self) -> Any:
        """Waits for what the device had to do before the copy, not for what came after."""
        if self._there is not None:
            self._there.synchronize()
        return self._values.tolist()
