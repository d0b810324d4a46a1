"""The flow of frames at once, as the cache would store it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mml_lightning.data.flow.cache import FlowSettings, stream_flow


def flow_of(frames: Iterable[np.ndarray], settings: FlowSettings) -> np.ndarray:
    """Quantised, uint8 [P, H, W, 2], of two or more RGB frames uint8 [H, W, 3]."""
    return np.stack(list(stream_flow(frames, settings)))
