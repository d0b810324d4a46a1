"""The flow that a run lacks, computed before it begins."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping

from mml_lightning.config import data, limits
from mml_lightning.config.settings import Settings
from mml_lightning.data.flow.ahead import FlowAhead
from mml_lightning.data.flow.cache import FlowCache, FlowSettings
from mml_lightning.data.loading.dataset import ClipDataset
from mml_lightning.data.records.records import SPLITS, Dataset, Record
from mml_lightning.utils import progress as utils_progress
from mml_lightning.utils.progress import Progress
from mml_lightning.utils.threads import cores

log = logging.getLogger(__name__)

LOOKED_AT = 8  # videos, evenly spaced, whose flow tells whether that of all is there


def flow_filler(cache: FlowCache | None, datasets: Mapping[str, ClipDataset], workers: int) -> Callable[[], None]:
    """Computes the flow that the cache lacks when first called, and says how far it is."""

    @functools.cache
    def fill() -> None:
        if cache is None:
            return
        missing = cache.missing([record for dataset in datasets.values() for record in dataset.records])
        if not missing:
            return
        log.info("computing %s flow of %d videos in %s", cache.settings.algorithm, len(missing), cache.folder)
        with Progress(len(missing), "flow") as progress:
            failed = cache.prepare(missing, at_once(cache.settings, workers), progress.advance)
        if failed:
            log.warning(utils_progress.describe_failures(failed, "no flow"))

    return fill


def at_once(settings: FlowSettings, workers: int) -> int:
    """Videos whose flow is computed at a time: one per core, since nothing else runs meanwhile. Our TV-L1 keeps all
    cores busy with a single one; on a GPU `workers` decode ahead of it."""
    return max(1, workers) if settings.algorithm == "tvl1" else max(workers, cores())


def records_read(cfg: Settings, dataset: Dataset) -> list[Record]:
    """Those that a run looks at."""
    splits = [split for split in SPLITS if split != "test" or (cfg.test and limits.measures(cfg, "test"))]
    return [record for split in splits for record in dataset.splits.get(split, ())]


def cached_in(cfg: Settings) -> FlowCache | None:
    """Where a run caches its flow; None of a run that needs none, or computes it as it reads.

    Raises:
        UserError: `flow` is wrong.
    """
    cache = data.flow_cache(cfg, data.modalities(cfg))
    return None if cache is None or cache.settings.on_the_fly else cache


def begin_ahead(cfg: Settings, dataset: Dataset) -> FlowAhead | None:
    """Start a process that computes the flow of a later run; None where there is no core for it, it would take the GPU
    that is trained on, or the flow seems to be there.

    Raises:
        UserError: `flow` is wrong.
        OSError: it can't be started.
    """
    cache, spare = cached_in(cfg), cores() - 1
    if cache is None or not spare or cache.settings.device != "cpu":
        return None
    records = records_read(cfg, dataset)
    some = [*records[:: max(1, len(records) // LOOKED_AT)], *records[-1:]]  # a cache is filled from first to last
    return FlowAhead(cache, records, spare) if cache.missing(some) else None
