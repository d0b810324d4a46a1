"""A composed config in plain values: interpolations looked up, required values that are missing left as gaps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue, OmegaConfBaseException

from mml_lightning.utils.errors import UserError

REQUIRED = "???"  # as OmegaConf writes a value that has to be typed
DEPENDENT = "${???}"  # what is made of one


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """A config in dicts, lists and values; a required value that is missing is :data:`REQUIRED`.

    Raises:
        UserError: an interpolation leads nowhere.
    """
    try:
        found = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except (MissingMandatoryValue, InterpolationToMissingValueError):
        found = _gaps_kept(cfg)
    except OmegaConfBaseException as error:
        raise UserError(explain(error)) from None
    return cast(dict[str, Any], found)


def explain(error: OmegaConfBaseException) -> str:
    """One line; a required value is named as it is typed."""
    text = str(error).splitlines()[0]
    if "mandatory" not in text.lower():
        return text
    return _is_required(str(error.full_key))


def _is_required(key: str) -> str:
    return f"{key} is required: {key}=..."


def _gaps_kept(node: Any) -> Any:
    if not isinstance(node, DictConfig | ListConfig):
        return node
    if node._is_none() or node._is_missing():
        return None if node._is_none() else REQUIRED
    keys: list[Any] = list(node.keys()) if isinstance(node, DictConfig) else list(range(len(node)))
    found = {}
    for key in keys:
        try:
            found[key] = _gaps_kept(node[key])
        except MissingMandatoryValue:
            found[key] = REQUIRED
        except InterpolationToMissingValueError:
            found[key] = DEPENDENT
        except OmegaConfBaseException as error:
            raise UserError(explain(error)) from None
    return found if isinstance(node, DictConfig) else list(found.values())


def require(value: Any, key: str) -> None:
    """Raises:
    UserError: a required value at `key`, or below it, is missing.
    """
    gaps = list(_gaps(value, key))
    if gaps:  # what is to be typed comes before what is made of it
        raise UserError(_is_required(min(gaps, key=lambda gap: gap[1] != REQUIRED)[0]))


def _gaps(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _gaps(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _gaps(item, f"{key}[{number}]")
    elif value in (REQUIRED, DEPENDENT):
        yield key, value
