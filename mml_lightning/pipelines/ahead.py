"""What later runs of a pipeline read is prepared while a run trains: their flow, on cores that have nothing to do."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from mml_lightning.pipelines.progress import WAITING, PipelineState
from mml_lightning.pipelines.reuse import Reuse
from mml_lightning.utils.distributed import is_first_rank

if TYPE_CHECKING:
    from mml_lightning.data.flow.ahead import FlowAhead

log = logging.getLogger(__name__)


class Ahead:
    """At most one process at a time, which ends before a run reads what it writes, and with the pipeline.

    Args:
        known: where the records of the runs are looked up.
        wanted: False for never: `pipeline.ahead`.
    """

    def __init__(self, state: PipelineState, known: Reuse, wanted: bool) -> None:
        self.state, self.known, self.wanted = state, known, wanted and is_first_rank()
        self._process: FlowAhead | None = None
        self._done: set[Path] = set()  # caches that a run or a process has filled, or fills

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *error: object) -> None:
        if self._process is not None:
            self._process.stop()
            self._process = None

    def before(self, number: int) -> None:
        """To be called when a run is about to start."""
        if not self.wanted:
            return
        from mml_lightning.engine import flow  # it imports torch

        cache = flow.cached_in(self.state.runs[number].cfg)
        own = None if cache is None else cache.folder
        if self._process is not None and (own == self._process.cache.folder or not self._process.working()):
            log.info("ahead     %s flow: %s", self._process.cache.settings.algorithm, self._process.stop())
            self._process = None
        if own is not None:
            self._done.add(own)
        if self._process is None:
            self._begin()

    def _begin(self) -> None:
        """Start on the first cache that a later run reads and that nobody has filled."""
        from mml_lightning.engine import flow

        for planned, entry in zip(self.state.runs, self.state.entries, strict=True):
            if entry.state != WAITING or planned.views:
                continue
            try:
                cache = flow.cached_in(planned.cfg)
                if cache is None or cache.folder in self._done:
                    continue
                self._done.add(cache.folder)
                self._process = flow.begin_ahead(planned.cfg, self.known.dataset(planned.cfg))
            except Exception as error:  # of any kind: it comes again when the run starts, and is told there
                log.debug("nothing is prepared for %s: %s", planned.label, error)
                continue
            if self._process is not None:
                name = cache.settings.algorithm
                log.info("ahead     %s flow for %s is computed meanwhile, on idle cores", name, planned.label)
                return
