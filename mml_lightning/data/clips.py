"""Records to samples: one temporal and one geometry draw shared by all modalities of a video.

Legend: V views (clips x crops), T frames (segments), L window, c channels of an item, C = L * c, H height, W width.

A sample is {clips {modality: uint8 [V, T, C, H, W]}, present {modality: bool}, target {head: int or multi-hot}, id, index}.
Everything random in it comes from a generator keyed by (seed, epoch, record id), so that a sample does not depend on the
worker count, the rank or the point of resume.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mml_lightning.data.decode import DecodeError
from mml_lightning.data.records import Head, Record
from mml_lightning.data.sources import OpenSource, SourceOpener
from mml_lightning.modalities import Modality
from mml_lightning.sampling import window_indices
from mml_lightning.transforms import Crop, apply_views, invert_x

Starts = Callable[[Mapping[str, int], Mapping[str, int], np.random.Generator], Mapping[str, np.ndarray]]
"""Temporal draw: ({modality: items}, {modality: window}, rng) -> {modality: starts [V, T]}."""

Geometries = Callable[[int, int, random.Random], Sequence[Crop]]
"""Geometry draw: (width, height, rng) of the reference frame -> one crop per view of a clip."""


@dataclass
class ClipDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Map-style dataset indexed by (epoch, index).

    Args:
        replace: training replaces an unreadable video by a deterministic other record, modalities and label together;
            evaluation never does: it reports the id.
        shared: one temporal draw for all modalities; False draws per modality (AdaMML).
        span_margin: seconds added on both sides of a record's span.
        mirrored: per head, class index -> class index when the geometry flips.
    """

    records: Sequence[Record]
    modalities: Sequence[Modality]
    heads: Mapping[str, Head]
    opener: SourceOpener
    starts: Starts
    geometries: Geometries
    seed: int
    replace: bool
    shared: bool = True
    span_margin: float = 0.0
    mirrored: Mapping[str, Mapping[int, int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        failures: list[tuple[str, str]] = []
        for attempt in range(len(self.records) if self.replace else 1):
            chosen = index if attempt == 0 else self._replacement(index, epoch, attempt)
            try:
                sample = self._load(self.records[chosen], epoch)
            except DecodeError as error:
                failures.append((self.records[chosen].id, str(error)))
                continue
            return sample | {"index": chosen, "failures": failures}
        return {"index": index, "failures": failures}

    def _replacement(self, index: int, epoch: int, attempt: int) -> int:
        rng = keyed_generator(self.seed, epoch, self.records[index].id, f"replacement {attempt}")
        return int(rng.integers(len(self.records)))

    def _load(self, record: Record, epoch: int) -> dict[str, Any]:
        names = sorted({modality.source for modality in self.modalities})
        with self.opener.open(record, names) as sources:
            ranges = {name: self._range(record, source, sources) for name, source in sources.items()}
            indices = self._indices(record, ranges, epoch)
            reference = sources["frames"] if "frames" in names else sources[names[0]]
            rng = keyed_generator(self.seed, epoch, record.id, "geometry")
            geometries = self.geometries(*reference.size, random.Random(int(rng.integers(2**63))))
            clips = self._clips(sources, indices, geometries)
        flipped = geometries[0].flip and len(geometries) == 1
        target = {head: self._target(head, record.target[head], flipped) for head in self.heads}
        present = {modality.name: True for modality in self.modalities}
        return {"clips": clips, "present": present, "target": target, "id": record.id}

    def _range(self, record: Record, source: OpenSource, sources: Mapping[str, OpenSource]) -> tuple[int, int]:
        """First item and item count of the part of `source` that carries the label."""
        if record.span is None:
            return 0, source.count
        fps = sources["frames"].fps
        if fps <= 0:
            raise DecodeError(f"{record.media['frames']}: unknown frame rate, its span can't be placed")
        first = max(0, min(source.count - 1, round((record.span[0] - self.span_margin) * fps)))
        last = max(first + 1, min(source.count, round((record.span[1] + self.span_margin) * fps) + 1))
        return first, last - first

    def _indices(self, record: Record, ranges: Mapping[str, tuple[int, int]], epoch: int) -> dict[str, np.ndarray]:
        counts = {m.name: ranges[m.source][1] for m in self.modalities}
        windows = {m.name: m.window for m in self.modalities}
        if self.shared:
            starts = self.starts(counts, windows, keyed_generator(self.seed, epoch, record.id, "time"))
        else:
            starts = {
                m: self.starts(
                    {m: counts[m]}, {m: windows[m]}, keyed_generator(self.seed, epoch, record.id, f"time {m}")
                )[m]
                for m in counts
            }
        return {
            m.name: ranges[m.source][0] + window_indices(starts[m.name], m.window, counts[m.name])
            for m in self.modalities
        }

    def _clips(
        self, sources: Mapping[str, OpenSource], indices: Mapping[str, np.ndarray], geometries: Sequence[Crop]
    ) -> dict[str, Tensor]:
        items: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for name in {modality.source for modality in self.modalities}:
            wanted = np.unique(np.concatenate([indices[m.name].ravel() for m in self.modalities if m.source == name]))
            items[name] = wanted, sources[name].frames(wanted.tolist())  # each item is decoded once
        clips = {}
        for modality in self.modalities:
            wanted, pixels = items[modality.source]
            crops = apply_views(torch.from_numpy(pixels).permute(0, 3, 1, 2), geometries)  # each [N, c, h, w]
            at = np.searchsorted(wanted, indices[modality.name])  # [V, T, L]
            views = [crop[torch.from_numpy(at)].flatten(2, 3) for crop in crops]  # each [V, T, L*c, h, w]
            if modality.flip == "mirror_negate_x":
                views = [invert_x(v) if g.flip else v for v, g in zip(views, geometries, strict=True)]
            clips[modality.name] = torch.cat(views)
        return clips

    def _target(self, head: str, label: int | tuple[int, ...], flipped: bool) -> Tensor:
        mirrored = self.mirrored.get(head, {}) if flipped else {}
        if isinstance(label, tuple):
            target = torch.zeros(len(self.heads[head].classes))
            target[[mirrored.get(k, k) for k in label]] = 1.0
            return target
        return torch.tensor(mirrored.get(label, label))


def keyed_generator(seed: int, epoch: int, record: str, purpose: str) -> np.random.Generator:
    """A generator that depends on nothing but its key."""
    digest = hashlib.blake2b(f"{seed}|{epoch}|{record}|{purpose}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Samples to a batch: clips {m: uint8 [B, V, T, C, H, W]}, present {m: [B]}, target {head: [B] or [B, K]}, index [B].

    Samples that could not be read in evaluation carry no clips: they are listed under `failures` only, so that a batch
    can be shorter than asked, or empty.
    """
    batch: dict[str, Any] = {"failures": [f for s in samples for f in s["failures"]]}
    good = [s for s in samples if "clips" in s]
    batch["index"] = torch.tensor([s["index"] for s in good], dtype=torch.int64)
    batch["id"] = [s["id"] for s in good]
    if good:
        batch["clips"] = {m: torch.stack([s["clips"][m] for s in good]) for m in good[0]["clips"]}
        batch["present"] = {m: torch.tensor([s["present"][m] for s in good]) for m in good[0]["present"]}
        batch["target"] = {head: torch.stack([s["target"][head] for s in good]) for head in good[0]["target"]}
    return batch
