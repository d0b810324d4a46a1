"""`result.json`: what a run was and what came out. The tables, the pipelines and the zoo read nothing else."""

from __future__ import annotations

import json
import logging
import math
import shlex
import subprocess
import sys
import time
import types
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

from mml_lightning import life
from mml_lightning.errors import Preempted, RankDied, UserError
from mml_lightning.files import write_atomically
from mml_lightning.foreign import Foreign, read_json

log = logging.getLogger(__name__)

SCHEMA = 1
FILE = "result.json"
STRINGS = (
    *("status", "error", "name", "command", "git_sha", "started", "finished", "stage", "objective", "setup", "data"),
    *("backbone", "views", "zoo", "data_fingerprint", "fingerprint"),
)
KINDS: dict[str, type | types.UnionType] = {
    **dict.fromkeys(STRINGS, str),
    **dict.fromkeys(("overrides", "modality", "resumed"), list),
    **dict.fromkeys(("metrics", "peers", "unreadable", "damaged", "weights", "evaluation", "expected", "speed"), dict),
    "wall_s": int | float,
}
"""What a field is, where it is there and not null; others are looked at by those who read them."""
LIBRARIES = ("torch", "pytorch-lightning", "torchmetrics", "hydra-core", "numpy", "opencv-contrib-python-headless")


class RunResult:
    """The result of one run: a context that writes it on entering ("running") and on leaving, whole and by one rank.

    In between it names the process and is touched time and again, see :mod:`mml_lightning.life`.

    Args:
        folder: directory of the run.
        active: False on other ranks: nothing is written.
        fields: what is known before the start.
    """

    def __init__(self, folder: Path, active: bool, **fields: Any) -> None:
        self.folder, self.active = folder, active
        self._clock = time.monotonic()
        self._open = ExitStack()
        self.fields: dict[str, Any] = {
            "schema": SCHEMA,
            "status": life.RUNNING,
            "error": None,
            "command": shlex.join([Path(sys.executable).name, *sys.argv]),
            "git_sha": git_sha(),
            "versions": {name: _version(name) for name in LIBRARIES},
            "started": now(),
            "metrics": {},
            **fields,
        }

    def __enter__(self) -> RunResult:
        self.write()
        if self.active:
            self._open.enter_context(life.beating(self.folder / FILE))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close with status "completed", "preempted" or "failed"; the error goes on, even if nothing can be written."""
        self._open.close()
        self.fields |= {
            "status": "completed" if error is None else "preempted" if isinstance(error, Preempted) else "failed",
            "error": None if error is None else describe_error(error),
            "finished": now(),
            "wall_s": self.elapsed(),
        }
        try:
            self.write()
        except OSError as unwritable:
            if error is None:
                raise
            log.error("%s can't be written: %s", self.folder / FILE, unwritable.strerror)

    def elapsed(self) -> float:
        """Seconds since the run began."""
        return round(time.monotonic() - self._clock, 2)

    def write(self) -> None:
        if not self.active:
            return
        own = {"process": life.process()} if self.fields["status"] == life.RUNNING else {}
        write_json(self.folder / FILE, {**self.fields, **own})


def describe_error(error: BaseException) -> str:
    """One line: a mistake of the user in its own words, anything else with its type."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else ""
    return text if isinstance(error, UserError | RankDied) else f"{type(error).__name__}: {text}"


def write_json(path: Path, value: Any) -> None:
    """Replace `path` as a whole; numbers that are not finite become null."""
    text = json.dumps(_finite(value), indent=1, allow_nan=False) + "\n"
    with write_atomically(path) as handle:
        handle.write(text)


def read_result(folder: Path) -> dict[str, Any] | None:
    """The result of a run, or None where there is none to read; of one that was killed with status "died"."""
    try:
        return life.told(checked_result(folder / FILE), folder / FILE)
    except (OSError, Foreign):
        return None


def checked_result(file: Path) -> dict[str, Any]:
    """The content of a result.json, its fields of the right kinds.

    Raises:
        OSError: it can't be read.
        Foreign: it is no result, or a field is damaged.
    """
    value = read_json(file)
    if not isinstance(value, dict):
        raise Foreign("it holds no object")
    for key, kind in KINDS.items():
        if value.get(key) is not None and not isinstance(value[key], kind):
            raise Foreign(f"its field {key!r} is damaged")
    if not all(isinstance(word, str) for key in ("overrides", "modality") for word in value.get(key) or ()):
        raise Foreign("one of its lists holds something else than words")
    tables = [*_parts(value.get("metrics")), *_parts(value.get("peers"))]
    tables += [part for table in _parts(value.get("metrics")) for part in _parts(table)]
    if not all(isinstance(table, dict | None) for table in tables):
        raise Foreign("its metrics or its peers are damaged")
    return value


def _parts(table: Any) -> list[Any]:
    return list(table.values()) if isinstance(table, dict) else []


def nested_metrics(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"val/rgb/top1": x} -> {"val": {"rgb": {"top1": x}}}, for the splits that are measured."""
    result: dict[str, Any] = {}
    for key, value in sorted(flat.items()):
        split, _, rest = key.partition("/")
        if split in ("val", "test") and "/" in rest:
            peer, _, metric = rest.rpartition("/")
            # Lightning hands on float32: more digits would be noise (73.599998)
            result.setdefault(split, {}).setdefault(peer, {})[metric] = round(float(value), 4)
    return result


def git_sha() -> str | None:
    """Commit of the code, with "+changes" if the checkout differs from it; None outside of a checkout."""
    try:
        call = {"cwd": Path(__file__).parent, "capture_output": True, "text": True, "timeout": 10}
        sha = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], check=True, **call).stdout.strip()  # type: ignore[call-overload]
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], check=True, **call).stdout.strip()  # type: ignore[call-overload]
    except (OSError, subprocess.SubprocessError):
        return None
    return sha + ("+changes" if changed else "")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def now() -> str:
    """The local time to the second, with its zone."""
    return datetime.now().astimezone().isoformat(timespec="seconds")
