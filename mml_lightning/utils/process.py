"""The process a job runs in: seeds, threads, ranks, what is said on the console."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence

from mml_lightning.utils.distributed import is_first_rank

log = logging.getLogger(__name__)

LIGHTNING = ("pytorch_lightning", "lightning.fabric", "lightning_fabric", "pytorch_lightning.utilities.rank_zero")


def quieten_libraries() -> None:
    """Lightning's adverts, hints and per-run notices go; warnings about what a run does stay. Needs no Lightning."""
    for name in LIGHTNING:
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # said once by loader_settings
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*", category=UserWarning)
    if not is_first_rank():
        logging.getLogger().setLevel(logging.ERROR)  # one voice per run; errors of any rank are heard


def say(lines: Sequence[str]) -> None:
    for line in lines:
        log.info(line)
