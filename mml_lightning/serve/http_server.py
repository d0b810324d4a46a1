"""HTTP: the page, its two files and four addresses of JSON. Nothing that is typed becomes a path.

Other pages of the browser may not use it: requests must name this machine (`Host`), so that a name of somebody else's
that is made to lead here does not, and must not come from another origin (`Origin`).
"""

from __future__ import annotations

import ipaddress
import json
import logging
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from mml_lightning import __version__
from mml_lightning.serve.asked import Refused, asked
from mml_lightning.serve.service import Service, too_large
from mml_lightning.serve.turns import Gone
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.plain_text import visible
from mml_lightning.utils.templates import FOLDER

log = logging.getLogger(__name__)

FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/serve.css": ("serve.css", "text/css; charset=utf-8"),
    "/serve.js": ("serve.js", "text/javascript; charset=utf-8"),
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
CHUNK = 65536  # bytes
SILENCE = 60.0  # seconds without a byte, after which a connection is closed
CONNECTIONS = 64  # at a time; each has a thread
DRAIN = 5.0  # seconds for which what nobody wants is still received, so that the refusal is read


class Server(ThreadingHTTPServer):
    """Args:
    address: host and port; port 0 is a free one.

    Raises:
        OSError: it can't listen there.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], service: Service) -> None:
        self.service, self.host = service, address[0]
        self.room = threading.BoundedSemaphore(CONNECTIONS)
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, Handler)

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.server_address[1]}/"

    def server_bind(self) -> None:
        """Without asking a name server who this is."""
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # Windows, where reusing an address means sharing it
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Connections beyond the limit are closed at once."""
        if self.room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left is no error."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = f"mml/{__version__}", ""
    timeout = SILENCE
    server: Server
    _until = 0.0  # when a body must have come, by the monotonic clock
    _invited = _read = False  # whether the client waits to be told that it may send; whether all of its body is read

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_HEAD(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def handle_expect_100(self) -> bool:
        """The body is asked for when there is a place for it."""
        self._invited = True
        return True

    def _answer(self, work: Callable[[str, Mapping[str, list[str]]], None]) -> None:
        began, self._told, self._read = time.monotonic(), "", False
        try:
            self._check_sender()
            address = urlsplit(self.path)
            try:
                query = parse_qs(address.query, keep_blank_values=True, strict_parsing=bool(address.query))
            except ValueError:
                raise Refused(
                    HTTPStatus.BAD_REQUEST, "the parameters are not written as name=value&name=value"
                ) from None
            work(address.path, query)
        except Refused as refused:
            self._told = f"{refused.status.value} {refused.message}"
            self._json({"error": refused.message}, refused.status)
        except (Gone, ConnectionError):
            self.close_connection = True
            self._told = "the client left"
        except TimeoutError:
            self._json({"error": f"nothing came for {SILENCE:g} s"}, HTTPStatus.REQUEST_TIMEOUT)
        except Exception as error:
            self._told = f"{type(error).__name__}: {error}"
            if not isinstance(error, UserError | OSError):
                log.exception("a request failed")
            said = str(error) if isinstance(error, UserError) else "it failed: the terminal of the server says how"
            self._json({"error": said}, HTTPStatus.INTERNAL_SERVER_ERROR)
        if self._told:
            seconds = time.monotonic() - began
            print(
                visible(f"{self.command} {self.path[:200]}: {self._told} ({seconds:.1f} s)"),
                file=sys.stderr,
                flush=True,
            )

    def _check_sender(self) -> None:
        """Raises:
        Refused: a request that is made for another machine, or by another page.
        """
        hosts = self.headers.get_all("Host") or []
        try:
            name = urlsplit(f"//{hosts[0]}").hostname if len(hosts) == 1 else None
        except ValueError:  # such as [x
            name = None
        if name is None or not (_is_address(name) or name in ("localhost", self.server.host, socket.gethostname())):
            raise Refused(HTTPStatus.FORBIDDEN, "this is not the machine that the request names: use its address")
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{hosts[0]}":
            raise Refused(HTTPStatus.FORBIDDEN, "another page may not use this server")

    def _get(self, path: str, query: Mapping[str, list[str]]) -> None:
        service = self.server.service
        if path in FILES:
            name, kind = FILES[path]
            self._send((FOLDER / "serve" / name).read_bytes(), kind)
        elif path == "/api/model":
            self._json(service.describe())
        elif path == "/api/status":
            self._json({"inside": service.turns.inside})
        elif path == "/api/videos":
            search, first = query.get("search", [""])[0][:200], query.get("first", ["0"])[0]
            if not (first.isascii() and first.isdigit() and len(first) < 10):
                raise Refused(HTTPStatus.BAD_REQUEST, f"first={first} must be a whole number")
            self._json(service.videos(search, int(first)))
        else:
            raise Refused(HTTPStatus.NOT_FOUND, "there is nothing at this address")

    def _post(self, path: str, query: Mapping[str, list[str]]) -> None:
        if path != "/api/predict":
            raise Refused(HTTPStatus.NOT_FOUND, "there is nothing at this address")
        wanted = asked(query)
        upload = None if wanted.video is not None else self._upload()
        answer = self.server.service.predict(wanted, upload, self._gone)
        self._told = answer["video"]
        self._json(answer)

    def _upload(self) -> Callable[[], Iterable[bytes]]:
        """How to receive the body; what is said of it is looked at first.

        Raises:
            Refused: it is too large, or does not say where it ends.
        """
        limits, coding = self.server.service.limits, self.headers.get("Transfer-Encoding")
        lengths = self.headers.get_all("Content-Length") or []
        if coding is not None:
            if coding.lower() != "chunked" or lengths:
                raise Refused(HTTPStatus.BAD_REQUEST, "send the body with Content-Length, or chunked")
            return self._chunks
        if len(lengths) != 1 or not (lengths[0].isascii() and lengths[0].isdigit()):
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "send a video as the body, with its Content-Length")
        size = int(lengths[0])
        if size > limits.bytes:
            raise too_large(limits)
        return lambda: self._parts(size)

    def _parts(self, size: int) -> Iterator[bytes]:
        self._invite()
        left = size
        while left:
            yield (part := self._some(left))
            left -= len(part)
        self._read = True

    def _chunks(self) -> Iterator[bytes]:
        """The content of a chunked body.

        Raises:
            Refused: it is written wrongly.
        """
        self._invite()
        while True:
            word = self.rfile.readline(100).partition(b";")[0].strip()
            try:
                size = int(word, 16) if word.isalnum() else -1
            except ValueError:
                size = -1
            if size < 0:
                raise Refused(HTTPStatus.BAD_REQUEST, "the chunks of the body are written wrongly")
            left = size
            while left:
                yield (part := self._some(left))
                left -= len(part)
            ended = self.rfile.readline(100)
            if ended.strip():
                raise Refused(HTTPStatus.BAD_REQUEST, "the chunks of the body are written wrongly")
            if not size:
                self._read = True
                return

    def _some(self, most: int) -> bytes:
        if time.monotonic() > self._until:  # who sends a byte now and then would keep others waiting
            seconds = self.server.service.limits.timeout
            raise Refused(HTTPStatus.REQUEST_TIMEOUT, f"the video did not arrive within {seconds:g} s (--timeout)")
        part = self.rfile.read1(min(most, CHUNK))  # type: ignore[attr-defined]  # a buffered reader
        if not part:
            raise ConnectionError("the client stopped sending")
        return bytes(part)

    def _invite(self) -> None:
        self._until = time.monotonic() + self.server.service.limits.timeout
        if self._invited:
            self.send_response_only(HTTPStatus.CONTINUE)
            self.end_headers()
            self._invited = False

    def _gone(self) -> bool:
        """Whether the client has closed the connection."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        try:
            return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def _json(self, value: Mapping[str, Any], status: int = HTTPStatus.OK) -> None:
        text = json.dumps(value, allow_nan=False) + "\n"
        self._send(text.encode(), "application/json; charset=utf-8", status)

    def _send(self, content: bytes, kind: str, status: int = HTTPStatus.OK) -> None:
        unread = not self._read and self._has_body()
        self.close_connection = self.close_connection or unread
        self.send_response_only(status)
        self.send_header("Server", self.version_string())
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Cache-Control", "no-store")
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            self.send_header("Retry-After", "5")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        if unread:
            self._drain()

    def _has_body(self) -> bool:
        headers = getattr(self, "headers", None) or {}  # a request may end before it has any
        return "Transfer-Encoding" in headers or headers.get("Content-Length", "0") != "0"

    def _drain(self) -> None:
        """Let a client that is still sending read the answer: a connection that is closed before is reset."""
        until = time.monotonic() + DRAIN
        try:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(1.0)
            while time.monotonic() < until and self.connection.recv(CHUNK):
                pass
        except OSError:
            pass

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class refuses, such as other methods, in our form."""
        self.close_connection = True
        self._json({"error": message or HTTPStatus(code).phrase}, code)

    def log_message(self, format: str, *arguments: Any) -> None:
        """What is wrong with a request is told by :meth:`_answer`."""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
