"""The closing lines of a command: where its weights are, and what can be typed next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mml_lightning.config.settings import Settings
from mml_lightning.data.records.chance import Chance
from mml_lightning.utils import program

MORE_VIEWS = "uniform2"
VERBS = {  # of mml, with what stands behind them; those that this version lacks are not offered
    "predict": "predict VIDEO.mp4 --ckpt {ckpt}",
    "export": "export --ckpt {ckpt} --peer {peer} --out exported",
}


def has_verb(verb: str) -> bool:
    """Whether this version has `mml <verb>`."""
    return find_spec(f"mml_lightning.cli.commands.{verb}") is not None


def after_training(
    cfg: Settings, folder: Path, weights: Sequence[Path], chances: Mapping[str, Chance], metrics: Mapping[str, Any]
) -> list[str]:
    """Args:
    folder: of the run. weights: its exported networks. chances: of the data. metrics: of the run, by split.
    """
    lines = [f"chance    {_scores(chance, metrics)}" for chance in chances.values() if metrics]
    report = f"mml report {shlex.quote(str(folder))}"
    return [*lines, _weights(folder, weights), *_next([measure(cfg, folder), *offered(folder, weights), report])]


def after_pipeline(cfg: Settings, root: Path, last: Path, weights: Sequence[Path]) -> list[str]:
    """Args:
    last: folder of its last run. weights: the exported networks of that.
    """
    report = f"mml report {shlex.quote(str(root))}"
    return [_weights(last, weights), *_next([measure(cfg, last), *offered(last, weights), report])]


def after_evaluation(folder: Path, metrics: Mapping[str, Any]) -> list[str]:
    """Args:
    folder: of the measurement, which has its scores. metrics: what was measured; without labels nothing.
    """
    place = shlex.quote(str(folder))
    further = [f"mml score {place} --pooling probs", f"mml report {place}"] if metrics else [f"mml score {place}"]
    return [f"scores    {place}/predictions", *_next(further)]


def measure(cfg: Settings, folder: Path) -> str:
    """The command that measures a run again with more views, or with the same where it had many."""
    views = f" views={MORE_VIEWS}" if cfg.views.name == "center" else ""
    split = "" if cfg.test else " split=val"
    return f"{program.command('eval')} ckpt={shlex.quote(str(folder))}{split}{views}"


def offered(folder: Path, weights: Sequence[Path]) -> list[str]:
    """What `mml` can do with the networks of a run; of several the one for RGB is named."""
    names = [file.stem for file in weights]
    if not names:
        return []
    words = {"ckpt": shlex.quote(str(folder)), "peer": "rgb" if "rgb" in names else names[0]}
    return [f"mml {text.format(**words)}" for verb, text in VERBS.items() if has_verb(verb)]


def _scores(chance: Chance, metrics: Mapping[str, Any]) -> str:
    told = ", ".join(f"{split} {chance.shares[split]:.2f}" for split in metrics if split in chance.shares)
    return f"guessing {chance.guessing:.2f}; always {chance.majority!r}: {told}"


def _weights(folder: Path, files: Sequence[Path]) -> str:
    """A line with the exported networks, folder by folder."""
    places: dict[Path, list[str]] = {}
    for file in files:
        places.setdefault(file.parent, []).append(file.name)
    told = "; ".join(f"{place} ({', '.join(names)})" for place, names in places.items())
    return f"weights   {told or f'{folder}: none, all its networks are frozen'}"


def _next(commands: Sequence[str]) -> list[str]:
    return [f"{'next' if number == 0 else '':<9} {command}" for number, command in enumerate(commands)]
