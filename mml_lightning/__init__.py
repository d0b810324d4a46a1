"""Mutual Modality Learning on video. Nothing is imported here before it is asked for, so that the command line stays
quick and an import has no effects: docs/python.md."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mml_lightning.api import Config, Result, compose, evaluate, load, train
    from mml_lightning.engine.plain import VideoDataModule, cohort
    from mml_lightning.engine.predict import Predictor
    from mml_lightning.training.cohort import Cohort
    from mml_lightning.utils.errors import UserError

__version__ = "0.1.0"
__all__ = [
    "Cohort",
    "Config",
    "Predictor",
    "Result",
    "UserError",
    "VideoDataModule",
    "cohort",
    "compose",
    "evaluate",
    "load",
    "train",
]
WHERE = {
    **dict.fromkeys(("Config", "Result", "compose", "evaluate", "load", "train"), "mml_lightning.api"),
    **dict.fromkeys(("VideoDataModule", "cohort"), "mml_lightning.engine.plain"),
    "Cohort": "mml_lightning.training.cohort",
    "Predictor": "mml_lightning.engine.predict",
    "UserError": "mml_lightning.utils.errors",
}
"""Which module each of these names is of."""


def __getattr__(name: str) -> Any:
    if name not in WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
