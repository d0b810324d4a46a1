"""How long videos are: against their flow, against their labels in seconds, against the length that a list gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mml_lightning.data.check.findings import Finding
from mml_lightning.data.check.remarks import Remark, all_shown, remark
from mml_lightning.data.records.checks import FLOW_TOLERANCE, expected_flow
from mml_lightning.data.records.records import Dataset, FrameSpan, Record

SPAN_TOLERANCE = 0.5  # seconds by which a span may end after its video
ACTION_TOLERANCE = 2.0  # published actions of Charades end up to 1.54 s after the video's length
LENGTH_TOLERANCE = 0.5  # seconds by which a video may be shorter than its list says


def of_media(findings: Sequence[Finding], dataset: Dataset, least: int) -> list[Remark]:
    """Remarks on lengths.

    Args:
        least: frames in a row that a clip asks for.
    """
    frames = [f for f in findings if f.source == "frames" and f.usable]
    single = [f for f in frames if f.frames == 1]
    short = [f for f in frames if 1 < f.frames < least]
    longer = [f for f in findings if f.usable and f.listed is not None and f.problem]
    records = {(split, record.id): record for split, rows in dataset.splits.items() for record in rows}
    timed = [(f, records[f.split, f.id], f.lasts) for f in frames if f.lasts > 0 and (f.split, f.id) in records]
    cut = [said for f in frames if (said := _cut(f, records.get((f.split, f.id))))]
    uneven = [f"{f.split}/{f.id} (frames up to {f.uneven:.2f} s off an even rate)" for f in frames if f.uneven]
    late = [
        f"{f.split}/{f.id} (action to {end:g} s, video to {seconds:.2f} s)"
        for f, record, seconds in timed
        if (end := _last_end(record)) > seconds + ACTION_TOLERANCE
    ]
    cropped = [
        f"{f.split}/{f.id} ({f.frames} frames, {seconds:.2f} s; {record.length:g} s listed)"
        for f, record, seconds in timed
        if record.length is not None and seconds < record.length - LENGTH_TOLERANCE
    ]
    fix = "get or extract the missing part, or fix the frame rate"
    lone = "they have no flow: drop them, or set data.missing=mask"
    need = f"a clip needs {least} frames: some are repeated"
    unequal = list(_unequal(frames, {f.key: f for f in findings if f.source == "flow"}))
    return [
        *remark("falsifies", "flow length does not match the frames", "recompute it, or fix its list", unequal).some(),
        *remark("falsifies", "videos shorter than their list says", fix, cropped).some(),
        *remark("note", "spans end after the video", "they are cut at its end", cut).some(),
        *remark("note", "actions end after the video", "they last until its end", late).some(),
        *remark("note", "variable frame rate", "clips and timed labels use the timestamp of each frame", uneven).some(),
        *remark("note", "one frame", lone, all_shown(single)).some(),
        *remark("note", "short", need, all_shown(short)).some(),
        *remark("note", "more images than listed", "only the listed ones are used", all_shown(longer)).some(),
    ]


def _cut(f: Finding, record: Record | None) -> str:
    """How far the part of a record goes behind its video; "" where it does not."""
    if record is None or record.span is None:
        return ""
    if isinstance(record.span, FrameSpan):
        said = f"{f.split}/{f.id} (part to frame {record.span.last} from 0, the video has {f.frames})"
        return said if record.span.last >= f.frames else ""
    end = record.span[1]
    said = f"{f.split}/{f.id} (span to {end:g} s, video to {f.lasts:.2f} s)"
    return said if f.lasts > 0 and end > f.lasts + SPAN_TOLERANCE else ""


def _last_end(record: Record) -> float:
    """Seconds at which the last action of a record ends; 0 without one."""
    return max((end for intervals in record.intervals.values() for _, _, end in intervals), default=0.0)


def _unequal(frames: Sequence[Finding], flows: dict[tuple[str, str, str], Finding]) -> Iterator[str]:
    for f in frames:
        flow = flows.get((f.split, f.id, "flow"))
        if flow is None or not flow.usable:
            continue
        expected = expected_flow(f.frames, f.fps, flow.fps)
        if abs(flow.frames - expected) > FLOW_TOLERANCE:
            yield f"{f.split}/{f.id} ({f.frames} frames, {flow.frames} pairs of flow, {expected} expected)"
