"""`result.json`: what a run was and what came out. The tables, the pipelines and the zoo read nothing else."""

from __future__ import annotations

import logging
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

from mml_lightning.config.settings import Settings
from mml_lightning.utils import liveness, program
from mml_lightning.utils.distributed import is_first_rank
from mml_lightning.utils.errors import Preempted, RankDied, UserError
from mml_lightning.utils.process import say
from mml_lightning.utils.result_file import FILE, SCHEMA, read_result, write_json

log = logging.getLogger(__name__)

LIBRARIES = ("torch", "pytorch-lightning", "torchmetrics", "hydra-core", "numpy", "opencv-contrib-python-headless")


class RunResult:
    """The result of one run: a context that writes it on entering ("running") and on leaving, whole and by one rank.

    In between it names the process and is touched time and again, see :mod:`mml_lightning.utils.liveness`.

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
            "status": liveness.RUNNING,
            "error": None,
            "command": program.typed(),
            "git_sha": git_sha(),
            "versions": {name: _version(name) for name in LIBRARIES},
            "started": now(),
            "metrics": {},
            **fields,
        }

    def __enter__(self) -> RunResult:
        self.write()
        if self.active:
            self._open.enter_context(liveness.beating(self.folder / FILE))
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
        own = {"process": liveness.process()} if self.fields["status"] == liveness.RUNNING else {}
        write_json(self.folder / FILE, {**self.fields, **own})


def describe_error(error: BaseException) -> str:
    """One line: a mistake of the user in its own words, anything else with its type."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else ""
    return text if isinstance(error, UserError | RankDied) else f"{type(error).__name__}: {text}"


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
    if program.INSTALLED:  # a repository around the place of installation is another project's
        return None
    try:
        call = {"cwd": Path(__file__).parent, "capture_output": True, "text": True, "timeout": 10}
        sha = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], check=True, **call).stdout.strip()  # type: ignore[call-overload]
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], check=True, **call).stdout.strip()  # type: ignore[call-overload]
    except (OSError, subprocess.SubprocessError):
        return None
    return sha + ("+changes" if changed else "")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def now() -> str:
    """The local time to the second, with its zone."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


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


def record_failure(cfg: Settings | Path, overrides: Sequence[str], error: BaseException) -> None:
    """A job of a sweep that failed before it began has a row in the table too, with its reason.

    Args:
        cfg: its settings, or its directory where no settings came of its config.
    """
    if isinstance(cfg, Path):
        folder, known = cfg, {"name": cfg.name, "overrides": list(overrides)}
    else:
        from mml_lightning.runs.fingerprint import identity  # it imports torch, which a mistake does not wait for

        folder, known = Path(cfg.paths.output_dir), identity(cfg, overrides)
    if is_first_rank() and read_result(folder) is None:
        result = RunResult(folder, True, **known)
        result.__exit__(type(error), error, None)


def discard_unstarted(folder: Path) -> None:
    """Remove the directory that Hydra made for a run which a mistake kept from starting; whatever began is kept."""
    inside = {path.name for path in folder.glob("*")} if folder.is_dir() else set()
    if is_first_rank() and inside <= {".hydra", ".lock", "train.log", "eval.log", "run.log"}:
        shutil.rmtree(folder, ignore_errors=True)
