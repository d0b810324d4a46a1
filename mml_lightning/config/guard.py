"""What a composed config may call, looked at before Hydra acts on it.

Hydra builds callbacks, launchers and handlers of logs, and makes the directory of a run, before any code of a job runs.
So the loader that composes every config of a process looks at it first: :func:`install`. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra._internal import hydra as hydra_internal
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mml_lightning.config import backbones
from mml_lightning.config.instantiate import CALLED_BY_HYDRA, LIGHTNING, TARGET, TRUSTED, check_targets, lies_in
from mml_lightning.config.lightning_nodes import STEERS
from mml_lightning.config.resolve import explain
from mml_lightning.config.saved_overrides import key_of
from mml_lightning.config.targets import current
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.files import FOLDER_NAME

BUILT_BY_HYDRA = ("callbacks", "launcher", "sweeper")
LOGS = ("job_logging", "hydra_logging")
CLASSES = (
    *("logging.Formatter", "logging.Filter", "logging.StreamHandler", "logging.FileHandler", "logging.NullHandler"),
    *("logging.handlers.RotatingFileHandler", "logging.handlers.TimedRotatingFileHandler"),
    *("logging.handlers.WatchedFileHandler", "mml_lightning.utils.plain_text.VisibleFormatter"),
    "mml_lightning.utils.terminal.LogHandler",
)
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
TABLES = (
    *("paths", "data", "backbone", "objective", "modality", "init", "sampling", "transforms", "views", "flow"),
    *("optimizer", "schedule", "trainer", "callbacks", "logger", "setup", "stage", "pipeline"),
)
RECORDS = ("callbacks", "logger")
HARMLESS = tuple(f"pytorch_lightning.callbacks.{name}" for name in STEERS)
SHIPPED: dict[str, dict[str, Any]] = {
    "pytorch_lightning.loggers.TensorBoardLogger": {
        **{"save_dir": "${paths.output_dir}", "name": "tensorboard", "version": "", "default_hp_metric": False},
    },
    "pytorch_lightning.loggers.MLFlowLogger": {
        **{"experiment_name": "${setup.name}", "run_name": "${name}"},
        "tracking_uri": "sqlite:///${paths.root}/mlflow.db",
    },
}
"""Loggers of Lightning, and what conf/logger/ says of where they write."""
BELOW_RUN = "${hydra.runtime.output_dir}/"  # what follows can't make it anything but a path
OF_PROGRAM = re.compile(r"\$\{(oc\.env:MML_PROGRAM,run|hydra\.job\.name)\}")  # what the name of a log is made of
SHELL: dict[str, Any] = {
    **{"setup": None, "additional_parameters": {}},
    "submitit_folder": "${hydra.sweep.dir}/.submitit/%j",
}
"""What a launcher runs in a shell, or unpickles from, and what it has where nobody says otherwise."""


class GuardedLoader(ConfigLoaderImpl):
    """Hydra's loader of configs, whose configs are checked before anybody gets them."""

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        given = self._staged(overrides)
        written = dict(zip(given, overrides, strict=True))
        try:
            cfg = super().load_configuration(config_name, given, run_mode, from_shell, validate_sweep_overrides)
        except HydraException as error:
            raise backbones.as_typed(error, written) from error.__cause__
        if given != overrides:  # what is kept of a run is what was typed
            cfg.hydra.overrides.task = [written.get(word, word) for word in cfg.hydra.overrides.task]
        if run_mode == RunMode.RUN and backbones.chosen(cfg):  # the jobs of a sweep are composed one by one
            search = _search_path(overrides)
            options, modalities = (self._options(group, search) for group in ("backbone", "modality"))
            backbones.place(cfg, lambda option: self._option(option, search), options, modalities)
        check(cfg, overrides)
        return cfg

    def _staged(self, overrides: list[str]) -> list[str]:
        if not any(map(backbones.WORD.match, overrides)):
            return overrides
        return backbones.staged(overrides, self._options("modality", _search_path(overrides)))

    def _options(self, group: str, search: list[str]) -> list[str]:
        return self.get_group_options(group, config_name=None, overrides=search)

    def _option(self, option: str, search: list[str]) -> DictConfig:
        """An option of conf/backbone with all that its own defaults bring along."""
        return super().load_configuration(None, [f"+backbone={option}", *search], RunMode.RUN).backbone


def _search_path(overrides: Sequence[str]) -> list[str]:
    """Where else the options of groups are looked for."""
    return [word for word in overrides if key_of(word) == "hydra.searchpath"]


def install() -> None:
    """From now on Hydra composes no config in this process that has not been checked."""
    hydra_internal.ConfigLoaderImpl = GuardedLoader  # type: ignore[misc]  # Hydra has no place to register one


def check(cfg: DictConfig, typed: Sequence[str]) -> None:
    """Refuse a config that would call something else than it may, or write where its name leads.

    Args:
        typed: the overrides it was composed with. What `trusted` says counts only from there.

    Raises:
        UserError: one line that names the setting and what to type.
    """
    packages = (*TRUSTED, *_trust(cfg, typed))
    content = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(content, dict)
    ours = {key: value for key, value in content.items() if key != "hydra"}
    wrong = next((key for key in TABLES if key in ours and not isinstance(ours[key], dict)), None)
    if wrong:  # a file of configs says so: on the command line it would be the option of a group
        raise UserError(f"{wrong}={ours[wrong]} must be a table of settings, as in conf/{wrong}/")
    for key, target in _calls(ours):
        allowed = (*packages, *LIGHTNING) if key.partition(".")[0] in RECORDS else packages
        if "${" not in target and not lies_in(current(target), allowed):  # others are known when they are made
            check_targets([target], allowed, key)
    for group in RECORDS:
        _check_records(group, ours.get(group) or {}, packages[len(TRUSTED) :], typed)
    if "hydra" in cfg:
        _check_hydra(cfg, content["hydra"], typed, packages)
    _check_name(cfg)


def _check_records(group: str, content: Mapping[str, Any], trusted: tuple[str, ...], typed: Sequence[str]) -> None:
    """Lightning's own callbacks and loggers may write anywhere and send a record to any server, so a file may name
    those that can't, or that stand in it as they do in ours.

    Raises:
        UserError: something else is not typed.
    """
    for name, node in content.items():
        if not isinstance(node, Mapping) or TARGET not in node:
            continue
        key, target = f"{group}.{name}", current(str(node[TARGET]))
        if lies_in(target, trusted):
            continue
        if not _typed(f"{key}.{TARGET}", typed) and target not in (HARMLESS if group == "callbacks" else SHIPPED):
            raise UserError(f"{key}.{TARGET}={target} is set in a file and may write anywhere: type it yourself")
        usual = SHIPPED.get(target, {})
        for word, value in node.items():
            own = group == "callbacks" or word == TARGET or (word in usual and value == usual[word])
            if not own and not _typed(f"{key}.{word}", typed):
                raise UserError(f"{key}.{word}={value} is set in a file and decides where logs go: type it yourself")


def _trust(cfg: DictConfig, typed: Sequence[str]) -> list[str]:
    """The packages that were typed as trusted.

    Raises:
        UserError: a file of configs brings others along.
    """
    raw = OmegaConf.to_container(cfg, resolve=False).get("trusted")  # type: ignore[union-attr]
    composed = [] if raw is None else raw if isinstance(raw, list) else [raw]
    words = {word for text in typed if key_of(text) == "trusted" for word in re.findall(r"[\w.]+", text)}
    for package in composed:
        if not isinstance(package, str) or package not in words:
            raise UserError(f"trusted={package} is set in a file, but trust must be typed: trusted=[...]")
    return [str(package) for package in composed]


def _check_hydra(cfg: DictConfig, raw: Mapping[str, Any], typed: Sequence[str], packages: tuple[str, ...]) -> None:
    for key in BUILT_BY_HYDRA:
        for name, target in _calls(_resolved(cfg, key), f"hydra.{key}"):
            check_targets([target], (*packages, *CALLED_BY_HYDRA), name)
    for key in LOGS:
        for name, value in _strings(raw.get(key), f"hydra.{key}"):
            _check_log(name, value, packages, typed)
    _check_launcher(cfg, raw["launcher"], typed)
    sweeper = raw.get("sweeper")
    swept = sweeper.get("params") if isinstance(sweeper, dict) else None
    for key in swept if isinstance(swept, dict) else ():
        if key_of(str(key)).split(".")[0] in ("hydra", "trusted"):
            raise UserError(f"hydra.sweeper.params sweeps over {key} in a file: type {key}=... yourself")
    _check_job(raw["job"], typed)
    folder = raw.get("output_subdir")
    if folder is not None and not FOLDER_NAME.fullmatch(str(folder)):
        raise UserError(f"hydra.output_subdir={folder} must name a folder below that of the run")


def _check_job(job: Mapping[str, Any], typed: Sequence[str]) -> None:
    variables = job.get("env_set") or {}
    if not isinstance(variables, Mapping):
        raise UserError(f"hydra.job.env_set={variables} must be a table: set variables in your shell")
    if set_by_file := [name for name in map(str, variables) if not _typed(f"hydra.job.env_set.{name}", typed)]:
        raise UserError(f"hydra.job.env_set sets {', '.join(set_by_file)} in a file: set it in your shell")
    name = job.get("name")  # that of the log and of a scheduler's job
    if name is not None and not FOLDER_NAME.fullmatch(str(name)) and not _typed("hydra.job.name", typed):
        raise UserError(f"hydra.job.name={name} must name a file: use letters, digits and any of . _ + = , @ -")


def _check_launcher(cfg: DictConfig, launcher: Any, typed: Sequence[str]) -> None:
    """Its settings become lines of a shell script."""
    if not isinstance(launcher, Mapping):
        raise UserError(f"hydra.launcher={launcher} must be a table: choose one with hydra/launcher=...")
    for name, usual in SHELL.items():
        value, key = launcher.get(name), f"hydra.launcher.{name}"
        keys = [f"{key}.{one}" for one in value] if isinstance(value, Mapping) else [key]
        if value not in (usual, None) and not all(_typed(one, typed) for one in keys):
            raise UserError(f"{key} is set in a file and would run in a shell: type it yourself")
    for key, text in _strings(_resolved(cfg, "launcher"), "hydra.launcher"):
        if "\n" in text and not _typed(key, typed):
            raise UserError(f"{key} has several lines, which a shell would run: type it yourself")


def _typed(key: str, typed: Sequence[str]) -> bool:
    """Whether a setting, or a table that it lies in, was typed."""
    return any(f"{key}.".startswith(f"{key_of(word)}.") for word in typed if key_of(word))


def _resolved(cfg: DictConfig, key: str) -> Any:
    """A part of the node `hydra` as Hydra will see it: what stands there may be made by an interpolation."""
    try:
        node = cfg.hydra[key]
        return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    except OmegaConfBaseException as error:
        raise UserError(f"hydra.{key}: {explain(error)}") from None


def _check_log(key: str, value: str, packages: tuple[str, ...], typed: Sequence[str]) -> None:
    """What the configuration of logging looks up by name is another way to call something. So is a log that is written
    to a file which something else runs."""
    last = key.rpartition(".")[2]
    if ".." in key:  # its key ".": attributes of a handler, such as the file it opens later
        raise UserError(f"{key} sets an attribute of a log: remove it")
    if last == "filename":
        rest = OF_PROGRAM.sub("x", value.removeprefix(BELOW_RUN))
        own = value.startswith(BELOW_RUN) and FOLDER_NAME.fullmatch(rest) and key.startswith("hydra.job_logging.")
        if not own and not _typed(key, typed):
            raise UserError(f"{key}={value} in a file points outside the run directory: type it yourself")
    elif last in ("class", "()"):
        if value not in CLASSES and not lies_in(value, packages[len(TRUSTED) :]):
            raise UserError(f"{key}={value}: a log may use {', '.join(CLASSES)} only; type trusted=[...] for others")
    elif re.match(r"[a-z]+://", value) and value not in STREAMS:
        raise UserError(f"{key}={value}: a log may go to {' or '.join(STREAMS)} or to a file")
    elif "${" in value and not value.startswith(BELOW_RUN) and last != "format":
        raise UserError(f"{key}={value}: only what begins with {BELOW_RUN} may look something up in a log")


def _check_name(cfg: DictConfig) -> None:
    """The name of a run is a part of its directory, which Hydra makes first of all."""
    try:
        name = cfg.get("name")
    except OmegaConfBaseException:  # it names what is missing when it asks for the name itself
        return
    if name is not None and not (isinstance(name, str) and FOLDER_NAME.fullmatch(name)):
        raise UserError(f"name={name!r} must be a folder name: use letters, digits and any of . _ + = , @ -")


def _calls(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Key and value of every `_target_`."""
    for name, text in _strings(value, key):
        if name.rpartition(".")[2] == TARGET:
            yield name, text


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _strings(item, f"{key}.{name}" if key else str(name))
            if name in (TARGET, "class", "()") and not isinstance(item, str):
                yield f"{key}.{name}", repr(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item, key)
    elif isinstance(value, str):
        yield key, value
