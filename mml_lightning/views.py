"""Scores of a split, keyed by video: collected over steps and ranks, pooled over views, dumped, measured.

Legend: N videos, V views, K classes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multilabel_average_precision

POOLINGS = ("logits", "probs", "max")
ENSEMBLE = "ensemble"


def pool_views(logits: Tensor, pooling: str = "logits", multi_label: bool = False) -> Tensor:
    """Log-probabilities (or log-sigmoids) of videos [N, K] from per-view logits [N, V, K].

    `logits` averages before the activation (TSM and MML), `probs` after it, `max` takes the largest score over the
    views (Charades).

    Raises:
        ValueError: unknown pooling.
    """
    activation = F.logsigmoid if multi_label else lambda x: F.log_softmax(x, dim=-1)
    if pooling == "logits":
        return activation(logits.mean(dim=1))
    if pooling == "probs":
        return activation(logits).exp().mean(dim=1).log()
    if pooling == "max":
        return activation(logits).max(dim=1).values
    raise ValueError(f"views.pooling={pooling!r} is unknown; use one of {list(POOLINGS)}")


def ensemble(scores: Sequence[Tensor]) -> Tensor:
    """Mean of the peers' probabilities, as logs [N, K]: unlike logits they weigh peers alike whatever their scale.

    A peer without a score for a video (NaN: its modality is absent) is left out of that video's mean.
    """
    return torch.stack(list(scores)).exp().nanmean(dim=0).log()


def classification_metrics(scores: Tensor, target: Tensor) -> dict[str, float]:
    """Percent metrics of log-scores [N, K]: top1, top5 (K > 5), mean_class; map for multi-hot targets [N, K]."""
    classes = scores.shape[1]
    if target.ndim == 2:
        precision = multilabel_average_precision(scores.exp(), target.int(), num_labels=classes, average="none")
        assert isinstance(precision, Tensor)
        known = target.sum(dim=0) > 0  # a class without a positive has no average precision
        return {"map": 100.0 * float(precision[known].mean())}
    result = {"top1": 100.0 * float(multiclass_accuracy(scores, target, num_classes=classes, average="micro"))}
    if classes > 5:
        result["top5"] = 100.0 * float(
            multiclass_accuracy(scores, target, num_classes=classes, top_k=5, average="micro")
        )
    per_class = multiclass_accuracy(scores, target, num_classes=classes, average="none")
    result["mean_class"] = 100.0 * float(per_class[torch.bincount(target, minlength=classes) > 0].mean())
    result["loss"] = float(F.nll_loss(scores, target))
    return result


@dataclass
class Scores:
    """Per-view logits of every peer for the videos of one split and one head, by dataset index.

    Args:
        ids: id of every record of the split, in dataset order.
    """

    ids: Sequence[str]
    multi_label: bool = False
    rows: dict[int, tuple[dict[str, np.ndarray], np.ndarray]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def add(
        self, index: Tensor, logits: Mapping[str, Tensor], target: Tensor, present: Mapping[str, Tensor] | None = None
    ) -> None:
        """Keep a batch: `index` [B], `logits` {peer: [B, V, K]}, `target` [B] or [B, K]; repeats count once.

        Where `present` {peer: [B] bool} is False the logits become NaN: the peer has not seen the video.
        """
        host = {peer: value.detach().float().cpu().numpy() for peer, value in logits.items()}
        for peer, seen in (present or {}).items():
            host[peer] = np.where(seen.cpu().numpy()[:, None, None], host[peer], np.float32("nan"))
        labels = target.cpu().numpy()
        for row, key in enumerate(index.tolist()):
            self.rows[key] = ({peer: value[row] for peer, value in host.items()}, labels[row])

    def gather(self) -> None:
        """Make every rank hold the rows of all ranks."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return
        parts: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, (self.rows, self.failures))
        for rows, failures in parts:
            self.rows.update(rows)
            self.failures.update(failures)

    def logits(self) -> dict[str, Tensor]:
        """{peer: float32 [N, V, K]} in dataset order."""
        keys = sorted(self.rows)
        peers = self.rows[keys[0]][0] if keys else {}
        return {peer: torch.from_numpy(np.stack([self.rows[key][0][peer] for key in keys])) for peer in peers}

    def target(self) -> Tensor:
        return torch.from_numpy(np.stack([self.rows[key][1] for key in sorted(self.rows)]))

    def metrics(self, pooling: str = "logits") -> dict[str, dict[str, float]]:
        """{peer: metrics over the videos it has seen} and, with several peers, {"ensemble": metrics}."""
        if not self.rows:
            return {}
        pooled = {peer: pool_views(value, pooling, self.multi_label) for peer, value in self.logits().items()}
        if len(pooled) > 1:
            pooled[ENSEMBLE] = ensemble(list(pooled.values()))
        target = self.target()
        seen = {peer: ~scores.isnan().any(dim=1) for peer, scores in pooled.items()}
        return {p: classification_metrics(s[seen[p]], target[seen[p]]) for p, s in pooled.items() if seen[p].any()}

    def save(self, path: Path) -> None:
        """Write `ids` [N], `target` and `logits/<peer>` float32 [N, V, K] as an .npz that loads without pickle."""
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {f"logits/{peer}": value.numpy() for peer, value in self.logits().items()}
        ids = np.array([self.ids[key] for key in sorted(self.rows)])
        temporary = path.with_name(f".{path.name}.tmp")
        with temporary.open("wb") as handle:
            np.savez_compressed(handle, **{"ids": ids, "target": self.target().numpy(), **arrays})  # type: ignore[arg-type]
        os.replace(temporary, path)
