"""The group `balance`: how peers that learn through one output are kept from hiding behind each other."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from mml_lightning.config.settings import Settings
from mml_lightning.objectives.balance import Curve, blend_weights
from mml_lightning.objectives.edges import FUSED
from mml_lightning.objectives.graph import Objective
from mml_lightning.utils.errors import UserError

BALANCES = ("none", "ogm_ge", "gblend")


def blended(cfg: Settings, names: Sequence[str]) -> dict[str, float]:
    """Weights of the losses of the peers `names` and of their fused output, by `balance.curves`.

    Raises:
        UserError: a run is missing, or its losses tell no weight.
    """
    wanted = (*names, FUSED)
    curves = cfg.balance.curves or {}
    if set(curves) != set(wanted):
        have = ", ".join(curves) or "none"
        raise UserError(
            f"balance=gblend needs a run of each of {', '.join(wanted)} alone (have {have}): "
            f"'balance.curves={{{', '.join(f'{name}: <run directory>' for name in wanted)}}}'"
        )
    try:
        return blend_weights({name: curve(Path(str(curves[name])), name) for name in wanted})
    except ValueError as error:
        raise UserError(f"balance=gblend: {error}") from None


def curve(run: Path, name: str) -> Curve:
    """The losses of an output in the log of a run, of the first and the last epoch that was measured.

    Raises:
        UserError: there is no log, or too few losses in it.
    """
    file = run / "logs" / "metrics.csv"
    try:
        with file.open() as handle:
            rows = list(csv.DictReader(handle))
    except OSError:
        raise UserError(f"balance.curves.{name}={run}: there is no {file.name} of a run") from None
    train, val = ({row["epoch"]: float(row[key]) for row in rows if row.get(key)} for key in _keys(name))
    both = [epoch for epoch in train if epoch in val]
    if len(both) < 2:
        raise UserError(
            f"balance.curves.{name}={run}: {' and '.join(_keys(name))} of two epochs are needed, its log has "
            f"{len(both)}: use a run with trainer.validations=2 or more"
        )
    first, last = both[0], both[-1]
    return Curve((train[first], train[last]), (val[first], val[last]))


def _keys(name: str) -> tuple[str, str]:
    return f"train/{name}/ce", f"val/{name}/loss"


def check(cfg: Settings, graphs: Sequence[Objective], several_labels: bool) -> None:
    """Raises:
    UserError: there is nothing to balance, or no way to.
    """
    name = cfg.balance.name
    if name == "none":
        return
    if not all(graph.joins for graph in graphs):
        raise UserError(f"balance={name} is for peers that learn through one output: use stage=fusion, or balance=none")
    if several_labels:
        raise UserError(f"balance={name} is for one label per video: use balance=none")
