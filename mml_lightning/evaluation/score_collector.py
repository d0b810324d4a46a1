"""Scores of a split, keyed by video: collected over steps and ranks, then one :class:`predictions.Predictions`.

Legend: B batch, N videos, V views, K classes.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from mml_lightning.evaluation.metrics import DEFAULT, Scoring
from mml_lightning.evaluation.predictions import Predictions
from mml_lightning.utils.distributed import gather_objects, gather_tensors

IN_MEMORY = 256 * 2**20  # bytes of the scores of one peer; more are written to a file
LOGITS = "logits/"  # state of a peer


class ScoreCollector(Metric):
    """Per-view logits of every peer for the videos of one split and one head, by dataset index.

    Its state are lists of rows: `index`, `target` and, from the first update on, `logits/<peer>`. A rank has its own
    until :meth:`gather` makes it those of all ranks; from then on every rank computes the same from all.

    Args:
        ids: id of every record of the split, in dataset order.
        classes: class names; numbers where they are not given.
        split: name of the split.
        views: the `views` of the run, kept in the dump.
        folder: where scores that are many are written as they come, into a file that no longer exists when it is
            closed; they are read from there part by part. None: all stay in memory.

    Attributes:
        failures: videos that could not be measured, with reasons.
        damaged: videos measured as far as they decode, with what is lost of each.
    """

    full_state_update = False
    index: list[Tensor]  # each [B]
    target: list[Tensor]  # each [B] or [B, K]

    def __init__(
        self,
        ids: Sequence[str],
        multi_label: bool = False,
        classes: Sequence[str] = (),
        split: str = "test",
        scoring: Scoring = DEFAULT,
        views: Mapping[str, Any] | None = None,
        folder: Path | None = None,
    ) -> None:
        # `gather` gives every rank all rows, once; to measure them again, per class too, gathers nothing
        super().__init__(sync_on_compute=False, compute_with_cache=False)
        self.ids = ids
        self.multi_label = multi_label
        self.classes = classes
        self.split = split
        self.scoring = scoring
        self.views = dict(views or {})
        self.folder = folder
        self.failures: dict[str, str] = {}
        self.damaged: dict[str, str] = {}
        self.gathered = False
        self.kept: dict[str, Tensor] = {}  # [N, V, K] of each peer: what this rank has measured
        self.add_state("index", [], dist_reduce_fx="cat")
        self.add_state("target", [], dist_reduce_fx="cat")

    def update(
        self, index: Tensor, logits: Mapping[str, Tensor], target: Tensor, present: Mapping[str, Tensor] | None = None
    ) -> None:
        """Keep a batch: `index` [B], `logits` {peer: [B, V, K]}, `target` [B] or [B, K]; repeats count once.

        Where `present` {peer: [B] bool} is False the logits become NaN: the peer has not seen the video. A peer that
        has seen it and gives no finite number is a failure of that video, so that a network that diverged shows.
        """
        if self.gathered:
            raise RuntimeError("the rows of all ranks are already gathered: use a new collector")
        index = index.cpu()
        for peer, value in logits.items():
            value = value.detach().float().cpu()
            finite = value.isfinite().all(dim=2).all(dim=1)
            seen = present[peer].cpu() if present else torch.ones_like(finite)
            for bad in index[seen & ~finite].tolist():
                self.failures[self.ids[bad]] = f"{peer} gives no finite scores; the network has diverged"
            self._keep(peer, index, value.masked_fill(~(seen & finite)[:, None, None], torch.nan))
        self.index.append(index)
        self.target.append(target.cpu())

    def _keep(self, peer: str, index: Tensor, value: Tensor) -> None:
        """Copy scores [B, V, K] to their places in the one array of a peer, whose memory is taken as it fills; the
        state are views of them."""
        if peer not in self.kept:
            self.kept[peer] = torch.from_numpy(_array((len(self.ids), *value.shape[1:]), self.folder))
            self.add_state(LOGITS + peer, [], dist_reduce_fx="cat")
        whole = self.kept[peer]
        whole[index] = value
        rows = getattr(self, LOGITS + peer)
        rows.extend(whole[key : key + 1] for key in index.tolist())
        if not len(index):
            rows.append(value)  # a rank without a video gathers as well

    def gather(self) -> None:
        """Make every rank hold the rows of all ranks; of a video that two ranks measured the first rank's count. All
        ranks must ask at once, and once."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return
        empty = {peer: whole[:0].clone() for peer, whole in self.kept.items()}
        own: tuple[Any, ...] = (empty, *(rows[:0].clone() for rows in self.target[:1]))
        parts = gather_objects((own, self.failures, self.damaged), torch.distributed.get_world_size())
        for _, failures, damaged in reversed(parts):
            self.failures.update(failures)
            self.damaged.update(damaged)
        nothing = next((told for told, *_ in parts if told[0]), None)
        if nothing is None:
            return  # no rank has measured a video; all know
        if not self.index:
            self.update(torch.zeros(0, dtype=torch.int64), *nothing)
        self.sync(gather_tensors)
        every = dict(self.metric_state)
        self.unsync()  # a metric that stays synchronised goes back to its own rows when it is computed
        for name, rows in every.items():
            setattr(self, name, [rows])
        self.kept.clear()
        self.gathered = True

    def dump(self) -> Predictions | None:
        """All that was collected, in dataset order; None where nothing was."""
        if not self.index:
            return None
        keys, first = np.unique(dim_zero_cat(self.index).numpy(), return_index=True)
        states = [name for name in self.metric_state if name.startswith(LOGITS)]
        logits = {name.removeprefix(LOGITS): self._rows(name, first) for name in states}
        count = next(iter(logits.values())).shape[-1]
        return Predictions(
            ids=tuple(self.ids[key] for key in keys.tolist()),
            target=dim_zero_cat(self.target)[first],
            logits=logits,
            classes=tuple(self.classes or map(str, range(count))),
            multi_label=self.multi_label,
            split=self.split,
            scoring=self.scoring,
            unreadable=dict(sorted(self.failures.items())),
            views=self.views,
            videos=len(self.ids),
        )

    def _rows(self, state: str, places: np.ndarray) -> Tensor:
        """[n, V, K] at `places` of a state, without a copy where these are all videos, and measured here."""
        whole = self.kept.get(state.removeprefix(LOGITS))
        if whole is not None and len(places) == len(whole):
            return whole
        return dim_zero_cat(getattr(self, state))[places]

    def compute(self) -> dict[str, dict[str, float]]:
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
