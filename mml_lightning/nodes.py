"""Config nodes to plain values and objects: the one place that calls `instantiate`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mml_lightning.errors import UserError

TRUSTED = ("mml_lightning", "torch.optim")
"""Packages whose functions a config may call; `trusted` adds to them."""
TARGET = "_target_"


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
        UserError: a target that is not trusted, a mistake in the config, or the target's own ValueError.
    """
    check_trusted(node)
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


def check_trusted(node: DictConfig) -> None:
    """A config may come from anywhere, and `_target_` can name any function of the machine.

    Both the name and the place where the function is defined must lie in a trusted package: what a trusted module has
    imported is not trusted by that (`mml_lightning.results.subprocess.run`).

    Raises:
        UserError: a target of `node`, or below it, is not trusted.
    """
    root = node._get_root()
    own = OmegaConf.select(root, "trusted") if isinstance(root, DictConfig) else None
    packages = (*TRUSTED, *(map(str, own) if isinstance(own, list | ListConfig) else ()))
    for target in _targets(plain(node)):
        if not _lies_in(target, packages) or not _lies_in(_home(target), packages):
            raise UserError(
                f"{TARGET}={target}: configs may call {', '.join(packages)} only; where you trust that package, "
                f"type trusted=[{target.partition('.')[0]}]"
            )


def _targets(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if TARGET in value:
            yield str(value[TARGET])
        for item in value.values():
            yield from _targets(item)
    elif isinstance(value, list):
        for item in value:
            yield from _targets(item)


def _lies_in(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _home(target: str) -> str:
    """The module that defines a target of a trusted name."""
    try:
        return str(getattr(get_object(target), "__module__", None))
    except Exception as error:  # importing it may fail in any way
        raise UserError(f"{TARGET}={target} can't be found: {' '.join(str(error).split())[:200]}") from None
