"""`mml import`: a checkpoint of another project becomes a zoo file."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mml_lightning.utils.errors import UserError
from mml_lightning.utils.program import command

if TYPE_CHECKING:
    from mml_lightning.config.settings import Settings
    from mml_lightning.modalities import Modality

    Classes = tuple[dict[str, list[str]] | None, dict[str, bool]]

GREY_SCHEMES = ("SlowFast", "PyTorchVideo", "Caffe2")
GREY = ({0.45}, {0.225})
ENDINGS = (".pt", ".pth")  # what `init=` takes for a file


def declare(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Reads a checkpoint of torchvision, TSM, MML, SlowFast, PyTorchVideo or Caffe2 without running code from it, "
        "recognises it by the names of its tensors, says what matched, and writes a zoo file for "
        "init.<modality>=<file> and eval.py ckpt=<file>. Classes: --data, --classes or --num-classes; else the file's "
        "number of classes, named 0, 1, .. docs/weights.md has examples."
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the checkpoint: .pth, .pth.tar, .pyth, .pkl")
    parser.add_argument(
        "--backbone",
        nargs="+",
        required=True,
        metavar=("NAME", "KEY=VALUE"),
        help="the network, as for train.py: --backbone tsm_resnet50 backbone.net.shift_place=block",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="ZOO.pt", help="the zoo file to write")
    parser.add_argument(
        "--modality",
        nargs="+",
        default=["rgb"],
        metavar=("NAME", "KEY=VALUE"),
        help="modality of the network, with the normalisation it was trained with (default: rgb)",
    )
    classes = parser.add_mutually_exclusive_group()
    classes.add_argument("--data", nargs="+", metavar=("NAME", "KEY=VALUE"), help="classes of a data set")
    classes.add_argument(
        "--classes", type=Path, metavar="NAMES.txt", help="class names, one a line, in the file's order"
    )
    classes.add_argument("--num-classes", type=int, metavar="K", help="that many classes, named 0, 1, ..")
    parser.add_argument("--head", default="label", help="name of the head, unless --data names it (default: label)")
    parser.add_argument("--multi-label", action="store_true", help="videos have several labels, unless --data says so")
    parser.add_argument(
        "--convert-stem",
        action="store_true",
        help="average the first convolution where the file's modality has other channels",
    )
    parser.add_argument(
        "--other-shift",
        action="store_true",
        help="accept weights of a network with another temporal shift or pooling, as initialisation",
    )
    parser.add_argument("--inflate", action="store_true", help="repeat 2-D kernels over time for a 3-D backbone")
    parser.add_argument(
        "--min-matched",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="least share of tensors of trunk and file that match (default: 1); those missing stay random. "
        "Other shapes and a missing first convolution are refused whatever it is",
    )


def run(args: argparse.Namespace, compose: Callable[[Sequence[str]], Settings]) -> None:
    """Import the file and write the zoo file.

    Args:
        compose: overrides to the config that train.py composes from them.

    Raises:
        UserError: the file can't be read, recognised or fitted, or an option is wrong. Nothing is written then.
    """
    import torch

    from mml_lightning.backbones.peer import Peer
    from mml_lightning.config import data, peers
    from mml_lightning.zoo import importers
    from mml_lightning.zoo.files import export_peer

    if not 0 < args.min_matched <= 1:
        raise UserError(f"--min-matched {args.min_matched} is a share: give a number above 0, at most 1")
    if args.out.suffix not in ENDINGS:
        raise UserError(f"--out {args.out} must end in .pt, as init= and ckpt= expect of a zoo file")
    if args.out.exists() and args.file.exists() and args.out.samefile(args.file):
        raise UserError("--out is the file that is imported; name another one")
    name = args.modality[0]
    words = {"backbone": args.backbone, "data": args.data or [], "modality": [f"modality=[{name}]", *args.modality[1:]]}
    cfg = compose([override for group, given in words.items() for override in _overrides(group, given)])
    modality = data.modalities(cfg)[name]
    classes, multi_label = _classes(args, cfg)

    def make(num_classes: Mapping[str, int]) -> Peer:
        torch.manual_seed(0)  # what a file lacks comes out the same every time
        return peers.new_network(cfg, modality, num_classes)

    if args.out.exists():
        raise UserError(f"--out {args.out} exists and runs may have started from it: name another file")
    described: dict[str, Any] = {"name": modality.name, **cfg.plain("modality")[modality.name]}
    imported = importers.zoo_entry(
        args.file,
        make,
        described,
        classes,
        multi_label,
        args.head,
        args.min_matched,
        args.convert_stem,
        args.inflate,
        args.other_shift,
    )
    export_peer(args.out, imported.entry)
    notes = [*imported.lines(), *_normalisation(imported.report.scheme, modality)]
    print("\n".join([*notes, f"wrote {args.out}", _use(args, imported.entry["classes"])]))


def _normalisation(scheme: str, modality: Modality) -> list[str]:
    """A warning, since numbers go down silently with inputs on another scale."""
    if scheme not in GREY_SCHEMES or modality.name != "rgb" or (set(modality.mean), set(modality.std)) == GREY:
        return []
    return [
        f"inputs: {scheme} networks usually see frames with mean 0.45 and std 0.225, this modality has others; if so: "
        "--modality rgb statistics.mean=[0.45] statistics.std=[0.225]"
    ]


def _use(args: argparse.Namespace, classes: dict[str, list[str]]) -> str:
    start = f"init.{args.modality[0]}={args.out} backbone={args.backbone[0]}"
    if not classes or not (args.data or args.classes):
        return f"use it: {command()} {start} init.new_head=true"
    return f"use it: {command()} {start}, or {command('eval')} ckpt={args.out}"


def _overrides(group: str, words: Sequence[str]) -> list[str]:
    """`--backbone NAME KEY=VALUE ..` as overrides."""
    stray = next((word for word in words[1:] if "=" not in word), None)
    if stray:
        raise UserError(f"--{group} takes one name and KEY=VALUE, not {stray!r}; FILE comes first: mml import FILE ..")
    return [word if "=" in word else f"{group}={word}" for word in words]


def _classes(args: argparse.Namespace, cfg: Settings) -> Classes:
    """({head: names}, {head: multi_label}) as the options say; no names if they say nothing."""
    from mml_lightning.config import data

    if args.data:
        heads = data.records(cfg).heads
        return (
            {name: list(head.classes) for name, head in heads.items()},
            {name: head.multi_label for name, head in heads.items()},
        )
    multi_label = {args.head: args.multi_label}
    if args.classes:
        return {args.head: _read_names(args.classes)}, multi_label
    if args.num_classes is not None:
        if args.num_classes < 1:
            raise UserError(f"--num-classes {args.num_classes} must be 1 or more")
        return {args.head: [str(number) for number in range(args.num_classes)]}, multi_label
    return None, multi_label


def _read_names(file: Path) -> list[str]:
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--classes {file} can't be read ({type(error).__name__}): give a text file, one name a line"
        ) from None
    while names and not names[-1]:
        names.pop()
    if not names or "" in names or len(set(names)) != len(names):
        raise UserError(f"--classes {file}: give one name per line, no empty or duplicate ones")
    return names
