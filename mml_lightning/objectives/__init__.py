"""Objectives: supervised terms plus a graph of lessons between peers."""

from mml_lightning.objectives.divergences import kl_divergence
from mml_lightning.objectives.edges import Edge
from mml_lightning.objectives.graph import Objective
from mml_lightning.objectives.supervised import cross_entropy

__all__ = ["Edge", "Objective", "cross_entropy", "kl_divergence"]
