"""What the columns of a table mean, told by their names: what was taken for what, and what was not, is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mml_lightning.data.records.readers.cells import check_header
from mml_lightning.data.records.readers.times import Times, find_times
from mml_lightning.utils.errors import UserError

COLUMNS = {
    "path": ("path", "video", "video_path", "file", "filename", "filepath", "file_path"),
    "label": ("label", "labels", "class", "class_name", "category", "action", "target", "template", "y"),
    "split": ("split", "set", "subset", "partition", "fold"),
    "id": ("id", "video_id", "clip_id"),
    "sound": ("sound", "sound_path", "audio_path", "wav"),
}
NEEDED = ("path", "label", "split")


@dataclass(frozen=True)
class Columns:
    """Places and names of the columns that are used.

    Args:
        places, names: per role of :data:`COLUMNS`, and of "start" and "other" where lines are about parts of videos.
        times: how these two are read.
        width: cells up to the last column that has a name.
        unused: names of the other columns.
    """

    places: dict[str, int]
    names: dict[str, str]
    times: Times | None
    width: int
    unused: tuple[str, ...]

    @classmethod
    def of(cls, path: Path, header: Sequence[str], needed: Sequence[str] = NEEDED) -> Columns:
        """Raises:
        UserError: a needed column is missing, two columns fit one role or have one name, or times are half told.
        """
        named = [name.strip() for name in header]
        check_header(path, named)
        have = [name for name in named if name]
        places = {}
        for role, known in COLUMNS.items():
            fits = [name for name in have if name.casefold() in known and not _is_coordinate(name, have)]
            exact = [name for name in fits if name.casefold() == role]
            if len(fits) > 1 and not exact:
                raise UserError(f"{path}: columns {fits[0]!r} and {fits[1]!r} fit {role}; call the right one {role!r}")
            if fits:
                places[role] = named.index((exact or fits)[0])
        for role in needed:
            if role not in places:
                raise UserError(f"{path}: no {role} column (found {have}); name one of them {role!r}")
        taken = set(places.values())
        times = find_times(path, [name for place, name in enumerate(named) if name and place not in taken])
        if times:
            places |= {"start": named.index(times.start), "other": named.index(times.other)}
        used = set(places.values())
        return cls(
            places,
            {role: named[place] for role, place in places.items()},
            times,
            max(place for place, name in enumerate(named) if name) + 1,
            tuple(name for place, name in enumerate(named) if name and place not in used),
        )

    @property
    def told(self) -> tuple[str, ...]:
        """What was taken for what, and what was not."""
        roles = [
            role if self.names[role].casefold() == role else f"{role} from {self.names[role]!r}"
            for role in COLUMNS
            if role in self.names
        ]
        said = ["columns " + ", ".join([*roles, *([self.times.told] if self.times else [])])]
        return (*said, "not used " + ", ".join(map(repr, self.unused))) if self.unused else tuple(said)


def _is_coordinate(name: str, header: Sequence[str]) -> bool:
    """Whether a `y` stands beside an `x`: then it says where something is, not what."""
    return name.casefold() == "y" and any(other.casefold() == "x" for other in header)
