"""`manifest.json`: all that is needed to repeat a run, and the conditions of each of its starts."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from mml_lightning import nodes
from mml_lightning.data.threads import cores
from mml_lightning.results import git_sha, write_json

SCHEMA = 1
FILE = "manifest.json"
# What can change numbers or files without being typed.
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "TORCH_LOGS")
PREFIXES = ("MML_", "NVIDIA_TF32", "TORCH_ALLOW_TF32", "PYTORCH_CUDA")


def write(cfg: DictConfig, fields: Mapping[str, Any]) -> None:
    """Write the manifest of a run that begins; one that goes on adds its conditions to those of its earlier starts.

    Args:
        fields: of `result.json`.

    Raises:
        OSError: it can't be written.
    """
    folder = Path(cfg.paths.output_dir)
    earlier = (read(folder) or {}) if fields["resumed"] else {}
    content = earlier or {
        "schema": SCHEMA,
        "config": nodes.plain(cfg),
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
    """The manifest of a run, or None where there is none to read."""
    try:
        value = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) and value.get("starts") else None


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
        "environment": {k: v for k, v in sorted(os.environ.items()) if k in VARIABLES or k.startswith(PREFIXES)},
    }


def machine() -> dict[str, Any]:
    """What kind of machine this is."""
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": cores(),
        "gpus": gpus,
    }


def git_changes() -> str | None:
    """Hash of all changes to the commit that the code stands at; None for none, or outside of a checkout."""
    try:
        call: dict[str, Any] = {"cwd": Path(__file__).parent, "capture_output": True, "timeout": 10, "check": True}
        diff = subprocess.run(["git", "diff", "--no-ext-diff", "--binary", "HEAD"], **call).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return hashlib.sha256(diff).hexdigest()[:16] if diff else None


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")), "")
