"""Accuracy on the batches of training, on their device. Legend: B batch, K classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor


def accuracies(
    outputs: Mapping[str, Any],
    target: Mapping[str, Tensor],
    present: Mapping[str, Tensor] | None,
) -> Iterator[tuple[str, Tensor, int]]:
    """(`<peer>/top1`, percent, samples) of every peer and head with one label per video; `<peer>/<head>/top1` where
    there are several heads.

    Args:
        outputs: what the peers said, `logits` {head: [B, K]} each.
        target: per head, class indices [B]; heads with several labels per video are left out.
        present: per peer, [B] bool on the host: samples that have its modality; None: all do.
    """
    for head, labels in target.items():
        if labels.ndim > 1:
            continue
        for name, output in outputs.items():
            right = (output.logits[head].detach().argmax(dim=1) == labels).float()
            rows = len(labels)
            if present is not None:
                seen = present[name]
                rows = int(seen.sum())
                right = right[seen.nonzero().squeeze(1).to(right.device)]
            if rows:
                yield f"{name}/top1" if len(target) == 1 else f"{name}/{head}/top1", 100 * right.mean(), rows
