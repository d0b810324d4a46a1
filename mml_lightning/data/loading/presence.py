"""Which samples of a step have which modality, told on the host: the step's micro-batches and ranks together.

A term of the objective is the mean over the samples of a step that its peers have all seen. Trainers average over ranks
and accumulated micro-batches, whose numbers of such samples differ: the mean of each is weighted by its share. For that
the samples of the later micro-batches must be known before the first gradient, so the loader holds the batches of a
step on the host until it has them all (:func:`by_step`), and the ranks add up their numbers once per step.

Legend: B samples of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Seen = Mapping[str, np.ndarray]
"""{modality: bool [B]} of one micro-batch."""

Peers = frozenset[str]


def by_step(batches: Iterable[dict[str, Any]], size: int, first: int = 0) -> Iterator[dict[str, Any]]:
    """The same batches, and in each `step`, the :data:`Seen` of all micro-batches of its step, and `place` among them.

    Args:
        size: micro-batches of a step; the last step of an epoch may have fewer.
        first: number of the first batch in its epoch.
    """
    held: list[dict[str, Any]] = []
    for number, batch in enumerate(batches, first + 1):
        held.append(batch)
        if number % size == 0:
            yield from _told(held)
            held = []
    yield from _told(held)


def _told(held: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    # a batch in which nothing could be read has no samples, and ends the run when it is its turn
    step = [{name: seen.numpy() for name, seen in batch.get("present", {}).items()} for batch in held]
    while held:
        yield held.pop(0) | {"step": step, "place": len(step) - len(held) - 1}


@dataclass(frozen=True)
class Presence:
    """Of one micro-batch in its step.

    Args:
        own: per peer, bool [B]: samples of the micro-batch that have its modality.
        counts: per group of peers, samples of the whole step that all of them have.
        parts: micro-batches of the step, of all ranks, over which gradients are averaged.
    """

    own: Mapping[str, np.ndarray]
    counts: Mapping[Peers, int]
    parts: int

    @property
    def mask(self) -> dict[str, Tensor] | None:
        """`own` as tensors on the host; None where nothing is missing here."""
        if all(seen.all() for seen in self.own.values()):
            return None
        return {name: torch.from_numpy(seen) for name, seen in self.own.items()}

    def weight(self, peers: Peers, rows: int) -> float:
        """Of the mean over `rows` samples here, so that the average over all parts is the mean over all samples; 1
        where nothing is missing."""
        return rows * self.parts / self.counts[peers] if rows else 1.0

    def idle(self, peers: Iterable[str]) -> list[str]:
        """Those of `peers` that have seen no sample of the step."""
        return [name for name in peers if not self.counts[frozenset((name,))]]


class Counter:
    """Numbers of samples per group of peers, over all ranks.

    Args:
        modalities: of each peer.
        groups: sets of peers whose common samples are counted.
        anyone: a name in groups that stands for whatever sees a sample: it has those that any peer has.
    """

    def __init__(self, modalities: Mapping[str, str], groups: Collection[Peers], anyone: str = "") -> None:
        self.modalities = dict(modalities)
        self.anyone = anyone if any(anyone in group for group in groups) else ""
        if self.anyone:
            self.modalities[anyone] = anyone
        self.groups = sorted(groups, key=sorted)
        self._counts: dict[Peers, int] = {}
        self._hosts: Any = None

    def presence(self, step: Sequence[Seen], place: int, ranks: int) -> Presence:
        """Of micro-batch `place` of `step`. Every rank must ask for each of its micro-batches, in order."""
        if self.anyone:
            step = [{**seen, self.anyone: np.logical_or.reduce(list(seen.values()))} for seen in step]
        if place == 0 or not self._counts:
            self._counts = self._over(ranks, step)
        own = {name: step[place][modality] for name, modality in self.modalities.items()}
        return Presence(own, self._counts, ranks * len(step))

    def _over(self, ranks: int, step: Sequence[Seen]) -> dict[Peers, int]:
        wanted = [sorted({self.modalities[peer] for peer in group}) for group in self.groups]
        counts = [sum(int(np.logical_and.reduce([seen[m] for m in names]).sum()) for seen in step) for names in wanted]
        if ranks > 1:
            if self._hosts is None and torch.distributed.get_backend() != "gloo":
                # the hosts tell each other, and no device is waited for
                self._hosts = torch.distributed.new_group(backend="gloo")
            summed = torch.tensor(counts)
            torch.distributed.all_reduce(summed, group=self._hosts)
            counts = summed.tolist()
        return dict(zip(self.groups, counts, strict=True))


def spread(value: Tensor, rows: Tensor, size: int, others: float = torch.nan) -> Tensor:
    """[n, ...] of the samples `rows` [n] among all [size, ...]. The `others` are NaN: nothing may look at them."""
    return value.new_full((size, *value.shape[1:]), others).index_copy(0, rows, value)


def reached(net: nn.Module) -> Tensor:
    """0, and a gradient of 0 for every parameter that learns: ranks that average gradients wait for all of them."""
    return torch.stack([p.reshape(-1)[:0].sum() for p in net.parameters() if p.requires_grad]).sum()
