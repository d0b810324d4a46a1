"""How loaders batch and work. Imports no Lightning: plans are made without it."""

from __future__ import annotations

from dataclasses import dataclass

from mml_lightning.utils.errors import UserError


@dataclass(frozen=True)
class LoaderSettings:
    """How loaders batch and work.

    Args:
        batch_size: training videos per step over all ranks.
        eval_batch_size: views per step of one rank: a test video of six views counts six.
        workers: loader processes per rank; 0 decodes in the main process.
        context: how workers start, "fork", "spawn", "forkserver" or None for the platform's way.
        timeout: seconds that a worker may read one video, after which it is unreadable; None for no limit.

    Raises:
        UserError: a number is out of range.
    """

    batch_size: int
    eval_batch_size: int
    workers: int
    context: str | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("eval_batch_size", 1), ("workers", 0)):
            if getattr(self, name) < least:
                raise UserError(f"data.{name}={getattr(self, name)} must be {least} or more")
