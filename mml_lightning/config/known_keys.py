"""Settings that nothing reads are refused by name: a plus on the command line can add any. Imports no torch."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from omegaconf import OmegaConf

from mml_lightning.config.groups import GROUPS
from mml_lightning.config.key_roles import ROLES
from mml_lightning.config.settings import Settings
from mml_lightning.utils.errors import UserError

MORE: dict[str, tuple[str, ...]] = {
    "init": ("all",),
    "objective": ("efficiency", "frozen", "headed", "labels", "supervised_weight"),
    "optimizer": ("optimizer",),
    "schedule": ("factor",),
    "stage": ("objective",),
    "step": ("memory_format",),
    "transforms": ("flip", "jitter", "mode", "per_modality", "policy", "scales"),
    "batch_norm": ("freeze", "group_size", "precise", "sync"),
    "flow": ("algorithm", "bound", "decoder", "device", "parameters", "preset"),
    "metrics": ("ap", "empty_class"),
    "mix": ("cutmix", "mixup", "probability"),
    "nonfinite": ("keep_batch", "policy", "stop_after"),
    "statistics": ("mean", "std"),
}
"""Keys of a group that neither a field of its dataclass nor a role of its own names."""
OPEN = ("aliases", "catalogue", "hydra", "loss", "modality", "sources", "tables", "trainer")
"""Tables whose names are the user's own, and those that somebody else checks."""


def check(cfg: Settings) -> None:
    """Raises:
    UserError: a setting that nothing reads.
    """
    groups = [key for key in cfg.resolved if key not in OPEN and isinstance(cfg.resolved[key], Mapping)]
    top = {key.partition(".")[0] for key in ROLES}
    unknown = [(key, top) for key in map(str, cfg.resolved) if key not in top]
    for group in groups:
        if group in top:
            known = keys_of(group)
            own = cfg.resolved[group]
            unknown += [(f"{group}.{key}", known) for key in map(str, own) if not _read(cfg, group, key, known)]
    if not unknown:
        return
    looked_up = _looked_up(OmegaConf.to_container(cfg.node, resolve=False))
    for key, known in unknown:
        if not re.search(rf"(?<![\w.]){re.escape(key)}\b", looked_up):
            raise UserError(_line(key, known))


def read_by_reader(cfg: Settings, key: str) -> bool:
    """Whether something asks for a setting of `data`, or for a table that it lies in: the readers of conf/data/ take
    what is looked up in their node (`${data.root}`), and each knows a few of all that there are."""
    parts = key.split(".")
    if len(parts) < 2 or parts[1] in {field.name for field in fields(GROUPS["data"])}:
        return True
    looked_up = _looked_up(OmegaConf.to_container(cfg.node, resolve=False))
    tables = (".".join(parts[:n]) for n in range(2, len(parts)))
    if any(re.search(rf"(?<![\w.]){re.escape(table)}(?![\w.])", looked_up) for table in tables):
        return True
    return re.search(rf"(?<![\w.]){re.escape(key)}\b|\$\{{\.+{re.escape(parts[-1])}\b", looked_up) is not None


def keys_of(group: str) -> set[str]:
    """The settings of a group that something reads."""
    own = {field.name for field in fields(GROUPS[group])} if group in GROUPS else set()
    roles = {key.partition(".")[2] for key in ROLES if key.startswith(f"{group}.")}
    return (own | roles | set(MORE.get(group, ()))) - {"peers"}


def taken(cfg: Settings, group: str) -> dict[str, Any]:
    """A group as what is made of it takes it: without a key that only a config of the user's looks up."""
    return {key: value for key, value in cfg.plain(group).items() if key in keys_of(group)}


def _read(cfg: Settings, group: str, key: str, known: set[str]) -> bool:
    value = cfg.resolved[group][key]
    if group == "init":
        return key in known or key in cfg.modality
    if group == "backbone":
        return key in known or (isinstance(value, Mapping) and "option" in value)
    if group in ("callbacks", "logger"):
        return key in known or value is None or (isinstance(value, Mapping) and "_target_" in value)
    return key in known


def _line(key: str, known: set[str]) -> str:
    group, _, last = key.rpartition(".")
    if group == "experiment":
        return (
            f"unknown setting {key}: an experiment has no settings of its own; type the setting that it is to change, "
            "and begin a file of conf/experiment/ with # @package _global_"
        )
    if not known:
        return f"unknown setting {key}: nothing reads it; leave it out"
    alike = difflib.get_close_matches(last, sorted(known), n=1, cutoff=0.75)
    meant = (
        f"did you mean {f'{group}.' if group else ''}{alike[0]}?" if alike else f"there are {', '.join(sorted(known))}"
    )
    if group in ("callbacks", "logger"):
        meant += f"; a {group.removesuffix('s')} of Lightning or of your own needs {key}._target_=..."
    return f"unknown setting {key}: nothing reads it; {meant}"


def _looked_up(value: Any) -> str:
    """All interpolations of a config, one text: a key that a config of the user's looks up is read."""
    if isinstance(value, Mapping):
        return " ".join(map(_looked_up, value.values()))
    if isinstance(value, list):
        return " ".join(map(_looked_up, value))
    return value if isinstance(value, str) and "${" in value else ""
