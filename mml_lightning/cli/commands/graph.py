"""`mml graph`: the lesson graph of a stage as text and as a picture, before anything is trained or read."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mml_lightning.utils.errors import UserError

if TYPE_CHECKING:
    from mml_lightning.config.objective import Lessons
    from mml_lightning.config.settings import Settings


def declare(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Who teaches whom, for the overrides of train.py. Quote your own edges: "
        "'objective.edges=[{students: [rgb], teachers: [flow], lesson: kl, weight: 0.5}]'."
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="as for train.py: stage=kd modality=[rgb,flow]"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.svg", help="also write a drawing to FILE")


def run(args: argparse.Namespace, compose: Callable[[Sequence[str]], Settings]) -> None:
    """Raises:
    UserError: the stage does not fit the modalities, the graph is wrong, or the picture can't be written.
    """
    from mml_lightning.config import backbones, objective, peers
    from mml_lightning.objectives import drawing
    from mml_lightning.utils.files import write_atomically

    if args.out and args.out.suffix != ".svg":
        raise UserError(f"--out {args.out} is written as SVG; name it .svg")
    cfg = compose(args.overrides)
    if cfg.pipeline.runs:
        raise UserError(f"pipeline={cfg.pipeline.name} has several stages; draw one of them: mml graph stage=mml ...")
    specs = peers.peer_specs(cfg, args.overrides)
    lessons = objective.lessons(cfg, [spec.name for spec in specs])
    names = backbones.names(cfg)
    differ = len(set(names.values())) > 1
    for one in lessons:
        print("\n".join([*_heading(one), *drawing.parts(one.graph, full=True)]))
    if differ:
        print(f"backbone: {backbones.label(cfg)}")
    if args.out:
        about = {
            spec.name: (f"{names[spec.modality.name]}, " if differ else "") + f"from {spec.origin.init}"
            for spec in specs
        }
        try:
            with write_atomically(args.out) as handle:
                handle.write(_picture(lessons, about))
        except OSError as error:
            raise UserError(f"can't write {args.out}: {error.strerror or error}") from None
        print(f"wrote {args.out}")


def _heading(one: Lessons) -> list[str]:
    """What a phase trains, and when; nothing of a stage without phases."""
    if one.span is None:
        return []
    first, last = one.span.first + 1, one.span.first + one.span.epochs
    epochs = f"epoch {first}" + (f" to {last}" if last > first else "")
    return [f"phase {one.span.name}: {epochs}, trains {', '.join(one.words)}"]


def _picture(lessons: Sequence[Lessons], about: Mapping[str, str]) -> str:
    """One graph, or those of all phases below each other."""
    from mml_lightning.objectives import drawing

    drawn = []
    for one in lessons:
        parts = {peer: ", ".join(filter(None, parts)) for peer, parts in one.parts.items()}
        own = {peer: f"{words}; {parts[peer]} learns" if parts.get(peer) else words for peer, words in about.items()}
        drawn.append(("".join(_heading(one)), drawing.svg(one.graph, own)))
    return drawn[0][1] if len(drawn) == 1 else drawing.stacked(drawn)
