"""What runs make of a check: the one right reader of a video, and training without what can't be read."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mml_lightning.data.check.findings import Finding, read, state
from mml_lightning.data.records.record_store import RecordStore, record_of
from mml_lightning.data.records.records import Dataset, Record, plain_row, rows
from mml_lightning.data.video.decode import DECODERS

FILE = "findings.csv"


def folder(root: Path, name: str, reader: Mapping[str, Any]) -> Path:
    """Where the check of a dataset lies: its name, and a hash of the places that its reader's values name.

    Two annotation files of one name in different folders have checks of their own.
    """
    values = [value for key, value in sorted(reader.items()) if isinstance(value, str) and key not in ("name",)]
    places = [str(path.resolve()) for path in (Path(value).expanduser() for value in values) if path.exists()]
    return root / "check" / f"{name}-{hashlib.sha256('|'.join(places).encode()).hexdigest()[:8]}"


def with_check(dataset: Dataset, file: Path, sources: Collection[str], leave_out: bool = True) -> Dataset:
    """`dataset` as a check found it: with the readers it chose, and without unusable training records.

    A finding counts while its file is as it was: a repaired or a moved one is read as if it had never been checked.
    Only training leaves records out; validation and test keep theirs, so that they are reported.

    Args:
        file: what the check wrote; `dataset` itself where there is none.
        sources: what the run looks at ("frames", "flow"): a record with unreadable flow stays in a run on frames.
        leave_out: False keeps unusable records.

    Raises:
        UserError: the file is damaged.
    """
    findings = {f.key: f for f in read(file) if f.decoder}
    if not findings:
        return dataset
    told_of = {(split, identity) for split, identity, _ in findings}
    splits = {split: RecordStore() for split in dataset.splits}
    left_out: dict[str, str] = {}
    for split, records in dataset.splits.items():
        for row in rows(records):
            if (split, row.id) not in told_of:  # all but a few
                splits[split].append(row)
                continue
            record = record_of(row)
            reason = _reason(findings, split, record, sources) if leave_out and split == "train" else None
            if reason is None:
                splits[split].append(plain_row(_with_reader(findings.get((split, record.id, "frames")), record)))
            else:
                left_out[record.id] = reason
    return dataclasses.replace(dataset, splits=splits, left_out=left_out)


def _holds(finding: Finding, record: Record, whole: bool) -> bool:
    """Whether a finding is about the media of `record` as they are: `whole`, with their time; else by name and size."""
    media = record.media[finding.source]
    then, now = finding.state, state(media)
    if not whole:  # a copy decodes like its original, whatever its time
        then, now = then.partition("@")[0], now.partition("@")[0]
    return Path(finding.path).name == Path(str(media)).name and then == now


def _reason(findings: Mapping[Any, Finding], split: str, record: Record, sources: Collection[str]) -> str | None:
    """Why a run can't use `record`; None if it can."""
    for source in record.media:
        # flow that is no medium is computed from the frames, and spans are placed by their clock
        needed = source in sources or (source == "frames" and ("flow" not in record.media or record.span is not None))
        finding = findings.get((split, record.id, source))
        if needed and finding is not None and not finding.usable and _holds(finding, record, True):
            return finding.problem or "unreadable"
    return None


def _with_reader(finding: Finding | None, record: Record) -> Record:
    if finding is None or finding.decoder not in DECODERS or not _holds(finding, record, False):
        return record
    return dataclasses.replace(record, decoder=finding.decoder)
