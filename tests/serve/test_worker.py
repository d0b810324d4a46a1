"""The process of the networks: too slow, dead, or left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mml_lightning.serve.asked import Refused
from mml_lightning.serve.worker import Worker
from mml_lightning.utils.errors import UserError
from tests.patience import LONGEST, wait_for


class Object:
    """What the tests have in the process; imports no torch."""

    def __init__(self, greeting: str = "hello") -> None:
        if greeting == "wrong":
            raise UserError("no such greeting")
        self.greeting = greeting

    def greet(self, name: str) -> str:
        return f"{self.greeting} {name} {os.getpid()}"

    def sleep(self) -> None:
        time.sleep(LONGEST)

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def refuse(self) -> None:
        raise Refused(404, "nothing\nthere")

    def fail(self) -> None:
        raise ZeroDivisionError("secret")


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    made = Worker(tmp_path, Object, "hello")
    yield made
    made.stop()


def test_what_takes_too_long_or_dies_is_replaced(worker: Worker) -> None:
    first = worker.ask("greet", "a")
    assert first.startswith("hello a ") and worker.ask("greet", "a", timeout=LONGEST) == first
    with pytest.raises(Refused, match=r"no result after 0.1 s, which --timeout allows") as refused:
        worker.ask("sleep", timeout=0.1)
    assert refused.value.status == 504
    second = worker.ask("greet", "a", timeout=LONGEST)
    assert second.startswith("hello a ") and second != first
    with pytest.raises(Refused, match=r"died of this request \(exit code -9\)"):
        worker.ask("die")
    with pytest.raises(Refused) as refused:
        worker.ask("refuse")
    assert (refused.value.status, refused.value.message) == (404, "nothing\nthere")
    with pytest.raises(Refused, match="ZeroDivisionError: the terminal"):
        worker.ask("fail")
    told: list[str] = []

    def ask() -> None:
        try:
            worker.ask("sleep")
        except Refused as refused:
            told.append(refused.message)

    asking = threading.Thread(target=ask)
    asking.start()
    worker.stop()
    asking.join(LONGEST)
    assert told == ["the server is ending"]
    with pytest.raises(Refused, match="the server is ending"):
        worker.ask("greet", "a")


def test_what_can_not_be_made_is_told(tmp_path: Path) -> None:
    worker = Worker(tmp_path, Object, "wrong")
    with pytest.raises(UserError, match="no such greeting"):
        worker.ask("greet", "a")
    worker.stop()


def test_the_files_of_a_killed_server_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "uploads"
    folder.mkdir()
    (folder / "upload").write_bytes(b"private")
    code = (
        "import os, signal; from pathlib import Path; from mml_lightning.serve.worker import Worker; "
        "from tests.serve.test_worker import Object\n"
        "if __name__ == '__main__':\n"
        f"    Worker(Path({str(folder)!r}), Object, 'hello').ask('greet', 'a'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    script = tmp_path / "server.py"
    script.write_text(code)
    kept = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run([sys.executable, str(script)], env=kept, timeout=LONGEST).returncode == -signal.SIGKILL
    wait_for(lambda: not folder.exists(), "that the uploads are gone")
