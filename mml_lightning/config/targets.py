"""Names that a `_target_` of a config had in earlier versions.

They still work: in configs of users and in the overrides of old runs. And they are what a run is known by: its
fingerprint hashes the first name of a function, so that moving it trains nothing again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TARGET = "_target_"
MOVED = {
    "mml_lightning.data.charades": "mml_lightning.data.records.readers.charades",
    "mml_lightning.data.readers": "mml_lightning.data.records.readers",
    "mml_lightning.schedules": "mml_lightning.training.schedules",
    "lightning.pytorch": "pytorch_lightning",  # two packages of one code, whose classes do not fit together
}
"""{first name of a module: its name now}; of two that fit the longer one counts."""
_FIRST = {now: first for first, now in MOVED.items()}


def current(target: str) -> str:
    """The name now of what a config calls by this or an earlier name."""
    return _renamed(target, MOVED)


def with_current_names(values: Any) -> Any:
    """Plain values of a config, with every `_target_` by its name now."""
    return _each(values, MOVED)


def with_first_names(values: Any) -> Any:
    """Plain values of a config, with every `_target_` by its first name: for hashes, and to compare with old ones."""
    return _each(values, _FIRST)


def _each(values: Any, names: Mapping[str, str]) -> Any:
    if isinstance(values, Mapping):
        return {
            key: _renamed(value, names) if key == TARGET and isinstance(value, str) else _each(value, names)
            for key, value in values.items()
        }
    return [_each(value, names) for value in values] if isinstance(values, list) else values


def _renamed(target: str, names: Mapping[str, str]) -> str:
    fits = [old for old in names if target.startswith(f"{old}.")]
    if not fits:
        return target
    old = max(fits, key=len)
    return names[old] + target.removeprefix(old)
