"""What a video costs where peers are skipped: multiply-adds at the true shapes, counted on the meta device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mml_lightning.backbones.cost import cost
from mml_lightning.config import data
from mml_lightning.config.settings import Settings
from mml_lightning.fusion import cost as formula
from mml_lightning.fusion.policy import Policy
from mml_lightning.modalities import Modality
from mml_lightning.training.measuring import MeasuredPeers


def fields(cfg: Settings, cohort: MeasuredPeers, metrics: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """For `result.json`: `cost`, the GFLOPs of a video by its selection rates, beside those of all peers in all
    segments; empty of runs without a gate, or where nothing was measured.

    Args:
        metrics: with `<prefix>/use_<peer>`, the selection rates.
    """
    rates = {name: metrics[f"{prefix}/use_{name}"] for name in cohort.peers if f"{prefix}/use_{name}" in metrics}
    if cohort.gate is None or len(rates) < len(cohort.peers):
        return {}
    segments = int(cfg.views.clips)
    shapes = {m.name: _shape(cfg, m) for m in (*cohort.modalities.values(), *cohort.proxies.values())}
    stft = {m.name: _spectrogram(m, shapes[m.name][0]) for m in cohort.modalities.values()}
    main = {
        name: cost(peer, (1, *shapes[cohort.modalities[name].name])).multiply_adds + stft[cohort.modalities[name].name]
        for name, peer in cohort.peers.items()
    }
    seen, behind = _policy(cohort.gate, shapes) if isinstance(cohort.gate, Policy) else ({}, 0)
    plain = {name: float(rate) for name, rate in rates.items()}
    told = {
        "segments": segments,
        "rates": plain,
        "main": main,
        "policy": {**seen, "behind": behind},
        "gflops": formula.gflops(segments, plain, main, seen, behind),
        "gflops_always_on": formula.gflops(segments, dict.fromkeys(main, 1.0), main),
    }
    try:
        looks_at = cohort.gate.seen_through or None
        told["gflops_published"] = formula.published_gflops(segments, plain, looks_at)
    except ValueError:  # nothing is published of these modalities
        told["gflops_published"] = None
    return {"cost": told}


def _shape(cfg: Settings, modality: Modality) -> tuple[int, ...]:
    """[T, C, H, W] of a segment as a network sees it."""
    size = (int(cfg.transforms.output),) * 2
    segment = data.sources(cfg)[modality.source].segment(modality, size)[0]
    return (int(cfg.sampling.num_segments), *modality.input_shape(segment))


def _spectrogram(modality: Modality, count: int) -> int:
    """Of all spectrograms of a segment."""
    made = modality.preparation.spectrogram
    return 0 if made is None else count * formula.stft_operations(made.n_fft, made.shape[1], made.mels)


def _policy(gate: Policy, shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, int], int]:
    """Of each network of a policy, and of what stands behind them, per segment."""
    seen = {}
    for name, trunk in gate.trunks.items():
        reduced = gate.reduced(name, torch.empty(1, 1, *shapes[name], device="meta")).flatten(0, 1)
        seen[name] = cost(trunk, tuple(reduced.shape)).multiply_adds
    layers = [gate.joint, gate.heads, *([gate.lstm] if gate.lstm is not None else [])]
    behind = sum(p.numel() for layer in layers for p in layer.parameters() if p.ndim == 2)
    return seen, behind
