"""What a network sees as pictures for a page. Legend: T frames, L window, c channels of an item, H height, W width."""

from __future__ import annotations

import base64

import cv2
import numpy as np
import torch
from torch import Tensor

from mml_lightning.modalities import FLOW_BOUND, Modality

SLOW = 1.0  # pixels of motion, below which the fastest is not yet bright


def is_flow(modality: Modality) -> bool:
    """Whether its pictures have the colours of motion."""
    return modality.prepare == "tvl1" or modality.item_channels == 2


def pictures(modality: Modality, clip: Tensor) -> np.ndarray | None:
    """The middle item of each window, uint8 RGB [T, H, W, 3]: of `difference` half the difference of the middle pair
    on grey, of flow its direction as hue and its speed as brightness. None of what is no picture.

    Args:
        clip: uint8 [T, L * c, H, W], as it is stored.
    """
    if clip.ndim != 4:
        return None
    middle = (modality.window - 1) // 2
    if modality.prepare == "tvl1":
        flow = modality(clip).unflatten(1, (-1, 2))[:, middle].cpu() * modality.std[0] + modality.mean[0]
        return flow_colours((flow.permute(0, 2, 3, 1).numpy() * 2 - 1) * FLOW_BOUND)
    items = clip.cpu().unflatten(1, (modality.window, modality.item_channels))
    if is_flow(modality):
        flow = items[:, middle].permute(0, 2, 3, 1).float() * (2 * FLOW_BOUND / 255) - FLOW_BOUND
        return flow_colours(flow.numpy())
    if modality.item_channels != 3:
        return None
    if modality.prepare == "difference":
        one, other = items[:, middle].int(), items[:, middle + 1].int()
        return np.asarray((128 + (other - one) // 2).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy())
    return np.asarray(items[:, modality.window // 2].permute(0, 2, 3, 1).numpy())


def flow_colours(flow: np.ndarray) -> np.ndarray:
    """Pixels of motion float [T, H, W, 2], x then y, as uint8 RGB [T, H, W, 3]: hue is the direction (red to the right,
    green-yellow downwards), brightness the speed, relative to the fastest hundredth. Black stands still."""
    speed = np.hypot(flow[..., 0], flow[..., 1])
    most = max(SLOW, float(np.quantile(speed, 0.99)))
    angle = np.arctan2(flow[..., 1], flow[..., 0]) % (2 * np.pi)
    hsv = np.full((*flow.shape[:-1], 3), 255, np.uint8)
    hsv[..., 0] = np.rint(angle * (90 / np.pi)) % 180
    hsv[..., 2] = np.clip(speed * (255 / most), 0, 255)
    return np.stack([cv2.cvtColor(one, cv2.COLOR_HSV2RGB) for one in hsv])


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
