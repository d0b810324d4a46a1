"""What lists say before a run starts, without opening a video: doubles across splits, flow of another length.

Both are found by `mml check` too, which reads the videos and finds more.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Sequence
from operator import itemgetter

from mml_lightning.data.records.records import Dataset, RecordRow, extent, rows
from mml_lightning.data.video.media import location_key, told_images
from mml_lightning.utils.errors import UserError

FLOW_TOLERANCE = 1  # pairs by which flow may be longer or shorter than frames - 1: tools repeat or drop the last one
MOST_UNEQUAL = 0.5  # share of the videos with flow of another length from which it is the list that is wrong

log = logging.getLogger(__name__)

_Part = tuple[float, float, str]  # start, end and split of what is measured


def warn_of_doubles(dataset: Dataset, splits: Collection[str]) -> int:
    """Say in one line how many training videos are measured too: the same media or the same id in val or test.

    Parts of one video that have nothing in common are different videos.

    Returns:
        their number.
    """
    if "train" not in splits:
        return 0
    ids: dict[object, list[_Part]] = defaultdict(list)
    places: dict[object, list[_Part]] = defaultdict(list)
    for split in splits:
        for row in rows(dataset.splits.get(split, ())) if split != "train" else ():
            part = (*extent(row.span), split)
            ids[row.id].append(part)
            for media in row.media.values():
                places[location_key(media)].append(part)
    for parts in (*ids.values(), *places.values()):
        if len(parts) > 1:
            _to_latest_ends(parts)
    doubles = []
    for row in rows(dataset.splits.get("train", ())):
        if row.id not in ids and places.keys().isdisjoint(
            map(location_key, row.media.values())
        ):  # all but a few of a million
            continue
        known = (ids.get(row.id, ()), *(places.get(location_key(media), ()) for media in row.media.values()))
        doubles += [(row.id, split) for split in (_shares(parts, row) for parts in known) if split][:1]
    if doubles:
        log.warning(
            "data=%s: %d of %d training videos are in val or test too (same files or id), first %s (%s): their "
            "numbers are too good; keep each in one split",
            dataset.name,
            len(doubles),
            len(dataset.splits["train"]),
            *doubles[0],
        )
    return len(doubles)


def _to_latest_ends(parts: list[_Part]) -> None:
    """Sort by start, and let each tell the latest end up to it: the first one that starts before a part ends then tells
    whether any has something in common with that part."""
    parts.sort(key=itemgetter(0))
    for i in range(1, len(parts)):
        if parts[i - 1][1] >= parts[i][1]:
            parts[i] = (parts[i][0], *parts[i - 1][1:])


def _shares(parts: Sequence[_Part], row: RecordRow) -> str | None:
    """The split of a measured part that has something in common with `row`."""
    start, end = extent(row.span)
    before = bisect_left(parts, end, key=itemgetter(0))
    return parts[before - 1][2] if before and parts[before - 1][1] > start else None


def expected_flow(frames: int, frames_fps: float, flow_fps: float) -> int:
    """Pairs of flow that belong to `frames` frames; of unknown rates (0) they are taken to be equal."""
    rate = flow_fps / frames_fps if flow_fps > 0 and frames_fps > 0 else 1.0
    return round((frames - 1) * rate)


def check_flow_lengths(dataset: Dataset, splits: Collection[str]) -> int:
    """Compare the listed flow with the listed frames where both are images; a few that differ are a line in the log.

    Returns:
        the number of videos that differ by more than FLOW_TOLERANCE pairs.

    Raises:
        UserError: more than half of the videos do: clips of frames and flow would show different moments.
    """
    compared, unequal = 0, []
    for split in splits:
        for video, media, *_ in rows(dataset.splits.get(split, ())):
            frames, flow = media.get("frames"), media.get("flow")
            if not told_images(frames) or not told_images(flow):
                continue
            compared += 1
            (count, fps, first), (pairs, flow_fps, flow_first) = frames[3:6], flow[3:6]
            expected = expected_flow(count, fps, flow_fps)
            if first != flow_first and not {first, flow_first} <= {0, 1}:
                unequal.append(f"{split}/{video} (frames count from {first}, flow from {flow_first})")
            elif abs(pairs - expected) > FLOW_TOLERANCE:
                unequal.append(f"{split}/{video} ({count} frames, {pairs} pairs of flow, {expected} expected)")
    if unequal:
        said = (
            f"data={dataset.name}: flow of {len(unequal)} of {compared} videos does not match their frames, "
            f"first {unequal[0]}; recompute it, or fix its list"
        )
        if len(unequal) > MOST_UNEQUAL * compared:
            raise UserError(said)
        log.warning("%s", said)
    return len(unequal)
