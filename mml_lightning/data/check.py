"""What `mml check` finds out about a dataset: what decodes, where decord gives wrong frames, whether splits leak.

PyAV, which decodes in order, is the referee. The findings are one CSV line per record; its `decoder` column names the
one reader that is right for a video where decord and PyAV disagree, and :func:`with_readers` makes a run use it.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from mml_lightning.data.decode import DECODERS, DecodeError, installed, open_video
from mml_lightning.data.records import SPLITS, Dataset, Record
from mml_lightning.errors import UserError

LEVELS = 3.0  # mean absolute difference of a frame, in levels of 0..255, above which decord's is wrong
CLEARER = 0.5  # levels by which a neighbour must fit better to show that decord counts frames differently
UNREADABLE = "none"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Args:
        bytes: size of the file.
        width, height, fps: as the referee (else decord) sees them; 0 for an unreadable video.
        frames_decord, frames_pyav: frames each reader finds; None if it can't read the file or is not installed.
        difference: largest mean absolute difference of the sampled frames, in levels; None without comparison.
        decoder: "" where both readers are right, else the one that is, or "none".
        problem: why.
    """

    split: str = ""
    id: str = ""
    path: str = ""
    bytes: int = 0
    width: int = 0
    height: int = 0
    fps: float = 0.0
    frames_decord: int | None = None
    frames_pyav: int | None = None
    difference: float | None = None
    decoder: str = ""
    problem: str = ""

    @property
    def frames(self) -> int:
        return self.frames_pyav or self.frames_decord or 0


def _optional(number: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: number(text) if text else None


COLUMNS = [column.name for column in dataclasses.fields(Finding)]
TYPES: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("bytes", "width", "height"), int),
    "fps": float,
    **dict.fromkeys(("frames_decord", "frames_pyav"), _optional(int)),
    "difference": _optional(float),
}


@dataclass(frozen=True)
class _View:
    """What one reader sees: `frames` {index: uint8 [H, W, 3]} at the sampled indices and their neighbours."""

    count: int
    size: tuple[int, int]
    fps: float
    sampled: Sequence[int]
    frames: Mapping[int, np.ndarray]


def inspect(path: Path, samples: int = 4) -> Finding:
    """Read one video with both readers and compare `samples` frames, spread from the first to the last."""
    views: dict[str, _View] = {}
    errors: dict[str, str] = {}
    for decoder in DECODERS:
        if installed(decoder):
            try:
                views[decoder] = _view(path, decoder, samples)
            except DecodeError as error:
                errors[decoder] = str(error)
    difference, decoder, problem = _judge(views, errors)
    seen = views.get("pyav") or views.get("decord")
    width, height = seen.size if seen else (0, 0)
    return Finding(
        path=str(path),
        bytes=_bytes(path),
        width=width,
        height=height,
        fps=round(seen.fps, 3) if seen else 0.0,
        frames_decord=views["decord"].count if "decord" in views else None,
        frames_pyav=views["pyav"].count if "pyav" in views else None,
        difference=difference,
        decoder=decoder,
        problem=problem,
    )


def _view(path: Path, decoder: str, samples: int) -> _View:
    with open_video(path, decoder) as reader:
        sampled = np.unique(np.linspace(0, reader.count - 1, samples).astype(np.int64)).tolist()
        # the neighbours of the referee's frames tell a misplaced frame from another rounding of colours
        wanted = {i + step for i in sampled for step in ((-1, 0, 1) if decoder == "pyav" else (0,))}
        indices = sorted(wanted & set(range(reader.count)))
        frames = dict(zip(indices, reader.frames(indices), strict=True))
        return _View(reader.count, reader.size, reader.fps, sampled, frames)


def _judge(views: Mapping[str, _View], errors: Mapping[str, str]) -> tuple[float | None, str, str]:
    """(difference, decoder, problem) of :class:`Finding`."""
    if errors:
        return None, next(iter(views), UNREADABLE), errors.get("pyav") or errors["decord"]
    if len(views) < 2:
        return None, "", ""
    decord, referee = views["decord"], views["pyav"]
    if decord.count != referee.count:
        return None, "pyav", f"decord counts {decord.count} frames, {referee.count} decode"
    if decord.size != referee.size:
        return None, "pyav", f"decord gives frames of {decord.size}, PyAV of {referee.size}"
    apart = {i: _apart(decord.frames[i], referee.frames[i]) for i in referee.sampled}
    worst = max(apart, key=lambda i: apart[i])
    difference = round(apart[worst], 2)
    if apart[worst] > LEVELS:
        return difference, "pyav", f"decord's frame {worst} differs by {difference} levels"
    for i in referee.sampled:
        for near in (i - 1, i + 1):
            fits = near in referee.frames and _apart(decord.frames[i], referee.frames[near]) < apart[i] - CLEARER
            if fits:
                return difference, "pyav", f"decord's frame {i} is frame {near}"
    return difference, "", ""


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(np.int16) - b).mean())


def check(
    dataset: Dataset, file: Path, samples: int, threads: int, begin: Callable[[int], Callable[[], object]]
) -> list[Finding]:
    """Inspect every record and write `file`; findings of an interrupted check are taken over.

    Args:
        begin: called with the number of videos that are left; returns what is called after each.

    Raises:
        UserError: a number is out of range, or the file can't be written.
    """
    if samples < 1 or threads < 1:
        raise UserError(f"--samples {samples} and --threads {threads} must be 1 or more")
    records = {(split, r.id): r for split in SPLITS for r in dataset.splits.get(split, ())}
    part = file.with_name(f"{file.name}.{samples}.part")
    done = {(f.split, f.id): f for f in read(part, partial=True)}
    done = {k: f for k, f in done.items() if k in records and f.bytes == _bytes(records[k].media["frames"]) > 0}
    left: dict[Path, list[tuple[str, str]]] = defaultdict(list)  # parts of one file are inspected once
    for key in records.keys() - done.keys():
        left[records[key].media["frames"]].append(key)
    advance = begin(len(left))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", newline="", encoding="utf-8") as handle:
            _write(handle, done.values(), header=True)
            for path, seen in _inspect_all(list(left), samples, threads):
                done |= {(split, name): dataclasses.replace(seen, split=split, id=name) for split, name in left[path]}
                _write(handle, [done[key] for key in left[path]])
                advance()
        findings = [done[key] for key in records]
        with part.open("w", newline="", encoding="utf-8") as handle:
            _write(handle, findings, header=True)
        os.replace(part, file)
    except OSError as error:
        raise UserError(f"can't write {file} ({error.strerror}); set paths.root") from None
    return findings


def _inspect_all(paths: Sequence[Path], samples: int, threads: int) -> Iterator[tuple[Path, Finding]]:
    pool = ThreadPoolExecutor(max_workers=threads)  # both readers decode outside of the interpreter lock
    try:
        jobs = {pool.submit(inspect, path, samples): path for path in paths}
        for job in as_completed(jobs):
            yield jobs[job], job.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _write(handle: IO[str], findings: Iterable[Finding], header: bool = False) -> None:
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
    with file.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    findings = []
    for row in rows:
        try:
            findings.append(Finding(**{column: TYPES.get(column, str)(row[column]) for column in COLUMNS}))
        except (KeyError, TypeError, ValueError):
            if not partial:
                raise UserError(f"{file} is damaged; delete it and run mml check again") from None
    return findings


def with_readers(dataset: Dataset, file: Path) -> Dataset:
    """`dataset` with the readers that a check chose for single videos; itself where there was no check.

    Raises:
        UserError: the file is damaged.
    """
    chosen = {(f.split, f.id): f.decoder for f in read(file) if f.decoder in DECODERS}
    if not chosen:
        return dataset
    splits = {
        split: [dataclasses.replace(r, decoder=chosen.get((split, r.id), r.decoder)) for r in records]
        for split, records in dataset.splits.items()
    }
    return dataclasses.replace(dataset, splits=splits)


def duplicates(dataset: Dataset) -> list[list[tuple[str, str]]]:
    """Groups of (split, id) whose files are equal byte by byte and stand in more than one split."""
    by_size: dict[int, list[tuple[str, Record]]] = defaultdict(list)
    for split, records in dataset.splits.items():
        for record in records:
            by_size[_bytes(record.media["frames"])].append((split, record))
    by_content: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for size, members in by_size.items():
        if size and len({split for split, _ in members}) > 1:  # files of different size are not read at all
            for split, record in members:
                by_content[_digest(record.media["frames"])].append((split, record.id))
    return [group for group in by_content.values() if len({split for split, _ in group}) > 1]


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _digest(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def report(dataset: Dataset, findings: Sequence[Finding]) -> list[str]:
    """The findings in a few lines."""
    good = [f for f in findings if f.decoder != UNREADABLE]
    bad = [f for f in findings if f.decoder == UNREADABLE]
    special = [f for f in good if f.decoder]
    single = [f for f in good if f.frames == 1]
    lines = [f"{dataset.name}: {len(findings)} videos, {len(good)} readable"]
    if good:
        sizes = Counter(f"{f.width}x{f.height}" for f in good).most_common(3)
        frames, rates = [f.frames for f in good], [f.fps for f in good]
        lines.append("size     " + ", ".join(f"{size} ({n})" for size, n in sizes))
        lines.append(f"frames   {min(frames)} to {max(frames)}, median {statistics.median(frames):g}")
        lines.append(f"fps      {min(rates):g} to {max(rates):g}, median {statistics.median(rates):g}")
    if not installed("decord"):
        lines.append("decord is not installed: nothing was compared")
    lines += _counted("unreadable", bad, "repair or drop them")
    lines += _counted("one right reader", special, "runs on this data use it from now on")
    lines += _counted("one frame", single, "they have no flow: drop them, or set data.missing=mask")
    leaks = duplicates(dataset)
    if leaks:
        first = " = ".join("/".join(member) for member in leaks[0])
        lines.append(f"{len(leaks)} identical videos stand in several splits, first {first}: keep each in one")
    return lines + _balance(dataset)


def _counted(what: str, findings: Sequence[Finding], mend: str) -> list[str]:
    if not findings:
        return []
    first = findings[0]
    reason = f" ({first.problem})" if first.problem else ""
    return [f"{what}: {len(findings)} videos; {mend}; first {first.split}/{first.id}{reason}"]


def _balance(dataset: Dataset) -> list[str]:
    lines = []
    for name, head in dataset.heads.items():
        for split, records in dataset.splits.items():
            if not records:
                continue
            labels = [record.target[name] for record in records]
            count = Counter(k for label in labels for k in (label if isinstance(label, tuple) else (label,)))
            per_class = [count[k] for k in range(len(head.classes))]
            absent = [c for c, n in zip(head.classes, per_class, strict=True) if n == 0]
            few, middle, many = min(per_class), statistics.median(per_class), max(per_class)
            line = (
                f"{split:<8} {len(records)} videos, {len(head.classes)} classes of {few} to {many}, median {middle:g}"
            )
            lines.append(line + (f"; {len(absent)} classes have none: {', '.join(absent[:3])}" if absent else ""))
    return lines
