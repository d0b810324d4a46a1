"""`mml bench policy`: what it saves to compute peers only where a policy uses them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from mml_lightning.benchmarks.commands.shape import Bench, Compose
from mml_lightning.benchmarks.tables import BenchTable
from mml_lightning.utils.errors import UserError


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rgb", type=float, default=0.46, metavar="RATE", help="share of segments (default: 0.46)")
    parser.add_argument("--audio", type=float, default=0.94, metavar="RATE", help="the same of sound (default: 0.94)")
    parser.add_argument("--videos", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument("--segments", type=int, default=10, metavar="N", help="of a video (default: 10)")
    parser.add_argument("--size", type=int, default=224, metavar="PX", help="of RGB (default: 224)")
    parser.add_argument("--policy-size", type=int, default=160, metavar="PX", help="of RGB in the policy (160)")
    parser.add_argument("--depth", type=int, default=50, metavar="N", help="of the ResNet (default: 50)")


def _check(args: argparse.Namespace) -> None:
    """Raises:
    UserError: a number is out of range.
    """
    if not (0 <= args.rgb <= 1 and 0 <= args.audio <= 1):
        raise UserError("--rgb and --audio are shares of the segments, from 0 to 1")
    if min(args.videos, args.segments) < 1 or min(args.size, args.policy_size) < 32:
        raise UserError("--videos and --segments start at 1, --size and --policy-size at 32")
    if args.depth not in (18, 34, 50, 101, 152):
        raise UserError("--depth is one of 18, 34, 50, 101 and 152")


def _run(args: argparse.Namespace, compose: Compose) -> Iterator[BenchTable]:
    from mml_lightning.benchmarks import policy

    rates = {"rgb": args.rgb, "audio": args.audio}
    yield policy.measure(rates, args.videos, args.segments, args.size, args.depth, args.policy_size, args.rounds)


BENCH = Bench(
    help="all networks in all segments, against a policy and those that it uses",
    description="AdaMML's networks with random weights on random clips: all of them in every segment of a video, or a "
    "policy and then those alone that are used, at given rates. Scores of skipping and masking are compared first. One "
    "thread, processor time: trust the ratios.",
    run=_run,
    declare=_declare,
    check=_check,
    devices=False,
)
