"""The embedded demo: a small video dataset made on first use, in which a class is a motion and never an appearance."""

from __future__ import annotations

from mml_lightning.data.demo.generate import prepare_demo
from mml_lightning.data.demo.scenes import CLASSES, LEFT_RIGHT

__all__ = ["CLASSES", "LEFT_RIGHT", "prepare_demo"]
