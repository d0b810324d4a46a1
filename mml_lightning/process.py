"""The process a job runs in: seeds, threads, ranks, what is said on the console."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from pytorch_lightning.utilities.warnings import PossibleUserWarning

from mml_lightning import nodes
from mml_lightning.heap import keep_freed_memory

log = logging.getLogger(__name__)

LIGHTNING = ("pytorch_lightning", "lightning.fabric", "lightning_fabric", "pytorch_lightning.utilities.rank_zero")


def set_up_process(cfg: DictConfig) -> None:
    """Threads, memory and the seed of everything that is not keyed by itself."""
    if cfg.trainer.num_threads:
        torch.set_num_threads(cfg.trainer.num_threads)
    keep = cfg.step.keep_memory
    keep_freed_memory(keep is True or (keep == "auto" and not uses_gpu(cfg.trainer.accelerator)))
    pl.seed_everything(nodes.draw_seed(cfg), workers=True, verbose=False)


def uses_gpu(accelerator: str) -> bool:
    """Whether this `trainer.accelerator` leads to a CUDA device here."""
    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def quieten_libraries() -> None:
    """Lightning's adverts, hints and per-run notices go; warnings about what a run does stay."""
    for name in LIGHTNING:
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=PossibleUserWarning)
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # said once by loader_settings
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*", category=UserWarning)
    if not is_first_rank():
        logging.getLogger().setLevel(logging.ERROR)  # one voice per run; errors of any rank are heard


def is_first_rank() -> bool:
    return getattr(rank_zero_only, "rank", 0) in (0, None)


def say(lines: Sequence[str]) -> None:
    for line in lines:
        log.info(line)


def say_result(fields: Mapping[str, Any]) -> None:
    """One line per split with the first metric of every peer."""
    say([f"{line}   (percent; {fields['wall_s']:.0f} s in all)" for line in result_lines(fields)])


def result_lines(fields: Mapping[str, Any]) -> list[str]:
    """For each split the first metric of every peer."""
    lines = []
    for split, by_peer in (fields.get("metrics") or {}).items():
        firsts = {peer: m.get("top1", m.get("map")) for peer, m in by_peer.items()}
        numbers = [f"{peer} {float('nan') if first is None else first:.2f}" for peer, first in firsts.items()]
        lines.append(f"{split:<5} {'  '.join(numbers)}")
    return lines
