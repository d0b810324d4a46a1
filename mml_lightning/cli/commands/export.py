"""`mml export`: one network as a folder that works without this package."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mml_lightning.cli.arguments import add_networks
from mml_lightning.utils.errors import UserError

if TYPE_CHECKING:
    from mml_lightning.config.settings import Settings
    from mml_lightning.data.records.records import Dataset, Record

FORMATS = ("onnx", "torch", "safetensors")
CLIPS = 5  # videos on which it is checked


def declare(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Writes a folder with the network of one peer (uint8 clips in, logits out, any number of clips), "
        "preprocess.json, the classes, a model card, and infer.py, which needs numpy, PyAV and the runtime only. It is "
        "compared with the network here on real clips, and refused where it differs."
    )
    add_networks(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="a new folder")
    parser.add_argument("--peer", help="which network; needed where there are several")
    parser.add_argument("--format", default="onnx", choices=FORMATS, help="onnx (default), torch or safetensors")
    parser.add_argument(
        "--clips", nargs="+", metavar="SOURCE", help=f"videos to check with, {CLIPS} are taken (default: the run's val)"
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="of onnx: also in 8 bits, calibrated on the run's train and measured on val and test",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an exported network of this name")


def run(args: argparse.Namespace) -> None:
    """Raises:
    UserError: a wrong option, nothing to load or to check with, or the network can't be exported exactly.
    """
    from mml_lightning.engine.portable import package, program
    from mml_lightning.engine.portable.card import accuracy_lines
    from mml_lightning.engine.predict import Predictor, heads_of, networks_of

    if args.int8 and args.format != "onnx":
        raise UserError("--int8 goes with --format onnx")
    logging.getLogger().setLevel(logging.WARNING)
    package.check_place(args.out, args.overwrite)
    words = [*args.set, *([f"views={args.views}"] if args.views else [])]
    cfg, entries = networks_of(args.ckpt, [args.peer] if args.peer else None, words)
    if len(entries) > 1:
        raise UserError(f"{args.ckpt} holds {', '.join(entries)}: choose one with --peer")
    predictor = Predictor.of(cfg, entries, heads_of(entries))
    ((name, entry),) = entries.items()
    videos = _videos(cfg, args.clips)
    print(f"exporting {name} of {args.ckpt} as {args.format}, checked on {len(videos)} videos", flush=True)
    if predictor.flow is not None:
        flow = predictor.flow.settings
        print(
            f"it takes flow of {flow.algorithm} ({flow.preset}), as mml predict computes it; infer.py takes .npy files"
        )
    data = _labelled(cfg) if args.int8 else None
    found = package.export(predictor, entry, args.format, args.out, videos, args.overwrite, data)
    print(
        f"logits of clips differ by {found['worst']:.1e} at most, those of infer.py on videos by "
        f"{found['worst_of_video']:.1e}; the same five best classes for {found['same_top5']} of {found['videos']}"
    )
    print(f"one clip on one thread: {found['ms']:.1f} ms, as torch computes it here {found['eager_ms']:.1f} ms")
    if small := found.get("int8"):
        print(f"in 8 bits {small['bytes'] / 1e6:.1f} MB, {small['ms']:.1f} ms", *accuracy_lines(small), sep="; ")
    example = program.EXAMPLE[predictor.distinct[0].source]
    print(f"wrote {args.out} ({found['bytes'] / 1e6:.1f} MB); try it: python {args.out / program.FILE} {example}")


def _labelled(cfg: Settings) -> Dataset:
    """The videos of the run."""
    from mml_lightning.config import data as config_data

    try:
        return config_data.dataset(cfg, ["train", "val"])
    except UserError as error:
        raise UserError(f"--int8 needs the data of the run: {error}") from None


def _videos(cfg: Settings, named: Sequence[str] | None) -> list[Record]:
    """Some videos to check with: those that are named, else of the run's own data."""
    from mml_lightning.config import data as config_data
    from mml_lightning.data.records.readers.named import read_named

    if named:
        return read_named(named).records[:CLIPS]
    try:
        own: Any = config_data.dataset(cfg, ["val"]).splits["val"]
        found = [record for record in own[:CLIPS] if isinstance(record.media.get("frames"), Path)]
    except UserError as error:
        raise UserError(f"no videos of the run to check with ({error}); name some: --clips <folder>") from None
    if not found:
        raise UserError("the run's data are no video files: name some to check with: --clips <folder>")
    return found
