"""How the jobs of a process ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mml_lightning.utils.files import write_atomically

FAILURE, MISTAKE, PREEMPTED, INTERRUPTED = 1, 2, 75, 130  # exit codes; 75 is EX_TEMPFAIL: start it again


@dataclass
class JobOutcome:
    """Of one start of a program: what its jobs tell the command line, and what it keeps for them.

    Args:
        failures: exit codes of the failed jobs: a failed job does not end a sweep, so the process fails at its end.
        stashed: files of a run that goes on, as they were before Hydra wrote this start's settings over them.
        brought: overrides of the run that goes on, which nobody has typed for this start.
        tracebacks: whether errors of libraries are shown whole: HYDRA_FULL_ERROR=1.
        error: of the last job that failed.
    """

    failures: list[int] = field(default_factory=list)
    stashed: dict[Path, bytes] = field(default_factory=dict)
    brought: list[str] = field(default_factory=list)
    tracebacks: bool = False
    error: BaseException | None = None

    @property
    def code(self) -> int:
        """The exit code of the process."""
        return max(self.failures, default=0)

    def stash(self, folder: Path, pattern: str = ".hydra/*.yaml") -> None:
        """Keep the files of `folder` that match, and nothing else."""
        self.stashed = {file.absolute(): file.read_bytes() for file in folder.glob(pattern)}

    def restore_stashed(self, folder: Path) -> None:
        """Give a run that was not allowed to go on, or to begin in `folder` anew, its own settings back: the next
        resume reads them."""
        for file, content in self.stashed.items():
            if folder.absolute() in file.parents:
                with write_atomically(file, "wb") as handle:
                    handle.write(content)
