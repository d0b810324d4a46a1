"""Where a peer's weights come from: `scratch`, `imagenet`, `kinetics`, an alias of an earlier stage, or a file.

A file is a zoo file (`peers/<peer>.pt` of a run is one) or a checkpoint of a run, which holds all its peers.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mml_lightning.backbones.inflate import inflate_state
from mml_lightning.backbones.peer import Peer
from mml_lightning.backbones.pretrained import imagenet_weights
from mml_lightning.backbones.temporal_shift import match_shift_names
from mml_lightning.entries import Entry, folders
from mml_lightning.errors import UserError
from mml_lightning.files import check_unpacked, file_hash
from mml_lightning.importing import import_trunk
from mml_lightning.results import read_result
from mml_lightning.stems import convert_state
from mml_lightning.zoo import check_fields, load_peer, same_classes, split_heads, warn_of_unfilled, weights_hash

FRESH = "scratch"
IMAGENET = "imagenet"
KINETICS = "kinetics"
CHECKPOINT = ".ckpt"
MODALITIES = re.compile(r"modality=\[?([^\]]*)\]?")
OF_MODALITY = re.compile(r"[+~]*modality\.(\w+)[.=]")  # holds only where the run has that modality
LACKED_BY_IMAGES = ("heads.", "net.nonlocals.")  # parts that start fresh where the weights are an image network's


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
            (:mod:`mml_lightning.lineage`).
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
        return shlex.join(["python", "train.py", *last.values()])


def resolve(
    init: str,
    modality: str,
    copy: str,
    aliases: Mapping[str, Alias],
    zoo: Path,
    kept: Sequence[str],
    seed: int,
    chosen: Sequence[Entry] = (),
) -> Origin:
    """Find what `init` means for one peer.

    Args:
        init: scratch, imagenet, kinetics, an alias, `alias:peer`, or a path.
        copy: "" or "_1", which network of its modality the peer is.
        zoo: folder of the data set and backbone below the zoo.
        kept: overrides of the present command that the making command shares (setup, data, backbone).
        chosen: entries that stand for all of their name and seed, see :func:`chosen_entries`.

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
        taken = next((one.file(name) for one in chosen if (one.told["name"], one.told["seed"]) == (run, seed)), None)
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
        raise UserError(f"{path} may be any of {len(found)} networks, name one: {', '.join(map(str, found[:5]))}")
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
            raise UserError(f"init.runs: {folder} is no directory of a run and no entry of the zoo (no result.json)")
        found.append(Entry(folder.expanduser(), told, told.get("fingerprint")))
    return found


def _filled(alias: str, texts: Sequence[str], modality: str, copy: str) -> list[str]:
    try:
        return [text.format(modality=modality, copy=copy) for text in texts]
    except (AttributeError, IndexError, KeyError, ValueError):
        raise UserError(f"aliases.{alias} may hold {{modality}} and {{copy}} only, and no other braces") from None


def require(origin: Origin, key: str) -> None:
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


def fill(
    net: nn.Module,
    origin: Origin,
    peer: str,
    modality: str,
    classes: Mapping[str, list[str]],
    depth: int | str,
    file: str | None,
    new_head: bool = False,
) -> dict[str, Any]:
    """Load the weights of `origin` into `net`, the network of `peer`, before the optimiser exists.

    The stem is converted to the channels of `net` (mean over input channels). The head comes along if it names the same
    classes; `new_head` allows other classes and leaves the head new.

    Args:
        depth: which ImageNet network the trunk is.
        file: `init.file`, the weights of `imagenet` (None downloads them) or of `kinetics`.

    Returns:
        Provenance: init, path, whether the head is new, and the provenance stored in the file.

    Raises:
        UserError: another architecture, other classes without `new_head`, or weights that don't fit.
    """
    if origin.init == FRESH:
        return {"init": FRESH, "path": None, "fresh_head": True}
    if origin.init == IMAGENET:
        try:
            trunk = imagenet_weights(depth, file)
        except ValueError as error:
            raise UserError(str(error)) from None
        state = {f"net.{key}": value for key, value in trunk.items()}
        inflated = _load(net, state, f"ImageNet weights of depth {depth}", from_images=True)
        return {"init": IMAGENET, "path": file, "fresh_head": True, **({"inflated": inflated} if inflated else {})}
    if origin.init == KINETICS:
        assert isinstance(net, Peer)
        trunk, told = import_trunk(net, kinetics_file(file))
        net.load_state_dict(trunk, strict=False)
        return {"init": KINETICS, "path": file, "fresh_head": True, "provenance": told}
    assert origin.path is not None
    entry = load_entry(origin.path, peer, modality)
    trunk, heads = split_heads(entry["state_dict"])
    keep_head = same_classes(entry, classes)
    if not keep_head and not new_head:
        have, want = (", ".join(f"{h}: {len(n)}" for h, n in c.items()) or "none" for c in (entry["classes"], classes))
        raise UserError(
            f"{origin.path} was trained for other classes ({have}) than the data have ({want}); "
            "use weights of this data, or init.new_head=true to keep its trunk only"
        )
    _load(net, trunk | (heads if keep_head else {}), str(origin.path))
    warn_of_unfilled(origin.path, entry["provenance"])
    return {
        "init": origin.init,
        "path": str(origin.path),
        "fresh_head": not keep_head,
        "modality": entry["modality"]["name"],
        "provenance": told_of(entry),
    }


def told_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance of an entry as that of a start; of weights that no run has made also the hash of these."""
    told = {key: value for key, value in entry["provenance"].items() if key != "origin"}
    return told if told.get("fingerprint") else told | {"content": weights_hash(entry["state_dict"])}


def kinetics_file(file: str | None) -> Path:
    """The checkpoint that `init=kinetics` starts from: nobody serves these weights with a hash that could be checked.

    Raises:
        UserError: none given, or no such file.
    """
    if not file:
        raise UserError(
            "init=kinetics needs init.file=<a checkpoint trained on Kinetics: of SlowFast, PyTorchVideo, TSM, or a zoo "
            "file>; docs/weights.md names what is recognised"
        )
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"init=kinetics: no file {path}; give init.file=<a checkpoint trained on Kinetics>")
    return path


def load_entry(path: Path, peer: str, modality: str) -> dict[str, Any]:
    """The network that a file offers to `peer`: a zoo file's only one; of a checkpoint the one of the same name, else
    the first one of the same modality.

    Raises:
        UserError: nothing to load there, or a checkpoint of other peers.
    """
    if path.suffix != CHECKPOINT:
        return load_peer(path)
    entries = checkpoint_entries(path)
    alike = [name for name, entry in entries.items() if entry["modality"]["name"] == modality]
    chosen = peer if peer in entries else alike[0] if alike else next(iter(entries)) if len(entries) == 1 else None
    if chosen is None:
        raise UserError(f"{path} holds the peers {list(entries)}, none of them {modality}; use one peer's file instead")
    return entries[chosen]


def checkpoint_entries(path: Path) -> dict[str, dict[str, Any]]:
    """The peers inside a checkpoint of a run, each as in a zoo file.

    Raises:
        UserError: no such file, or not a checkpoint of a run.
    """
    try:
        check_unpacked(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        described, config = content["hyper_parameters"]["peers"], content["hyper_parameters"]["config"]
        state = content["state_dict"]
        fingerprint = file_hash(path)[:16]
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except Exception as error:  # torch.load raises many unrelated types for damaged files
        raise UserError(f"{path} is not a readable checkpoint of a run ({type(error).__name__})") from None
    try:
        entries = {
            name: {
                **entry,
                "state_dict": {
                    key.removeprefix(f"peers.{name}."): value
                    for key, value in state.items()
                    if key.startswith(f"peers.{name}.")
                },
                "provenance": {
                    "peer": name,
                    "run": config["name"],
                    "stage": config["stage"]["name"],
                    "seed": config["seed"],
                    **_made(content),
                    "fingerprint": fingerprint,
                    "sampling": config["sampling"],
                    "transforms": config["transforms"],
                },
            }
            for name, entry in described.items()
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no whole checkpoint of a run ({type(error).__name__}: {error})") from None
    for entry in entries.values():
        check_fields(path, entry)
    return entries


def _made(content: Mapping[str, Any]) -> dict[str, Any]:
    """How long a checkpoint was trained: whole epochs and steps, and whether it is that of a run's end."""
    if "loops" not in content:
        return {"epochs": content["epoch"] + 1}
    epochs = int(content["loops"]["fit_loop"]["epoch_progress"]["current"]["completed"])
    planned = int(content["hyper_parameters"]["config"]["schedule"]["epochs"])
    cut = [] if epochs >= planned else [f"a checkpoint after {epochs} of {planned} epochs"]
    return {"epochs": epochs, "steps": int(content["global_step"]), "planned_epochs": planned, "limited": cut}


def _load(net: Any, state: Mapping[str, Any], source: str, from_images: bool = False) -> int:
    """Load `state`. Weights of an image network are inflated to a 3-D one: returns how many kernels were."""
    stem = f"{net.stem_name}.weight"
    renamed = match_shift_names(state, net.state_dict())
    inflated = 0
    if from_images:
        fitted = inflate_state(renamed, net.state_dict(), stem)
        renamed, inflated = {**renamed, **fitted.state}, len(fitted.inflated)
    if stem in renamed:
        renamed = convert_state(renamed, stem, net.in_channels)
    try:
        result = net.load_state_dict(renamed, strict=False)
    except RuntimeError as error:
        detail = str(error).splitlines()[1].strip() if len(str(error).splitlines()) > 1 else str(error)
        raise UserError(f"{source} does not fit this backbone: {detail[:160]}") from None
    missing = [key for key in result.missing_keys if not key.startswith(LACKED_BY_IMAGES if from_images else "heads.")]
    if missing or result.unexpected_keys:
        raise UserError(
            f"{source} does not fit this backbone: {len(missing)} weights missing (first {missing[:1]}), "
            f"{len(result.unexpected_keys)} unexpected (first {result.unexpected_keys[:1]}); "
            "choose the backbone it was trained with"
        )
    return inflated
