"""Networks that nobody has trained, as zoo files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mml_lightning.config.plugins import network
from mml_lightning.zoo.files import export_peer

RGB = {"name": "rgb", "source": "frames", "window": 1, "item_channels": 3, "mean": [0.485, 0.456, 0.406]}
RGB |= {"std": [0.229, 0.224, 0.225]}
CLASSES = [f"class {k}" for k in range(10)]


@pytest.fixture
def untrained(tmp_path: Path) -> Callable[..., Path]:
    """untrained(builder=..., ...) -> a zoo file that tells its sampling and crops; weights are large enough to tell
    classes apart."""

    def make(frames: int = 4, size: int = 32, modality: dict[str, Any] | None = None, **arch: Any) -> Path:
        torch.manual_seed(0)
        looked_at = {**RGB, **(modality or {})}
        channels = looked_at["item_channels"] * (looked_at["window"] - (looked_at.get("prepare") == "difference"))
        shape = {"in_channels": channels, "num_classes": {"label": len(CLASSES)}}
        net = network({**shape, **arch}, trusted=[arch["builder"].partition(".")[0]])
        for module in net.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
                torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
        torch.nn.init.normal_(net.heads["label"].weight, 0.0, 0.2)
        told = getattr(net, "arch", {**shape, **arch})  # a builder of another package does not tell it
        entry = {
            "state_dict": net.state_dict(),
            "arch": {"builder": arch["builder"], **told},
            "modality": looked_at,
            "classes": {"label": CLASSES},
            "provenance": {
                "peer": looked_at["name"],
                "run": "nobody_has_trained_it",
                "sampling": {"num_segments": frames},
                "transforms": {"output": size, "short_side": size + 4},
            },
        }
        return export_peer(tmp_path / "weights" / f"{looked_at['name']}.pt", entry)

    return make
