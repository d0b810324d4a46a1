"""Overrides that stand in files: of `.hydra/overrides.yaml`, result.json, manifest.json and declared runs.

A command line may say anything, since a person typed it. A file may be from anybody, so its overrides pass one gate
that lets through what only chooses: options of groups and plain values of settings. Whatever could call code, steer
Hydra, look something up or move what is written to another place is refused until it is typed. Imports no torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.grammar.functions import Functions
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString, ValueType
from hydra.errors import HydraException

from mml_lightning.utils.errors import UserError
from mml_lightning.utils.files import FOLDER_NAME
from mml_lightning.utils.foreign import Foreign, check_depth
from mml_lightning.utils.plain_text import STEERING, visible

ONCE = ("resume", "ckpt", "trusted")
"""Meant for one start of a run only: they are left out. Trust is given by typing it."""
LONGEST, MOST = 20_000, 1_000  # characters of an override, overrides of a run
OWN_ROOT = ("single", "sweep", "zoo")  # folders of a root in which runs and their networks lie
WRITTEN = ("paths.root", "paths.zoo", "paths.cache", "paths.output_dir")
PLACES = ("paths", *WRITTEN)
DATA = ("data.root", "data.reader.root")  # the demo makes its videos there


@dataclass(frozen=True)
class Source:
    """Where overrides stand.

    Args:
        file: what a message names.
        folder: the run, or the folder of the network, that they belong to; None where there is none.
    """

    file: object
    folder: Path | None = None


def admitted(items: object, source: Source, typed: Sequence[str] = ()) -> list[str]:
    """The overrides of a file that may be used, in their order.

    Args:
        typed: overrides of the command line. What is refused is left out where the same setting is typed, since that
            wins anyway.

    Raises:
        UserError: one line that names the file, the setting and what to do.
    """
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise UserError(f"{source.file} is damaged: its overrides must be a list of key=value; type them instead")
    if len(items) > MOST:
        raise UserError(f"{source.file} is damaged: it has {len(items)} overrides; type them instead")
    chosen = {key_of(word) for word in typed}
    kept = []
    for item in items:
        key = key_of(item)
        if key in ONCE:
            continue
        why = refusal(item, source)
        if why is None:
            kept.append(item)
        elif key not in chosen:
            shown = visible(item if len(item) <= 120 else f"{item[:120]}...").replace("\n", " ")
            raise UserError(f"{source.file}: {shown} {why}; files are not trusted with that: type it yourself")
    return kept


def key_of(word: str) -> str:
    """What an override sets, without the signs before it."""
    return word.lstrip("+~").partition("=")[0].strip()


def refusal(item: str, source: Source) -> str | None:
    """Why an override of a file is not used; None if it is."""
    if len(item) > LONGEST or STEERING.search(item) or "\n" in item:
        return "is too long or has control characters"
    try:
        override = OverridesParser(Functions()).parse_override(item)  # no function of Hydra's is known to this parser
        check_depth(override.value())
    except Foreign as error:
        return f"is not a valid override: {error}"
    except (HydraException, RecursionError, ValueError):
        return "is not a plain key=value"
    if override.value_type not in (None, ValueType.ELEMENT):
        return "has several values"
    return _key(override) or _value(override, source)


def _key(override: Override) -> str | None:
    parts = re.split(r"[./]", override.key_or_group)
    if override.package is not None:
        return "moves a group (@)"
    if parts[0] == "hydra":
        return "is a Hydra setting"
    if parts[0] == "trusted":  # one of the list: all of it is in ONCE
        return "gives trust"
    if parts[0] == "aliases":
        return "defines an alias"
    if not all(re.fullmatch(r"[\w-]+", part) for part in parts):
        return "is not a plain key=value"
    return _reserved(parts)


def _reserved(keys: Sequence[str]) -> str | None:
    named = next((key for key in keys if key.startswith("_") and key.endswith("_")), None)
    return f"chooses with {visible(named[:40])} what is called, or how" if named else None


def _value(override: Override, source: Source) -> str | None:
    group = "." not in override.key_or_group
    if override.is_delete() and override.key_or_group in PLACES:
        return "removes the place where files are written"
    if override.key_or_group.startswith("logger.") and (override.is_delete() or override.key_or_group.count(".") > 1):
        return "may redirect the record of the run"
    for key, value in _leaves(override.key_or_group, override.value()):
        why = _reserved(key.split("."))
        if why is None and (key in WRITTEN or not isinstance(value, dict | list | None)):
            why = _text(key, str(value), source, group)  # a number names a folder as well as a word does
        if why:
            return why
    return None


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Dotted keys and plain values; those of a list have its key."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(f"{key}.{name}", item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(key, item)
    if not isinstance(value, dict | list) or not value:  # a name counts even where nothing is below it
        yield key, value


def _text(key: str, value: str, source: Source, group: bool) -> str | None:
    if "${" in value or "${" in key:
        return "contains an interpolation (${...})"
    parts = value.replace("\\", "/").split("/")
    if group and (".." in parts or (parts[0] in ("", "~") and len(parts) > 1)):
        return "points outside the folder of its group"
    if key.rpartition(".")[2] == "name" and not FOLDER_NAME.fullmatch(value):
        return "is not a valid folder name"
    if key == "logger.entity":
        return "sends the record of the run to somebody's account"
    if key.startswith("logger.") and key.count(".") > 1:
        return "may redirect the record of the run"
    if key in WRITTEN and not _writes_at_home(key, value, source.folder):
        return "points outside the place of the run, and files would be written there"
    if key in DATA and not _holds_data(value, source.folder):
        return "is an empty or missing folder, and files might be written there"
    return None


def _writes_at_home(key: str, value: str, run: Path | None) -> bool:
    """Whether a saved place of writing is the run's own root, or lies in it. A flow cache may be one that exists."""
    if run is None:
        return False
    place, run = _resolved(value), _resolved(str(run))
    if key == "paths.output_dir":
        return place == run
    root = _root(run)
    if key == "paths.root":
        return place == root
    inside = root is not None and place.is_relative_to(root)
    return inside or (key == "paths.cache" and any(place.glob("flow/*/*/*.npy")))


def _root(run: Path) -> Path | None:
    """The folder that a run had as its root, as it lies now: it holds the run below one of :data:`OWN_ROOT`."""
    return next((parent.parent for parent in (run, *run.parents) if parent.name in OWN_ROOT), None)


def _holds_data(value: str, run: Path | None) -> bool:
    place = _resolved(value)
    root = None if run is None else _root(_resolved(str(run)))
    if root is not None and place.is_relative_to(root):
        return True
    try:
        return next(os.scandir(place), None) is not None
    except OSError:
        return False


def _resolved(path: str) -> Path:
    return Path(os.path.expanduser(path)).resolve()


def quoted(key: str, value: object) -> str:
    """`key=value` as Hydra reads it back, whatever characters a path or a name has.

    Raises:
        UserError: it would be an interpolation.
    """
    text = str(value)
    if "${" in text:
        raise UserError(f"{key}={visible(text)}: Hydra looks up what stands in ${{...}}; rename it without")
    return f"{key}={QuotedString(text, Quote.single).with_quotes()}"
