"""The lines that a check writes: one per record and source, read back by later checks and by runs."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mml_lightning.data.video.media import Media, PackedFrames, media_files
from mml_lightning.utils.errors import UserError

UNREADABLE = "none"


@dataclass(frozen=True)
class Finding:
    """What a check knows about one source of one record.

    Args:
        source: "frames" or "flow".
        state: size and time of the file (count and time of a folder of images) when it was read; "" where it is
            missing. A finding holds as long as the state does: see :func:`state`.
        bytes: size of the file; 0 for images.
        width, height, fps: as the referee (else decord) sees them; 0 for what can't be read.
        listed: items that the annotation gives to a folder of images; None for a video file.
        images: items whose images are there; None for a video file.
        frames_decord, frames_pyav: frames each reader finds; None if it can't read the file or is not installed.
        difference: largest mean absolute difference of the sampled frames, in levels; None without comparison.
        decoder: "" where both readers are right, else the one that is, or "none": a run can't use it.
        problem: why.
        hashes: of the sampled frames, see hashes.py.
        seconds: from the first frame shown to the end of the last; 0 where nothing tells.
        uneven: seconds by which frames are off the places that the average rate gives them; 0 at a constant rate.
    """

    split: str = ""
    id: str = ""
    source: str = "frames"
    path: str = ""
    state: str = ""
    bytes: int = 0
    width: int = 0
    height: int = 0
    fps: float = 0.0
    listed: int | None = None
    images: int | None = None
    frames_decord: int | None = None
    frames_pyav: int | None = None
    difference: float | None = None
    decoder: str = ""
    problem: str = ""
    hashes: str = ""
    seconds: float = 0.0
    uneven: float = 0.0

    @property
    def key(self) -> tuple[str, str, str]:
        return self.split, self.id, self.source

    @property
    def frames(self) -> int:
        """Items that can be read: frames, or pairs of flow."""
        return self.images or self.frames_pyav or self.frames_decord or 0

    @property
    def lasts(self) -> float:
        """Seconds; 0 where nothing tells."""
        return self.seconds or (self.frames / self.fps if self.fps > 0 else 0.0)

    @property
    def usable(self) -> bool:
        return self.decoder != UNREADABLE


def _optional(number: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: number(text) if text else None


LATER = ("seconds", "uneven")  # columns that earlier checks have not written
COLUMNS = [column.name for column in dataclasses.fields(Finding)]
TYPES: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("bytes", "width", "height"), int),
    **dict.fromkeys(("fps", *LATER), float),
    **dict.fromkeys(("listed", "images", "frames_decord", "frames_pyav"), _optional(int)),
    "difference": _optional(float),
}


def state(media: Media) -> str:
    """What changes when `media` is repaired or replaced: size and time of a file, of images count and folder's time.

    A copy that keeps its times keeps its state; another one is to be checked again.
    """
    place = next(media_files(media)) if isinstance(media, Path | PackedFrames) else media.folder
    try:
        seen = place.stat()
    except OSError:
        return ""
    return f"{seen.st_size if isinstance(media, Path) else media.count}@{seen.st_mtime_ns}"


def write(handle: IO[str], findings: Iterable[Finding], header: bool = False) -> None:
    writer = csv.writer(handle)
    if header:
        writer.writerow(COLUMNS)
    writer.writerows(["" if v is None else v for v in dataclasses.astuple(f)] for f in findings)
    handle.flush()


def read(file: Path, partial: bool = False) -> list[Finding]:
    """The findings of a check; none where there was none.

    Args:
        partial: leave out damaged lines, such as the last one of an interrupted check.

    Raises:
        UserError: the file is not one of ours.
    """
    if not file.is_file():
        return []
    findings = []
    try:
        with file.open(newline="", encoding="utf-8", errors="replace" if partial else "strict") as handle:
            rows = list(csv.DictReader(handle))
        for row in rows:
            try:
                known = [column for column in COLUMNS if column in row or column not in LATER]
                findings.append(Finding(**{column: TYPES.get(column, str)(row[column]) for column in known}))
            except (KeyError, TypeError, ValueError):
                if not partial:
                    raise
    except (KeyError, TypeError, ValueError, csv.Error):
        raise UserError(f"{file} is damaged; delete it and run mml check again") from None
    return findings
