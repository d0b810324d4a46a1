"""The process a job runs in: threads, memory, seeds."""

from __future__ import annotations

import warnings

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.warnings import PossibleUserWarning

from mml_lightning.config.settings import Settings
from mml_lightning.utils.device import uses_gpu
from mml_lightning.utils.malloc import keep_freed_memory


def set_up_process(cfg: Settings) -> None:
    """Threads, memory and the seed of everything that is not keyed by itself; Lightning's guesses are not told."""
    warnings.filterwarnings("ignore", category=PossibleUserWarning)
    if cfg.trainer.num_threads:
        torch.set_num_threads(cfg.trainer.num_threads)
    keep = cfg.step.keep_memory
    keep_freed_memory(keep is True or (keep == "auto" and not uses_gpu(cfg.trainer.accelerator)))
    pl.seed_everything(cfg.draw_seed, workers=True, verbose=False)
