"""How the jobs of this process ended."""

from __future__ import annotations

from pathlib import Path

from mml_lightning.utils.files import write_atomically

FAILURE, MISTAKE, PREEMPTED, INTERRUPTED = 1, 2, 75, 130  # exit codes; 75 is EX_TEMPFAIL: start it again
stashed: dict[Path, bytes] = {}
"""Files of a run that goes on, as they were before Hydra wrote this start's settings over them."""
failures: list[int] = []
"""Exit codes of the failed jobs of this process: a failed job does not end a sweep, so the process fails at its end."""


tracebacks = False  # whether errors of libraries are shown whole: HYDRA_FULL_ERROR=1


def restore_stashed(folder: Path) -> None:
    """Give a run that was not allowed to go on, or to begin in `folder` anew, its own settings back: the next resume
    reads them."""
    for file, content in stashed.items():
        if folder.absolute() in file.parents:
            with write_atomically(file, "wb") as handle:
                handle.write(content)
