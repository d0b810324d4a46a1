"""Arguments that several commands have, each declared once."""

from __future__ import annotations

import argparse
from typing import Any

from mml_lightning.utils.errors import UserError


def add_networks(parser: argparse.ArgumentParser) -> None:
    """`--ckpt`, `--views` and `--set`: trained networks, and how they look at videos."""
    parser.add_argument("--ckpt", required=True, help="run directory, checkpoint, zoo file or alias, as for eval.py")
    parser.add_argument("--views", help="clips and crops, an option of conf/views (default: the run's)")
    add_settings(parser, "data.workers=4 or views.crops=1")


def add_settings(parser: argparse.ArgumentParser, example: str) -> None:
    """`--set`, as often as wanted."""
    parser.add_argument(
        "--set",
        action=_Assignment,
        default=[],
        metavar="KEY=VALUE",
        help=f"a setting of eval.py, such as {example}",
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


class _Assignment(argparse.Action):
    """Appends key=value; what is none is one line, where a type's error would come with the usage."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        if "=" not in values:
            raise UserError(f"--set {values}: write it as KEY=VALUE")
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), values])
