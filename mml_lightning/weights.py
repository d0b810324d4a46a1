"""Where a peer's weights come from: `scratch`, `imagenet`, an alias of an earlier stage, a zoo file or a run's checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from mml_lightning.backbones.pretrained import imagenet_weights
from mml_lightning.backbones.temporal_shift import match_shift_names
from mml_lightning.errors import UserError
from mml_lightning.stems import convert_state
from mml_lightning.zoo import load_peer, same_classes, split_heads

FRESH = "scratch"
IMAGENET = "imagenet"


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


@dataclass(frozen=True)
class Origin:
    """The resolved start of one peer.

    Args:
        init: as written in the config.
        path: the zoo file, if there is one.
        command: what makes the file, if an alias names it.
    """

    init: str
    path: Path | None = None
    command: str | None = None


def resolve(
    init: str, modality: str, copy: str, aliases: Mapping[str, Alias], zoo: Path, kept: Sequence[str], seed: int
) -> Origin:
    """Find what `init` means for one peer.

    Args:
        init: scratch, imagenet, an alias, `alias:peer`, or a path.
        copy: "" or "_1", which network of its modality the peer is.
        zoo: folder of the data set and backbone below the zoo.
        kept: overrides of the present command that the making command shares (setup, data, backbone).

    Raises:
        UserError: neither a known word nor a path.
    """
    if init in (FRESH, IMAGENET):
        return Origin(init)
    word, _, peer = init.partition(":")
    if word in aliases:
        alias = aliases[word]
        values = {"modality": modality, "copy": copy}
        name = peer or alias.peer.format(**values)
        make = [part.format(**values) for part in alias.make]
        if copy and name.endswith(copy) and "stage=ce" in make:
            make.append("stage.copies=2")  # the run that leaves a second, independent network
        path = zoo / alias.run.format(**values) / f"seed{seed}" / f"{name}.pt"
        quoted = [f"'{part}'" if any(c in part for c in "[] ") else part for part in [*make, *kept, f"seed={seed}"]]
        return Origin(init, path, "python train.py " + " ".join(quoted))
    if "/" in init or init.endswith((".pt", ".pth", ".ckpt")):
        return Origin(init, Path(init).expanduser())
    raise UserError(
        f"init {init!r} of {modality} is unknown; use scratch, imagenet, one of {sorted(aliases)}, or the path of a zoo file"
    )


def require(origin: Origin, peer: str) -> None:
    """Fail with the command that makes the weights, if they are not there.

    Raises:
        UserError: the file of `origin` does not exist.
    """
    if origin.path is None or origin.path.is_file():
        return
    if origin.command:
        raise UserError(f"init.{peer}={origin.init}: {origin.path} was never trained; make it with: {origin.command}")
    raise UserError(f"init.{peer}={origin.init}: no such file")


def fill(
    net: nn.Module,
    origin: Origin,
    classes: Mapping[str, list[str]],
    depth: int | str,
    imagenet_file: str | None,
    new_head: bool = False,
) -> dict[str, Any]:
    """Load the weights of `origin` into `net`, before the optimiser exists.

    The stem is converted to the channels of `net` (mean over input channels). The head comes along if it names the same
    classes; `new_head` allows other classes and leaves the head new.

    Returns:
        Provenance: init, path, whether the head is new, and the provenance stored in the file.

    Raises:
        UserError: another architecture, other classes without `new_head`, or weights that don't fit.
    """
    if origin.init == FRESH:
        return {"init": FRESH, "path": None, "fresh_head": True}
    if origin.init == IMAGENET:
        try:
            trunk = imagenet_weights(depth, imagenet_file)
        except ValueError as error:
            raise UserError(str(error)) from None
        _load(net, {f"net.{key}": value for key, value in trunk.items()}, f"ImageNet weights of depth {depth}")
        return {"init": IMAGENET, "path": imagenet_file, "fresh_head": True}
    assert origin.path is not None
    entry = load_peer(origin.path)
    trunk, heads = split_heads(entry["state_dict"])
    keep_head = same_classes(entry, classes)
    if not keep_head and not new_head:
        have, want = (", ".join(f"{h}: {len(n)}" for h, n in c.items()) for c in (entry["classes"], classes))
        raise UserError(
            f"{origin.path} was trained for other classes ({have}) than the data have ({want}); use weights of this data, "
            "or init.new_head=true to keep its trunk only"
        )
    _load(net, trunk | (heads if keep_head else {}), str(origin.path))
    return {
        "init": origin.init,
        "path": str(origin.path),
        "fresh_head": not keep_head,
        "modality": entry["modality"]["name"],
        "provenance": {k: v for k, v in entry["provenance"].items() if k != "origin"},
    }


def _load(net: Any, state: Mapping[str, Any], source: str) -> None:
    stem = f"{net.stem_name}.weight"
    renamed = match_shift_names(state, net.state_dict())
    if stem in renamed:
        renamed = convert_state(renamed, stem, net.in_channels)
    try:
        result = net.load_state_dict(renamed, strict=False)
    except RuntimeError as error:
        detail = str(error).splitlines()[1].strip() if len(str(error).splitlines()) > 1 else str(error)
        raise UserError(f"{source} does not fit this backbone: {detail[:160]}") from None
    missing = [key for key in result.missing_keys if not key.startswith("heads.")]
    if missing or result.unexpected_keys:
        raise UserError(
            f"{source} does not fit this backbone: {len(missing)} weights missing (first {missing[:1]}), "
            f"{len(result.unexpected_keys)} unexpected (first {result.unexpected_keys[:1]}); choose the backbone it was trained with"
        )
