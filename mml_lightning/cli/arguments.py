"""Arguments that several commands have, each declared once."""

from __future__ import annotations

import argparse


def add_networks(parser: argparse.ArgumentParser) -> None:
    """`--ckpt`, `--views` and `--set`: trained networks, and how they look at videos."""
    parser.add_argument("--ckpt", required=True, help="run directory, checkpoint, zoo file or alias, as for eval.py")
    parser.add_argument("--views", help="clips and crops, an option of conf/views (default: the run's)")
    parser.add_argument(
        "--set",
        type=_assignment,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of eval.py, such as data.workers=4 or views.crops=1",
    )


def add_scoring(parser: argparse.ArgumentParser) -> None:
    """`--split`, `--pooling`, `--ensemble` and `--weights`: how score dumps become one score."""
    parser.add_argument("--split", default="test", help="of run directories (default: test)")
    parser.add_argument("--pooling", help="how views are pooled: logits, probs or max (default: as the run)")
    parser.add_argument("--ensemble", help="what is averaged: probs or logits (default: as the run)")
    parser.add_argument(
        "--weights",
        type=weights_of,
        metavar="rgb=1,flow=2",
        help="weights in the ensemble, of networks or groups (default: 1)",
    )


def weights_of(text: str) -> dict[str, float]:
    """rgb=1,flow=2 as a dictionary; a ValueError is the parser's to tell."""
    return {name: float(value) for name, _, value in (part.rpartition("=") for part in text.split(","))}


def _assignment(word: str) -> str:
    if "=" not in word:
        raise argparse.ArgumentTypeError(f"{word}: write it as KEY=VALUE")
    return word
