"""Networks that can be part of ensembles, and the videos that ensembles of them are compared on.

Legend: N videos, V views, K classes. Videos are joined by id, never by position.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mml_lightning.evaluation.metrics import Scoring, labelled, pool_views
from mml_lightning.evaluation.predictions import Common, Predictions, common
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.plain_text import some_videos

BLOCK = 128  # videos whose scores are in float64 at a time


@dataclass(frozen=True)
class EnsembleMember:
    """One network that can be part of an ensemble.

    Args:
        name: unique among the members.
        dump: its scores.
        peer: which of the dump's peers it is; None where there is one.
        group: what it is one of, such as its modality.
        held_out: scores of the same peer on other videos, for searching weights.

    Raises:
        UserError: the dump has no such peer, or several to choose from.
    """

    name: str
    dump: Predictions
    peer: str | None = None
    group: str = ""
    held_out: Predictions | None = None

    def __post_init__(self) -> None:
        have = list(self.dump.logits)
        if self.peer is None and len(have) > 1:
            raise UserError(f"{self.name} has the peers {', '.join(have)}; choose one")
        if self.peer is not None and self.peer not in have:
            raise UserError(f"{self.name} has no peer {self.peer}; it has {', '.join(have)}")

    @property
    def logits(self) -> Tensor:
        """float32 [N, V, K]."""
        return self.dump.logits[self.peer or next(iter(self.dump.logits))]


def unique_names(members: Sequence[EnsembleMember]) -> list[str]:
    """Raises:
    UserError: two members have one name.
    """
    names = [member.name for member in members]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise UserError(f"two members are called {doubled}; give them names: NAME=FILE")
    return names


@dataclass(frozen=True)
class CommonVideos:
    """Members on common videos: `rows` [N] say where these stand in the dump of each; `target` [N] or [N, K];
    `missing`: {name: ids that it lacks and another has}."""

    members: Sequence[EnsembleMember]
    ids: tuple[str, ...]
    target: Tensor
    rows: list[Tensor]
    missing: Mapping[str, list[str]]
    notes: list[str]

    @property
    def multi_label(self) -> bool:
        return self.target.ndim == 2

    def keep(self, places: Tensor) -> CommonVideos:
        """On the videos at these places only."""
        ids = tuple(self.ids[place] for place in places.tolist())
        return replace(self, ids=ids, target=self.target[places], rows=[rows[places] for rows in self.rows])

    def scores(self, which: Sequence[int], part: slice, scoring: Scoring) -> Tensor:
        """What is averaged, float64 [len(which), n, K]: with one label probabilities or log-probabilities (which are
        logits to a softmax), with several log-sigmoids."""
        logits = [self.members[m].logits[self.rows[m][part]] for m in which]
        pooled = torch.stack([pool_views(each, scoring.pooling, self.multi_label) for each in logits])
        return pooled.exp_() if scoring.ensemble == "probs" and not self.multi_label else pooled

    def blocks(self, which: Sequence[int], scoring: Scoring) -> Iterator[tuple[Tensor, Tensor]]:
        """Scores and targets, a block of videos at a time."""
        for start in range(0, len(self.ids), BLOCK):
            part = slice(start, start + BLOCK)
            yield self.scores(which, part, scoring), self.target[part]


def join(members: Sequence[EnsembleMember], intersect: bool) -> CommonVideos:
    """The labelled videos that all members have scores for, in the order of the first one.

    Args:
        intersect: leave out videos that some members lack.

    Raises:
        UserError: classes or labels differ, videos are missing and `intersect` is off, or no video is labelled.
    """
    names = [member.name for member in members]
    # a video that a network has not seen (its modality is absent) is none that ensembles can be compared on
    seen = [~member.logits.isnan().flatten(1).any(dim=1) for member in members]
    whole = [
        replace(
            member.dump,
            logits={},
            ids=tuple(itertools.compress(member.dump.ids, mask.tolist())),
            target=member.dump.target[mask],
        )
        for member, mask in zip(members, seen, strict=True)
    ]
    shared = common(whole, names)
    missing = _missing(whole, names, shared)
    if missing and not intersect:
        told = "; ".join(f"{name} lacks {some_videos(ids)}" for name, ids in missing.items())
        raise UserError(f"{told}; --intersect compares on the {len(shared.ids)} videos that all have")
    known = labelled(shared.target)
    notes = [] if known.all() else [f"{int((~known).sum())} videos have no label: not counted"]
    if not known.any():
        raise UserError("no video has a label: nothing to compare; mml score writes submissions")
    rows = [member.dump.rows(shared.ids) for member in members]
    joined = CommonVideos(members, shared.ids, shared.target, rows, missing, notes)
    return joined.keep(known.nonzero().squeeze(1))


def _missing(dumps: Sequence[Predictions], names: Sequence[str], shared: Common) -> dict[str, list[str]]:
    """{name: ids that it lacks and another has}."""
    every = list(dict.fromkeys(video for dump in dumps for video in dump.ids))
    if len(every) == len(shared.ids):
        return {}
    found = {}
    for dump, name in zip(dumps, names, strict=True):
        own = set(dump.ids)
        lacking = [video for video in every if video not in own]
        if lacking:
            found[name] = lacking
    return found


def in_fold(video: str, share: float) -> bool:
    """Whether a video belongs to the searched share: by a hash of its id, so that it does in every run and dump."""
    digest = hashlib.sha256(video.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def held_out(
    members: Sequence[EnsembleMember], joined: CommonVideos, search: str, fold: float
) -> tuple[CommonVideos, CommonVideos]:
    """The videos to search on, and those to report.

    Raises:
        UserError: unknown way, no or bad held-out videos.
    """
    if search == "fold":
        mask = torch.tensor([in_fold(video, fold) for video in joined.ids])
        parts = joined.keep(mask.nonzero().squeeze(1)), joined.keep((~mask).nonzero().squeeze(1))
        if not all(len(part.ids) for part in parts):
            raise UserError(f"a fold of {fold:g} of {len(mask)} videos leaves one side empty; choose another")
        return parts
    if search != "val":
        raise UserError(f"search={search} is unknown; use val or fold")
    lacking = next((member.name for member in members if member.held_out is None), None)
    if lacking is not None:
        raise UserError(f"{lacking} has no scores of val to search weights on; use --search fold")
    others = [replace(member, dump=member.held_out) for member in members]  # type: ignore[arg-type]
    held = join(others, intersect=True)
    both = set(held.ids) & set(joined.ids)
    if both:
        raise UserError(f"{some_videos(sorted(both))} would be in both the search and the report; use --search fold")
    return held, joined
