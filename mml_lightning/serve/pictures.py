"""Pictures for a page. Legend: T frames, H height, W width."""

from __future__ import annotations

import base64

import cv2
import numpy as np


def as_png(image: np.ndarray) -> str:
    """uint8 [H, W, 3] RGB or [H, W, 4] with opacity, as a data: address of a page."""
    order = [2, 1, 0, 3][: image.shape[2]]
    done, data = cv2.imencode(".png", np.ascontiguousarray(image[..., order]))
    assert done, "a picture in memory can be written"
    return "data:image/png;base64," + base64.b64encode(data.tobytes()).decode()


def heat_pictures(heat: np.ndarray) -> np.ndarray:
    """0..1 [T, H, W] as uint8 RGBA [T, H, W, 4] to lay over a picture: from clear over amber to red."""
    value = np.clip(heat, 0, 1)[..., None]
    amber, red = np.array([255.0, 179.0, 0.0]), np.array([230.0, 0.0, 38.0])
    colour = amber + (red - amber) * value
    return np.concatenate([colour, 255 * value], -1).astype(np.uint8)
