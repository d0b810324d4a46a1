"""A report of a check for the terminal."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from mml_lightning.data.check.summary import Report, Speed
from mml_lightning.utils.progress import format_duration


def lines(report: Report) -> list[str]:
    """The report in about ten lines; what stops a run comes before what falsifies it and what it copes with."""
    return [
        f"{report.name}: {report.total} videos, {report.readable} readable",
        *report.overview,
        *_balance(report),
        *([f"speed    {describe_speed(report.speed)}"] if report.speed else []),
        *report.notes,
        *map(str, report.remarks),
        f"{report.name}: {verdict(report)}",
    ]


def verdict(report: Report) -> str:
    if report.usable:
        return "usable"
    count = sum(remark.level != "note" for remark in report.remarks)
    return f"{count} {'problem' if count == 1 else 'problems'} to fix before a run can be trusted"


def describe_speed(speed: Speed) -> str:
    workers = f"{speed.workers} worker{'' if speed.workers == 1 else 's'}"
    return (
        f"{speed.videos:.1f} videos/s, {speed.frames:.0f} frames/s with {workers} here ({speed.timed} timed); "
        f"loading a training epoch takes {format_duration(speed.epoch)}"
    )


def _balance(report: Report) -> Iterator[str]:
    for classes in report.balance.values():
        for split, videos in report.videos.items():
            counts = [per_split.get(split, 0) for per_split in classes.values()]
            few, middle, many = min(counts), statistics.median(counts), max(counts)
            yield f"{split:<8} {videos} videos, {len(counts)} classes of {few} to {many} videos, median {middle:g}"
