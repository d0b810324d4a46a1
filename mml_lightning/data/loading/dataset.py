"""Records to samples: one temporal and one geometry draw shared by all modalities of a video.

Legend: V views (clips x crops), T segments, L window.

A sample is {clips {modality: [V, T, ...]}, present {modality: bool}, target {head: int or multi-hot}, id, index}; what
a segment of a clip is, the kind of its source says (:mod:`mml_lightning.data.loading.kinds`). Everything random in it
comes from a generator keyed by (seed, epoch, record id), so that a sample does not depend on the worker count, the rank
or the point of resume.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mml_lightning.data.loading.kinds import Kind, OpenSource
from mml_lightning.data.loading.sources import SourceOpener
from mml_lightning.data.records.clock import clock, frames_of
from mml_lightning.data.records.intervals import ENDS, Ends, classes_between
from mml_lightning.data.records.records import Head, Record, Seen
from mml_lightning.data.video.decode import DecodeError, steadily
from mml_lightning.modalities import Modality
from mml_lightning.transforms import Crop
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.seeds import keyed_seed

Starts = Callable[[Mapping[str, int], Mapping[str, int], np.random.Generator], Mapping[str, np.ndarray]]
"""Temporal draw: ({modality: items}, {modality: window}, rng) -> {modality: starts [V, T]}."""

Geometries = Callable[[int, int, random.Random], Sequence[Crop]]
"""Geometry draw: (width, height, rng) of the reference frame -> one crop per view of a clip."""

MISSING = ("error", "mask")
FRAME = (340, 256)  # width and height for which a geometry is drawn where a sample has no picture
ATTEMPTS = 20  # unreadable videos in a row, after which the fault is not in single files


@dataclass
class ClipDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Map-style dataset indexed by (epoch, index).

    Args:
        replace: training replaces an unreadable video by a deterministic other record, modalities and label together;
            evaluation never does: it reports the id.
        shared: one temporal draw for all modalities; False draws per modality (AdaMML).
        independent: the draws of `starts` for a modality are the same whatever stands beside it.
        span_margin: seconds added on both sides of a record's span.
        mirrored: per head, class index -> class index when the geometry flips.
        missing: what a record is that lacks a source by nature (flow of a one-frame video): "error", unreadable;
            "mask", a sample with zeros and present=False for that modality.
        clip_labels: where a record has intervals, the target is what happens from the first to the last frame that the
            clip shows (training on Charades), possibly nothing; otherwise it is the label of the video. The frames that
            a window of one frame is given decide, so that the labels of a network do not depend on its company; the
            clip of the narrowest window does where draws are not `independent` or not `shared`.
        interval_ends: whether an interval holds at its very end.
        views: clips x crops of a sample, for whoever plans a batch.
        reading: told the index of each record before it is read, and -1 after it.
        refused: why records, by index, must not be read at all: they have killed a worker, or taken it too long.
        seen: what the fingerprint of the run saw of the files, by which one that was replaced since is known.

    Raises:
        UserError: unknown `missing` or `interval_ends`.
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
    independent: bool = True
    span_margin: float = 0.0
    mirrored: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    missing: str = "error"
    clip_labels: bool = False
    interval_ends: Ends = "inclusive"
    views: int = 1
    reading: Callable[[int], None] | None = None
    refused: Mapping[int, str] = field(default_factory=dict)
    seen: Seen | None = None

    def __post_init__(self) -> None:
        if self.missing not in MISSING:
            raise UserError(f"data.missing={self.missing!r} is unknown; use one of {list(MISSING)}")
        if self.interval_ends not in ENDS:
            raise UserError(f"data.interval_ends={self.interval_ends!r} is unknown; use one of {list(ENDS)}")

    def __len__(self) -> int:
        return len(self.records)

    @property
    def kinds(self) -> dict[str, Kind]:
        """Of the source that each modality looks at."""
        return {modality.name: self.opener.kinds[modality.source] for modality in self.modalities}

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        failures: list[tuple[str, str]] = []
        for chosen in self._candidates(index, epoch):
            try:
                sample = self._read(chosen, epoch)
            except DecodeError as error:
                failures.append((self.records[chosen].id, str(error)))
                continue
            return sample | {"index": chosen, "failures": failures}
        return {"index": index, "failures": failures}

    def _candidates(self, index: int, epoch: int) -> Iterator[int]:
        """The record asked for and, in training, the ones to replace it: no record twice."""
        yield index
        if self.replace:
            rng = keyed_generator(self.seed, epoch, self.records[index].id, "replacement")
            others = rng.permutation(len(self.records))
            yield from [int(other) for other in others if other != index][: ATTEMPTS - 1]

    def _read(self, index: int, epoch: int) -> dict[str, Any]:
        if index in self.refused:
            raise DecodeError(self.refused[index])
        if self.reading is None:
            return self._load_same(index, epoch)
        self.reading(index)
        try:
            return self._load_same(index, epoch)
        finally:
            self.reading(-1)

    def _load_same(self, index: int, epoch: int) -> dict[str, Any]:
        """The sample of a record, whose files are those of the run's fingerprint; looked at after they were read, so
        that a change meanwhile counts too.

        Raises:
            DecodeError: a file can't be read, or has another size.
        """
        record = self.records[index]
        sample = steadily(functools.partial(self._load, record, epoch))
        replaced, written = self.seen.changes(index, record) if self.seen is not None else (None, None)
        if replaced is not None:
            raise DecodeError(replaced)
        return sample | {"written": [written] if written else []}

    def _load(self, record: Record, epoch: int) -> dict[str, Any]:
        names = sorted({modality.source for modality in self.modalities})
        timed = self.clip_labels and bool(record.intervals)
        opened = self._opened(record, names, timed)
        with self.opener.open(record, opened, skip_absent=self.missing == "mask") as sources:
            seen = [modality for modality in self.modalities if modality.source in sources]
            if not seen:  # the frames are there for their clock only
                raise DecodeError(f"{record.id}: it has none of the sources of the run ({', '.join(names)})")
            indices = self._indices(record, seen, sources, epoch)
            geometries = self._geometries(record, seen, sources, epoch)
            stretch = self._stretch(record, seen, sources, indices, epoch) if timed else {}
            clips: dict[str, Tensor] = {}
            for name in {modality.source for modality in seen}:
                users = [modality for modality in seen if modality.source == name]
                clips |= self.opener.kinds[name].cut(sources[name], users, indices, geometries)
            notes = {kind: note for s in sources.values() for kind, note in getattr(s, "notes", {}).items()}
            labels = {**record.target, **stretch}
        flipped = len(geometries) == 1 and geometries[0].flip
        return {
            "clips": clips | self._blanks(clips, geometries),
            "present": {modality.name: modality.name in clips for modality in self.modalities},
            "target": {head: self._target(head, labels.get(head), flipped) for head in self.heads},
            "id": record.id,
            "notes": [(record.id, kind, note) for kind, note in notes.items()],
        }

    def _opened(self, record: Record, names: Sequence[str], timed: bool) -> list[str]:
        """What to open for a run on the sources `names`: the frames, too, where something of the sample is told by them
        that must be the same without them in the run: timed labels, and the crop where pictures that are stored may
        have another size. What is computed from frames has their size."""
        kinds = self.opener.kinds
        told = timed or any(name in kinds and kinds[name].pictured and kinds[name].made_of for name in record.media)
        return sorted({*names, "frames"}) if told and "frames" in record.media else list(names)

    def _geometries(
        self, record: Record, seen: Sequence[Modality], sources: Mapping[str, OpenSource], epoch: int
    ) -> Sequence[Crop]:
        """One crop per view of a clip, for the frames or the first picture there is. Where there is none nothing is
        mirrored, and the crops say only how many views a clip has."""
        rng = random.Random(int(keyed_generator(self.seed, epoch, record.id, "geometry").integers(2**63)))
        pictured = [name for name in ("frames", *(m.source for m in seen)) if name in sources]
        shown: Any = next((sources[name] for name in pictured if self.opener.kinds[name].pictured), None)
        width, height = FRAME if shown is None else shown.size
        crops = self.geometries(width, height, rng)
        return crops if shown is not None else [dataclasses.replace(crop, flip=False) for crop in crops]

    def _blanks(self, clips: Mapping[str, Tensor], geometries: Sequence[Crop]) -> dict[str, Tensor]:
        """What stands for the modalities that have no clip, with as many views and segments as those that have."""
        views, segments = next(iter(clips.values())).shape[:2]
        return {
            m.name: self.kinds[m.name].blank(m, views, segments, geometries[0].output)
            for m in self.modalities
            if m.name not in clips
        }

    def _range(self, record: Record, name: str, sources: Mapping[str, OpenSource]) -> tuple[int, int]:
        """First item and item count of the part of the source `name` that carries the label."""
        source, kind = sources[name], self.opener.kinds[name]
        if record.span is None:
            return 0, source.count
        frames = sources["frames"]
        first, behind = frames_of(record.span, self.span_margin, frames, str(record.media["frames"]))
        return kind.part(first, behind, frames, source)

    def _indices(
        self, record: Record, seen: Sequence[Modality], sources: Mapping[str, OpenSource], epoch: int
    ) -> dict[str, np.ndarray]:
        """Items of each modality, [V, T, L]."""
        ranges = {m.name: self._range(record, m.source, sources) for m in seen}
        windows, kinds = {m.name: m.window for m in seen}, self.kinds
        groups = [list(windows)] if self.shared else [[name] for name in windows]
        indices = {}
        for names in groups:
            rng = keyed_generator(self.seed, epoch, record.id, "time" if self.shared else f"time {names[0]}")
            try:
                starts = self.starts({n: ranges[n][1] for n in names}, {n: windows[n] for n in names}, rng)
            except ValueError as error:  # sampling.policy=code rejects some short videos
                raise DecodeError(f"{record.id}: {error}") from None
            for name in names:
                first, count = ranges[name]
                indices[name] = first + kinds[name].windows(starts[name], windows[name], count)
        return indices

    def _stretch(
        self,
        record: Record,
        seen: Sequence[Modality],
        sources: Mapping[str, OpenSource],
        indices: Mapping[str, np.ndarray],
        epoch: int,
    ) -> dict[str, tuple[int, ...]]:
        """Classes of each head with intervals, from the first to the last item shown, whatever lies in between."""
        if self.independent and self.shared:
            name = "frames" if "frames" in sources else seen[0].source
            begin, count = self._range(record, name, sources)
            rng = keyed_generator(self.seed, epoch, record.id, "time")
            shown = begin + self.starts({name: count}, {name: 1}, rng)[name]
        else:
            narrowest = min(seen, key=lambda modality: modality.window)
            name, shown = narrowest.source, indices[narrowest.name]
        times = clock(sources[name])
        if times is None:
            raise DecodeError(f"{record.id}: unknown frame rate, its timed labels can't be located")
        first, last = int(shown.min()), int(shown.max())
        return {h: classes_between(v, first, last, times, self.interval_ends) for h, v in record.intervals.items()}

    def _target(self, head: str, label: int | tuple[int, ...] | None, flipped: bool) -> Tensor:
        if label is None:  # unknown: -1, see `mml_lightning.evaluation.metrics.labelled`
            count = len(self.heads[head].classes)
            return torch.full((count,), -1.0) if self.heads[head].multi_label else torch.tensor(-1)
        mirrored = self.mirrored.get(head, {}) if flipped else {}
        if isinstance(label, tuple):
            target = torch.zeros(len(self.heads[head].classes))
            target[[mirrored.get(k, k) for k in label]] = 1.0
            return target
        return torch.tensor(mirrored.get(label, label))


def keyed_generator(seed: int, epoch: int, record: str, purpose: str) -> np.random.Generator:
    """A generator that depends on nothing but its key."""
    return np.random.Generator(np.random.Philox(key=keyed_seed(seed, epoch, record, purpose, size=16)))


def collate(samples: Sequence[dict[str, Any]], kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """Samples to a batch of clips {m: [B, V, T, ...]}, each as the kind of its source says, present {m: [B]}, target
    {head: [B] or [B, K]}, index [B], id, failures, notes and files that were written since the run began; complete,
    whether every sample has every modality: told here, on the host, so that no step has to ask the device for it.

    Samples that could not be read in evaluation carry no clips: they are listed under `failures` only, so that a batch
    can be shorter than asked, or empty.
    """
    batch: dict[str, Any] = {"failures": [f for s in samples for f in s["failures"]]}
    batch["notes"] = [note for s in samples for note in s.get("notes", ())]
    batch["written"] = [name for s in samples for name in s.get("written", ())]
    good = [s for s in samples if "clips" in s]
    batch["index"] = torch.tensor([s["index"] for s in good], dtype=torch.int64)
    batch["id"] = [s["id"] for s in good]
    if good:
        batch["clips"] = {m: kinds[m].collate([s["clips"][m] for s in good]) for m in good[0]["clips"]}
        batch["present"] = {m: torch.tensor([s["present"][m] for s in good]) for m in good[0]["present"]}
        batch["complete"] = all(all(s["present"].values()) for s in good)
        batch["target"] = {head: torch.stack([s["target"][head] for s in good]) for head in good[0]["target"]}
    return batch
