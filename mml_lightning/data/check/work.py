"""The check itself: every video and folder of images once, in parallel, continued where it was interrupted."""

from __future__ import annotations

import glob
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path

from mml_lightning.data.check.findings import Finding, read, state, write
from mml_lightning.data.check.inspection import inspect, of_record
from mml_lightning.data.loading.sources import SOURCES
from mml_lightning.data.records.records import SPLITS, Dataset, Record
from mml_lightning.data.video.decode import IN_MEMORY
from mml_lightning.data.video.index_store import IndexStore
from mml_lightning.data.video.media import Media
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.files import lock, write_atomically

PART = "part"  # ends names of findings of a check that has not ended

_Key = tuple[str, str, str]  # split, id, source


def check(
    dataset: Dataset,
    file: Path,
    samples: int,
    threads: int,
    begin: Callable[[int], Callable[[], object]],
    indexes: IndexStore = IN_MEMORY,
) -> list[Finding]:
    """Inspect all media of every record and write `file`; findings of an interrupted check are taken over.

    What is found stands in a file of this process's own until the end, so that checks that go on at a time don't
    disturb each other.

    Args:
        samples: frames that are read of each.
        begin: called with the number of videos (and folders of images) left; returns what is called after each.
        indexes: where runs find what is known of each file.

    Raises:
        UserError: a number is out of range, or the file can't be written.
    """
    if samples < 1 or threads < 1:
        raise UserError(f"--samples {samples} and --threads {threads} must be 1 or more")
    records = {
        (split, record.id, source): record
        for split in SPLITS
        for record in dataset.splits.get(split, ())
        for source in sorted(record.media)
        if source in SOURCES and SOURCES[source].pictured  # sound is not looked at
    }
    kind = f"{file.name}.{samples}"
    part = file.with_name(f"{kind}.{uuid.uuid4().hex}.{PART}")
    done: dict[_Key, Finding] = {}
    for before in sorted(file.parent.glob(f"{glob.escape(kind)}.*{PART}")):
        done |= _taken_over(before, records)
    left: dict[Media, list[_Key]] = defaultdict(list)  # parts of one file are inspected once
    for key, record in records.items():
        if key not in done:
            left[record.media[key[2]]].append(key)
    advance = begin(len(left))
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("x", newline="", encoding="utf-8") as handle:
            lock(handle.fileno())
            write(handle, done.values(), header=True)
            _remove_parts(part, kind)
            for media, seen in _inspect_all(list(left), samples, threads, indexes):
                done |= {key: of_record(seen, key[0], records[key], key[2]) for key in left[media]}
                write(handle, [done[key] for key in left[media]])
                advance()
        findings = [done[key] for key in records]
        with write_atomically(file, newline="") as handle:
            write(handle, findings, header=True)
        part.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"can't write {file} ({error.strerror}); set paths.root") from None
    return findings


def _remove_parts(own: Path, kind: str) -> None:
    """Remove what interrupted checks have left, which stands in `own` now; those of checks that go on are locked."""
    for part in own.parent.glob(f"{glob.escape(kind)}.*{PART}"):
        if part == own:
            continue
        with suppress(FileNotFoundError), part.open("rb") as handle:
            if lock(handle.fileno()):
                part.unlink()


def _taken_over(part: Path, records: dict[_Key, Record]) -> dict[_Key, Finding]:
    """What an interrupted check found out about media that are as they were."""
    done = {}
    for finding in read(part, partial=True):
        record = records.get(finding.key)
        if record is None or not finding.state or finding.state != state(record.media[finding.source]):
            continue
        if finding.path == str(record.media[finding.source]) and (finding.usable or record.span is None):
            done[finding.key] = of_record(finding, finding.split, record, finding.source)  # spans may have changed
    return done


def _inspect_all(
    media: Sequence[Media], samples: int, threads: int, indexes: IndexStore
) -> Iterator[tuple[Media, Finding]]:
    pool = ThreadPoolExecutor(max_workers=threads)  # both readers decode outside of the interpreter lock
    try:
        jobs = {pool.submit(inspect, one, samples, indexes): one for one in media}
        for job in as_completed(jobs):
            yield jobs[job], job.result()
    finally:
        pool.shutdown(cancel_futures=True)
