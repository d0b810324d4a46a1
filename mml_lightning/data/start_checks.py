"""What lists say before a run starts, without opening a video: doubles across splits, flow of another length.

Both are found by `mml check` too, which reads the videos and finds more.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from mml_lightning.data.media import place, told_images
from mml_lightning.data.records import Dataset, Row, rows
from mml_lightning.errors import UserError

FLOW_TOLERANCE = 1  # pairs by which flow may be longer or shorter than frames - 1: tools repeat or drop the last one
MOST_UNEQUAL = 0.5  # share of the videos with flow of another length from which it is the list that is wrong

log = logging.getLogger(__name__)


def warn_of_doubles(dataset: Dataset, splits: Collection[str]) -> int:
    """Say in one line how many training videos are measured too: the same media or the same id in val or test.

    Parts of one video with different spans are different videos.

    Returns:
        their number.
    """
    if "train" not in splits:
        return 0
    split_of: dict[object, str] = {}
    names: set[object] = set()
    for split in splits:
        for row in rows(dataset.splits.get(split, ())) if split != "train" else ():
            names.add(row[0])  # some of which doubles share, whatever their spans
            names.update(map(place, row[1].values()))
            for key in _keys(row):
                split_of.setdefault(key, split)
    doubles = []
    for row in rows(dataset.splits.get("train", ())):
        if row[0] in names or not names.isdisjoint(map(place, row[1].values())):  # few of a million
            doubles += [(row[0], split_of[key]) for key in _keys(row) if key in split_of][:1]
    if doubles:
        log.warning(
            "data=%s: %d of %d training videos stand in val or test too (the same files or id), first %s (%s): their "
            "numbers are too good; keep each in one split",
            dataset.name,
            len(doubles),
            len(dataset.splits["train"]),
            *doubles[0],
        )
    return len(doubles)


def _keys(row: Row) -> list[object]:
    span = row[3]
    return [*[(source, place(media), span) for source, media in sorted(row[1].items())], (row[0], span)]


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
            (count, fps), (pairs, flow_fps) = frames[3:5], flow[3:5]
            expected = expected_flow(count, fps, flow_fps)
            if abs(pairs - expected) > FLOW_TOLERANCE:
                unequal.append(f"{split}/{video} ({count} frames, {pairs} pairs of flow, {expected} expected)")
    if unequal:
        said = (
            f"data={dataset.name}: flow of {len(unequal)} of {compared} videos is of another length than their frames, "
            f"first {unequal[0]}; compute it again, or mend its list"
        )
        if len(unequal) > MOST_UNEQUAL * compared:
            raise UserError(said)
        log.warning("%s", said)
    return len(unequal)
