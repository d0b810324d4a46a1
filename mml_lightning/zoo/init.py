"""Where a peer's weights come from: `scratch`, `imagenet`, `kinetics`, an alias of an earlier stage, or a file.

A file is a zoo file (`peers/<peer>.pt` of a run is one) or a checkpoint of a run, which holds all its peers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from mml_lightning.backbones.inflate import inflate_state
from mml_lightning.backbones.peer import Peer
from mml_lightning.backbones.pretrained import imagenet_weights
from mml_lightning.backbones.stem import convert_state
from mml_lightning.backbones.temporal_shift import ONLINE, match_shift_names
from mml_lightning.utils.errors import UserError
from mml_lightning.zoo.aliases import FRESH, IMAGENET, KINETICS, Origin
from mml_lightning.zoo.files import (
    load_entry,
    same_classes,
    split_heads,
    warn_of_unfilled,
    weights_hash,
)
from mml_lightning.zoo.importers import import_trunk

LACKED_BY_IMAGES = ("heads.", "net.nonlocals.")  # parts that start fresh where the weights are an image network's


def load_initial_weights(
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
        inflated = _load(net, state, f"the file of ImageNet weights ({depth})", from_images=True)
        return {"init": IMAGENET, "path": file, "fresh_head": True, **({"inflated": inflated} if inflated else {})}
    if origin.init == KINETICS:
        assert isinstance(net, Peer)
        trunk, told = import_trunk(net, kinetics_file(file))
        net.load_state_dict(trunk, strict=False)
        return {"init": KINETICS, "path": file, "fresh_head": True, "provenance": told}
    assert origin.path is not None
    entry = _entry_of_the_same_shift(net, origin.path, peer, modality)
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


def _entry_of_the_same_shift(net: nn.Module, path: Path, peer: str, modality: str) -> dict[str, Any]:
    """A shift has no tensors: all match while the channels mean other frames. A network without one may start any."""
    entry = load_entry(path, peer, modality)
    theirs, ours = (arch.get("shift") for arch in (entry["arch"], getattr(net, "arch", {})))
    if theirs and ours and (theirs == ONLINE) != (ours == ONLINE):
        words = {True: "online", False: "bidirectional"}
        raise UserError(
            f"{path} has the {words[theirs == ONLINE]} temporal shift, this network the "
            f"{words[ours == ONLINE]} one: set backbone.net.shift={ONLINE if theirs == ONLINE else 'true'}, or make a "
            "start of it with mml import --other-shift"
        )
    return entry


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
