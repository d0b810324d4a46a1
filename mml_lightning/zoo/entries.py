"""Entries of the zoo: the networks that one run has left, in a folder named after what made them.

    <zoo>/<data>/<backbone>/<run>/seed<k>/<fingerprint>/{<peer>.pt, result.json, predictions/}

An entry appears whole (its folder is renamed) and is never changed or replaced. A run of the same identity whose
weights came out with other bits, or that was measured otherwise, lies beside it as `<fingerprint>-2`, `-3`, ..
Entries of earlier versions lie in `seed<k>/` itself.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mml_lightning.utils.errors import UserError
from mml_lightning.utils.files import TEMPORARY
from mml_lightning.utils.result_file import read_result
from mml_lightning.zoo.files import load_peer, weights_hash

log = logging.getLogger(__name__)

TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
ABANDONED = 24 * 3600.0  # seconds after which a folder that was begun belongs to a process that died
END = ".pt"


@dataclass(frozen=True)
class Entry:
    """What one run has left in the zoo, or in its own directory.

    Args:
        folder: holds `<peer>.pt`, or `peers/<peer>.pt` where it is the directory of a run.
        told: the content of its result.json; empty where there is none to read.
        fingerprint: of the run that made it.
        old: of an earlier version, which stored no settings to compare.
    """

    folder: Path
    told: Mapping[str, Any] = field(default_factory=dict, repr=False)
    fingerprint: str | None = None
    old: bool = False

    def file(self, peer: str) -> Path:
        own = self.folder / "peers" / f"{peer}{END}"
        return own if own.is_file() else self.folder / f"{peer}{END}"

    def has(self, peer: str) -> bool:
        """Whether it may hold the network of this peer: where backbones differ, each has an entry of its own."""
        alike = not any(one.get("backbone") for one in (self.told.get("peers") or {}).values())
        return alike or self.file(peer).is_file()

    def backbone(self, peer: str) -> str | None:
        """The name of a peer's network."""
        own = (self.told.get("peers") or {}).get(peer) or {}
        return own.get("backbone") or self.told.get("backbone")

    @property
    def settings(self) -> Mapping[str, Any] | None:
        found = self.told.get("settings")
        return found if isinstance(found, Mapping) else None

    @property
    def order(self) -> tuple[str, str]:
        """By when it was finished: what an alias means does not change when a run is repeated."""
        return str(self.told.get("finished") or ""), self.folder.name

    def length(self) -> str:
        """36 epochs, 108 steps"""
        parts = [f"{self.told[key]} {key}" for key in ("epochs", "steps") if self.told.get(key) is not None]
        return ", ".join(parts) or "of unknown length"


def homes(told: Mapping[str, Any]) -> list[Path]:
    """The folders of the zoo that hold the networks of a run: one for each backbone.

    Args:
        told: the content of its result.json.
    """
    own = [str(Path(peer["zoo"]).parent) for peer in (told.get("peers") or {}).values() if peer.get("zoo")]
    first = str(told["zoo"]) if told.get("zoo") else None
    if not own or len(set(own)) == 1:  # one folder, wherever it lies by now
        own = [first] if first else own
    return [Path(folder) for folder in dict.fromkeys(own)]


def of_folder(folder: Path, peer: str) -> Entry:
    """The entry in a folder that holds a network of this name; where no result.json tells of it, the file does."""
    told = read_result(folder) or {}
    old = not isinstance(told.get("settings"), Mapping)
    fingerprint = told.get("fingerprint")
    if old:  # a run that died while it replaced two networks has left those of two runs: each tells its own
        try:
            inside = load_peer(Entry(folder).file(peer))["provenance"]
        except UserError as error:
            log.warning("%s: it is skipped", error)
            return Entry(folder, told, None, old)
        fingerprint = inside.get("fingerprint")
        if fingerprint != told.get("fingerprint"):
            told = {key: inside[key] for key in ("epochs", "steps", "seed") if key in inside}
    return Entry(folder, told, str(fingerprint) if fingerprint else None, old)


def folders(home: Path, peer: str) -> Iterator[Path]:
    """Folders below `home` (.../<run>/seed<k>) that hold a network of this name; cheap: no file is opened."""
    if (home / f"{peer}{END}").is_file():
        yield home
    for folder in sorted(home.glob("[!.]*/")):
        if (folder / f"{peer}{END}").is_file():
            yield folder


def below(home: Path, peer: str) -> list[Entry]:
    """The entries below `home` that have a network of this name, in the order in which they were finished."""
    return sorted((of_folder(folder, peer) for folder in folders(home, peer)), key=lambda entry: entry.order)


def publish(
    home: Path,
    name: str,
    told: Mapping[str, Any],
    write: Callable[[Path], None],
    peers: Collection[str] | None = None,
) -> Path:
    """Add an entry, whole or not at all; one that is there already, with equal weights and measurements, is kept.

    Args:
        home: .../<run>/seed<k>.
        name: the fingerprint.
        told: of its result.json, for comparison with those that are there.
        write: writes all files of the entry into a folder.
        peers: whose networks the entry holds; None: all that the run has trained.

    Returns:
        Its folder.

    Raises:
        OSError: it can't be written.
    """
    home.mkdir(parents=True, exist_ok=True)
    _sweep_out(home)
    incoming = home / f".{name}.{uuid.uuid4().hex}{TEMPORARY}"
    incoming.mkdir()
    try:
        write(incoming)
        for number in itertools.count(1):
            place = home / (name if number == 1 else f"{name}-{number}")
            try:
                os.rename(incoming, place)  # refused by a folder that holds something: two processes can't both win
            except OSError as error:
                if error.errno not in TAKEN:
                    raise
            else:
                return place
            if _same(place, told, peers):
                return place
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    raise AssertionError("too many entries")


def _same(place: Path, told: Mapping[str, Any], peers: Collection[str] | None) -> bool:
    """Whether an entry that is there holds what the new one tells of, and whole."""
    have = read_result(place)
    if have is None or have.get("evaluation") != told.get("evaluation"):
        return False
    if (have.get("fusion") or {}).get("weights") != (told.get("fusion") or {}).get("weights"):
        return False
    wanted = {name: peer["weights"] for name, peer in told["peers"].items() if peer.get("weights")}
    wanted = {name: weights for name, weights in wanted.items() if peers is None or name in peers}
    if {file.stem for file in place.glob(f"*{END}")} != set(wanted):
        return False
    try:
        return all(weights_hash(load_peer(place / f"{n}{END}")["state_dict"]) == x for n, x in wanted.items())
    except UserError as error:
        log.warning("%s: the network is saved beside it", error)
        return False


def whole(entry: Entry, peer: str) -> bool:
    """Whether the file of a network can be read and is of the run that the entry tells of; says so if not."""
    try:
        told = load_peer(entry.file(peer))["provenance"].get("fingerprint")
    except UserError as error:
        log.warning("%s: it is skipped", error)
        return False
    if told != entry.fingerprint:
        log.warning("%s belongs to another run than its result.json: it is skipped", entry.file(peer))
    return bool(told == entry.fingerprint)


def _sweep_out(home: Path) -> None:
    """Remove what processes had begun here that died long ago."""
    for folder in home.glob(f".*{TEMPORARY}"):
        try:
            if time.time() - folder.stat().st_mtime > ABANDONED:
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue
