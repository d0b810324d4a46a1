"""The config that `mml` composes from the words of its command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mml_lightning.utils.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """The config that train.py composes from the same words."""
    from hydra import compose, initialize_config_dir

    from mml_lightning.cli import config_errors, hydra_app
    from mml_lightning.config import guard, resolvers

    conf = Path(__file__).resolve().parents[2] / "conf"
    if not conf.is_dir():
        raise UserError("no conf/ beside the package; install it from a clone: pip install -e <clone>")
    resolvers.register()
    guard.install()
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            return compose("train", hydra_app.prepare(overrides, conf))
    except UserError:
        raise
    except Exception as error:
        if not config_errors.of_command_line(error):
            raise
        raise UserError(config_errors.one_line(error, conf)) from None
