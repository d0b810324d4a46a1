"""`mml pack`: the data of a config to a pack. Imports what it needs when it runs, so that `mml --help` is instant."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mml_lightning.config.settings import Settings
    from mml_lightning.data.packs.packing import Packed, Packer, Wish
    from mml_lightning.data.packs.verify import Verdict

LISTED = 20  # videos that are named on the terminal; the manifest names all


def declare(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Encoded frames and flow of a dataset in a few ZIP files, with its labels and splits, for fast random access: "
        "train on it with data=pack data.root=DIR. Overrides are those of train.py; the modalities decide what is "
        "packed: modality=[rgb,flow]. Flow comes from its files, from the flow cache, or is computed. An interrupted "
        "call continues when the same command is run again. Videos that can't be read are listed and skipped. "
        "Exit code 1 if --verify finds a difference, 2 for a wrong command."
    )
    parser.add_argument("overrides", nargs="+", metavar="KEY=VALUE", help="data and modalities, as for train.py")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the pack")
    parser.add_argument(
        "--short-side", type=int, default=256, metavar="PX", help="reduce larger frames (default: 256; 0: keep sizes)"
    )
    parser.add_argument("--flow-short-side", type=int, default=128, metavar="PX", help="of flow (default: 128)")
    parser.add_argument("--quality", type=int, default=90, metavar="N", help="JPEG quality of frames (default: 90)")
    parser.add_argument(
        "--flow-quality", type=_quality, default=90, metavar="N|png", help="JPEG quality of flow, or png: no loss"
    )
    parser.add_argument("--audio", action="store_true", help="also the audio streams of the videos, copied as they are")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--shards", type=int, default=0, metavar="N", help="number of files")
    size.add_argument("--shard-size", type=int, default=1000, metavar="MB", help="size of a file (default: 1000)")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="files written at a time (default: cores)"
    )
    parser.add_argument("--keep-flow", action="store_true", help="also keep computed flow in the flow cache")
    parser.add_argument("--verify", action="store_true", help="then compare every image with its source")


def _quality(text: str) -> int | str:
    return text if text == "png" else int(text)


def run(args: argparse.Namespace, compose: Callable[[Sequence[str]], Settings]) -> None:
    """Raises:
    UserError: the config, a number or the folder is wrong.
    """
    from mml_lightning.data.packs.encode import Coding
    from mml_lightning.data.packs.packing import Wish
    from mml_lightning.data.packs.verify import verify

    logging.getLogger().setLevel(logging.INFO)  # progress without a terminal
    coding = Coding(args.short_side, args.quality, args.flow_short_side, args.flow_quality)
    wish = Wish((), coding, args.shards, args.shard_size, args.workers, tuple(args.overrides), args.keep_flow)
    packer = prepare(compose(args.overrides), args.out, wish, ("audio",) if args.audio else ())
    with _progress("pack") as begin:
        packed = packer.run(begin)
    print("\n".join(lines(packed, args.out)))
    if args.verify:
        with _progress("verify") as begin:
            verdict = verify(packer, begin)
        print("\n".join(verdict_lines(verdict)))
        if verdict.wrong:
            sys.exit(1)


def prepare(cfg: Settings, out: Path, wish: Wish, more: Sequence[str] = ()) -> Packer:
    """What will be packed of a config: all records of its data, the sources of its modalities and `more`.

    Raises:
        UserError: the config or the data are wrong.
    """
    import dataclasses

    from mml_lightning.config import data as config_data
    from mml_lightning.data import check
    from mml_lightning.data.loading.sources import SOURCES, SourceOpener
    from mml_lightning.data.packs.packing import Packer
    from mml_lightning.data.records.records import SPLITS, validate
    from mml_lightning.utils.errors import UserError

    chosen = config_data.modalities(cfg)
    sources = {modality.source for modality in chosen.values()}
    if foreign := sorted(sources - set(SOURCES)):
        raise UserError(f"mml pack packs {', '.join(SOURCES)}, not {foreign[0]}: leave out its modality")
    found = config_data.records(cfg)
    file = config_data.check_folder(cfg) / check.FILE
    data = check.with_check(found, file, sources, config_data.leaves_out(cfg))
    validate(data, [split for split in SPLITS if data.splits.get(split)], labelled=False)
    if any(record.span is not None for records in data.splits.values() for record in records):
        sources.add("frames")  # whose clock places the spans
    opener = SourceOpener(cfg.data.decoder, config_data.flow_cache(cfg, chosen), indexes=config_data.indexes(cfg))
    return Packer(data, opener, out, dataclasses.replace(wish, sources=tuple(sorted(sources.union(more)))))


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int], Callable[[], object]]]:
    from mml_lightning.utils.progress import Progress

    with ExitStack() as stack:

        def begin(videos: int) -> Callable[[], object]:
            print(f"{what}: {videos} videos", flush=True)
            return stack.enter_context(Progress(videos, what)).advance

        yield begin


def lines(packed: Packed, out: Path) -> list[str]:
    """What `mml pack` prints."""
    told = packed.manifest
    failed = told["failed"]
    dropped = [f"dropped {packed.dropped} bytes of an interrupted video"] if packed.dropped else []
    named = [f"  {one['id']} ({one['source']}): {one['reason']}" for one in failed[:LISTED]]
    rest = [f"  and {len(failed) - LISTED} more: see {out / 'manifest.json'}"] if len(failed) > LISTED else []
    summary = [f"{len(failed)} sources of videos could not be read and are skipped:", *named, *rest] if failed else []
    files = f"{told['shards']} file{'s' if told['shards'] > 1 else ''}"
    return [
        *dropped,
        *summary,
        f"{out}: {told['videos']} videos, {told['bytes'] / 1e6:.1f} MB in {files}; "
        f"train on it with data=pack data.root={out}",
    ]


def verdict_lines(verdict: Verdict) -> list[str]:
    """What `--verify` prints."""
    equal = verdict.images - verdict.different
    first = [f"  {identity}: {reason}" for identity, reason in verdict.wrong[:LISTED]]
    if not verdict.wrong:
        return [f"verified: {verdict.images} images, {equal} byte-identical, the others pixel-identical"]
    videos = len({identity for identity, _ in verdict.wrong})
    what = "1 video differs" if videos == 1 else f"{videos} videos differ"
    return [f"{what} from the source:", *first, "pack again into another folder"]
