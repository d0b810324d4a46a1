"""Ten lines that say what a run will do, before it does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig

from mml_lightning.data.decode import decoder_version
from mml_lightning.data.records import Dataset
from mml_lightning.objectives.graph import Objective


def describe(
    cfg: DictConfig,
    data: Dataset,
    objective: Objective,
    parameters: Mapping[str, int],
    provenance: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    """One line per noun of the run."""
    train = len(data.splits["train"])
    steps = train // cfg.data.batch_size
    counts = ", ".join(f"{len(rows)} {split}" for split, rows in data.splits.items())
    classes = ", ".join(
        f"{len(h.classes)} classes" + (" (several per video)" if h.multi_label else "") for h in data.heads.values()
    )
    views, sampling, optimizer = cfg.views, cfg.sampling, cfg.optimizer
    clips = views.uniform + views.dense
    size = cfg.transforms.short_side if views.full_resolution else cfg.transforms.output
    lines = {
        "run": f"{cfg.name}, seed {cfg.seed}",
        "graph": draw_graph(objective),
        "peers": ", ".join(f"{p} ({n / 1e6:.2f} M, {_origin(provenance[p])})" for p, n in parameters.items()),
        "backbone": cfg.backbone.name + (", partial BN" if cfg.partial_bn else ""),
        "data": f"{data.name}: {counts} videos, {classes}; {cfg.data.decoder} {decoder_version(cfg.data.decoder)}, {cfg.data.workers} workers",
        "sample": f"{sampling.num_segments} segments, {sampling.mode} ({sampling.policy}), {cfg.transforms.output}x{cfg.transforms.output} px"
        + ("" if sampling.shared else ", one draw per modality"),
        "training": f"{cfg.schedule.epochs} epochs x {steps} steps of {cfg.data.batch_size} videos; lr {optimizer.lr}, gradient norm of a peer <= {optimizer.clip_norm}",
        "views": f"{views.name}: {clips} clip{'s' * (clips > 1)} x {views.crops} crop{'s' * (views.crops > 1)} of {size} px, pooled {views.pooling}",
        "device": f"{cfg.trainer.accelerator} x {cfg.trainer.devices}, {cfg.trainer.precision}, {torch.get_num_threads()} threads",
        "output": str(cfg.paths.output_dir),
    }
    return [f"{key:<9} {value}" for key, value in lines.items()]


def draw_graph(objective: Objective) -> str:
    """labels -> rgb, flow;  rgb <- flow (kl);  flow <- rgb (kl)"""
    learners = [peer for peer in objective.peers if peer not in objective.frozen]
    parts = [f"labels -> {', '.join(learners)}"] if objective.supervised_weight else []
    for edge in objective.edges:
        weight = "" if edge.weight == 1 else f"{edge.weight:g} "
        parts.append(f"{edge.student} <- {'+'.join(edge.teachers)} ({weight}{edge.term})")
    return "; ".join(parts)


def _origin(where: Mapping[str, Any]) -> str:
    head = ", new head" if where["fresh_head"] and where["path"] else ""
    return f"from {where['init']}{head}"


def describe_failures(failures: Sequence[tuple[str, str]], what: str) -> str:
    """One line for a list of (id, reason)."""
    video, reason = failures[0]
    return f"{what}: {len(failures)} videos, first {video}: {reason}"
