"""`mml stream`: a network of the online shift on a video as it comes, frame by frame."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mml_lightning.cli.arguments import add_settings
from mml_lightning.utils.errors import UserError

if TYPE_CHECKING:
    from mml_lightning.engine.prediction import Scores
    from mml_lightning.engine.stream import Said, VideoStream


def declare(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "What a network says of a video while it is running: a line for each step with the best classes of the mean "
        "over the last T steps (T as in training), and at the end how fast it was. The network must have been trained "
        "with backbone.net.shift=online, or without a temporal shift. Exit code 0, 1 if the video can't be read, 2 for "
        "a wrong command."
    )
    parser.add_argument("source", metavar="SOURCE", help="a video file, or camera:0")
    parser.add_argument("--ckpt", required=True, help="run directory, checkpoint, zoo file or alias, as for eval.py")
    parser.add_argument("--peer", metavar="rgb", help="which network; needed where there are several")
    rate = parser.add_mutually_exclusive_group()
    rate.add_argument("--fps", type=float, metavar="N", help="steps a second (default: the spacing of training)")
    rate.add_argument("--every", type=int, metavar="K", help="a step with every K-th frame")
    parser.add_argument("--realtime", action="store_true", help="show a file at its pace and drop late frames")
    parser.add_argument("--views", help="crops, an option of conf/views (default: the run's)")
    parser.add_argument("--topk", type=int, default=1, metavar="N", help="classes that are named (default: 1)")
    parser.add_argument("--max-frames", type=int, metavar="N", help="end after so many steps")
    parser.add_argument("--json", action="store_true", help="a JSON object per line")
    add_settings(parser, "trainer.num_threads=1")


def run(args: argparse.Namespace) -> None:
    """Raises:
    UserError: a wrong option, nothing to load, a network that can't be streamed, or no such file or camera.
    """
    _check(args)
    from mml_lightning.data.video.decode import DecodeError
    from mml_lightning.engine import stream
    from mml_lightning.engine.predict import load_predictor
    from mml_lightning.engine.process import set_up_process
    from mml_lightning.utils.terminal import say_error

    logging.getLogger().setLevel(logging.WARNING)
    predictor = load_predictor(args.ckpt, [args.peer] if args.peer else None, args.views, args.set)
    set_up_process(predictor.cfg)
    stream.check(predictor)
    try:
        with stream.opened(predictor, args.source, args.every, args.fps, args.realtime) as source:
            running = stream.VideoStream(predictor, source.size)
            for line in [*source.told, *running.told(args.ckpt)]:
                print(line, file=sys.stderr)
            _run(running, source.steps, args)
    except DecodeError as error:
        say_error(f"mml: error: {error}")
        sys.exit(1)


def _check(args: argparse.Namespace) -> None:
    for name in ("fps", "every", "topk", "max_frames"):
        value = getattr(args, name)
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"--{name.replace('_', '-')} {value:g} must be above 0")


def _run(running: VideoStream, steps: Any, args: argparse.Namespace) -> None:
    """Say what there is to say of each step, and at the end, however it comes, how fast it was."""
    running.warm_up()
    told = Told(args)
    try:
        for step in steps:
            told.say(running.say(step))
            if len(told.latencies) == args.max_frames:
                break
    finally:
        if told.latencies:
            told.summary(steps.dropped)


class Told:
    """What is printed of a stream, and what is measured of it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.latencies = args, list[float]()
        self.begun = self.last = time.monotonic()

    def say(self, said: Said) -> None:
        self.latencies.append(1000 * said.seconds)
        self.last = time.monotonic()
        print(self._json(said) if self.args.json else self._line(said), flush=True)

    def _line(self, said: Said) -> str:
        at = "" if said.step.seconds is None else f"{said.step.seconds:8.2f} s"
        words = [at, f"frame {max(said.step.frames):6d}"]
        for head, scores in said.mean.items():
            best = ", ".join(f"{label} {score:.3f}" for label, score in scores.top(self.args.topk))
            words.append(best if len(said.mean) == 1 else f"{head}: {best}")
        return "  ".join([*filter(None, words), f"{self.latencies[-1]:.1f} ms"])

    def _json(self, said: Said) -> str:
        def best(found: Mapping[str, Scores]) -> dict[str, list[list[Any]]]:
            return {head: [list(one) for one in scores.top(self.args.topk)] for head, scores in found.items()}

        values = {
            "seconds": None if said.step.seconds is None else round(said.step.seconds, 6),
            "frame": max(said.step.frames),
            "top": best(said.mean),
            "top_of_step": best(said.frame),
            "latency_ms": round(self.latencies[-1], 3),
        }
        return json.dumps(values, ensure_ascii=False)

    def summary(self, dropped: int) -> None:
        """On standard output as the last line."""
        import numpy as np

        half, most = (float(np.percentile(self.latencies, share)) for share in (50, 95))
        steps, seconds = len(self.latencies), self.last - self.begun
        rate = steps / max(seconds, 1e-9)
        if self.args.json:
            values = {"steps": steps, "seconds": seconds, "fps": rate, "p50_ms": half, "p95_ms": most}
            print(json.dumps({"summary": {**values, "dropped": dropped}}), flush=True)
            return
        late = f"; {dropped} late steps were dropped, so the network saw wider spacing" if dropped else ""
        print(
            f"{steps} step{'s' if steps > 1 else ''} in {seconds:.1f} s, {rate:.1f} a second; "
            f"latency {half:.1f} ms (p50), {most:.1f} ms (p95){late}",
            flush=True,
        )
