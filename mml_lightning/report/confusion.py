"""A confusion matrix, or a co-occurrence of labels and predictions, as a picture whose cells are links."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup
from torch import Tensor

from mml_lightning.utils.templates import render

CLASSES = 40  # that a picture has, unless all are asked for
NUMBERS = 40  # classes up to which the numbers stand in the cells
NAME = 36  # characters of a class


def worst_classes(counts: Tensor, most: int | None = CLASSES) -> list[int]:
    """The classes with the most mistakes, in their order: in rows (labels) and columns (predictions) together."""
    if most is None or len(counts) <= most:
        return list(range(len(counts)))
    off = counts.clone()
    off.fill_diagonal_(0)
    mistakes = off.sum(dim=0) + off.sum(dim=1)
    return sorted(mistakes.argsort(descending=True, stable=True)[:most].tolist())


def matrix(counts: Tensor, names: Sequence[str], shown: Sequence[int], linked: set[tuple[int, int]]) -> Markup:
    """The picture: a row per label, a column per predicted class, as dark as its share of the label's videos.

    Args:
        counts: int64 [K, K].
        names: of the K classes.
        shown: which of them.
        linked: off the diagonal (label, class) whose cell leads to #pair<label>-<class>; those on it lead to
            #class<label>.
    """
    numbers = len(shown) <= NUMBERS
    side = 24 if numbers else 9
    font = 11 if numbers else 8
    left = 10 + round(max(len(_short(names[k])) for k in shown) * font * 0.6)
    rows = counts.tolist()
    cells = [
        _cell(rows[i][j], sum(rows[i]), names, (i, j), linked)
        | {"x": left + x * side, "y": left + y * side, "number": numbers}
        for y, i in enumerate(shown)
        for x, j in enumerate(shown)
        if rows[i][j]
    ]
    return render(
        "svg/confusion.svg",
        **{"left": left, "side": side, "font": font, "size": left + side * len(shown) + 2, "cells": cells},
        names=[(_short(names[k]), names[k], k) for k in shown],
    )


def _cell(
    count: int, videos: int, names: Sequence[str], at: tuple[int, int], linked: set[tuple[int, int]]
) -> dict[str, Any]:
    i, j = at
    return {
        "count": count,
        "kind": "hit" if i == j else "miss",
        "share": f"{0.12 + 0.88 * min(1.0, count / videos):.2f}",
        "light": count > 0.6 * videos,
        "to": f"class{i}" if i == j else f"pair{i}-{j}" if at in linked else "",
        "title": f"label {names[i]}, predicted {names[j]}: {count}",
    }


def _short(name: str) -> str:
    """Both ends of a long name: many begin alike."""
    if len(name) <= NAME:
        return name
    return f"{name[: NAME // 3].rstrip()}…{name[-(NAME - NAME // 3 - 1) :].lstrip()}"
