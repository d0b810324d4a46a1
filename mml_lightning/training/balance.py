"""OGM-GE in a training run: the trunks of peers that are ahead get smaller gradients, see `objectives.balance`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mml_lightning.objectives.balance import modulate, modulation, true_class_scores
from mml_lightning.utils.seeds import keyed_seed

TRUNK = "net."


class GradientModulation:
    """Counts the scores of a step's batches, over all ranks, and changes the gradients of trunks before the step.

    Args:
        alpha: see :func:`mml_lightning.objectives.balance.modulation`.
        noise: add noise of each gradient's spread, keyed by seed, step and parameter: the same on every rank.
        seed: of the run.
    """

    def __init__(self, alpha: float, noise: bool, seed: int) -> None:
        self.alpha, self.noise, self.seed = alpha, noise, seed
        self._sums: dict[str, tuple[Tensor, int]] = {}

    def count(
        self, outputs: Mapping[str, Any], target: Mapping[str, Tensor], present: Mapping[str, Tensor] | None
    ) -> None:
        """A batch: what the peers said of it, labels {head: [B]}, and per peer the samples that it has seen."""
        for name, output in outputs.items():
            for head, labels in target.items():
                logits, own = output.logits[head], labels
                if present is not None:
                    rows = present[name].nonzero().squeeze(1).to(labels.device)
                    logits, own = logits[rows], labels[rows]
                if len(own):
                    total, count = self._sums.get(name, (0.0, 0))
                    self._sums[name] = (total + true_class_scores(logits, own).double().sum(), count + len(own))

    def change(self, peers: Mapping[str, nn.Module], step: int, ranks: int) -> Iterator[tuple[str, float]]:
        """Change the gradients of the trunks for a step; the factor of each of `peers`."""
        names = list(peers)
        told = [[float(self._sums.get(name, (0.0, 0))[n]) for name in names] for n in (0, 1)]
        self._sums = {}
        if ranks > 1:
            told = _summed(told, next(iter(peers.values())))
        scores = {
            name: total / count if count else float("nan") for name, total, count in zip(names, *told, strict=True)
        }
        for name, factor in modulation(scores, self.alpha).items():
            for key, parameter in peers[name].named_parameters():
                if parameter.grad is not None and key.startswith(TRUNK):
                    modulate(parameter.grad, factor, self._generator(step, f"{name}.{key}"))
            yield name, factor

    def _generator(self, step: int, parameter: str) -> torch.Generator | None:
        if not self.noise:
            return None
        return torch.Generator().manual_seed(keyed_seed(self.seed, step, parameter, "noise", size=7))


def _summed(told: list[list[float]], net: nn.Module) -> list[list[float]]:
    values = torch.tensor(told, dtype=torch.float64, device=next(net.parameters()).device)
    torch.distributed.all_reduce(values)
    found: list[list[float]] = values.tolist()
    return found
