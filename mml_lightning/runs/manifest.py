"""`manifest.json`: all that is needed to repeat a run, and the conditions of each of its starts."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import re
import subprocess
import types
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

from mml_lightning.config.settings import Settings
from mml_lightning.runs.result import git_sha
from mml_lightning.utils.device import machine
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.foreign import Foreign, read_json
from mml_lightning.utils.program import INSTALLED
from mml_lightning.utils.result_file import write_json

log = logging.getLogger(__name__)

SCHEMA = 1
FILE = "manifest.json"
# What can change numbers without being typed. Not TORCH_LOGS: torch imports the modules that it names.
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG")
PREFIXES = ("MML_", "NVIDIA_TF32", "TORCH_ALLOW_TF32", "PYTORCH_CUDA")
NAME, VALUE = re.compile(r"[A-Z][A-Z0-9_]*"), re.compile(r"[\w .,:;+=%@/\[\]-]{0,1000}")
START: dict[str, type | types.UnionType] = {
    **dict.fromkeys(("started", "folder", "python"), str),
    **dict.fromkeys(("git_sha", "git_changes"), str | None),
    **dict.fromkeys(("versions", "machine", "environment"), dict),
    "threads": int,
}
"""Fields of a start and what they are."""


def write(cfg: Settings, fields: Mapping[str, Any]) -> None:
    """Write the manifest of a run that begins; one that goes on adds its conditions to those of its earlier starts.

    Args:
        fields: of `result.json`.

    Raises:
        OSError: it can't be written.
    """
    folder = Path(cfg.paths.output_dir)
    earlier = _earlier(folder) if fields["resumed"] else {}
    content = earlier or {
        "schema": SCHEMA,
        "config": cfg.plain(),
        **{key: fields[key] for key in ("name", "seed", "command", "overrides", "fingerprint", "data_fingerprint")},
        "decoder": fields["decoder"],
        "origins": {
            name: {key: peer[key] for key in ("init", "origin", "origin_fingerprint")}
            for name, peer in fields["peers"].items()
        },
        "starts": [],
    }
    write_json(folder / FILE, {**content, "starts": [*content["starts"], conditions()]})


def read(folder: Path) -> dict[str, Any] | None:
    """The manifest of a run; None where there is none.

    Raises:
        UserError: it is damaged.
    """
    file = folder / FILE
    try:
        value = read_json(file)
    except FileNotFoundError:
        return None
    except (OSError, Foreign) as error:
        raise UserError(f"{file} can't be used: {error}; give another run") from None
    wrong = _wrong(value)
    if wrong:
        raise UserError(f"{file} is damaged: {wrong}; give another run")
    return dict(value)


def _earlier(folder: Path) -> dict[str, Any]:
    """The manifest of a run that goes on; a damaged one does not keep it from that."""
    try:
        return read(folder) or {}
    except UserError as error:
        log.warning("%s; a new one is started", error)
        return {}


def _wrong(value: Any) -> str | None:
    """What is not as :func:`write` has written it."""
    if not isinstance(value, dict) or not isinstance(value.get("overrides"), list):
        return "its overrides are missing"
    if not isinstance(value.get("name"), str):
        return "its name is missing"
    starts = value.get("starts")
    if not isinstance(starts, list) or not starts or not all(isinstance(start, dict) for start in starts):
        return "it lists no start"
    for key, kind in START.items():
        if any(key in start and not isinstance(start[key], kind) for start in starts) or key not in starts[0]:
            return f"the field {key!r} of a start is missing or wrong"
    return None


def _sane(value: object) -> bool:
    return isinstance(value, str) and VALUE.fullmatch(value) is not None


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Those variables that belong into a manifest, in writing as in reading: others can run code."""
    return {
        key: value
        for key, value in sorted(variables.items())
        if (key in VARIABLES or key.startswith(PREFIXES)) and NAME.fullmatch(key) and _sane(value)
    }


def conditions() -> dict[str, Any]:
    """Of this process: code, libraries, machine; no names of hosts or users."""
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "folder": str(Path.cwd()),
        "git_sha": git_sha(),
        "git_changes": git_changes(),
        "python": platform.python_version(),
        "versions": dict(sorted((d.metadata["Name"].lower(), d.version) for d in distributions())),
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "environment": environment(os.environ),
    }


def git_changes() -> str | None:
    """Hash of all changes to the commit that the code stands at; None for none, or outside of a checkout."""
    if INSTALLED:
        return None
    try:
        call: dict[str, Any] = {"cwd": Path(__file__).parent, "capture_output": True, "timeout": 10, "check": True}
        diff = subprocess.run(["git", "diff", "--no-ext-diff", "--binary", "HEAD"], **call).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return hashlib.sha256(diff).hexdigest()[:16] if diff else None
