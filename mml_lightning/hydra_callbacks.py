"""Hydra callbacks. Imports no torch: Hydra loads this for `--help` as well."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

log = logging.getLogger(__name__)


class SweepTable(Callback):
    """Refreshes the table of a sweep after every job: after a failed job Hydra never reaches the end of the sweep."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
            self._write(Path(HydraConfig.get().sweep.dir))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        if not folder.is_dir():
            return
        self._write(folder)
        if config.get("logger", {}).get("wandb"):
            from mml_lightning import report

            report.to_wandb(
                report.tabulate(report.collect(folder)), folder, config.logger.project, config.logger.entity
            )
        table = folder / "table.md"
        if table.is_file():
            print(f"\n{table.read_text()}\n{table}")

    def _write(self, folder: Path) -> None:
        import os

        if os.environ.get("LOCAL_RANK", "0") != "0":
            return
        from mml_lightning import report

        try:
            report.write(folder)
        except Exception:  # a broken table must not end the sweep; the runs' own files are intact
            log.exception("could not write the table of %s; try: mml report %s", folder, folder)
