"""What a bench tells: rows of named numbers, and a sentence with the bottleneck and the switch that would move it.

A number has the same name, unit and form whichever bench gives it: :data:`NUMBERS`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mml_lightning.utils import files
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.result_file import json_text

Row = dict[str, Any]

NUMBERS = {  # name in JSON: head of the column in a table, form
    "clips_per_s": ("clips/s", "{:.3g}"),
    "videos_per_s": ("videos/s", "{:.3g}"),
    "views_per_s": ("views/s", "{:.3g}"),
    "pairs_per_s": ("pairs/s", "{:.3g}"),
    "read_by": ("read by", "{}"),
    "sample_ms": ("8 frames, ms", "{:.1f}"),
    "pyav_ms": ("by PyAV, ms", "{:.1f}"),
    "alone_ms": ("by decord alone, ms", "{:.1f}"),
    "wrong_alone": ("wrong frames by decord alone", "{:.0%}"),
    "vs_alone": ("vs decord alone", "{:.2f}x"),
    "judge_ms": ("analysis once, ms", "{:.1f}"),
    "decode_all_ms": ("decoding all, ms", "{:.1f}"),
    "read_per_s": ("read clips/s", "{:.3g}"),
    "samples_per_s": ("samples/s", "{:.3g}"),
    "milliseconds": ("ms / pair", "{:.3g}"),
    "frame_ms": ("ms / frame", "{:.1f}"),
    "frame_p95_ms": ("95%, ms", "{:.1f}"),
    "frames_per_s": ("frames/s", "{:.3g}"),
    "times_first": ("time vs the first", "{:.1f}x"),
    "clip_ms": ("ms / clip", "{:.1f}"),
    "file_mb": ("file, MB", "{:.1f}"),
    "seconds": ("s", "{:.3g}"),
    "cpu_seconds": ("processor s", "{:.3g}"),
    "read_vs_first": ("read vs the first", "{:.2f}x"),
    "vs_first": ("vs the first", "{:.2f}x"),
    "vs_reference": ("vs the reference", "{:.2g}x"),
    "spread": ("spread", "{:.0%}"),
    "data_wait": ("data wait", "{:.0%}"),
    "vs_proportional": ("vs proportional", "{:.2f}"),
    "growth": ("growth", "{:.2f}"),
    "mfu": ("MFU", "{:.0%}"),
    "kept_mb": ("kept MB/clip", "{:.0f}"),
    "peak_mb": ("peak MB", "{:.0f}"),
    "loss_difference": ("loss differs by", "{:.1e}"),
    "level_difference": ("frames differ by", "{:.2f}"),
    "logit_difference": ("logits differ by", "{:.1e}"),
    "logit_share": ("logits differ by, of the largest", "{:.1e}"),
    "errors": ("{}, px", "{:.3f}"),
    "added": ("added, {}", "{:.3f}"),
    "files": ("files/video", "{:.3g}"),
    "kb": ("kB/video", "{:.0f}"),
    "pair_kb": ("kB a pair", "{:.1f}"),
    "gb_per_s": ("GB/s of operands", "{:.0f}"),
    "bandwidth": ("of a copy's", "{:.0%}"),
    "scores_mb": ("scores MB", "{:.0f}"),
    "more_mb": ("more at the peak MB", "{:.0f}"),
    "records": ("records", "{:,}"),
    "workers": ("workers", "{}"),
    "index_s": ("index read, s", "{:.1f}"),
    "first_batch_s": ("first batch, s", "{:.1f}"),
    "first_batch_wall_s": ("wall time, s", "{:.1f}"),
    "empty_mb": ("without records, MB", "{:.0f}"),
    "first_mb": ("first batch, MB", "{:.0f}"),
    "last_mb": ("after, MB", "{:.0f}"),
    "samples": ("samples", "{:,}"),
}


@dataclass(frozen=True)
class BenchTable:
    """A table and its sentence.

    Args:
        rows: of what is compared. The first value of each names it; the others are numbers by their names in
            :data:`NUMBERS`, None where one does not apply or so few rounds don't tell it, {thing: number} where one is
            of each of several things. What else a row has is for JSON alone.
        title: which table it is, where a bench tells several.
        more: for JSON alone.
        whole: False of a table whose measurement goes on: it stands for what a call has found that is cut.
    """

    rows: Sequence[Mapping[str, Any]]
    sentence: str
    title: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)
    whole: bool = True

    def __str__(self) -> str:
        """Markdown: columns in the order of the rows' numbers, without those that no row has."""
        name = next(iter(self.rows[0]))
        cells = [{name: str(row[name]), **dict(_told(row))} for row in self.rows]
        heads = dict.fromkeys(head for row in cells for head, text in row.items() if text != MISSING)
        lines = [list(heads), ["---", *["---:"] * (len(heads) - 1)]]
        lines += [[row.get(head, MISSING) for head in heads] for row in cells]
        return "\n".join([*("| " + " | ".join(line) + " |" for line in lines), "", self.sentence])

    def as_json(self) -> dict[str, Any]:
        titled = {"title": self.title} if self.title else {}
        cut = {} if self.whole else {"whole": False}
        return {**titled, **cut, "rows": [dict(row) for row in self.rows], "sentence": self.sentence, **self.more}


MISSING = "-"


def _told(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Head and text of every number."""
    for key, value in row.items():
        if key in NUMBERS:
            head, form = NUMBERS[key]
            for thing, number in (value if isinstance(value, Mapping) else {"": value}).items():
                yield head.format(thing), MISSING if number is None or number != number else form.format(number)


def made_by(command: str, machine: Mapping[str, Any]) -> str:
    """The line that belongs below a table."""
    device, processor = (
        machine["device"],
        f"{machine['processor']} ({machine['cores']} cores, {machine['instructions']})",
    )
    place = processor if device == machine["processor"] else f"{device}, {processor}"
    threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    return f"made by `{command}` on {place}, {threads}, {machine['clock']} time, torch {machine['torch']}"


def writable(path: Path, option: str) -> Path:
    """The file behind `path`, which may be a link to it; said before minutes are spent on what goes there.

    Raises:
        UserError: it can't be written.
    """
    file = Path(os.path.realpath(path))
    with _named(path, option):
        files.check_writable(file)
    return file


def write(path: Path, text: str, option: str) -> None:
    """The file as a whole, or that before.

    Raises:
        UserError: it can't be written.
    """
    with _named(path, option), files.write_atomically(path) as handle:
        handle.write(text)


def write_json(path: Path | None, content: Mapping[str, Any]) -> None:
    """Nothing without a path. JSON has neither NaN nor infinity: they become null.

    Raises:
        UserError: it can't be written.
    """
    if path is not None:
        write(path, json_text(content), "--json")


@contextmanager
def _named(path: Path, option: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"can't write {path} ({error.strerror}); name another {option}") from None
