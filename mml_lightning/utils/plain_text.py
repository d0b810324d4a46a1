"""Text of others on a terminal: characters that would steer it are shown, not sent.

Names of runs, classes and videos come from files of others, and an escape sequence in one of them could rewrite what
stands on the screen, or the title of the window.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import IO, Any

STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Control characters but tab and newline, and those that turn the direction of writing."""


def visible(text: str) -> str:
    """`text` with its control characters as they are written in code: \\x1b."""
    return STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def some_videos(ids: Sequence[str], shown: int = 3) -> str:
    """`5 videos (a, b, c, ...)`: how many, and the first."""
    more = ", ..." if len(ids) > shown else ""
    return f"{len(ids)} video{'' if len(ids) == 1 else 's'} ({', '.join(ids[:shown])}{more})"


class VisibleStream:
    """A stream for people: what is written to it is made visible. All else is the stream's own."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    @property
    def below(self) -> IO[str]:
        """The stream itself, for what has escape sequences of our own."""
        return self._stream

    def write(self, text: str) -> int:
        return self._stream.write(visible(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class VisibleFormatter(logging.Formatter):
    """What the log says, made visible; named in conf/hydra/default.yaml."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))
