"""The config that `mml` composes from the words of its command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mml_lightning.utils.errors import UserError

if TYPE_CHECKING:
    from mml_lightning.config.settings import Settings


def compose_config(overrides: Sequence[str]) -> Settings:
    """The settings that train.py has with the same words, its values checked.

    Raises:
        UserError: a word or a value is wrong.
    """
    from mml_lightning.cli import config_errors, hydra_app
    from mml_lightning.config import guard, resolvers
    from mml_lightning.config.compose import CONF, compose
    from mml_lightning.config.values import check_values

    if not CONF.is_dir():
        raise UserError(f"the package has no configs, {CONF} is missing: install it again")
    resolvers.register()
    guard.install()
    with config_errors.as_user_errors(CONF):
        cfg = compose("train", hydra_app.prepare(overrides, CONF))
    check_values(cfg)
    return cfg
