"""Config to the lesson graph: who teaches whom. Imports no Lightning: plans are made without it."""

from __future__ import annotations

from collections.abc import Sequence

from mml_lightning.config import plugins
from mml_lightning.config.settings import Settings
from mml_lightning.objectives.graph import Objective
from mml_lightning.utils.errors import UserError


def objective(cfg: Settings, names: Sequence[str]) -> Objective:
    """The lesson graph of the run.

    Raises:
        UserError: it names a peer the run does not have, or an unknown field.
    """
    try:
        declared = cfg.plain("objective")
        graph = {key: declared[key] for key in ("edges", "supervised_weight", "frozen", "headed") if key in declared}
        graph["edges"] = plugins.edges(graph.get("edges", ()), cfg.trusted)
        return Objective(names, **graph)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from None
