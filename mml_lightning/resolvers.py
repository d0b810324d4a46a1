"""OmegaConf resolvers of conf/, and the stamp that gives all processes of a run one directory. Imports no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

from omegaconf import OmegaConf


def stamp_run() -> str:
    """Name this moment once: child processes (DDP ranks, sweeps) inherit it and land in the same directory.

    To the microsecond: runs that a script starts together must not share a directory.
    """
    return os.environ.setdefault("MML_STAMP", datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f"))


def join_keys(mapping: Iterable[str]) -> str:
    """rgb+flow"""
    return "+".join(mapping)


def init_label(init: Mapping[str, str], modalities: Iterable[str]) -> str:
    """One word for where the peers start: their common init, or each in the order of the modalities."""
    labels = [init_word(str(init[name])) for name in modalities]
    return labels[0] if len(set(labels)) == 1 else "+".join(labels)


def objective_label(objective: str, usual: str) -> str:
    """Nothing for the objective that the stage brings along, else its name, so that runs of both keep apart."""
    return "" if objective == usual else f"_{objective}"


def file_stem(path: str | None) -> str:
    """Name of a file without folder and ending, safe in a path."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", Path(path).stem) if path else "none"


def init_word(init: str) -> str:
    """`init` as part of a name: a file by its stem."""
    return file_stem(init) if "/" in init or init.endswith((".pt", ".pth", ".ckpt")) else init.replace(":", "-")


def register() -> None:
    """Make the resolvers known; calling it again changes nothing."""
    for resolver in (join_keys, init_label, init_word, objective_label, file_stem):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
