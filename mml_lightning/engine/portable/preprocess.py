"""What stands between a video and an exported network, as far as `preprocess.json` can tell it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mml_lightning.config.settings import Settings
from mml_lightning.data.flow.cache import FlowSettings
from mml_lightning.data.records.records import Head
from mml_lightning.modalities import Modality
from mml_lightning.utils.errors import UserError

FILE, CLASSES = "preprocess.json", "classes.json"
FORMAT = 2
MADE_BY = "mml export"
CLIPS_ARE = (
    "[span, part, of]: step i of a clip begins at item i * min(span, last) // (frames - 1) + part * "
    "max(0, last - span) // of; without a span at (i * of + part) * (last + 1) // (frames * of); "
    "last = max(0, items of the video - window). Items behind the end are the last one. "
    "Scores are the mean of the clips' logits."
)


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
    made = [
        *run(views.dense, step, frames),
        *spread(views.uniform),
        *run(views.strided + views.segments, views.stride, frames),
    ]
    one = len(made) == 1
    checks[f"views.pooling={views.pooling}"] = (views.pooling == "logits" or one, "views.pooling=logits")
    for wrong, (fine, instead) in checks.items():
        if not fine:
            raise UserError(f"infer.py does not know {wrong}: export with --set {instead}, or use mml predict")
    return {
        "format": FORMAT,
        "made_by": MADE_BY,
        "modality": modality.name,
        "source": modality.source,
        "items": modality.item_channels,
        "frames": frames,
        "window": modality.window,
        "clips": made,
        "clips_are": CLIPS_ARE,
        "short_side": int(crops.short_side),
        "crop": int(crops.short_side if views.full_resolution else crops.output),
        "antialias": bool(crops.antialias),
        "channels": "red, green, blue" if modality.source == "frames" else "x, y",
        "input": "uint8 [clips, frames, window * items, crop, crop], 0 to 255: the network normalises itself",
        "scale": 255,
        "mean": list(modality.mean),
        "std": list(modality.std),
        "prepare": modality.prepare,
        "multi_label": {head: value.multi_label for head, value in heads.items()},
        **flow_of(cfg, modality),
    }


def flow_of(cfg: Settings, modality: Modality) -> dict[str, Any]:
    """How the flow is made that a network looks at, and stored: what the flow cache holds."""
    if modality.source != "flow":
        return {}
    return {"flow": FlowSettings(**cfg.plain("flow")).provenance()}


def spread(clips: int) -> list[list[int | None]]:
    """Clips of windows that are spread over the whole video, as they stand in `preprocess.json`."""
    parts, of = (range(1, 0, -1), 2) if clips == 1 else (range(clips - 1, -1, -1), clips)
    return [[None, part, of] for part in parts]


def run(clips: int, stride: int, frames: int) -> list[list[int | None]]:
    """Clips of `frames` windows that begin `stride` items apart."""
    parts, of = ([1], 2) if clips == 1 else (list(range(clips)), clips - 1)
    return [[stride * (frames - 1), part, of] for part in parts]


def clip_shape(told: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """[T, C, H, W] of what the network takes."""
    return int(told["frames"]), int(told["items"]) * int(told["window"]), int(told["crop"]), int(told["crop"])
