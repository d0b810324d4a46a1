"""`logs/metrics.csv`: one row for whatever was logged at a time, continued by a resumed run as if nothing had been.

A checkpoint keeps how many rows it was preceded by. What a killed run wrote after its last checkpoint is dropped when
it is continued, and written again.
"""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from mml_lightning.utils.files import write_atomically

log = logging.getLogger(__name__)

NAME = "metrics.csv"


class MetricsLog(Logger):
    """A CSV file whose columns are the names that were logged so far, in the order of the alphabet.

    Rows are appended; a name that is new rewrites the file, whole or not at all. A row that the disk has no room for is
    kept and tried again with the next one: training goes on.

    Args:
        folder: where the file lies; made with the first row.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / NAME
        self.rows = 0
        self.muted = False
        self._columns: list[str] = []
        self._waiting: list[dict[str, Any]] = []
        self._warned = False
        self._begun = False

    @property
    def name(self) -> str:
        return "logs"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The config of a run lies in `.hydra/`."""

    @rank_zero_only
    def continue_after(self, rows: int) -> None:
        """Keep the first rows of the file of an interrupted run, all of it before the next row is written."""
        self._begun = True
        kept, self._columns = _read(self.path)
        if len(kept) < rows:
            log.warning("%s has %d rows, %d are expected by its checkpoint", self.path, len(kept), rows)
        self.rows, self._waiting = min(rows, len(kept)), []
        if self.rows < len(kept):
            self._rewrite(kept[: self.rows], self._columns)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if not self.muted:
            values = {key: float(value) if hasattr(value, "item") else value for key, value in metrics.items()}
            self._waiting.append({**values, "step": step})

    @rank_zero_only
    def save(self) -> None:
        if not self._waiting:
            return
        try:
            self._write()
        except OSError as error:
            if not self._warned:
                log.warning("%s can't be written (%s); its rows are kept until it can", self.path, error.strerror)
            self._warned = True

    @rank_zero_only
    def sync(self) -> None:
        """Have the rows so far on the disk: a checkpoint counts on them."""
        self.save()
        if self.path.is_file() and not self._waiting:
            with self.path.open("rb") as handle:
                os.fsync(handle.fileno())

    def finalize(self, status: str) -> None:
        self.save()

    def _write(self) -> None:
        if not self._begun:  # a run that starts from the beginning
            self.path.unlink(missing_ok=True)
            self._begun = True
        columns = sorted({*self._columns, *(key for row in self._waiting for key in row)})
        if columns != self._columns or not self.path.is_file():
            self._rewrite([*_read(self.path)[0], *self._waiting], columns)
        else:
            size = self.path.stat().st_size
            try:
                with self.path.open("a", encoding="utf-8", newline="") as handle:
                    csv.DictWriter(handle, columns).writerows(self._waiting)
            except OSError:
                os.truncate(self.path, size)  # no half row
                raise
        self.rows += len(self._waiting)
        self._waiting, self._warned = [], False

    def _rewrite(self, rows: list[dict[str, Any]], columns: list[str]) -> None:
        with write_atomically(self.path, newline="") as handle:
            writer = csv.DictWriter(handle, columns)
            writer.writeheader()
            writer.writerows(rows)
        self._columns = columns


def _read(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows and columns of a file, as text; none where there is none."""
    if not path.is_file():
        return [], []
    with path.open(encoding="utf-8", newline="") as handle:
        reader = csv.DictReader(handle)
        return list(reader), list(reader.fieldnames or ())
