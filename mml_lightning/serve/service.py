"""From a request to its answer: a place, the upload on disk for as long as it is needed, a turn, the networks."""

from __future__ import annotations

import errno
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

from mml_lightning.serve.asked import Asked, Limits, Refused
from mml_lightning.serve.turns import Turns

PREFIX = "mml_serve_"
LISTED = 100  # videos of an answer
ENDING = re.compile(r"\.[A-Za-z0-9]{1,5}\Z")
PROBED = 2**21  # bytes, more than a decoder looks at to tell a format
LISTS = (b"#extm3u", b"dash:profile")  # HLS and DASH: they make a decoder open other files of this machine


class Workplace(Protocol):
    """Where the networks are: a :class:`~mml_lightning.serve.worker.Worker`."""

    def ask(self, method: str, *arguments: Any, timeout: float | None = None) -> Any: ...


class Service:
    """Args:
    workplace: asked by one request at a time.
    folder: where uploads lie while they are looked at.

    :meth:`describe` comes first.
    """

    def __init__(self, workplace: Workplace, limits: Limits, folder: Path) -> None:
        self.workplace, self.limits, self.folder = workplace, limits, folder
        self.turns = Turns(limits.queue)
        self._described: dict[str, Any] | None = None
        self._test: list[tuple[str, list[str]]] = []

    def describe(self) -> dict[str, Any]:
        """What is served, and the limits. The first time it is asked of the networks, so before anything else."""
        if self._described is None:
            told, most = self.workplace.ask("describe"), self.limits
            told["limits"] = {
                **{"max_mb": most.max_mb, "max_seconds": most.max_seconds, "timeout": most.timeout},
                "queue": most.queue,
            }
            self._test = self.workplace.ask("test_videos")
            self._described = told
        return self._described

    def videos(self, search: str, first: int) -> dict[str, Any]:
        """Videos of the test split whose id or labels contain `search`, from number `first` of those on."""
        words = search.casefold()
        found = [
            {"number": number, "id": name, "labels": labels}
            for number, (name, labels) in enumerate(self._test)
            if any(words in text.casefold() for text in (name, *labels))
        ]
        return {"total": len(found), "videos": found[first : first + LISTED]}

    def predict(
        self, asked: Asked, upload: Callable[[], Iterable[bytes]] | None, gone: Callable[[], bool]
    ) -> dict[str, Any]:
        """The answer to a request.

        Args:
            upload: gives the bytes of the file, once there is a place for it; None for a video of the test split.

        Raises:
            Refused: with the reason. Gone: nobody waits for it.
        """
        with self.turns.place():
            if upload is None:
                return self._answer(asked, None, gone)
            with self._stored(upload(), asked.name) as path:
                return self._answer(asked, path, gone)

    def _answer(self, asked: Asked, path: Path | None, gone: Callable[[], bool]) -> dict[str, Any]:
        with self.turns.turn(gone):
            return dict(self.workplace.ask("analyse", asked, path, timeout=self.limits.timeout))

    @contextmanager
    def _stored(self, content: Iterable[bytes], name: str) -> Iterator[Path]:
        """An upload as a file of a folder of its own, which is removed in any case.

        Raises:
            Refused: it is empty, too large or a playlist, or there is no room.
        """
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            ending = ENDING.search(name)  # which some formats are known by
            path, size = folder / f"upload{ending[0] if ending else ''}", 0
            with path.open("wb") as file:
                for part in content:
                    size += len(part)
                    if size > self.limits.bytes:
                        raise too_large(self.limits)
                    file.write(part)
            if not size:
                raise Refused(HTTPStatus.BAD_REQUEST, f"{name} is empty: send a video as the body, or video=<number>")
            if _is_list(path):
                raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, f"{name} is a playlist: send the video itself")
            yield path
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise Refused(HTTPStatus.INSUFFICIENT_STORAGE, "the server has no room for uploads") from None
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _is_list(path: Path) -> bool:
    with path.open("rb") as file:
        beginning = file.read(PROBED).lower()
    return any(sign in beginning for sign in LISTS)


def too_large(limits: Limits) -> Refused:
    return Refused(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the file has more than the {limits.max_mb:g} MB that --max-mb allows"
    )
