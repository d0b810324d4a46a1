"""Divergences between a student's logits and one or more teachers'. Legend: B batch, K classes, M teachers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

AGGREGATES = ("mean_logits", "mean_probs", "pairwise")
KINDS = ("softmax", "bernoulli", "sigmoid_unnormalised")


def kl_divergence(
    student: Tensor,
    teachers: Sequence[Tensor],
    *,
    aggregate: str = "mean_logits",
    temperature: float = 1.0,
    kind: str = "softmax",
    multi_label: bool = False,
) -> Tensor:
    """KL(teachers || student) per sample, [B], for `student` [B, K] and M `teachers` [B, K].

    Args:
        aggregate: what several teachers say together. `mean_logits`: softmax of the mean logits (the code of Mutual
            Modality Learning); `mean_probs`: mean of the probabilities (its equation 4); `pairwise`: mean of the M
            divergences (Deep Mutual Learning, Zhang et al. 2018). All three agree for one teacher.
        temperature: divides all logits; the result is multiplied by its square so that gradients keep their size
            (Hinton et al. 2015).
        kind: `softmax` compares distributions over classes, `bernoulli` compares K independent yes/no probabilities.
            `sigmoid_unnormalised` is sum p log(p / q) over the K yes-probabilities alone, which is what a KL loss of
            softmax form computes when it is fed log-sigmoids and sigmoids; it is no divergence: it can be negative,
            and its least value is not at equal networks.
        multi_label: divide by K, so that the batch mean is the "mean" reduction (paper, Appendix 2).

    Raises:
        ValueError: unknown `aggregate` or `kind`, or no teacher.
    """
    if aggregate not in AGGREGATES:
        raise ValueError(f"aggregate={aggregate!r} is unknown; use one of {list(AGGREGATES)}")
    if kind not in KINDS:
        raise ValueError(f"kl kind={kind!r} is unknown; use one of {list(KINDS)}")
    if not teachers:
        raise ValueError("a KL edge needs at least one teacher")
    divergence = {"softmax": _softmax_kl, "bernoulli": _bernoulli_kl, "sigmoid_unnormalised": _yes_terms}[kind]
    scaled = [teacher / temperature for teacher in teachers]
    if aggregate == "pairwise":
        per_sample = torch.stack([divergence(student / temperature, [t], aggregate) for t in scaled]).mean(dim=0)
    else:
        per_sample = divergence(student / temperature, scaled, aggregate)
    per_sample = per_sample * temperature**2
    return per_sample / student.shape[-1] if multi_label else per_sample


def _softmax_kl(student: Tensor, teachers: Sequence[Tensor], aggregate: str) -> Tensor:
    if aggregate == "mean_probs":
        log_target = torch.stack([F.log_softmax(t, dim=-1) for t in teachers]).logsumexp(dim=0) - _log(len(teachers))
    else:
        log_target = F.log_softmax(torch.stack(list(teachers)).mean(dim=0), dim=-1)
    return F.kl_div(F.log_softmax(student, dim=-1), log_target, reduction="none", log_target=True).sum(dim=-1)


def _bernoulli_kl(student: Tensor, teachers: Sequence[Tensor], aggregate: str) -> Tensor:
    return _yes_terms(student, teachers, aggregate) + _yes_terms(-student, [-t for t in teachers], aggregate)


def _yes_terms(student: Tensor, teachers: Sequence[Tensor], aggregate: str) -> Tensor:
    """Sum over K of p log(p / q), p and q sigmoids; in logs, so that saturated networks stay finite."""
    if aggregate == "mean_probs":
        log_target = torch.stack([F.logsigmoid(t) for t in teachers]).logsumexp(dim=0) - _log(len(teachers))
    else:
        log_target = F.logsigmoid(torch.stack(list(teachers)).mean(dim=0))
    return (log_target.exp() * (log_target - F.logsigmoid(student))).sum(dim=-1)


def _log(value: int) -> float:
    return float(torch.tensor(value, dtype=torch.float64).log())
