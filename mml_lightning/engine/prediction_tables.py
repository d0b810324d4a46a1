"""Predictions as files and as lines of a terminal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

from mml_lightning.data.records.records import FrameSpan
from mml_lightning.engine.predict_files import Part
from mml_lightning.engine.prediction import Prediction, Scores, main_output
from mml_lightning.utils.progress import format_duration

UNSEEN = "it lacks the input of this network"
DIGITS = 6  # of a probability


def to_csv(parts: Sequence[Part], found: Sequence[Prediction], count: int, several_heads: bool) -> str:
    """A row per video (or window) and output: its best `count` classes with their probabilities; one row with the
    reason where there are none."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    best = [name for k in range(1, count + 1) for name in (f"class_{k}", f"score_{k}")]
    head = ["head"] if several_heads else []
    table.writerow(["video", "start", "end", *head, "output", *best, "error"])
    for part, one in zip(parts, found, strict=True):
        begin = [part.video, *_ends(part)]
        if not one.heads:
            table.writerow([*begin, *([""] * len(head)), "", *[""] * len(best), one.error])
        for name, scores in one.heads.items():
            for output in scores.log_scores:
                top = scores.top(count, output)
                cells = [cell for label, score in top for cell in (label, f"{score:.{DIGITS}g}")]
                cells += [""] * (len(best) - len(cells))
                error = one.error or ("" if top else UNSEEN)
                table.writerow([*begin, *([name] if head else []), output, *cells, error])
    return text.getvalue()


def to_json_lines(parts: Sequence[Part], found: Sequence[Prediction], count: int) -> str:
    """A JSON object a line: video, start and end of a part, per head and output the best `count` classes, error."""
    told = [as_dict(part, one, count) for part, one in zip(parts, found, strict=True)]
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in told)


def as_dict(part: Part, one: Prediction, count: int) -> dict[str, Any]:
    """A line of :func:`to_json_lines`."""
    told: dict[str, Any] = {"video": part.video}
    if part.span is not None:
        told |= dict(zip(_names(part), _ends(part), strict=True))
    told["heads"] = {
        head: {output: best_of(scores, count, output) for output in scores.log_scores}
        for head, scores in one.heads.items()
    }
    return told | {key: value for key, value in (("error", one.error), ("damage", one.damage)) if value}


def best_of(scores: Scores, count: int, output: str) -> list[dict[str, Any]]:
    """The best `count` classes of an output, best first; none where the video lacks its modality."""
    return [{"class": label, "score": score} for label, score in scores.top(count, output)]


def lines(part: Part, one: Prediction, count: int) -> Iterator[str]:
    """What a terminal shows of one video: a line per output."""
    name = part.video if part.span is None else f"{part.video} {'-'.join(f'{x:g}' for x in _ends(part))}"
    if not one.heads:
        yield str(one.error) if name in str(one.error) else f"{name}: {one.error}"
    several = [f"{head} " if len(one.heads) > 1 else "" for head in one.heads]
    for head, scores in zip(several, one.heads.values(), strict=True):
        width = max(map(len, scores.log_scores))
        for output in scores.log_scores:
            best = ", ".join(f"{label} {score:.3f}" for label, score in scores.top(count, output))
            yield f"{name}  {head}{output:<{width}}  {best or UNSEEN}"


def timelines(parts: Sequence[Part], found: Sequence[Prediction]) -> Iterator[str]:
    """Of every video that is cut into windows: from when to when which class of the main output is best."""
    rows: dict[str, list[tuple[float, float, str, float]]] = {}
    for part, one in zip(parts, found, strict=True):
        if part.span is None or not one.heads:
            continue
        scores = next(iter(one.heads.values()))
        for label, score in scores.top(1):
            rows.setdefault(part.video, []).append((*part.span, label, score))
    for video, windows in rows.items():
        yield f"{video}:"
        yield from (f"  {_clock(a)} to {_clock(b)}  {label} {score:.3f}" for a, b, label, score in _joined(windows))


def outputs(found: Sequence[Prediction]) -> list[str]:
    """Names of what has scores, the main one first."""
    scores: Scores | None = next((s for one in found for s in one.heads.values()), None)
    if scores is None:
        return []
    names = list(scores.log_scores)
    return sorted(names, key=lambda name: name != main_output(names))


def _joined(windows: Sequence[tuple[float, float, str, float]]) -> list[tuple[float, float, str, float]]:
    """Neighbours of one class as one stretch with their highest score."""
    made: list[tuple[float, float, str, float]] = []
    for start, end, label, score in windows:
        if made and made[-1][2] == label and start <= made[-1][1]:
            made[-1] = (made[-1][0], end, label, max(score, made[-1][3]))
        else:
            made.append((start, end, label, score))
    return made


def _clock(seconds: float) -> str:
    return f"{format_duration(int(seconds))}.{int(seconds * 10) % 10}"


def _names(part: Part) -> tuple[str, str]:
    return ("first_frame", "last_frame") if isinstance(part.span, FrameSpan) else ("start", "end")


def _ends(part: Part) -> tuple[Any, Any]:
    return ("", "") if part.span is None else tuple(part.span)  # type: ignore[return-value]
