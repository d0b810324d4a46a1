"""OmegaConf resolvers of conf/, and the stamp that gives all processes of a run one directory. Imports no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf


def stamp_run() -> str:
    """Name this moment once: child processes (DDP ranks, sweeps) inherit it and land in the same directory.

    To the microsecond: runs that a script starts together must not share a directory.
    """
    return os.environ.setdefault("MML_STAMP", datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f"))


def join_keys(mapping: Iterable[str]) -> str:
    """rgb+flow"""
    return "+".join(mapping)


def init_label(init: Mapping[str, Any], modalities: Iterable[str], copies: int = 1) -> str:
    """One word for where the peers start: their common init, or each in the order of the modalities; further networks
    of a modality are told where they start elsewhere."""
    labels = [init_word(str(init[name])) for name in modalities]
    several = isinstance(copies, int) and copies > 1  # a wrong value is told by the checks of values
    further = init_word(str(init["copies"]).removesuffix(":{modality}")) if several and init["copies"] else labels[0]
    common = labels if len(set(labels)) > 1 else labels[:1]
    return "+".join(common if further == labels[0] else [*common, further])


def repeat_label(repeat: int) -> str:
    """What sets the name of an independent run apart: nothing, _again, _again2, .."""
    return "" if not repeat else "_again" if repeat == 1 else f"_again{repeat}"


def objective_label(objective: str, usual: str) -> str:
    """Nothing for the objective that the stage brings along, else its name, so that runs of both keep apart."""
    return "" if objective == usual else f"_{objective}"


def file_stem(path: str | None) -> str:
    """Name of a file without folder and ending, safe in a path."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", Path(path).stem) if path else "none"


def init_word(init: str) -> str:
    """`init` as part of a name: a file by its stem."""
    return file_stem(init) if "/" in init or init.endswith((".pt", ".pth", ".ckpt")) else init.replace(":", "-")


def by_seed(seed: int, *values: Any) -> Any:
    """One of `values`, in turn: that of seed 0 first. Cross-validation: each seed has a fold."""
    return values[seed % len(values)]


def register() -> None:
    """Make the resolvers known; calling it again changes nothing."""
    for resolver in (join_keys, init_label, init_word, objective_label, repeat_label, file_stem, by_seed):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)


register()  # also where only this is imported: in a job that a launcher has sent to another machine
