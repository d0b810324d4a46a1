"""The process a job runs in: seeds, threads, ranks, what is said on the console."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from mml_lightning.errors import UserError

log = logging.getLogger(__name__)


def set_up_process(cfg: DictConfig) -> None:
    if cfg.trainer.num_threads:
        torch.set_num_threads(cfg.trainer.num_threads)
    if not isinstance(cfg.seed, int) or cfg.seed < 0:
        raise UserError(f"seed={cfg.seed} must be a whole number from 0")
    pl.seed_everything(cfg.seed, workers=True, verbose=False)


def quieten_libraries() -> None:
    """Lightning's adverts and per-run notices; warnings stay."""
    for name in ("pytorch_lightning", "lightning.fabric", "lightning_fabric", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)


def is_first_rank() -> bool:
    return getattr(rank_zero_only, "rank", 0) in (0, None)


def say(lines: Sequence[str]) -> None:
    if is_first_rank():
        for line in lines:
            log.info(line)


def say_result(fields: Mapping[str, Any]) -> None:
    """One line per split with the first metric of every peer."""
    for split, by_peer in fields["metrics"].items():
        numbers = "  ".join(
            f"{peer} {next(m for k, m in values.items() if k in ('top1', 'map')):.2f}"
            for peer, values in by_peer.items()
        )
        say([f"{split:<5} {numbers}   (percent; {fields['wall_s']:.0f} s in all)"])
