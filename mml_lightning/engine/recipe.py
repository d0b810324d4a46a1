"""Whether a recipe is meant for the data. Imports no torch."""

from __future__ import annotations

import functools
import logging

from mml_lightning.config import backbones
from mml_lightning.config.settings import Settings

log = logging.getLogger(__name__)

TOYS = ("demo", "demo_multilabel")  # setups
TOY_BACKBONES = ("tiny", "i3d_tiny")


def warn_of_toy(cfg: Settings) -> None:
    """Say, once per process, that the recipe of the demo trains other videos than those of the demo."""
    if cfg.setup.name not in TOYS or str(cfg.data.reader.get("_target_")).endswith(".read_demo"):
        return
    used = backbones.label(cfg)
    if any(name in TOY_BACKBONES for name in backbones.names(cfg).values()):
        _warn(
            f"setup={cfg.setup.name} is a toy recipe for the demo videos ({used}, {cfg.transforms.output} px): add "
            "setup=finetune for your own, which starts from ImageNet weights and looks at 224 px"
        )


@functools.cache
def _warn(text: str) -> None:
    log.warning(text)
