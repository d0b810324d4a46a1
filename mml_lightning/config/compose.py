"""Words to settings, and settings to others: the folders above know no config of Hydra's. Imports no torch."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mml_lightning.config.groups import Logger
from mml_lightning.config.settings import Settings, settings_of
from mml_lightning.utils.files import write_atomically
from mml_lightning.utils.program import CONF

ComposeErrors = (HydraException, OmegaConfBaseException)
"""What words that make no config raise."""


def compose(program: str, overrides: Sequence[str] = ()) -> Settings:
    """The settings that `train.py` or `eval.py` has with these words. Outside of a job they have no `paths.output_dir`
    but a typed one.

    Args:
        program: `train` or `eval`.

    Raises:
        UserError: an interpolation leads nowhere, a group is no table, or a key is missing.
        HydraException, OmegaConfBaseException: of a word that is wrong.
    """
    with _initialized():
        cfg = hydra.compose(program, overrides=list(overrides))
    if OmegaConf.is_interpolation(cfg.paths, "output_dir") and not HydraConfig.initialized():
        OmegaConf.update(cfg, "paths.output_dir", "")
    return settings_of(cfg)


def options_of(group: str) -> list[str]:
    """The options of a group of conf/ and of the folders beside it."""
    with _initialized():
        return GlobalHydra.instance().config_loader().get_group_options(group)


def _initialized() -> AbstractContextManager[object]:
    """Hydra with a place to look for configs: that of the job, or conf/."""
    if GlobalHydra.instance().is_initialized():
        return nullcontext()
    return hydra.initialize_config_dir(str(CONF), version_base="1.3")


def changed(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """The same settings with other values of some dotted keys; what is made of these follows them."""
    cfg = copy.deepcopy(settings.node)
    for key, value in values.items():
        OmegaConf.update(cfg, key, value, merge=False)
    return settings_of(cfg)


@dataclass(frozen=True)
class Sweep:
    """What is done when all jobs of a sweep have ended needs no more of their config."""

    folder: Path
    logger: Logger


def sweep_of(cfg: DictConfig) -> Sweep:
    """A sweep from the config that Hydra hands to its callbacks."""
    told = OmegaConf.to_container(cfg.get("logger") or OmegaConf.create({}), resolve=True)
    assert isinstance(told, dict)
    known = {str(key): told[key] for key in ("project", "entity", "mode") if key in told}
    return Sweep(Path(cfg.hydra.sweep.dir), Logger(wandb=bool(told.get("wandb")), **known))


@dataclass(frozen=True)
class Search:
    """What a sweeper that searches knows of its config: where the sweep lies, and what its jobs return.

    Args:
        monitor, mode: of `checkpoint`.
        val: whether val is measured.
    """

    folder: Path
    monitor: str | None
    mode: str | None
    val: bool


def search_of(cfg: DictConfig) -> Search:
    """A search from the config that Hydra hands to its sweeper, which is kept in the directory of the sweep."""
    folder = Path(cfg.hydra.sweep.dir)
    _write(cfg, folder / "multirun.yaml")
    wanted = cfg.checkpoint
    return Search(folder, wanted.monitor, wanted.mode, cfg.trainer.limit_val_batches != 0)


def save(settings: Settings, file: Path) -> None:
    """The config as Hydra leaves it in a run."""
    _write(settings.node, file)


def save_words(words: Sequence[str], file: Path) -> None:
    """Overrides as Hydra leaves them in a run."""
    _write(OmegaConf.create(list(words)), file)


def load(file: Path) -> Settings:
    """Settings from a file of :func:`save`."""
    return settings_of(OmegaConf.load(file))  # type: ignore[arg-type]


def _write(content: Any, file: Path) -> None:
    with write_atomically(file) as handle:
        OmegaConf.save(content, handle)
