"""From a file of another project to a zoo entry, or to the trunk of a network that is about to be trained."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from mml_lightning.backbones.peer import Peer
from mml_lightning.backbones.temporal_shift import ONLINE
from mml_lightning.utils.errors import UserError
from mml_lightning.zoo.files import unfilled
from mml_lightning.zoo.importers.match import MIN_MATCHED, Report, fit, fit_head, head_sizes, pools
from mml_lightning.zoo.importers.naming import Recognised, recognise
from mml_lightning.zoo.importers.safe_load import Checkpoint, read_checkpoint

DIGITS = 16  # of a fingerprint
POOLING_UNTOLD = ("SlowFast", "Caffe2")  # schemes of networks with and without temporal pooling, under the same names


@dataclass(frozen=True)
class Imported:
    """What the import of a file gives.

    Args:
        entry: the content of a zoo file.
        report: about the trunk.
        head: what became of the classifier, in words.
        hint: what can't be told from the file; empty if all can.
    """

    entry: dict[str, Any]
    report: Report
    head: str
    hint: str = ""

    def lines(self) -> list[str]:
        """For people."""
        return [*self.report.lines(), f"head: {self.head}", *([f"hint: {self.hint}"] if self.hint else [])]


def zoo_entry(
    path: Path,
    make: Callable[[Mapping[str, int]], Peer],
    modality: Mapping[str, Any],
    classes: Mapping[str, Sequence[str]] | None = None,
    multi_label: Mapping[str, bool] | None = None,
    head: str = "label",
    min_matched: float = MIN_MATCHED,
    convert_stem: bool = False,
    inflate: bool = False,
    other_shift: bool = False,
) -> Imported:
    """Import a file as a zoo entry.

    Args:
        make: builds the network for {head: K}, randomly initialised.
        modality: `name` and the fields of its config.
        classes: {head: class names}; None takes the number of classes from the file and names them 0, 1, ..
        multi_label: {head: bool}; heads left out have one label per video.
        head: name of the head if `classes` is None.
        min_matched, convert_stem, inflate: see `fit`.
        other_shift: take weights of a network that shifts elsewhere, or not at all, or pools otherwise along time: a
            start, not the same network.

    Raises:
        UserError: the file can't be read, recognised or fitted.
    """
    checkpoint = read_checkpoint(path)
    recognised = _recognised(checkpoint)
    names = _names(classes, recognised, head)
    net = make({name: max(1, len(values)) for name, values in names.items()})
    trunk, report = fit(net, recognised, str(path), min_matched, convert_stem, inflate=inflate)
    if not other_shift:
        _refuse_other_network(path, report)
    layer, told = fit_head(net, recognised.head, named=classes is not None)
    net.load_state_dict(trunk | layer, strict=False)
    state = {key: value.detach().clone() for key, value in net.state_dict().items() if layer or key.startswith("net.")}
    arch = net.arch
    if not layer:  # without values a head is nothing to measure with, and nothing that another run should take
        names, arch = {}, {**arch, "num_classes": {}}
    entry = {
        "state_dict": state,
        "arch": arch,
        "modality": dict(modality),
        "classes": names,
        "multi_label": {name: bool((multi_label or {}).get(name, False)) for name in names},
        "provenance": {"peer": modality["name"], **_provenance(path, checkpoint, recognised, report, arch)},
    }
    return Imported(entry, report, told, _hint(net, recognised))


def import_trunk(net: Peer, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights of a file for the trunk of `net`, its stem averaged where the modality's channels differ.

    Every scheme is recognised, and so is a zoo file. The network may have non-local blocks that the file lacks.

    Returns: entries for `load_state_dict(.., strict=False)`, and their provenance.

    Raises:
        UserError: the file can't be read, recognised or fitted, leaves a tensor of the trunk without values, or is of a
            network that shifts or pools otherwise along time.
    """
    checkpoint = read_checkpoint(path)
    recognised = _recognised(checkpoint)
    trunk, report = fit(net, recognised, str(path), 1.0, convert_stem=True, add_nonlocals=True)
    _refuse_other_network(path, report)
    return trunk, _provenance(path, checkpoint, recognised, report, net.arch)


def _recognised(checkpoint: Checkpoint) -> Recognised:
    """The content of a file; one of ours tells which shift it has."""
    found = recognise(_filled(checkpoint))
    arch = checkpoint.content.get("arch") if isinstance(checkpoint.content, Mapping) else None
    shift = arch.get("shift") if isinstance(arch, Mapping) else None
    return replace(found, online=shift == ONLINE) if shift else found


def _filled(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors of a file, without those that an import left random."""
    told = checkpoint.content.get("provenance") if isinstance(checkpoint.content, Mapping) else None
    random = set(unfilled(told)) if isinstance(told, Mapping) else set()
    return {name: value for name, value in checkpoint.state.items() if name not in random}


def _refuse_other_network(path: Path, report: Report) -> None:
    if report.shift:
        raise UserError(
            f"{path} is of another network although its tensors match; along time: {report.shift}: choose the backbone "
            "it was trained with, or use it as initialisation with mml import --other-shift"
        )


def _hint(net: Peer, recognised: Recognised) -> str:
    if recognised.scheme not in POOLING_UNTOLD:
        return ""
    here, other = ("pools along time", "false") if pools(net) else ("does not pool along time", "true")
    return (
        f"{recognised.scheme} names do not tell whether the network pools along time after layer1; this backbone "
        f"{here}: if the file's differs, import it again with backbone.net.temporal_pool={other}"
    )


def _names(classes: Mapping[str, Sequence[str]] | None, recognised: Recognised, head: str) -> dict[str, list[str]]:
    if classes is not None:
        return {name: list(values) for name, values in classes.items()}
    if several := head_sizes({n: v for n, v in recognised.head.items() if "." in n}):
        return {name: [str(number) for number in range(size)] for name, size in several.items()}
    if "weight" not in recognised.head:
        raise UserError("the file has no classifier to count classes by: give --num-classes, --classes or --data")
    return {head: [str(number) for number in range(recognised.head["weight"].shape[0])]}


def _provenance(
    path: Path, checkpoint: Checkpoint, recognised: Recognised, report: Report, arch: Mapping[str, Any]
) -> dict[str, Any]:
    decisive = f"{checkpoint.sha256} {sorted(arch.items())} {report.plain()}"
    return {
        "fingerprint": hashlib.sha256(decisive.encode()).hexdigest()[:DIGITS],
        "imported": {
            "file": path.name,
            "sha256": checkpoint.sha256,
            "container": checkpoint.container,
            "scheme": recognised.scheme,
            "report": report.plain(),
        },
    }
