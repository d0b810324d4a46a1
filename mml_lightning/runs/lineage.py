"""Which network an alias means: the one that the present command would make, if it were to make it.

`init=ce` asks for what `python train.py stage=ce .. <the settings typed now>` leaves. An entry of the zoo fits if it
was made with the very settings that decide weights (:func:`fingerprint.settings`), all the way back to
the first weights. Of several that fit: one of the same machine settings first, then the one that was finished first.
"""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mml_lightning.config import data as config_data
from mml_lightning.config import key_roles, peers
from mml_lightning.config.compose import ComposeErrors, compose
from mml_lightning.config.overrides import init_file
from mml_lightning.config.peers import PeerSpec
from mml_lightning.config.saved_overrides import ONCE, Source, admitted, key_of
from mml_lightning.config.settings import Settings
from mml_lightning.data import check
from mml_lightning.data.records.records import Dataset
from mml_lightning.runs import fingerprint as runs_fingerprint
from mml_lightning.utils import program
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.files import file_hash
from mml_lightning.zoo.aliases import KINETICS, Origin
from mml_lightning.zoo.entries import Entry, below, whole
from mml_lightning.zoo.files import CHECKPOINT, load_entry, load_peer
from mml_lightning.zoo.init import kinetics_file, told_of

log = logging.getLogger(__name__)

PLAIN = re.compile(r"[\w./+%@-]+")
SHOWN = 3  # differences that a message names
HOW_READ = ("workers", "batch_size", "eval_batch_size", "cache", "cache_mb")  # keys of `data` that name no videos


@dataclass(frozen=True)
class Asked:
    """What an alias asks for: the identity that the run would have, and the settings that decide its weights."""

    fingerprint: str
    settings: Mapping[str, Any]
    making: tuple[str, ...]

    def differences(self, entry: Entry, passed_by: Sequence[str] = ()) -> list[str]:
        """Settings in which an entry differs, in words; none of one that fits.

        Args:
            passed_by: groups of the config that do not matter.
        """
        if entry.fingerprint is not None and entry.fingerprint == self.fingerprint:
            return []
        if entry.settings is None:
            return [_old(entry, self.making)]
        then, here = (
            flat({k: v for k, v in one.items() if k not in passed_by}) for one in (entry.settings, self.settings)
        )
        keys = [key for key in sorted({*then, *here}) if then.get(key) != here.get(key)]
        return [_difference(key, then, here) for key in keys]


class Lineage:
    """Settles what aliases mean in one config; what they ask for is composed once each.

    Args:
        cfg, overrides: of the run that asks.
        data: its records, read when an alias is there only.
        passed_by: groups of the config that do not matter, such as `trainer` where nothing is trained.
        command: what is typed before the overrides, for messages; None: that of a training run.
        quiet: say nothing of what was found.
    """

    def __init__(
        self,
        cfg: Settings,
        overrides: Sequence[str],
        data: Callable[[], Dataset],
        passed_by: Sequence[str] = (),
        command: str | None = None,
        quiet: bool = False,
    ) -> None:
        self._say = logging.DEBUG if quiet else logging.INFO
        self.cfg, self.overrides, self.data = cfg, list(overrides), data
        self.passed_by, self.command = passed_by, command or program.command()
        self._asked: dict[tuple[str, ...], Asked] = {}

    def settle(self, specs: Sequence[PeerSpec]) -> list[PeerSpec]:
        """The peers with the files that their aliases mean; says which ones these are.

        Raises:
            UserError: nothing there was made with the settings asked for; names both commands.
        """
        return [replace(spec, origin=self.found(spec.origin, f"init.{spec.name}")) for spec in specs]

    def found(self, origin: Origin, key: str) -> Origin:
        """An origin with its file.

        Args:
            key: what asks for it, such as `init.rgb`.

        Raises:
            UserError: as :meth:`settle`.
        """
        if origin.place is None:
            return origin
        peer = origin.place.stem
        if origin.path is not None:
            log.log(self._say, "%s=%s is %s (init.runs)", key, origin.init, origin.path)
            return origin
        entries = below(origin.place.parent, peer)
        asked = self.asked(origin)
        differ = {entry.folder: asked.differences(entry, self.passed_by) for entry in entries}
        fit = [entry for entry in entries if not differ[entry.folder] and whole(entry, peer)]
        if not fit:
            raise UserError(self._refusal(origin, key, entries, differ))
        chosen = min(fit, key=lambda entry: (entry.fingerprint != asked.fingerprint, entry.order))
        told = (chosen.file(peer), about(chosen), _of(fit, chosen))
        log.log(self._say, "%s=%s is %s: %s%s", key, origin.init, *told)
        return replace(origin, path=chosen.file(peer))

    def asked(self, origin: Origin) -> Asked:
        """What an alias asks for.

        Raises:
            UserError: no config comes of the settings that would make it.
        """
        if origin.making not in self._asked:
            cfg = self._composed(origin)
            data = self._data(cfg)
            starts = {spec.name: self._start(cfg, spec) for spec in peers.peer_specs(cfg, origin.making)}
            self._asked[origin.making] = Asked(
                runs_fingerprint.fingerprint(cfg, data, starts),
                runs_fingerprint.settings(cfg, data, starts),
                origin.making,
            )
        return self._asked[origin.making]

    def _composed(self, origin: Origin) -> Settings:
        ours = [word for word in origin.making if word not in self.overrides]
        admitted([init_file(word) for word in ours], Source(f"the alias {origin.init}"), self.overrides)
        typed = [word for word in origin.making if word in self.overrides or key_of(word) not in ONCE]
        try:
            return compose("train", typed)
        except ComposeErrors as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"init={origin.init}: its settings can't be determined ({reason}); give the path of the weights"
            ) from None

    def _data(self, cfg: Settings) -> Dataset:
        """The records of a run that is asked for: those of the present one, where they are the same."""
        own, other = ({k: v for k, v in one.plain("data").items() if k not in HOW_READ} for one in (self.cfg, cfg))
        sources, looked_at = (
            {modality.source for modality in config_data.modalities(one).values()} for one in (self.cfg, cfg)
        )
        checked = (config_data.check_folder(cfg) / check.FILE).is_file()  # it may judge each source otherwise
        if own == other and (sources == looked_at or not checked):
            return self.data()
        return config_data.checked_records(cfg, looked_at)

    def _start(self, cfg: Settings, spec: PeerSpec) -> dict[str, Any]:
        """Where a peer of a run that is asked for would start."""
        origin = spec.origin
        if origin.place is not None and origin.path is None:
            asked = self.asked(origin)
            told = {"fingerprint": asked.fingerprint, "recipe": runs_fingerprint.hashed(asked.settings)}
            return {"init": origin.init, "provenance": told | {"peer": origin.place.stem}}
        return {"init": origin.init, "provenance": first_weights(cfg, spec)}

    def _refusal(self, origin: Origin, key: str, entries: Sequence[Entry], differ: Mapping[Path, Sequence[str]]) -> str:
        assert origin.place is not None
        if not entries:
            return f"{key}={origin.init}: {origin.place} was never trained; make it with: {origin.command}"
        near = min(reversed(entries), key=lambda entry: len(differ[entry.folder]))
        more = f", and {len(differ[near.folder]) - SHOWN} more" if len(differ[near.folder]) > SHOWN else ""
        others = f" ({len(entries) - 1} more in {origin.place.parent})" if len(entries) > 1 else ""
        return (
            f"{key}={origin.init}: {origin.place.parent} holds none made with these settings. Train it: "
            f"{origin.command} -- or take {near.folder}, {about(near)}{others}, although "
            f"{'; '.join(differ[near.folder][:SHOWN])}{more}: {self._taking(near, origin)}"
        )

    def _taking(self, entry: Entry, origin: Origin) -> str:
        """The present command with the very weights of an entry."""
        assert origin.place is not None
        if self.cfg.measures_only:
            rest = [item for item in self.overrides if not item.startswith("ckpt=")]
            return _shell([self.command, f"ckpt={typed_path(str(entry.file(origin.place.stem)))}", *rest])
        if not entry.told.get("name"):
            return f"init.{origin.place.stem}={entry.file(origin.place.stem)}"
        rest = [item for item in self.overrides if not item.startswith("init.runs=")]
        chosen = [*map(str, self.cfg.init.runs), str(entry.folder)]
        return _shell([self.command, *rest, f"init.runs={taken(chosen)}"])


def first_weights(cfg: Settings, spec: PeerSpec) -> dict[str, Any] | None:
    """As much of the provenance of a peer's first weights as decides its own."""
    if spec.origin.init == KINETICS:
        return {"imported": {"sha256": file_hash(kinetics_file(cfg.init.file))}}
    if spec.origin.path is None:
        return None
    if spec.origin.path.suffix != CHECKPOINT:
        return told_of(load_peer(spec.origin.path))
    return told_of(load_entry(spec.origin.path, spec.name, spec.modality.name))


def taken(folders: Sequence[str]) -> str:
    """Folders as a list of the command line."""
    return f"[{','.join(map(typed_path, folders))}]"


def typed_path(path: str) -> str:
    """A path as a value of the command line, in quotes where Hydra needs them."""
    if PLAIN.fullmatch(path):
        return path
    escaped = path.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def about(entry: Entry) -> str:
    """How long a network was trained, and where."""
    told = entry.told
    run = f", run {told['run_dir']}" if told.get("run_dir") else ""
    when = f", finished {told['finished']}" if told.get("finished") else ""
    return f"{entry.length()}{run}{when}{', by an earlier version' if entry.old else ''}"


def _of(fit: Sequence[Entry], chosen: Entry) -> str:
    """Why this one, where several fit."""
    if len(fit) == 1:
        return ""
    why = (
        "the one finished first"
        if chosen is min(fit, key=lambda entry: entry.order)
        else "that of this machine's settings"
    )
    return f"; {why} of {len(fit)} that fit"


def _old(entry: Entry, making: Sequence[str]) -> str:
    then = {str(item) for item in entry.told.get("overrides") or ()}
    typed = sorted(item for item in then - set(making) if not item.startswith(("seed=", "init=", *key_roles.COSMETIC)))
    was = f"; its overrides: {' '.join(typed)[:200]}" if typed else ""
    return f"it was made by an earlier version and its hash differs from that of these settings{was}"


def _difference(key: str, then: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    if key == "data_fingerprint":
        return "its videos, labels or readers were different"
    if key == "notes":
        return f"it was continued with other settings ({'; '.join(map(str, then.get(key) or ()))})"
    if key.startswith("init.") and key not in ("init.file", "init.new_head"):
        return (
            f"its {key.removeprefix('init.')} started from other weights ({then.get(key)}, asked for: {here.get(key)})"
        )
    return f"its {key} was {then.get(key)} but {here.get(key)} is asked for"


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _shell(words: Sequence[str]) -> str:
    return " ".join([words[0], *map(shlex.quote, words[1:])])
