"""What is wrong with a command line, in one line; Hydra takes several and never names the setting that was meant."""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from mml_lightning.utils.errors import UserError
from mml_lightning.utils.program import command

QUOTING = "quote values with spaces or special characters, such as \"data.root='/my videos'\""


def one_line(error: BaseException, conf: Path) -> str:
    """`error` of Hydra, OmegaConf or the file system, with its remedy.

    Args:
        conf: the folder of configs, searched for the setting that was meant.
    """
    if isinstance(error, MissingConfigException):  # an OSError too
        group, _, option = (error.missing_cfg_file or "").rpartition("/")
        if group and error.options is not None:
            return f"{group}={option} is unknown; use one of {sorted(error.options)}"
    elif too_long(error):
        word = Path(error.filename).name  # type: ignore[attr-defined]
        return f"{word[:40]}... ({len(word)} characters): unknown setting; {command()} --help lists the settings"
    elif isinstance(error, OSError) and error.filename is not None:
        return f"can't write {error.filename} ({error.strerror}); set paths.root"
    if isinstance(error, OverrideParseException):
        return f"can't read {error.override!r}; {QUOTING}"
    text = " ".join(str(error).split())
    key = re.match(r"Could not override '([\w.@/]+)'", text)
    if key:
        return unknown_key(key.group(1), conf)
    return text[:300]


def unknown_key(key: str, conf: Path) -> str:
    """The line about a setting that does not exist, with those that look alike."""
    known, last = sorted(set(known_keys(conf))), key.rpartition(".")[2]
    if key in known:
        return f"unknown setting {key}: only other options of {key.partition('.')[0]} have it (to add it: +{key}=...)"
    alike = difflib.get_close_matches(key, known, n=3, cutoff=0.75)
    alike = alike or [name for name in known if last in name.rpartition(".")[2]][:3]
    meant = f"did you mean {' or '.join(alike)}?" if alike else f"{command()} --help lists the settings"
    return f"unknown setting {key}; {meant} (to add a key: +{key}=...)"


def known_keys(conf: Path) -> Iterator[str]:
    """Groups and dotted keys of all configs, without composing them."""
    for file in conf.rglob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        group = file.parent.relative_to(conf).as_posix()
        at_root = group == "." or "@package _global_" in text
        if group != ".":
            yield group
        if group == "modality":
            yield f"backbone.{file.stem}"
        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError:
            continue
        yield from _dotted(content, "" if at_root else f"{group}.")


def _dotted(content: Any, prefix: str) -> Iterator[str]:
    if isinstance(content, Mapping):
        for key, value in content.items():
            if key != "defaults":
                yield f"{prefix}{key}"
                yield from _dotted(value, f"{prefix}{key}.")


def too_long(error: BaseException) -> bool:
    """Whether a group of configs was looked for by a name that no file can have."""
    if not isinstance(error, OSError) or error.errno != errno.ENAMETOOLONG:
        return False
    return isinstance(error.filename, (str, os.PathLike)) and "conf" in Path(error.filename).parts


HYDRA = (HydraException, OmegaConfBaseException)
COMPOSING = ("hydra", "omegaconf", "antlr4", "yaml", "logging")


def of_command_line(error: BaseException) -> bool:
    """Whether `error` says that something is wrong with the command line, a config or the place to write: Hydra raises
    plain ValueErrors and the like too, which are known by where they come from."""
    if isinstance(error, (*HYDRA, OSError)):
        return True
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and last.tb_frame.f_globals.get("__name__", "").partition(".")[0] in COMPOSING


@contextmanager
def as_user_errors(conf: Path) -> Iterator[None]:
    """Inside, what is wrong with words or configs is a UserError of one line; other errors stay what they are."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not of_command_line(error):
            raise
        raise UserError(one_line(error, conf)) from None
