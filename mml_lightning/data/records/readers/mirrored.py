"""Which class a video belongs to after a horizontal flip, told by the names of the classes."""

from __future__ import annotations

import re
from collections.abc import Sequence

SWAPPED = {"left": "right", "right": "left", "clockwise": "counterclockwise", "counterclockwise": "clockwise"}
_WORDS = re.compile(r"(?<![a-z])(" + "|".join(sorted(SWAPPED, key=len, reverse=True)) + r")(?![a-z])", re.IGNORECASE)


def mirrored_classes(classes: Sequence[str]) -> dict[int, int]:
    """Class index -> class index after a horizontal flip, of the classes that change.

    "Pushing something from left to right" becomes "Pushing something from right to left". A class whose mirrored name
    is no class keeps its label: "pulling it right out" has nothing to do with sides.
    """
    number = {name: index for index, name in enumerate(classes)}
    partners = {index: number.get(_WORDS.sub(_swap, name), index) for name, index in number.items()}
    return {index: partner for index, partner in partners.items() if partner != index}


def _swap(match: re.Match[str]) -> str:
    word = match[0]
    other = SWAPPED[word.lower()]
    if word.isupper():
        return other.upper()
    return other.capitalize() if word[0].isupper() else other
