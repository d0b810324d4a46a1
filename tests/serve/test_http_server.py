"""The server over HTTP: what it answers, what it refuses, and that no upload is left."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mml_lightning.data.records.records import Record
from mml_lightning.serve.analysis import Analyst
from mml_lightning.serve.http_server import FILES
from mml_lightning.utils.templates import FOLDER
from tests.patience import LONGEST, wait_for
from tests.serve.conftest import MOST, Client, Here

Serving = Callable[..., AbstractContextManager[Client]]


def test_an_upload_is_scored_and_deleted(client: Client, clips: list[Path], capfd: pytest.CaptureFixture[str]) -> None:
    whole = client("POST", "/api/predict?name=my%20clip.mp4&topk=3&window=auto&pictures=1", clips[0].read_bytes())
    assert whole.status == 200 and whole.json["video"] == "my clip.mp4"
    assert [len(top) for top in whole.json["heads"]["label"].values()] == [3, 3, 3, 3]
    assert len(whole.json["windows"]) == 7 and whole.json["seen"]["peers"]["rgb"]["heat"]
    assert list(client.folder.iterdir()) == []
    in_parts = client("POST", "/api/predict?topk=3", iter([clips[0].read_bytes()]), Transfer_Encoding="chunked")
    assert in_parts.json["heads"] == whole.json["heads"]
    wait_for(lambda: "my clip.mp4 (" in capfd.readouterr().err, "a line on the terminal")


def test_test_videos_are_listed_and_scored(client: Client) -> None:
    model = client("GET", "/api/model").json
    assert model["peers"] == {"flow": "flow", "rgb": "rgb"} and model["test_videos"] == 11
    assert model["limits"] == {"max_mb": 1, "max_seconds": 60, "timeout": LONGEST, "queue": 2}
    listed = client("GET", "/api/videos?search=&first=9").json
    assert listed["total"] == 11 and [one["number"] for one in listed["videos"]] == [9, 10]
    word = listed["videos"][0]["labels"][0].upper().replace(" ", "+")
    assert listed["videos"][0] in client("GET", f"/api/videos?search={word}").json["videos"]
    assert client("GET", "/api/videos?search=nothing").json == {"total": 0, "videos": []}
    assert client("GET", "/api/videos?first=-1").status == 400
    answer = client("POST", f"/api/predict?video={listed['videos'][0]['number']}&peer=rgb").json
    assert answer["video"] == listed["videos"][0]["id"] and answer["labels"] == listed["videos"][0]["labels"]
    assert client("GET", "/api/status").json == {"inside": 0}


@pytest.mark.parametrize(
    "query, body, status, message",
    [
        ("name=text.mp4", b"this is no video\n" * 99, 422, "text.mp4 can't be scored: "),
        ("name=%1b[31m.mp4", b"text", 422, "\\x1b[31m.mp4"),
        ("", b"", 400, "upload is empty"),
        ("peer=audio", b"text", 400, "peer=audio must name some of flow, rgb"),
        ("video=11", None, 404, "no test video 11"),
        ("video=../../etc/passwd", None, 400, "must be a whole number"),
        ("video=1&video=2", None, 400, "given 2 times"),
        ("vidoe=1", None, 400, "vidoe is no parameter"),
        ("topk=0", b"x", 400, "from 1 to 1000"),
        ("topk=5x", b"x", 400, "from 1 to 1000"),
        ("window=-1", b"x", 400, "positive number of seconds"),
        ("window=nan", b"x", 400, "positive number of seconds"),
        ("stride=1", b"x", 400, "stride goes with window"),
        ("nothing", b"x", 400, "name=value"),
    ],
)
def test_mistakes_are_told(client: Client, query: str, body: bytes | None, status: int, message: str) -> None:
    answer = client("POST", f"/api/predict?{query}", body)
    assert answer.status == status and message in answer.json["error"], answer.body
    assert "/" not in answer.json["error"].replace("../../etc/passwd", "")  # no path of the server


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"
TAGGED = "ID3\x04" + 6 * "\x00" + HLS  # a decoder skips the tag, of no length
DASH = '<MPD profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><BaseURL>{}</BaseURL></MPD>'


@pytest.mark.parametrize("text", [HLS, TAGGED, " " + DASH], ids=["hls", "tagged", "dash"])
@pytest.mark.parametrize("name", ["a.m3u8", "a.mpd", "a.mp4"])
def test_no_playlist_makes_the_decoder_read_other_files(
    client: Client, clips: list[Path], text: str, name: str
) -> None:
    answer = client("POST", f"/api/predict?name={name}", text.format(clips[0]).encode())
    assert answer.status == 422 and answer.json == {"error": f"{name} is a playlist: send the video itself"}


@pytest.mark.parametrize("path", ["/../../etc/passwd", "/..%2f..%2fetc/passwd", "/serve/page.html", "/api/predict"])
def test_nothing_that_is_typed_becomes_a_path(client: Client, path: str) -> None:
    assert client("GET", path).status == 404
    assert client("POST", path.replace("predict", "nothing")).status == 404


def test_a_name_of_an_upload_is_no_path(client: Client, clips: list[Path], tmp_path: Path) -> None:
    answer = client("POST", "/api/predict?name=../../evil.mp4&peer=rgb", clips[0].read_bytes())
    assert answer.status == 200 and answer.json["video"] == "../../evil.mp4"
    assert not list(tmp_path.rglob("*evil*"))


def test_what_is_too_large_is_refused_before_it_is_read(client: Client) -> None:
    with socket.create_connection(client.server.server_address[:2], timeout=LONGEST) as raw:
        raw.sendall(b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 209715200\r\n\r\n")
        raw.shutdown(socket.SHUT_WR)  # and not a byte more
        told = b"".join(iter(lambda: raw.recv(65536), b""))
    assert b"413" in told.splitlines()[0] and b"more than the 1 MB that --max-mb allows" in told


def test_what_turns_out_too_large_is_refused_by_count(client: Client) -> None:
    sent = 0

    def parts() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(20):
            sent += 2**17
            yield bytes(2**17)

    answer = client("POST", "/api/predict", parts(), Transfer_Encoding="chunked")
    assert answer.status == 413 and sent > MOST.bytes and answer.headers["Connection"] == "close"


@pytest.mark.parametrize(
    "head, status",
    [
        (b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", 400),
        (b"Transfer-Encoding: gzip\r\n", 400),
        (b"Content-Length: -3\r\n", 411),
        (b"Content-Length: 3\r\nContent-Length: 4\r\n", 411),
        (b"", 411),
        (b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n", 400),
    ],
)
def test_bodies_that_do_not_say_where_they_end_are_refused(client: Client, head: bytes, status: int) -> None:
    with socket.create_connection(client.server.server_address[:2], timeout=LONGEST) as raw:
        raw.sendall(b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n")
        raw.shutdown(socket.SHUT_WR)
        told = b"".join(iter(lambda: raw.recv(65536), b""))
    assert told.startswith(b"HTTP/1.1 %d" % status) and told.count(b"HTTP/1.1") == 1


def test_a_body_that_drips_in_is_refused(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its place is free again, however slowly the client goes on."""
    limits = replace(client.server.service.limits, timeout=0.0)
    monkeypatch.setattr(client.server.service, "limits", limits)
    answer = client("POST", "/api/predict?name=a.mp4", b"some bytes")
    assert answer.status == 408 and answer.json["error"] == "the video did not arrive within 0 s (--timeout)"
    assert client.server.service.turns.inside == 0


def test_connections_beyond_the_limit_are_closed(client: Client) -> None:
    taken = 0
    while client.server.room.acquire(blocking=False):
        taken += 1
    try:
        with socket.create_connection(client.server.server_address[:2], timeout=LONGEST) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with suppress(ConnectionResetError):
                assert raw.recv(1) == b""
    finally:
        for _ in range(taken):
            client.server.room.release()


def test_a_body_is_asked_for_when_there_is_a_place(client: Client, clips: list[Path]) -> None:
    content = clips[0].read_bytes()
    with (
        socket.create_connection(client.server.server_address[:2], timeout=LONGEST) as raw,
        raw.makefile("rb") as lines,
    ):
        head = f"POST /api/predict?peer=rgb HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n"
        raw.sendall(head.encode() + b"Expect: 100-continue\r\n\r\n")
        assert lines.readline().startswith(b"HTTP/1.1 100") and lines.readline() == b"\r\n"
        raw.sendall(content)
        assert lines.readline().startswith(b"HTTP/1.1 200")
    with socket.create_connection(client.server.server_address[:2], timeout=LONGEST) as raw:
        raw.sendall(head.replace(str(len(content)), "9999999").encode() + b"Expect: 100-continue\r\n\r\n")
        raw.shutdown(socket.SHUT_WR)
        assert b"".join(iter(lambda: raw.recv(65536), b"")).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "headers, status",
    [
        ({"Host": "evil.example:8420"}, 403),  # a name that was made to lead here
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "[x"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "localhost:1", "Origin": "http://localhost:2"}, 403),
        ({"Host": "localhost:1", "Origin": "http://localhost:1"}, 200),
        ({"Host": "[::1]:1"}, 200),
        ({"Host": "192.168.0.7"}, 200),
        ({"Host": "LOCALHOST"}, 200),
    ],
)
def test_other_pages_and_names_are_refused(client: Client, headers: dict[str, str], status: int) -> None:
    for method, path in (("GET", "/"), ("GET", "/api/model"), ("POST", "/api/predict?video=0&peer=rgb")):
        answer = client(method, path, **headers)
        assert answer.status == status and "Access-Control-Allow-Origin" not in answer.headers
        if status != 403:
            break  # one answer tells


def test_pages_need_nothing_from_elsewhere(client: Client) -> None:
    for path, (name, kind) in FILES.items():
        answer = client("GET", path)
        assert answer.status == 200 and answer.headers["Content-Type"] == kind
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        text = (FOLDER / "serve" / name).read_text(encoding="utf-8")
        assert answer.body.decode() == text
        assert not re.search(r"https?://|url\(|@import|src=\"//", text)
        assert "innerHTML" not in text and "style=" not in text and "onclick" not in text
        head = client("HEAD", path)
        assert head.status == 200 and head.body == b"" and head.headers["Content-Length"] == str(len(answer.body))


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_refused_in_the_same_form(client: Client, method: str) -> None:
    answer = client(method, "/api/predict", b"x" * 9)
    assert answer.status == 501 and "Unsupported method" in answer.json["error"]


def test_a_get_with_a_body_is_no_second_request(client: Client) -> None:
    with socket.create_connection(client.server.server_address[:2], timeout=LONGEST) as raw:
        inner = b"GET /api/status HTTP/1.1\r\nHost: localhost\r\n\r\n"
        raw.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(inner) + inner)
        raw.shutdown(socket.SHUT_WR)
        assert b"".join(iter(lambda: raw.recv(65536), b"")).count(b"HTTP/1.1 200") == 1


def test_a_video_that_is_gone_is_named(
    client: Client, analyst: Analyst, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = Record("seen-yesterday", {"frames": tmp_path / "gone.mp4"}, {})
    monkeypatch.setattr(analyst, "test", [*analyst.test, gone])
    answer = client("POST", "/api/predict?video=11")
    assert answer.status == 422 and answer.json["error"].startswith("seen-yesterday can't be scored: "), answer.body
    assert str(tmp_path) not in answer.json["error"]


class Slow:
    """Tells what it does, and goes on when it may."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.at_once = self.most = 0
        self.may, self.began = threading.Event(), threading.Semaphore(0)

    def analyse(self, asked: Any, upload: Path | None) -> dict[str, Any]:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        self.order.append(asked.name)
        self.began.release()
        assert self.may.wait(LONGEST) and upload is not None and upload.read_bytes() == asked.name.encode()
        self.at_once -= 1
        return {"video": asked.name}


def test_one_at_a_time_first_come_first_served_and_a_limit(serving: Serving) -> None:
    slow, answers = Slow(), dict[str, Any]()
    with serving(Here(slow)) as client:

        def send(name: str) -> threading.Thread:
            def ask() -> None:
                answers[name] = client("POST", f"/api/predict?name={name}", name.encode())

            before = client.server.service.turns.inside
            thread = threading.Thread(target=ask)
            thread.start()
            wait_for(lambda: client.server.service.turns.inside > before, "a place")
            wait_for(lambda: len(client.server.service.turns._line) > before, "a turn")
            return thread

        threads = [send(name) for name in ("a", "b", "c")]
        assert slow.began.acquire(timeout=LONGEST)
        refused = client("POST", "/api/predict?name=d", b"d")
        assert refused.status == 503 and "2 wait" in refused.json["error"] and refused.headers["Retry-After"]
        assert client("GET", "/api/status").json == {"inside": 3}
        slow.may.set()
        for thread in threads:
            thread.join(LONGEST)
        assert slow.order == ["a", "b", "c"] and slow.most == 1
        assert [answers[name].json for name in "abc"] == [{"video": name} for name in "abc"]
        assert client("POST", "/api/predict?name=e", b"e").status == 200


def test_who_leaves_while_waiting_is_not_served(serving: Serving) -> None:
    slow = Slow()
    with serving(Here(slow)) as client:
        inside = lambda: client.server.service.turns.inside  # noqa: E731
        first = threading.Thread(target=client, args=("POST", "/api/predict?name=a", b"a"))
        first.start()
        assert slow.began.acquire(timeout=LONGEST)
        raw = client.connect()
        raw.request("POST", "/api/predict?name=b", b"b")
        wait_for(lambda: inside() == 2, "the second")
        raw.close()
        wait_for(lambda: inside() == 1, "that the second is let go")
        half = socket.create_connection(client.server.server_address[:2])
        half.sendall(b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nbegin")
        wait_for(lambda: inside() == 2 and len(os.listdir(client.folder)) == 2, "half an upload")
        half.close()
        wait_for(lambda: inside() == 1 and len(os.listdir(client.folder)) == 1, "that it is removed")
        slow.may.set()
        first.join(LONGEST)
        assert slow.order == ["a"]


@pytest.mark.parametrize(
    "name, kept",
    [
        *[("a.mp4", "upload.mp4"), ("a.b.MKV", "upload.MKV"), ("a", "upload"), ("..", "upload"), ("x.m/p4", "upload")],
        *[("a.mp4%00", "upload"), ("a.%2e%2e%2fetc", "upload"), ("a.toolong", "upload"), ("a.m%20p", "upload")],
    ],
)
def test_of_a_name_only_the_ending_is_kept(serving: Serving, name: str, kept: str) -> None:
    class Names:
        def analyse(self, asked: Any, upload: Path) -> dict[str, Any]:
            return {"video": upload.name}

    with serving(Here(Names())) as client:
        assert client("POST", f"/api/predict?name={name}", b"x").json == {"video": kept}


def test_errors_of_the_program_are_told_without_what_they_quote(
    serving: Serving, capfd: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        def analyse(self, asked: Any, upload: Path | None) -> None:
            raise RuntimeError(f"secret {upload}")

    with serving(Here(Broken()), replace(MOST, queue=0)) as client:
        answer = client("POST", "/api/predict", b"x")
        assert answer.status == 500 and "RuntimeError" in answer.json["error"] and "secret" not in answer.json["error"]
        assert client("POST", "/api/predict", b"x").status == 500  # its place is free again
