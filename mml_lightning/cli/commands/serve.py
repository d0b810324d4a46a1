"""`mml serve`: a local page and a JSON endpoint for the networks of a run."""

from __future__ import annotations

import argparse
import ipaddress
import math
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mml_lightning.utils.errors import UserError
from mml_lightning.utils.plain_text import visible

if TYPE_CHECKING:
    from mml_lightning.serve.asked import Limits
    from mml_lightning.serve.http_server import Server
    from mml_lightning.serve.service import Service

LONGEST = 86400.0  # seconds that a prediction may take; the system can't wait longer than 2**31 milliseconds
OWN = ("data.workers", "data.cache")  # settings that are the server's


def declare(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "A page on this machine: drop a video, see its classes by network, over time and without a modality, what the "
        "networks see and where they look; the same as JSON (docs/serve.md). Scores are those of mml predict. Uploads "
        "are deleted. Ctrl-C ends it."
    )
    parser.add_argument("--ckpt", required=True, help="run directory, checkpoint, zoo file or alias, as for eval.py")
    parser.add_argument("--peer", type=_names, metavar="rgb,flow", help="which networks (default: all)")
    parser.add_argument("--views", help="clips and crops, an option of conf/views (default: the run's)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8420, help="port; 0 takes a free one (default: 8420)")
    parser.add_argument("--max-mb", type=float, default=100, metavar="MB", help="largest upload (default: 100)")
    parser.add_argument("--max-seconds", type=float, default=60, metavar="S", help="longest video (default: 60)")
    parser.add_argument(
        "--timeout", type=float, default=120, metavar="S", help="longest upload, and longest prediction (default: 120)"
    )
    parser.add_argument("--queue", type=int, default=8, metavar="N", help="predictions that may wait (default: 8)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of eval.py, such as data.root=videos"
    )


def run(args: argparse.Namespace) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Raises:
        UserError: a wrong option, nothing to load, or it can't listen there.
    """
    limits = _limits(args)
    from mml_lightning.serve.asked import Refused
    from mml_lightning.serve.service import PREFIX, Service
    from mml_lightning.serve.worker import Worker, analyst

    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    made_of = (args.ckpt, args.peer, args.views, list(args.set), limits.max_seconds)
    worker = Worker(folder, analyst, *made_of)
    try:
        service = Service(worker, limits, folder)
        with _listening(args, service) as server:
            print("loading the networks ..", file=sys.stderr, flush=True)
            _say(server, service.describe())
            server.serve_forever(poll_interval=0.2)
    except Refused as refused:  # of the process that loads
        raise UserError(refused.message) from None
    except KeyboardInterrupt:
        pass
    finally:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        worker.stop()
        shutil.rmtree(folder, ignore_errors=True)
        for number, handler in before.items():
            signal.signal(number, handler)
    print("stopped; no upload is left")


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _say(server: Server, told: dict[str, Any]) -> None:
    """What is served, and where."""
    if told["no_test_videos"]:
        print(visible(f"no test videos to choose from: {told['no_test_videos']}"), file=sys.stderr)
    if not _is_loopback(server.host):
        print(f"{server.host}: whoever reaches this machine may use it, there is no password", file=sys.stderr)
    print(f"{', '.join(told['peers'])} of {told['ckpt']} at {server.url} (Ctrl-C ends it)", flush=True)


def _listening(args: argparse.Namespace, service: Service) -> Server:
    """Raises:
    UserError: it can't listen there.
    """
    from mml_lightning.serve.http_server import Server

    try:
        return Server((args.host, args.port), service)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"can't listen at --host {args.host} --port {args.port}: {reason}; --port 0 takes a free one"
        ) from None


def _limits(args: argparse.Namespace) -> Limits:
    from mml_lightning.serve.asked import Limits

    for name in ("max_mb", "max_seconds", "timeout"):
        if not 0 < getattr(args, name) < math.inf:
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name):g} must be a positive number")
    if args.timeout > LONGEST:
        raise UserError(f"--timeout {args.timeout:g} must be at most {LONGEST:g} seconds")
    if args.queue < 0:
        raise UserError(f"--queue {args.queue} must be 0 or more")
    for word in args.set:
        if "=" not in word:
            raise UserError(f"--set {word}: write it as KEY=VALUE")
        if word.partition("=")[0].lstrip("+~") in OWN:
            raise UserError(f"--set {word}: mml serve reads one video at a time and keeps none, leave it out")
    return Limits(args.max_mb, args.max_seconds, args.timeout, args.queue)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
