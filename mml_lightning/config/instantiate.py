"""Plain values of a config to objects: the one place that calls `instantiate`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object
from hydra.utils import instantiate as instantiate_node
from omegaconf.errors import OmegaConfBaseException

from mml_lightning.config.resolve import explain
from mml_lightning.config.targets import TARGET, current, with_current_names
from mml_lightning.utils.errors import UserError, exhausted

TRUSTED = (
    *("mml_lightning.backbones", "mml_lightning.data.records.readers", "mml_lightning.data.records.readers.charades"),
    *("mml_lightning.training.schedules", "torch.optim"),
)
"""Packages whose functions a config may call: they make networks, datasets, schedules and optimisers, and write nothing
but the demo. `trusted` adds to them."""
LIGHTNING = ("pytorch_lightning.callbacks", "pytorch_lightning.loggers")
"""And those of the nodes `callbacks` and `logger`."""
INTERPOLATION = re.compile(r"(\\*)\$\{")
CALLED_BY_HYDRA = ("mml_lightning.pipelines.sweep_callback", "hydra_plugins", "hydra._internal.core_plugins")
"""And those of the node `hydra`."""


def instantiate(values: Mapping[str, Any], trusted: Sequence[str] = ()) -> Any:
    """Build what `_target_` names.

    Args:
        values: plain, as :meth:`mml_lightning.config.settings.Settings.plain` gives them.
        trusted: packages beside :data:`TRUSTED` that it may call.

    Raises:
        UserError: a target that is not trusted, a mistake in the config, or the target's own ValueError.
    """
    check_trusted(values, trusted)
    try:
        return instantiate_node(_escaped(_escaped(with_current_names(values))), _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError | ValueError):
            raise UserError(str(error.__cause__)) from None
        if error.__cause__ is not None and exhausted(error.__cause__):  # no mistake of the config
            raise error.__cause__ from None
        raise UserError(" ".join(str(error).split())[:300]) from None
    except OmegaConfBaseException as error:
        raise UserError(explain(error)) from None


def _escaped(value: Any) -> Any:
    """What was looked up once is not looked up again: Hydra makes a config of plain values, and resolves it twice."""
    if isinstance(value, Mapping):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return INTERPOLATION.sub(r"\1\1\\${", value) if isinstance(value, str) else value


def check_trusted(values: Mapping[str, Any], trusted: Sequence[str] = ()) -> None:
    """A config may come from anywhere, and `_target_` can name any function of the machine.

    Both the name and the place where the function is defined must lie in a trusted package: what a trusted module has
    imported is not trusted by that (`mml_lightning.runs.result.subprocess.run`).

    Raises:
        UserError: a target of `values`, or below them, is not trusted.
    """
    check_targets(_targets(values), (*TRUSTED, *map(str, trusted)))


def check_targets(targets: Iterable[str], packages: tuple[str, ...], key: str = TARGET) -> None:
    """Raises:
    UserError: a target lies in none of the packages, by its name or by the module that defines it.
    """
    for target in map(current, targets):
        if not lies_in(target, packages) or not lies_in(_home(target), packages):
            first = target.partition(".")[0]
            package = first if first != "mml_lightning" else target.rpartition(".")[0]
            raise UserError(
                f"{key}={target}: configs may only call {', '.join(packages)}; if you trust that package, "
                f"type trusted=[{package}]"
            )


def trusted_object(target: str, packages: tuple[str, ...]) -> Any:
    """The class or function that a config calls.

    Raises:
        UserError: it lies in none of the packages, or can't be found.
    """
    check_targets([target], packages)
    return get_object(current(target))


def _targets(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if TARGET in value:
            yield str(value[TARGET])
        for item in value.values():
            yield from _targets(item)
    elif isinstance(value, list):
        for item in value:
            yield from _targets(item)


def lies_in(name: str, packages: tuple[str, ...]) -> bool:
    """Whether a dotted name is one of the packages, or below it."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _home(target: str) -> str:
    """The module that defines a target of a trusted name."""
    try:
        return str(getattr(get_object(target), "__module__", None))
    except Exception as error:  # importing it may fail in any way
        raise UserError(f"{TARGET}={target} can't be found: {' '.join(str(error).split())[:200]}") from None
