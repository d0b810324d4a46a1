"""How long every choice of one network per group takes, against one ensemble after the other; how much memory."""

from __future__ import annotations

import itertools
import math
import time
from typing import Any

import torch

from mml_lightning.benchmarks.tables import BenchTable
from mml_lightning.evaluation.ensemble_members import EnsembleMember
from mml_lightning.evaluation.ensembles import enumerate_ensembles
from mml_lightning.evaluation.metrics import DEFAULT
from mml_lightning.evaluation.metrics import measure as metrics_of
from mml_lightning.evaluation.metrics.pooling import ensemble, pool_views
from mml_lightning.evaluation.predictions import Predictions
from mml_lightning.utils.device import peak_memory
from mml_lightning.utils.threads import one_thread

CPU = torch.device("cpu")


def measure(groups: list[int], videos: int, classes: int, plain: int) -> dict[str, Any]:
    """What :func:`told` tells. The networks share part of their noise, as networks share mistakes."""
    members = _members(groups, videos, classes)
    before = peak_memory(CPU)
    wall, cpu = time.perf_counter(), time.process_time()
    found = enumerate_ensembles(members)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = peak_memory(CPU)
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
        "groups": groups,
        "videos": videos,
        "classes": classes,
        "ensembles": len(found.rows),
        "seconds": wall,
        "cpu_seconds": cpu,
        "plain": min(plain, len(found.rows)),
        "plain_seconds": each * len(found.rows),
        "scores_mb": sum(groups) * videos * classes * 4 / 1e6,
        "more_mb": (peak - before) / 1e6,
        "rank_sums": sums,
        "identity": len(found.rows) * (len(found.rows) - 1) // 2,
    }


def _members(groups: list[int], videos: int, classes: int) -> dict[str, list[EnsembleMember]]:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(classes, (videos,), generator=generator)
    ids = tuple(map(str, range(videos)))
    names = tuple(map(str, range(classes)))
    common = torch.randn(videos, 1, classes, generator=generator)
    common.scatter_add_(2, target[:, None, None], torch.full((videos, 1, 1), 2.5))
    made: dict[str, list[EnsembleMember]] = {}
    for place, count in enumerate(groups):
        made[f"group{place}"] = [
            EnsembleMember(
                f"{place}.{number}",
                Predictions(ids, target, {"net": common + torch.randn(videos, 1, classes, generator=generator)}, names),
            )
            for number in range(count)
        ]
    return made


def told(found: dict[str, Any]) -> BenchTable:
    """The table of :func:`measure`."""
    groups = " x ".join(map(str, found["groups"]))
    ratio = found["plain_seconds"] / found["seconds"]
    rows = [
        {"way": "enumerated", "seconds": found["seconds"], "cpu_seconds": found["cpu_seconds"], "vs_first": 1.0}
        | {"scores_mb": found["scores_mb"], "more_mb": found["more_mb"]},
        {"way": f"one after another, from {found['plain']}", "seconds": found["plain_seconds"], "vs_first": ratio},
    ]
    sums = ", ".join(f"{total:.0f}" for total in found["rank_sums"])
    sentence = (
        f"{found['ensembles']} ensembles of {groups} networks, {found['videos']} videos x {found['classes']} classes; "
        f"sums of positions per group: {sums} (n (n - 1) / 2 = {found['identity']}); their number is the bottleneck: "
        "fewer networks per group"
    )
    return BenchTable(rows, sentence, more=found)
