"""`mml ensemble`: which networks go well together, from their score dumps alone."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mml_lightning.cli.arguments import add_scoring
from mml_lightning.cli.commands.score import SHOWN, dump_file
from mml_lightning.utils import terminal
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.plain_text import some_videos

if TYPE_CHECKING:
    from mml_lightning.evaluation.ensemble_members import EnsembleMember
    from mml_lightning.evaluation.ensembles import Ensembles, Row
    from mml_lightning.evaluation.metrics import Scoring
    from mml_lightning.evaluation.metrics.ensembles import Members
    from mml_lightning.evaluation.predictions import Predictions
    from mml_lightning.report.grid import Grid
    from mml_lightning.report.html import SortableTable

TOP = 20  # rows in the terminal; the files have all
MANY = 20_000  # more ensembles than anybody reads


def declare(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Ensembles of any networks from their score dumps, joined by video id: every pair, triple or choice of one per "
        "group, with the gain over the best single network, the oracle bound, how much the errors differ, and "
        "rank sums. A dump is [NAME=]RUN or FILE[:PEER]; without :PEER all its peers take part."
    )
    parser.add_argument("dumps", nargs="*", metavar="DUMP", help="[NAME=]PATH[:PEER]; PATH is a run directory or .npz")
    parser.add_argument(
        "--group",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "DUMP"),
        help="a group of dumps; repeat it: an ensemble takes one from each group",
    )
    parser.add_argument(
        "--one-per-modality", action="store_true", help="make the groups from the names of the peers: rgb, flow, .."
    )
    parser.add_argument(
        "--sizes", type=_sizes, metavar="2,3", help="without groups: ensemble sizes (default: pairs, and all)"
    )
    add_scoring(parser)
    parser.add_argument("--metric", help="to sort by (default: top1, or map with several labels per video)")
    parser.add_argument(
        "--search",
        choices=("val", "fold"),
        help="search the weights: on the val dumps, or on a held-out share of the videos",
    )
    parser.add_argument("--fold", type=float, default=0.5, metavar="SHARE", help="with --search fold (default: 0.5)")
    parser.add_argument("--intersect", action="store_true", help="use only videos that all networks scored")
    parser.add_argument("--top", type=int, default=TOP, metavar="N", help=f"rows shown (default: {TOP})")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write ensembles.md, .csv, .json and .html there")


def run(args: argparse.Namespace) -> None:
    """Raises:
    UserError: no dump, dumps that don't fit together, or an unknown choice.
    """
    from mml_lightning.evaluation import ensembles
    from mml_lightning.utils.progress import Progress

    members = _members(args)
    chosen = _chosen(members, args)
    scoring = _scoring(members[0], args)
    with Progress(len(chosen), "weights", unit="ensemble", quiet=args.search is None) as progress:
        found = ensembles.measure_ensembles(
            members,
            chosen,
            metric=args.metric,
            scoring=scoring,
            weights=args.weights,
            search=args.search,
            fold=args.fold,
            intersect=args.intersect,
            advance=progress.advance,
        )
    grids = tables(found)
    terminal.show("\n".join(grid.markdown(args.top) for grid in grids))
    if args.out:
        print("wrote " + ", ".join(map(str, save(found, grids, args.out))))


def _sizes(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _members(args: argparse.Namespace) -> list[EnsembleMember]:
    """The members that were named, each with a name of its own."""
    from mml_lightning.evaluation.ensemble_members import EnsembleMember

    if args.search and args.weights:
        raise UserError("--weights and --search exclude each other: use one")
    if args.group and (args.dumps or args.one_per_modality or args.sizes):
        raise UserError("--group makes the ensembles: leave out further dumps, --one-per-modality and --sizes")
    given = [("", text) for text in args.dumps] + [(g[0], text) for g in args.group for text in g[1:]]
    found = [(group, *part) for group, text in given for part in _parts(text, args)]
    if len(found) < 2:
        raise UserError("an ensemble needs two networks or more; give more dumps, or one with several peers")
    peers = [peer for _, _, _, peer, _, _ in found]
    members = []
    for group, label, folder, peer, dump, held in found:
        name = label or (peer if peers.count(peer) == 1 else f"{folder}:{peer}")
        group = group or (re.sub(r"_\d+$", "", peer) if args.one_per_modality else "")
        members.append(EnsembleMember(name, dump, peer, group, held))
    return members


def _parts(text: str, args: argparse.Namespace) -> list[tuple[str, str, str, Predictions, Predictions | None]]:
    """(name if one was given, folder of the run, peer, dump, held-out dump) of every peer that `text` means."""
    from mml_lightning.evaluation import predictions
    from mml_lightning.evaluation.metrics import FUSED

    name, place, peer = split_name(text)
    file = dump_file(place, args.split)
    dump = predictions.load(file)
    held = None
    if args.search == "val":
        held = predictions.load(dump_file(place, "val") if place.is_dir() else _beside(file, dump.split))
    if peer and peer not in dump.logits:
        raise UserError(f"{file} has no peer {peer}; it has {', '.join(dump.logits)}")
    folder = (place if place.is_dir() else file.parent.parent).resolve().name
    wanted = [peer] if peer else [name for name in dump.logits if name != FUSED]
    names = {one: name and (name if len(wanted) == 1 else f"{name}:{one}") for one in wanted}
    return [(names[one], folder, one, dump, held) for one in wanted]


def split_name(text: str) -> tuple[str, Path, str]:
    """NAME, PATH and PEER of [NAME=]PATH[:PEER]. Paths may have = and : themselves, so what exists is a path."""
    for start in [0, *(found.end() for found in re.finditer("=", text))]:
        rest = text[start:]
        for end in [len(rest), *(found.start() for found in re.finditer(":", rest))]:
            if os.path.exists(rest[:end]):
                return text[: max(start - 1, 0)], Path(rest[:end]), rest[end + 1 :]
    return "", Path(text), ""


def _beside(file: Path, split: str) -> Path:
    """The val dump of the same run and head."""
    if file.stem != split and not file.stem.startswith(f"{split}_"):
        raise UserError(f"{file} is not named after its split {split}, so its val dump is unknown; use --search fold")
    return file.with_name(f"val{file.stem.removeprefix(split)}.npz")


def _chosen(members: Sequence[EnsembleMember], args: argparse.Namespace) -> list[Members]:
    from mml_lightning.evaluation.ensembles import one_per_group, subsets

    if args.group or args.one_per_modality:
        chosen = one_per_group([member.group for member in members])
        if len(chosen[0]) < 2:
            raise UserError(f"all networks are in one group, {members[0].group}; name two groups, or leave it out")
    else:
        sizes = args.sizes or sorted({2, len(members)})
        wrong = next((size for size in sizes if not 2 <= size <= len(members)), None)
        if wrong is not None:
            raise UserError(f"--sizes {wrong}: an ensemble has 2 to {len(members)} of these networks")
        chosen = subsets(len(members), sizes)
    if len(chosen) > MANY:
        raise UserError(f"{len(chosen)} ensembles are too many (at most {MANY}); give fewer dumps or smaller --sizes")
    return chosen


def _scoring(first: EnsembleMember, args: argparse.Namespace) -> Scoring:
    choices = {"pooling": args.pooling, "ensemble": args.ensemble}
    try:
        return replace(first.dump.scoring, **{key: value for key, value in choices.items() if value is not None})
    except ValueError as error:
        raise UserError(str(error)) from None


def tables(found: Ensembles) -> list[Grid]:
    """The networks, the ensembles, and the sums of ranks."""
    from mml_lightning.report.grid import Grid

    return [
        Grid("Networks", *_columns(found.singles, found), {"q": 3}, _about(found)),
        Grid(
            "Ensembles",
            *_columns(found.rows, found),
            {"q": 3, "position": 1},
            [
                f"gain: {found.metric} over the best of the members; oracle: "
                + ("each class by its best member" if "map" in found.singles[0].metrics else "one member is right"),
                "disagreement: exactly one of two members is right; q: Yule's Q, 1 for the same errors, 0 "
                "for independent ones (means over pairs)",
            ],
        ),
        _ranks(found),
    ]


def _columns(rows: Sequence[Row], found: Ensembles) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and cells of networks or ensembles."""
    alone = rows is found.singles
    uneven = any(len(set(row.weights)) > 1 for row in rows)
    cells = []
    for row in rows:
        cell: dict[str, Any] = {} if alone else {"position": row.position}
        names = " + ".join(row.members)
        if uneven:
            names = " + ".join(f"{w:.3g} x {m}" for w, m in zip(row.weights, row.members, strict=True))
        cell |= {"network" if alone else "ensemble": names, **row.metrics}
        if not alone:
            cell |= {"gain": row.gain, "oracle": row.oracle, "disagreement": row.disagreement, "q": row.q}
        elif any(found.groups.values()):
            cell["group"] = found.groups[row.members[0]]
        cells.append(cell)
    return list(cells[0]), cells


def _ranks(found: Ensembles) -> Grid:
    """Sums of positions as in Table 13 of the paper, smallest first within each group."""
    from mml_lightning.report.grid import Grid

    counts = {name: sum(name in row.members for row in found.rows) for name in found.groups}
    order = {group: place for place, group in enumerate(dict.fromkeys(found.groups.values()))}
    rows: list[dict[str, Any]] = [
        {"group": group or None, "network": name, "sum of positions": found.rank_sums[name], "ensembles": counts[name]}
        for name, group in sorted(found.groups.items(), key=lambda item: (order[item[1]], found.rank_sums[item[0]]))
    ]
    grouped = any(found.groups.values())
    columns = ["group", "network", "sum of positions", "ensembles"][0 if grouped else 1 :]
    total = len(found.rows) * (len(found.rows) - 1) // 2
    notes = [
        f"positions count from 0 in the order of {found.metric}; equal ensembles share the mean of theirs; "
        + (f"each group sums to {total}" if grouped else f"the positions sum to {total}")
    ]
    return Grid("Sums of ranks", columns, rows, {"sum of positions": 1}, notes)


def _about(found: Ensembles) -> list[str]:
    """What the numbers are about, and what is in none of them."""
    how = f"views pooled by {found.scoring.pooling}, ensembles of {found.scoring.ensemble}"
    lines = [f"{found.videos} videos; {how}; percent"]
    if found.searched:
        lines.append(f"weights searched on {found.searched} other videos")
    lines += [f"{name} lacks {some_videos(ids, SHOWN)}: not counted" for name, ids in found.missing.items()]
    return lines + found.notes


def save(found: Ensembles, grids: Sequence[Grid], out: Path) -> list[Path]:
    """Write ensembles.md, .csv, .json and .html; returns their paths.

    Raises:
        UserError: they can't be written.
    """
    from mml_lightning.report.html import grid_table, tables_page
    from mml_lightning.utils.files import write_atomically
    from mml_lightning.utils.result_file import write_json

    texts = {
        "ensembles.md": "\n".join(grid.markdown() for grid in grids),
        "ensembles.csv": grids[1].csv(),
        "ensembles.html": tables_page("Ensembles", [*map(grid_table, grids), _matrix(found)]),
    }
    try:
        for name, text in texts.items():
            with write_atomically(out / name) as handle:
                handle.write(text)
        write_json(out / "ensembles.json", {"schema": 1, **asdict(found)})
    except OSError as error:
        raise UserError(f"can't write the ensembles to {out}: {error.strerror or error}") from None
    return [out / f"ensembles.{kind}" for kind in ("md", "csv", "json", "html")]


def _matrix(found: Ensembles) -> tuple[str, SortableTable, list[str]]:
    """Every two networks as a table of the page: disagreement above, Q below the diagonal."""
    from mml_lightning.report.html import SortableTable, Td

    names = [row.members[0] for row in found.singles]
    rows = []
    for a, name in enumerate(names):
        cells = [Td(name, name)]
        for b in range(len(names)):
            value = found.disagreement[a][b] if a < b else found.q[a][b]
            text = "" if a == b else f"{value:.2f} %" if a < b else f"{value:.3f}"
            cells.append(Td(None if a == b else value, text))
        rows.append(cells)
    return "Pairs", SortableTable(["", *names], rows), ["above the diagonal: disagreement; below: Q"]
