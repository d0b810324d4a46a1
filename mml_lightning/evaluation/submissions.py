"""Files that evaluation servers and official programs take. Legend: N videos, K classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from mml_lightning.utils.errors import UserError
from mml_lightning.utils.files import write_atomically


def charades_lines(ids: Sequence[str], scores: Tensor) -> list[str]:
    """One line per video: the id, then the K scores [N, K] in class order, separated by spaces (what
    `Charades_v1_classify.m` reads). All digits are written: a rounded score would tie."""
    rows = scores.double().tolist()
    return [" ".join([video, *(f"{score:.17g}" for score in row)]) for video, row in zip(ids, rows, strict=True)]


def ssv2_lines(ids: Sequence[str], scores: Tensor) -> list[str]:
    """One line per video: the id and the five best class indices of scores [N, K], best first, separated by semicolons
    (Something-Something V2; what TSM writes).

    Raises:
        UserError: fewer than five classes.
    """
    if scores.shape[1] < 5:
        raise UserError(f"a Something-Something submission lists five classes, the scores have {scores.shape[1]}")
    best = scores.sort(dim=1, descending=True, stable=True).indices[:, :5].tolist()
    return [";".join([video, *map(str, row)]) for video, row in zip(ids, best, strict=True)]


FORMATS: dict[str, Callable[[Sequence[str], Tensor], list[str]]] = {"charades": charades_lines, "ssv2": ssv2_lines}


def write(form: str, path: Path, ids: Sequence[str], scores: Tensor) -> int:
    """Write a submission, whole or not at all; the number of videos in it. Videos without a score (NaN) get no line.

    Raises:
        UserError: unknown format, or nothing to write.
    """
    if form not in FORMATS:
        raise UserError(f"submission format {form!r} is unknown; use one of {', '.join(FORMATS)}")
    scored = ~scores.isnan().any(dim=1)
    kept = [video for video, has in zip(ids, scored.tolist(), strict=True) if has]
    if not kept:
        raise UserError("no video has a score, nothing to submit")
    lines = FORMATS[form](kept, scores[scored])
    with write_atomically(path) as handle:
        handle.write("\n".join(lines) + "\n")
    return len(lines)
