"""Names of earlier stages, and what `init` of a network means by them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mml_lightning.utils.errors import UserError
from mml_lightning.utils.program import command
from mml_lightning.utils.result_file import read_result
from mml_lightning.zoo.entries import Entry, folders
from mml_lightning.zoo.files import CHECKPOINT

FRESH = "scratch"
IMAGENET = "imagenet"
KINETICS = "kinetics"
MODALITIES = re.compile(r"modality=\[?([^\]]*)\]?")
OF_MODALITY = re.compile(r"[+~]*modality\.(\w+)[.=]")  # holds only where the run has that modality


@dataclass(frozen=True)
class Alias:
    """An earlier stage by a short name.

    Args:
        run: name of the run that made it; {modality} stands for the modality of the peer to fill.
        peer: name of the exported peer; {copy} is "" for the first network of a modality, "_1" for the second.
        make: overrides of the command that makes it.
    """

    run: str
    peer: str
    make: tuple[str, ...]


def aliases(declared: Any) -> dict[str, Alias]:
    """The node `aliases` of the config.

    Raises:
        UserError: it is not {name: {run, peer, make}}.
    """
    try:
        return {name: Alias(str(a["run"]), str(a["peer"]), tuple(map(str, a["make"]))) for name, a in declared.items()}
    except (AttributeError, KeyError, TypeError):
        raise UserError("aliases must be {name: {run: ..., peer: ..., make: [...]}}, see conf/train.yaml") from None


@dataclass(frozen=True)
class Origin:
    """The resolved start of one peer.

    Args:
        init: as written in the config.
        path: the file with the weights, if there is one; of an alias only once it is known which entry it means
            (:mod:`mml_lightning.runs.lineage`).
        place: of an alias: <zoo>/<data>/<backbone>/<run>/seed<k>/<peer>.pt; the entries lie below its folder.
        making: of an alias: overrides of the command that makes such an entry.
    """

    init: str
    path: Path | None = None
    place: Path | None = None
    making: tuple[str, ...] = ()

    @property
    def key(self) -> Path | None:
        """Which weights these are, as far as it can be told without looking at any file."""
        return self.place or self.path

    @property
    def command(self) -> str:
        last = {part.partition("=")[0]: part for part in self.making}  # of what was typed twice
        return f"{command()} {shlex.join(last.values())}"


def resolve(
    init: str,
    modality: str,
    copy: str,
    aliases: Mapping[str, Alias],
    zoo: Path,
    kept: Sequence[str],
    seed: int,
    chosen: Sequence[Entry] = (),
    others: Collection[str] = (),
) -> Origin:
    """Find what `init` means for one peer.

    Args:
        init: scratch, imagenet, kinetics, an alias, `alias:peer`, or a path.
        copy: "" or "_1", which network of its modality the peer is.
        zoo: folder of the data set and backbone below the zoo.
        kept: overrides of the present command that the making command shares (setup, data, backbone).
        chosen: entries that stand for all of their name and seed, see :func:`chosen_entries`.
        others: backbones of other peers of the run, whose networks are not meant.

    Raises:
        UserError: neither a known word nor a path.
    """
    if init in (FRESH, IMAGENET, KINETICS):
        return Origin(init)
    word, _, peer = init.partition(":")
    if word in aliases:
        alias = aliases[word]
        name, run, *make = _filled(word, (peer or alias.peer, alias.run, *alias.make), modality, copy)
        number = name.rpartition("_")[2]
        if "stage=ce" in make and "_" in name and number.isdigit():
            make.append(f"stage.copies={int(number) + 1}")  # the run that leaves further, independent networks
        looked_at = next((found[1].split(",") for part in make if (found := MODALITIES.fullmatch(part))), [modality])
        shared = [part for part in kept if not (of := OF_MODALITY.match(part)) or of[1] in looked_at]
        named = [one for one in chosen if (one.told["name"], one.told["seed"]) == (run, seed)]
        taken = next((one.file(name) for one in named if one.backbone(name) not in others and one.has(name)), None)
        place = zoo / run / f"seed{seed}" / f"{name}.pt"
        return Origin(init, taken, place, (*make, *shared, f"seed={seed}"))
    if "/" in init or init.endswith((".pt", ".pth", CHECKPOINT)):
        return Origin(init, the_file(Path(init).expanduser()))
    raise UserError(
        f"init {init!r} of {modality} is unknown; "
        f"use scratch, imagenet, kinetics, one of {sorted(aliases)}, or the path of a zoo file"
    )


def the_file(path: Path) -> Path:
    """A file that is named, or where it names a network of the zoo by its run and seed alone
    (`<zoo>/<data>/<backbone>/<run>/seed<k>/<peer>.pt`) the only entry's.

    Raises:
        UserError: there are several.
    """
    if path.is_file():
        return path
    found = [folder / path.name for folder in folders(path.parent, path.stem)] if path.suffix == ".pt" else []
    if len(found) > 1:
        raise UserError(f"{path} matches {len(found)} networks, choose one: {', '.join(map(str, found[:5]))}")
    return found[0] if found else path


def chosen_entries(folders: Sequence[object]) -> list[Entry]:
    """`init.runs`: directories of runs, or of entries of the zoo, that an alias of their name and seed means.

    Raises:
        UserError: one of them tells no name and seed.
    """
    found = []
    for folder in map(Path, map(str, folders)):
        told = read_result(folder.expanduser()) or {}
        if not isinstance(told.get("name"), str) or not isinstance(told.get("seed"), int):
            raise UserError(f"init.runs: {folder} is neither a run directory nor a zoo entry (no result.json)")
        found.append(Entry(folder.expanduser(), told, told.get("fingerprint")))
    return found


def _filled(alias: str, texts: Sequence[str], modality: str, copy: str) -> list[str]:
    try:
        return [text.format(modality=modality, copy=copy) for text in texts]
    except (AttributeError, IndexError, KeyError, ValueError):
        raise UserError(f"aliases.{alias} may hold {{modality}} and {{copy}} only, and no other braces") from None


def require_file(origin: Origin, key: str) -> None:
    """Fail with the command that makes the weights, if there are none; which ones an alias means is not looked at.

    Args:
        key: what asks for them, such as `init.rgb`.

    Raises:
        UserError: neither a file nor, of an alias, any entry.
    """
    if origin.path is not None:
        if not origin.path.is_file():
            raise UserError(f"{key}={origin.init}: no such file: {origin.path}")
    elif origin.place is not None and not any(folders(origin.place.parent, origin.place.stem)):
        raise UserError(f"{key}={origin.init}: {origin.place} was never trained; make it with: {origin.command}")
