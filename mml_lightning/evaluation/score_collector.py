"""Scores of a split, keyed by video: collected over steps and ranks, then one :class:`predictions.Predictions`.

Legend: B batch, N videos, V views, K classes.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mml_lightning.evaluation.metrics import DEFAULT, Scoring
from mml_lightning.evaluation.predictions import Predictions
from mml_lightning.utils.distributed import gather_objects

IN_MEMORY = 256 * 2**20  # bytes of the scores of one peer; more are written to a file


@dataclass
class ScoreCollector:
    """Per-view logits of every peer for the videos of one split and one head, by dataset index.

    Args:
        ids: id of every record of the split, in dataset order.
        classes: class names; numbers where they are not given.
        split: name of the split.
        views: the `views` of the run, kept in the dump.
        folder: where scores that are many are written as they come, into a file that no longer exists when it is
            closed; they are read from there part by part. None: all stay in memory.
    """

    ids: Sequence[str]
    multi_label: bool = False
    classes: Sequence[str] = ()
    split: str = "test"
    scoring: Scoring = DEFAULT
    views: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    kept: dict[str, np.ndarray] = field(default_factory=dict, repr=False)  # [N, V, K] of each peer
    rows: dict[int, tuple[dict[str, np.ndarray], np.ndarray]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)  # measured as far as they decode: what is lost of each

    def add(
        self, index: Tensor, logits: Mapping[str, Tensor], target: Tensor, present: Mapping[str, Tensor] | None = None
    ) -> None:
        """Keep a batch: `index` [B], `logits` {peer: [B, V, K]}, `target` [B] or [B, K]; repeats count once.

        Where `present` {peer: [B] bool} is False the logits become NaN: the peer has not seen the video. A peer that
        has seen it and gives no finite number is a failure of that video, so that a network that diverged shows.
        """
        host = {peer: value.detach().float().cpu().numpy() for peer, value in logits.items()}
        for peer, value in host.items():
            finite = np.isfinite(value).all(axis=(1, 2))
            seen = present[peer].cpu().numpy() if present else np.ones_like(finite)
            for bad in np.flatnonzero(seen & ~finite).tolist():
                self.failures[self.ids[int(index[bad])]] = f"{peer} gives no finite scores; the network has diverged"
            host[peer] = np.where((seen & finite)[:, None, None], value, np.float32("nan"))
        labels = target.cpu().numpy()
        for row, key in enumerate(index.tolist()):
            self.rows[key] = ({peer: self._keep(peer, key, value[row]) for peer, value in host.items()}, labels[row])

    def _keep(self, peer: str, key: int, value: np.ndarray) -> np.ndarray:
        """Copy scores [V, K] to their place in the one array of a peer, whose memory is taken as it fills."""
        if peer not in self.kept:
            self.kept[peer] = _array((len(self.ids), *value.shape), self.folder)
        place: np.ndarray = self.kept[peer][key]
        place[:] = value
        return place

    def gather(self) -> None:
        """Make every rank hold the rows of all ranks; of a video that two ranks measured the first rank's count."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return
        parts = gather_objects((self.rows, self.failures, self.damaged), torch.distributed.get_world_size())
        for rows, failures, damaged in reversed(parts):
            self.rows.update(rows)
            self.failures.update(failures)
            self.damaged.update(damaged)

    def dump(self) -> Predictions | None:
        """All that was collected, in dataset order; None where nothing was."""
        keys = sorted(self.rows)
        if not keys:
            return None
        peers = self.rows[keys[0]][0]
        logits = {peer: torch.from_numpy(self._stacked(peer, keys)) for peer in peers}
        count = next(iter(logits.values())).shape[-1]
        return Predictions(
            ids=tuple(self.ids[key] for key in keys),
            target=torch.from_numpy(np.stack([self.rows[key][1] for key in keys])),
            logits=logits,
            classes=tuple(self.classes or map(str, range(count))),
            multi_label=self.multi_label,
            split=self.split,
            scoring=self.scoring,
            unreadable=dict(sorted(self.failures.items())),
            views=self.views,
            videos=len(self.ids),
        )

    def _stacked(self, peer: str, keys: list[int]) -> np.ndarray:
        """[n, V, K] of the videos `keys`, without a copy where these are all, and measured here."""
        whole = self.kept.get(peer)
        if whole is not None and len(keys) == len(whole) and all(self.rows[k][0][peer].base is whole for k in keys):
            return whole
        return np.stack([self.rows[key][0][peer] for key in keys])

    def metrics(self) -> dict[str, dict[str, float]]:
        """{peer: metrics over the videos it has seen} and, with several peers, {"ensemble": metrics}."""
        dump = self.dump()
        return dump.metrics() if dump else {}


def _array(shape: tuple[int, ...], folder: Path | None) -> np.ndarray:
    """float32 zeros, in a file of `folder` where they are many.

    Raises:
        OSError: the disk has no room for them.
    """
    size = math.prod(shape) * 4
    if folder is None or size <= IN_MEMORY:
        return np.zeros(shape, np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):  # now, not when a page finds the disk full: that ends the process
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(folder)) from None
        else:
            file.truncate(size)
        return np.ndarray(shape, np.float32, mmap.mmap(file.fileno(), size))
