"""Config nodes to plain values and objects: the one place that calls `instantiate`."""

from __future__ import annotations

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mml_lightning.errors import UserError


def plain(node: Any) -> Any:
    """Config node to dicts, lists and values, interpolations resolved.

    Raises:
        UserError: a required value is missing, or an interpolation leads nowhere.
    """
    try:
        return OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(mistake(error)) from None


def mistake(error: OmegaConfBaseException) -> str:
    """One line; a required value is named as it is typed."""
    text = str(error).splitlines()[0]
    if "mandatory" not in text.lower():
        return text
    return f"{error.full_key} is required: {error.full_key}=..."


def make(node: DictConfig) -> Any:
    """Build what `_target_` names.

    Raises:
        UserError: a mistake in the config, or the target's own ValueError.
    """
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError | ValueError):
            raise UserError(str(error.__cause__)) from None
        raise UserError(" ".join(str(error).split())[:300]) from None
    except OmegaConfBaseException as error:
        raise UserError(mistake(error)) from None


def draw_seed(cfg: DictConfig) -> int:
    """What all that a run draws is keyed by: its seed, or another one for an independent run beside it (`repeat`)."""
    return int((cfg.seed + 1_000_003 * cfg.repeat) % 2**31)
