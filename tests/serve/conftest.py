"""A server in this process, with the real networks and without the process that they have otherwise."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mml_lightning.serve.analysis import Analyst
from mml_lightning.serve.asked import Limits
from mml_lightning.serve.http_server import Server
from mml_lightning.serve.service import Service
from mml_lightning.serve.worker import _tried
from tests.patience import LONGEST

MOST = Limits(max_mb=1, max_seconds=60, timeout=LONGEST, queue=2)


class Here:
    """An object that is asked in this process, as a `Worker` asks it in another."""

    def __init__(self, made: Any) -> None:
        self.made = made

    def ask(self, method: str, *arguments: Any, timeout: float | None = None) -> Any:
        told, error = _tried(getattr(self.made, method), arguments)
        if error is not None:
            raise error
        return told


@dataclass
class Answer:
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """Asks a server that runs."""

    server: Server

    @property
    def folder(self) -> Path:
        return self.server.service.folder

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.server.server_address[1], timeout=LONGEST)

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        connection = self.connect()
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named, encode_chunked=named.get("Transfer-Encoding") == "chunked")
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()


@pytest.fixture(scope="session")
def words(demo: Path) -> list[str]:
    """Where the run's data are, which no file is trusted with."""
    return [f"data.root={demo / 'data'}", f"paths.cache={demo / 'cache'}"]


@pytest.fixture(scope="session")
def analyst(trained: Path, words: list[str]) -> Analyst:
    return Analyst(str(trained), None, None, words, MOST.max_seconds)


@pytest.fixture
def serving(tmp_path: Path) -> Callable[..., AbstractContextManager[Client]]:
    """serving(workplace, limits) runs a server; nothing of an upload may be left when it ends."""

    @contextmanager
    def run(workplace: Any, limits: Limits = MOST) -> Iterator[Client]:
        folder = tmp_path / "uploads"
        folder.mkdir()
        service = Service(workplace, limits, folder)
        if hasattr(workplace.made, "describe"):
            service.describe()
        with Server(("127.0.0.1", 0), service) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield Client(server)
            finally:
                server.shutdown()
                thread.join()
        assert list(folder.iterdir()) == []

    return run


@pytest.fixture
def client(analyst: Analyst, serving: Callable[..., AbstractContextManager[Client]]) -> Iterator[Client]:
    with serving(Here(analyst)) as one:
        yield one


@pytest.fixture(scope="session")
def clips(demo: Path) -> list[Path]:
    return sorted((demo / "data").rglob("videos/*.mp4"))
