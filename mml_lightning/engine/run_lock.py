"""The directory of a run belongs to one process and its ranks. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mml_lightning.utils.distributed import is_first_rank
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.files import Busy, locked


class InUse(UserError):
    """The directory of a run belongs to another process."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Have the directory of a run for this process and its ranks.

    Raises:
        InUse: another process is at it.
    """
    if not is_first_rank():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder))
        except Busy:
            where = "wait for it, or choose another hydra.run.dir"
            raise InUse(f"{folder} is in use by another process: {where}") from None
        yield
