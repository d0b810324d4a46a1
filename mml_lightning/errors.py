"""The exceptions that the command line shows without a traceback."""

from __future__ import annotations

from mml_lightning.plain_text import visible


class UserError(ValueError):
    """A mistake that the user can mend; its message is one line and names the fix. What it quotes of files can't steer
    the terminal."""

    def __init__(self, message: str = "") -> None:
        super().__init__(visible(message))


class RunsFailed(Exception):
    """Some runs of a pipeline failed, the others went on; the message names them and their logs."""


class Preempted(BaseException):
    """A run leaves because it was asked to; it can be continued."""
