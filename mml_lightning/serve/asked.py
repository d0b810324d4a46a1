"""What is asked of the server, what it refuses, and its limits. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from mml_lightning.utils.plain_text import visible

AUTO = "auto"
MEGABYTE = 2**20
MOST_CLASSES = 1000  # that may be asked for


class Refused(Exception):
    """A request that is answered with a reason in place of a result.

    Args:
        status: of HTTP.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, visible(message))

    @property
    def status(self) -> HTTPStatus:
        return HTTPStatus(self.args[0])

    @property
    def message(self) -> str:
        return str(self.args[1])


@dataclass(frozen=True)
class Limits:
    """Args:
    max_mb: of an uploaded file, 2**20 bytes each.
    max_seconds: that a video may last.
    timeout: seconds that a prediction may take once it is its turn.
    queue: predictions that may wait while one runs.
    """

    max_mb: float
    max_seconds: float
    timeout: float
    queue: int

    @property
    def bytes(self) -> int:
        return int(self.max_mb * MEGABYTE)


@dataclass(frozen=True)
class Asked:
    """Args:
    video: number of a video of the test split; None for an upload.
    name: what an upload is called.
    peers: which networks; None for all.
    topk: classes that are named.
    window, stride: seconds, for a timeline; None for none. `auto`: a quarter of the video, half overlapping.
    pictures: whether what the networks see, and Grad-CAM, are wanted.
    of_class: the class that Grad-CAM looks at; None for the best of the main output.
    """

    video: int | None = None
    name: str = "upload"
    peers: tuple[str, ...] | None = None
    topk: int = 5
    window: float | str | None = None
    stride: float | None = None
    pictures: bool = False
    of_class: str | None = None


KNOWN = ("video", "name", "peer", "topk", "window", "stride", "pictures", "class")


def asked(query: Mapping[str, Sequence[str]]) -> Asked:
    """The parameters of a request.

    Raises:
        Refused: one is unknown, given twice or wrong.
    """
    for key, values in query.items():
        if key not in KNOWN:
            raise Refused(HTTPStatus.BAD_REQUEST, f"{key} is no parameter; there are {', '.join(KNOWN)}")
        if len(values) > 1:
            raise Refused(HTTPStatus.BAD_REQUEST, f"{key} is given {len(values)} times")
    given = {key: values[0] for key, values in query.items()}
    window = given.get("window")
    if "stride" in given and window in (None, AUTO):
        raise Refused(HTTPStatus.BAD_REQUEST, "stride goes with window=<seconds>")
    return Asked(
        video=None if "video" not in given else _whole("video", given["video"], 0, 2**31),
        name=visible(given.get("name", "upload"))[:200],
        peers=tuple(part for part in given["peer"].split(",") if part) if "peer" in given else None,
        topk=_whole("topk", given.get("topk", "5"), 1, MOST_CLASSES),
        window=window if window in (None, AUTO) else _seconds("window", str(window)),
        stride=None if "stride" not in given else _seconds("stride", given["stride"]),
        pictures=_whole("pictures", given.get("pictures", "0"), 0, 1) == 1,
        of_class=given.get("class"),
    )


def _whole(key: str, text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and least <= int(text) <= most):
        raise Refused(HTTPStatus.BAD_REQUEST, f"{key}={text} must be a whole number from {least} to {most}")
    return int(text)


def _seconds(key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise Refused(HTTPStatus.BAD_REQUEST, f"{key}={text} must be a positive number of seconds")
    return value
