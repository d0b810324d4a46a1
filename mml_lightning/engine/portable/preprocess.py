"""What stands between a video and an exported network, as far as `preprocess.json` can tell it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mml_lightning.config.settings import Settings
from mml_lightning.data.records.records import Head
from mml_lightning.modalities import Modality
from mml_lightning.utils.errors import UserError

FORMAT = 1
MADE_BY = "mml export"


def described(cfg: Settings, modality: Modality, heads: Mapping[str, Head]) -> dict[str, Any]:
    """The content of `preprocess.json`.

    Raises:
        UserError: clips, crops or pooling are of a kind that `infer.py` does not know; the message names the setting.
    """
    views, crops = cfg.views, cfg.transforms
    checks: dict[str, tuple[bool, str]] = {
        f"views.policy={views.policy}": (views.policy == "fixed", "views.policy=fixed"),
        f"views.crops={views.crops}": (views.crops == 1, "views.crops=1"),
        f"views.crop_rule={views.crop_rule}": (views.crop_rule in ("fixed", "tsm"), "views.crop_rule=fixed"),
    }
    frames = int(cfg.sampling.num_segments)
    step = max(1, int(views.dense_length) // frames)
    kinds = [("dense", views.dense, step), ("uniform", views.uniform, 0), ("strided", views.strided, views.stride)]
    clips = [(kind, int(count), int(stride)) for kind, count, stride in kinds if count]
    many = sum(count for _, count, _ in clips) > 1
    checks[f"views.pooling={views.pooling}"] = (views.pooling == "logits" or not many, "views.pooling=logits")
    for wrong, (fine, instead) in checks.items():
        if not fine:
            raise UserError(f"infer.py does not know {wrong}: export with --set {instead}, or use mml predict")
    return {
        "format": FORMAT,
        "made_by": MADE_BY,
        "modality": modality.name,
        "frames": frames,
        "window": modality.window,
        "clips": clips,
        "clips_of": "kind, number, frames from one window to the next; scores are the mean of the clips' logits",
        "short_side": int(crops.short_side),
        "crop": int(crops.short_side if views.full_resolution else crops.output),
        "antialias": bool(crops.antialias),
        "colours": "RGB",
        "input": "uint8 [clips, frames, window * 3, crop, crop], 0 to 255: the network scales and normalises itself",
        "scale": 255,
        "mean": list(modality.mean),
        "std": list(modality.std),
        "prepare": modality.prepare,
        "multi_label": {head: value.multi_label for head, value in heads.items()},
    }


def clip_shape(told: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """[T, C, H, W] of what the network takes."""
    return int(told["frames"]), 3 * int(told["window"]), int(told["crop"]), int(told["crop"])
