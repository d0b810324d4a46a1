"""`mml bench ensemble`: how long Table 13 takes, every choice of one network per modality, at the size of SSv2."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mml_lightning.errors import UserError

if TYPE_CHECKING:
    from mml_lightning.ensembles import Member

HELP = "all ensembles of one network per modality, synthetic scores of the size of SSv2"


def declare(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Time and memory of enumerating every ensemble of one network per group, on random scores, with one thread; "
        "beside it the plain way (`mml score`, one ensemble after the other) on a few of them. Trust the ratio."
    )
    parser.add_argument("--groups", type=_numbers, default=[13, 11, 6], metavar="N,N", help="networks (13,11,6)")
    parser.add_argument("--videos", type=int, default=24_777, metavar="N", help="videos (default: 24777)")
    parser.add_argument("--classes", type=int, default=174, metavar="N", help="classes (default: 174)")
    parser.add_argument("--plain", type=int, default=5, metavar="N", help="ensembles made the plain way (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers")


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def run(args: argparse.Namespace) -> None:
    """Raises:
    UserError: a number is out of range, or the file can't be written.
    """
    if min(*args.groups, args.videos, args.plain) < 1 or args.classes < 2:
        raise UserError("--groups, --videos and --plain start at 1, --classes at 2")
    told = measure(args.groups, args.videos, args.classes, args.plain)
    print(
        f"{told['ensembles']} ensembles of {' x '.join(map(str, args.groups))} networks, {args.videos} videos x "
        f"{args.classes} classes\n"
        f"enumerated       {told['seconds']:8.1f} s   (CPU {told['cpu_seconds']:.1f} s)\n"
        f"one after another{told['plain_seconds']:8.1f} s   (from {told['plain']} of them), "
        f"{told['plain_seconds'] / told['seconds']:.0f} times as long\n"
        f"memory           {told['scores_mb']:8.0f} MB of scores, {told['more_mb']:.0f} MB more at the peak\n"
        f"sums of positions per group: {', '.join(f'{total:.0f}' for total in told['rank_sums'])} "
        f"(n (n - 1) / 2 = {told['identity']})"
    )
    if args.json:
        try:
            args.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"can't write {args.json} ({error.strerror}); name another --json") from None


def measure(groups: list[int], videos: int, classes: int, plain: int) -> dict[str, Any]:
    """What the command prints. The networks share part of their noise, as networks share mistakes."""
    from mml_lightning.data.threads import one_thread
    from mml_lightning.ensembles import enumerate_ensembles
    from mml_lightning.metrics import DEFAULT
    from mml_lightning.metrics import measure as metrics_of
    from mml_lightning.metrics.pooling import ensemble, pool_views

    members = _members(groups, videos, classes)
    before = _peak()
    wall, cpu = time.perf_counter(), time.process_time()
    found = enumerate_ensembles(members)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = _peak()
    by_name = {member.name: member for group in members.values() for member in group}
    with one_thread():
        start = time.perf_counter()
        for row in itertools.islice(found.rows, plain):
            scores = [pool_views(by_name[name].logits) for name in row.members]
            again = metrics_of({"": ensemble(scores)}, by_name[row.members[0]].dump.target, False, DEFAULT)[""]
            if not math.isclose(again["top1"], row.metrics["top1"], abs_tol=1e-9):
                raise RuntimeError(f"{row.members}: {row.metrics['top1']} enumerated, {again['top1']} alone")
        each = (time.perf_counter() - start) / min(plain, len(found.rows))
    sums = [sum(found.rank_sums[member.name] for member in group) for group in members.values()]
    return {
        "ensembles": len(found.rows),
        "seconds": wall,
        "cpu_seconds": cpu,
        "plain": min(plain, len(found.rows)),
        "plain_seconds": each * len(found.rows),
        "scores_mb": sum(groups) * videos * classes * 4 / 1e6,
        "more_mb": peak - before,
        "rank_sums": sums,
        "identity": len(found.rows) * (len(found.rows) - 1) // 2,
    }


def _members(groups: list[int], videos: int, classes: int) -> dict[str, list[Member]]:
    import torch

    from mml_lightning.dumps import Dump
    from mml_lightning.ensembles import Member

    generator = torch.Generator().manual_seed(0)
    target = torch.randint(classes, (videos,), generator=generator)
    ids = tuple(map(str, range(videos)))
    names = tuple(map(str, range(classes)))
    common = torch.randn(videos, 1, classes, generator=generator)
    common.scatter_add_(2, target[:, None, None], torch.full((videos, 1, 1), 2.5))
    made: dict[str, list[Member]] = {}
    for place, count in enumerate(groups):
        made[f"group{place}"] = [
            Member(
                f"{place}.{number}",
                Dump(ids, target, {"net": common + torch.randn(videos, 1, classes, generator=generator)}, names),
            )
            for number in range(count)
        ]
    return made


def _peak() -> float:
    """Megabytes that the process has held at most (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
