"""Hydra callbacks. Imports no torch: Hydra loads this for `--help` as well."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode

from mml_lightning.config.compose import sweep_of
from mml_lightning.utils import terminal

log = logging.getLogger(__name__)


class SweepTable(Callback):
    """Refreshes the table of a sweep after every job, so that a sweep that dies halfway has the table of its half."""

    def on_job_end(self, config: Any, job_return: JobReturn, **kwargs: Any) -> None:
        if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
            _write(Path(HydraConfig.get().sweep.dir))

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        sweep = sweep_of(config)
        folder, logger = sweep.folder, sweep.logger
        if not _first_rank() or not folder.is_dir():
            return
        _write(folder)
        if logger.wandb:
            from mml_lightning import report

            report.log_finished(folder, report.Place(logger.project, logger.entity, logger.mode))
        file = folder / "table.md"
        if file.is_file():
            print()
            terminal.show(file.read_text(encoding="utf-8"))
            print(f"\nwrote {file}, .csv, .json and .html")


def _write(folder: Path) -> None:
    if not _first_rank():
        return
    from mml_lightning import report

    try:
        report.write(folder)
    except Exception:  # a broken table must not end the sweep; the runs' own files are intact
        log.exception("could not write the table of %s; try: mml report %s", folder, folder)


def _first_rank() -> bool:
    return os.environ.get("LOCAL_RANK", "0") == "0"
