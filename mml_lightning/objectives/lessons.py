"""What one peer can learn from others: the lessons an edge of the graph can carry.

A lesson is a function of the outputs of a student and of its teachers, (student, teachers, head, labels, **options) ->
loss per sample [B]. Its keyword-only arguments are its options in yaml. A new one is a function here or in a file of
its own, listed in :data:`LESSONS`.

Legend: B batch, T frames, D features, K classes, M teachers. Outputs have `logits` {head: [B, K]} and `features`
{"pooled": [B, D], "map": [B, T, D, h, w]}; `labels` are class indices [B] or multi-hot [B, K].
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mml_lightning.objectives.divergences import kl_divergence
from mml_lightning.objectives.relations import angle_loss, distance_loss, pearson_distance

SITES = ("pooled", "map")


class Output(Protocol):
    """What a peer returns."""

    @property
    def logits(self) -> Mapping[str, Tensor]: ...

    @property
    def features(self) -> Mapping[str, Tensor]: ...


Lesson = Callable[..., Tensor]


def kl(
    student: Output,
    teachers: Sequence[Output],
    head: str,
    labels: Tensor,
    *,
    temperature: float = 1.0,
    aggregate: str = "mean_logits",
    kind: str = "softmax",
    standardise: bool = False,
) -> Tensor:
    """KL(teachers || student): mutual learning, and distillation (Hinton et al. 2015) with a temperature.

    `standardise` first brings the logits of every sample to mean 0 and deviation 1, so that a student need not copy the
    scale of its teacher (Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024).
    """
    one, many = _logits(student, head), [_logits(t, head) for t in teachers]
    if standardise:
        one, many = _standardised(one), [_standardised(t) for t in many]
    multi = labels.ndim > 1
    return kl_divergence(one, many, aggregate=aggregate, temperature=temperature, kind=kind, multi_label=multi)


def soft_cross_entropy(student: Output, teachers: Sequence[Output], head: str, labels: Tensor) -> Tensor:
    """Cross-entropy against the teachers' mean probabilities (born-again networks, Furlanello et al., ICML 2018)."""
    probabilities = torch.stack([_logits(t, head).softmax(-1) for t in teachers]).mean(0)
    loss = -(probabilities * _logits(student, head).log_softmax(-1)).sum(-1)
    return _per_class(loss, labels)


def logit_mse(
    student: Output, teachers: Sequence[Output], head: str, labels: Tensor, *, reduction: str = "sum"
) -> Tensor:
    """Squared distance of the logits (D3D, Stroud et al., WACV 2020), to the mean of several teachers.

    `reduction` over the classes is `sum` or `mean`. With several labels per video the result is divided by K once more
    (MML paper, Appendix 2), as the supervised term is.
    """
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction={reduction!r} is unknown; use sum or mean")
    target = _mean_logits(teachers, head)
    square = (_logits(student, head) - target).square()
    return _per_class((square.sum(-1) if reduction == "sum" else square.mean(-1)), labels)


def feature_mse(
    student: Output, teachers: Sequence[Output], head: str, labels: Tensor, *, site: str = "pooled"
) -> Tensor:
    """Mean squared distance of features (MARS, Crasto et al., CVPR 2019), to the mean of several teachers.

    `site` is `pooled` (the vector before the classifier, the published program) or `map` (before global pooling, as the
    MML paper words it). Divided by K with several labels per video (MML paper, Appendix 2).
    """
    one, target = _features(student, teachers, site)
    return _per_class((one - target).square().flatten(1).mean(1), labels)


def attention(student: Output, teachers: Sequence[Output], head: str, labels: Tensor) -> Tensor:
    """Squared distance of the normalised attention maps, each the mean square over channels of a frame's last feature
    map (Zagoruyko and Komodakis, ICLR 2017); averaged over frames and places. Widths may differ, sizes may not."""
    maps = [_attention(output) for output in (student, *teachers)]
    _same_shape(maps, "attention maps")
    return (maps[0] - torch.stack(maps[1:]).mean(0)).square().flatten(1).mean(1)


def decoupled(
    student: Output,
    teachers: Sequence[Output],
    head: str,
    labels: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """Decoupled distillation (Zhao et al., CVPR 2022): alpha x KL of (label, all others) + beta x KL among the others.

    Raises:
        ValueError: several labels per video.
    """
    if labels.ndim > 1:
        raise ValueError("lesson=decoupled needs one label per video; with several labels use lesson=kl")
    one = _logits(student, head) / temperature
    target = _mean_logits(teachers, head) / temperature
    is_label = F.one_hot(labels, one.shape[-1]).bool()
    of_label = _kl(_binary(one, labels, is_label), _binary(target, labels, is_label))
    hidden = torch.finfo(one.dtype).min  # takes the label out of the softmax; its own term is then 0 x finite
    of_others = _kl(
        one.masked_fill(is_label, hidden).log_softmax(-1), target.masked_fill(is_label, hidden).log_softmax(-1)
    )
    return (alpha * of_label + beta * of_others) * temperature**2


def dist(
    student: Output,
    teachers: Sequence[Output],
    head: str,
    labels: Tensor,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
) -> Tensor:
    """DIST (Huang et al., NeurIPS 2022): beta x (1 - correlation over the classes of a sample) + gamma x (1 -
    correlation over the samples of a class), of probabilities."""
    one = (_logits(student, head) / temperature).softmax(-1)
    target = (_mean_logits(teachers, head) / temperature).softmax(-1)
    between = pearson_distance(one, target)
    within = pearson_distance(one.T, target.T).mean() if len(one) > 1 else one.new_zeros(())
    return (beta * between + gamma * within) * temperature**2


def relational(
    student: Output,
    teachers: Sequence[Output],
    head: str,
    labels: Tensor,
    *,
    distance: float = 25.0,
    angle: float = 50.0,
) -> Tensor:
    """Relational distillation (Park et al., CVPR 2019): how far apart the samples of a batch are, and at which angles,
    in the space of pooled features. The same value for every sample, since it belongs to the batch."""
    one, target = _feature(student, "pooled"), torch.stack([_feature(t, "pooled") for t in teachers]).mean(0)
    loss = 0.0 * one.sum()  # a single sample has no relation, yet every step must reach the network (DDP)
    if len(one) > 1:
        loss = distance * distance_loss(one, target) + angle * angle_loss(one, target)
    return loss.expand(len(one))


LESSONS: dict[str, Lesson] = {
    "kl": kl,
    "soft_cross_entropy": soft_cross_entropy,
    "logit_mse": logit_mse,
    "feature_mse": feature_mse,
    "attention": attention,
    "decoupled": decoupled,
    "dist": dist,
    "relational": relational,
}


LABEL_FREE = frozenset(LESSONS) - {"decoupled"}
"""Lessons of ours that say the same whatever the labels are."""


def options_of(lesson: str) -> tuple[str, ...]:
    """Names of the options of a lesson.

    Raises:
        ValueError: unknown lesson.
    """
    if lesson not in LESSONS:
        raise ValueError(f"lesson={lesson!r} is unknown; use one of {list(LESSONS)}")
    parameters = inspect.signature(LESSONS[lesson]).parameters.values()
    return tuple(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)


def default_options(lesson: str) -> dict[str, Any]:
    """{option: its usual value} of a lesson.

    Raises:
        ValueError: unknown lesson.
    """
    parameters = inspect.signature(LESSONS[lesson]).parameters if options_of(lesson) else {}
    return {name: parameters[name].default for name in options_of(lesson)}


def check_options(lesson: str, options: Mapping[str, Any]) -> None:
    """Try the lesson once, so that a wrong option is found before training and not at its first step.

    Raises:
        ValueError: unknown lesson, option, or value of an option.
    """
    known = options_of(lesson)
    for name in options:
        if name not in known:
            raise ValueError(f"lesson={lesson} has no option {name!r}; it has {list(known) or 'none'}")
    features = {"pooled": torch.zeros(2, 4), "map": torch.zeros(2, 1, 4, 2, 2)}
    output = SimpleNamespace(logits={"": torch.zeros(2, 3)}, features=features)
    try:
        if not options.get("temperature", 1.0) > 0:
            raise ValueError(f"temperature={options['temperature']} must be positive")
        LESSONS[lesson](output, [output], "", torch.tensor([0, 1]), **options)
    except TypeError as error:
        raise ValueError(f"lesson={lesson} with {dict(options)}: {error}") from None


def full_precision(value: Tensor) -> Tensor:
    """`value` in float32 where it is of half precision."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def _logits(output: Output, head: str) -> Tensor:
    return full_precision(output.logits[head])


def _mean_logits(teachers: Sequence[Output], head: str) -> Tensor:
    return torch.stack([_logits(teacher, head) for teacher in teachers]).mean(0)


def _feature(output: Output, site: str) -> Tensor:
    return full_precision(output.features[site])


def _per_class(loss: Tensor, labels: Tensor) -> Tensor:
    return loss / labels.shape[-1] if labels.ndim > 1 else loss


def _standardised(logits: Tensor) -> Tensor:
    centred = logits - logits.mean(-1, keepdim=True)
    return centred / (logits.std(-1, keepdim=True, unbiased=False) + 1e-7)


def _features(student: Output, teachers: Sequence[Output], site: str) -> tuple[Tensor, Tensor]:
    if site not in SITES:
        raise ValueError(f"site={site!r} is unknown; use one of {list(SITES)}")
    features = [_feature(output, site) for output in (student, *teachers)]
    _same_shape(features, f"features at site={site}")
    return features[0], torch.stack(features[1:]).mean(0)


def _same_shape(values: Sequence[Tensor], what: str) -> None:
    shapes = [tuple(value.shape[1:]) for value in values]
    if len(set(shapes)) > 1:
        raise ValueError(f"{what} of student and teachers differ ({shapes}): use networks of one shape, or a KL lesson")


def _attention(output: Output) -> Tensor:
    """[B, T, h*w], of unit length per frame."""
    return F.normalize(_feature(output, "map").square().mean(2).flatten(2), dim=-1)


def _binary(logits: Tensor, labels: Tensor, is_label: Tensor) -> Tensor:
    """Log-probabilities [B, 2] of the label and of all others together."""
    log_p = logits.log_softmax(-1)
    of_label = log_p.gather(-1, labels[:, None]).squeeze(-1)
    of_others = log_p.masked_fill(is_label, -torch.inf).logsumexp(-1)
    return torch.stack([of_label, of_others], dim=-1)


def _kl(log_student: Tensor, log_teacher: Tensor) -> Tensor:
    return F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(-1)
