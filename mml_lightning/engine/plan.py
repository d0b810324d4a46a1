"""What a run will do, a line per noun, before it does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mml_lightning.config import backbones, limits
from mml_lightning.config.settings import Settings
from mml_lightning.config.training import batch_norm_settings
from mml_lightning.data.records import chance
from mml_lightning.data.records.decoder import frames_reader
from mml_lightning.data.records.records import Dataset
from mml_lightning.objectives import drawing
from mml_lightning.sampling import independent
from mml_lightning.training.phases import Phase
from mml_lightning.training.phases import describe as describe_phase
from mml_lightning.utils.progress import counted


def describe(
    cfg: Settings,
    data: Dataset,
    phases: Sequence[Phase],
    parameters: Mapping[str, int],
    provenance: Mapping[str, Mapping[str, Any]],
    computed: str = "",
    fused: str = "",
    limited: Sequence[str] = (),
    monitored: Sequence[str] = (),
) -> list[str]:
    """One line per noun of the run.

    Args:
        fused: how their outputs become one.
        computed: how the networks are computed, see :meth:`mml_lightning.training.execution.StepSettings.apply`.
        limited: what will cut the training short.
        monitored: what the run is steered by, see :class:`mml_lightning.engine.monitors.Monitors`.
    """
    lines = {
        "run": f"{cfg.name}, seed {cfg.seed}",
        **_graphs(phases),
        "peers": ", ".join(f"{p} ({n / 1e6:.2f} M, {_origin(provenance[p])})" for p, n in parameters.items()),
        "fusion": fused,
        "backbone": ", ".join(filter(None, (backbones.label(cfg), batch_norm_settings(cfg).describe()))),
        "data": _data(cfg, data),
        "chance": chance.describe(data),
        "sample": _sample(cfg),
        "training": _training(cfg, len(data.splits["train"])),
        "views": _views(cfg),
        "device": f"{cfg.trainer.accelerator} x {cfg.trainer.devices}, {cfg.trainer.precision}, "
        f"{counted(torch.get_num_threads(), 'thread')}" + (f", {computed}" if computed else ""),
        "output": str(cfg.paths.output_dir),
    }
    if monitored:
        lines["monitors"] = "; ".join(monitored)
    if limited:
        lines["limited"] = f"{', '.join(limited)}: a trial run, its networks are not added to the zoo"
    return [f"{key:<9} {value}" for key, value in lines.items() if value]


def _graphs(phases: Sequence[Phase]) -> dict[str, str]:
    """Who learns from whom, in each phase."""
    if not phases[0].name:
        return {"graph": drawing.one_line(phases[0].objective)}
    return {
        f"phase {number}": f"{describe_phase(phase)}; {drawing.one_line(phase.objective)}"
        for number, phase in enumerate(phases, start=1)
    }


def _data(cfg: Settings, data: Dataset) -> str:
    counts = ", ".join(f"{len(rows)} {split}" for split, rows in data.splits.items())
    classes = ", ".join(
        f"{len(h.classes)} classes" + (" (multi-label)" if h.multi_label else "") for h in data.heads.values()
    )
    used = frames_reader(data, cfg.data.decoder)
    reduced = ", decoded at reduced size where crops allow" if cfg.transforms.reduced_decode == "auto" else ""
    reader = f"{used['name']} {used['version']}{reduced}, {counted(cfg.data.workers, 'worker')}"
    left_out = f" ({counted(len(data.left_out), 'unusable one')} left out of train: mml check)" if data.left_out else ""
    return "; ".join((f"{data.name}: {counts} videos{left_out}, {classes}", reader, *data.told))


def _sample(cfg: Settings) -> str:
    sampling, output = cfg.sampling, cfg.transforms.output
    own = "" if sampling.shared else ", one draw per modality"
    if sampling.shared and len(cfg.modality) > 1 and not independent(sampling.mode, sampling.policy):
        own = f"; sampling.policy={sampling.policy}: the frames of {' and '.join(cfg.modality)} depend on each other"
    mode = f"strided by {sampling.stride}" if sampling.mode in ("strided", "segments") else sampling.mode
    several = f"{counted(sampling.clips, 'segment')} of {counted(sampling.num_segments, 'window')}, {mode}"
    drawn = several if sampling.mode == "segments" else f"{sampling.num_segments} segments, {mode}"
    return f"{drawn} ({sampling.policy}), {output}x{output} px{own}"


def _training(cfg: Settings, videos: int) -> str:
    epochs, steps = limits.epochs(cfg), limits.batches(cfg, videos)
    planned = f" of {cfg.schedule.epochs}" if epochs < cfg.schedule.epochs else ""
    length = f"{epochs}{planned} epochs" if planned else counted(epochs, "epoch")
    batch = f"{length} x {counted(steps, 'step')} of {cfg.data.batch_size} videos"
    clip = cfg.optimizer.clip_norm
    norm = "not clipped" if clip is None else f"gradient norm of a peer <= {clip:g}"
    if cfg.phases:
        return f"{batch}, in {counted(len(cfg.phases), 'phase')}"
    loss = cfg.get("loss.name", "cross_entropy")
    return f"{batch}; lr {cfg.optimizer.lr:g}, {norm}" + ("" if loss == "cross_entropy" else f"; loss {loss}")


def _views(cfg: Settings) -> str:
    views = cfg.views
    size = cfg.transforms.short_side if views.full_resolution else cfg.transforms.output
    clips, crops = counted(views.clips, "clip"), counted(views.crops, "crop")
    return f"{views.name}: {clips} x {crops} of {size} px, pooled {views.pooling}"


def _origin(where: Mapping[str, Any]) -> str:
    head = ", new head" if where["fresh_head"] and where["path"] else ""
    told = where.get("provenance") or {}
    scores = told.get("metrics", {}).get("val", {})
    metric = next((f", val {scores[key]:.1f}" for key in ("top1", "map") if key in scores), "")
    parts = [counted(told[key], key[:-1]) for key in ("epochs", "steps") if told.get(key) is not None]
    cut = f", LIMITED by {' and '.join(told['limited'])}" if told.get("limited") else ""
    length = f": {', '.join(parts)}{cut}{metric}" if parts else ""
    return f"from {where['init']}{length}{head}"
