"""What networks of several modalities have to give each other, from their score dumps alone.

    found = diagnose([Network("rgb", "rgb", [rgb_run]), Network("flow", "flow", [flow_run])])
    found.students[0].verdict.reason

Legend: S seeds, N videos, K classes. A label counts as found if its class is among the n best of a video with n labels.
Weights and the rule come from the validation split, everything else is measured on the reported one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from mml_lightning.evaluation.aligned_scores import AlignedScores, Network, align
from mml_lightning.evaluation.distillation_room import Evidence, Verdict, decide
from mml_lightning.evaluation.ensemble_members import in_fold
from mml_lightning.evaluation.metrics import ENSEMBLE, FUSED
from mml_lightning.evaluation.metrics import ensembles as arithmetic
from mml_lightning.evaluation.metrics.bootstrap import Interval, Sampled
from mml_lightning.evaluation.metrics.calibration import Reliability, decisions, reliability
from mml_lightning.evaluation.metrics.per_video import labels, named_classes, prior_loss
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.plain_text import some_videos

T = TypeVar("T")


@dataclass(frozen=True)
class JointModel:
    """A model of several networks that were trained together, as `<name>/<peer>`.

    Args:
        peers: with the seeds of the networks that it is compared with.
        fused: its fused output, as a peer; None where it has none, and the ensemble of the peers stands for it.
    """

    name: str
    peers: Sequence[Network]
    fused: Network | None = None


@dataclass(frozen=True)
class Alone:
    """A network alone on the reported split: `quality` in percent, `loss` in nats, `ece` from 0 to 1; `train_loss` and
    `gap` (validation loss minus training loss) are None where the first is unknown."""

    name: str
    modality: str
    inside: str
    quality: Interval
    loss: float
    ece: float
    train_loss: float | None
    val_loss: float
    gap: Interval | None
    bins: Reliability


@dataclass(frozen=True)
class Together:
    """Several networks on the reported split, all but `q` in percent.

    Args:
        members: names.
        agreement: classes that both name; None of more than two.
        q: Yule's Q of finding labels; None of more than two.
        only: labels that just this member finds.
        neither: labels that none finds.
        oracle: labels that at least one finds.
        weights: found on other videos, mean over the seeds.
        fused: with those weights.
        best: the member that is best on the videos that the weights were found on.
        gain: of `fused` over `best`.
    """

    members: tuple[str, ...]
    agreement: float | None
    q: float | None
    only: Mapping[str, float]
    neither: float
    oracle: float
    weights: tuple[float, ...]
    fused: Interval
    best: str
    gain: Interval


@dataclass(frozen=True)
class Student:
    """Whether a network has room to learn, with what the rule looked at."""

    evidence: Evidence
    verdict: Verdict


@dataclass(frozen=True)
class Inside:
    """A network trained alone against the same modality inside a joint model: `change` is inside minus alone, in points
    of percent. Where `peer` is "ensemble" or "fused" it is the output of the joint model, against the best network
    alone."""

    joint: str
    peer: str
    network: str
    alone: Interval
    inside: Interval
    change: Interval


@dataclass(frozen=True)
class Diagnosis:
    """What :func:`diagnose` found.

    Args:
        metric: "top1" or "map".
        split: the reported one.
        videos: how many all networks have: "val", which the rule looks at, "weights", which these are found on, and
            "reported".
        seeds: S.
        notes: what else a reader should know.
    """

    metric: str
    split: str
    videos: Mapping[str, int]
    seeds: int
    classes: int
    networks: list[Alone]
    together: list[Together]
    students: list[Student]
    joint: list[Inside]
    notes: list[str] = field(default_factory=list)


def diagnose(
    networks: Sequence[Network], joint: Sequence[JointModel] = (), advance: Callable[[], None] = lambda: None
) -> Diagnosis:
    """Compare networks.

    Args:
        networks: those that are asked about, each with as many runs as the others, whose seeds are the same.
        joint: models to compare them with.
        advance: called after each of :func:`steps`.

    Raises:
        UserError: classes or labels differ, or there are no common videos, or too few for two halves.
    """
    every = [*networks, *(one for model in joint for one in [*model.peers, *filter(None, [model.fused])])]
    names = [network.name for network in networks]
    held, test = align(every, "val"), align(every, "test")
    assert held is not None  # every run has it
    search, reported = _splits(held, test)

    def each(items: Iterable[T]) -> Iterator[T]:
        for item in items:
            yield item
            advance()

    split = "val" if test is None else "test"
    return Diagnosis(
        metric=held.metric,
        split=split,
        videos={"val": len(held.ids), "weights": len(search.ids), "reported": len(reported.ids)},
        seeds=len(networks[0].runs),
        classes=next(iter(held.scores.values())).shape[2],
        networks=[_alone(network, held, reported) for network in each(networks)],
        together=[_together(chosen, search, reported) for chosen in each(_combinations(names))],
        students=[_student(network, names, held) for network in each(networks)],
        joint=[found for model in each(joint) for found in _inside(model, networks, search, reported)],
        notes=_notes(held, test, every),
    )


def steps(networks: Sequence[Network], joint: Sequence[JointModel]) -> int:
    """What :func:`diagnose` does one after the other."""
    return 2 * len(networks) + len(_combinations([network.name for network in networks])) + len(joint)


def _combinations(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Every pair, and all."""
    sizes = [2] if len(names) == 2 else [2, len(names)]
    return [chosen for size in sizes for chosen in itertools.combinations(names, size)]


def _splits(held: AlignedScores, test: AlignedScores | None) -> tuple[AlignedScores, AlignedScores]:
    """The videos that weights are found on, and those that are reported; of the same ones a half each."""
    if test is not None and not set(held.ids) & set(test.ids):
        return held, test
    reported = test or held
    search, rest = held.keep(_fold(held)), reported.keep(~_fold(reported))
    if not search.ids or not rest.ids:
        raise UserError("there are too few videos to find weights on one half and to report the other")
    return search, rest


def _fold(scores: AlignedScores) -> torch.Tensor:
    """bool [N], one half of the videos, by a hash of their ids: the same in every split and run."""
    return torch.tensor([in_fold(video, 0.5) for video in scores.ids])


def _notes(held: AlignedScores, test: AlignedScores | None, networks: Sequence[Network]) -> list[str]:
    notes = [*held.notes, *(test.notes if test else ())]
    if test is None:
        lacking = [f"{n.name} of {run.name}" for n in networks for run in n.runs if run.test is None]
        told = f"{lacking[0]} has no test scores" + (f", nor have {len(lacking) - 1} others" if lacking[1:] else "")
        notes.append(f"{told}: weights come from one half of the validation videos, what is reported from the other")
    elif both := sorted(set(held.ids) & set(test.ids)):
        notes.append(
            f"{some_videos(both)} in both val and test: weights come from one half, what is reported from the other"
        )
    # the validation of a training is of one central clip
    views = {str(run.val.views.get("name", "center")) for network in networks for run in network.runs}
    if len(views) > 1:
        notes.append(f"views differ: {', '.join(sorted(views))}; scores of equal views compare better")
    return notes


def _alone(network: Network, held: AlignedScores, reported: AlignedScores) -> Alone:
    scores = reported.scores[network.name]
    told = [decisions(one, reported.target) for one in scores]
    each = [reliability(*one) for one in told]
    trained = [run.train_loss for run in network.runs if run.train_loss is not None]
    gap = _gap(network, held)
    return Alone(
        **{"name": network.name, "modality": network.modality, "inside": network.inside},
        quality=reported.qualities[network.name].interval(),
        loss=float(reported.losses(network.name).mean()),
        ece=sum(one.error for one in each) / len(each),
        train_loss=sum(trained) / len(trained) if gap is not None else None,
        val_loss=float(held.losses(network.name).mean()),
        gap=None if gap is None else gap.interval(),
        bins=reliability(torch.cat([said for said, _ in told]), torch.cat([right for _, right in told])),
    )


def _gap(network: Network, held: AlignedScores) -> Sampled | None:
    """Validation loss minus training loss; None where a training loss is unknown."""
    trained = [run.train_loss for run in network.runs]
    if any(loss is None for loss in trained):
        return None
    return held.luck.mean(held.losses(network.name) - torch.tensor(trained, dtype=torch.float64)[:, None])


def _together(members: tuple[str, ...], search: AlignedScores, reported: AlignedScores) -> Together:
    found = torch.stack([reported.found[name] for name in members])  # [M, S, N, K]
    total = float(reported.wanted.sum())
    times = found.sum(dim=0)
    only = {name: 100 * float((own & (times == 1)).sum()) / total for name, own in zip(members, found, strict=True)}
    neither = 100 * (1 - float((times > 0).sum()) / total)
    weights = [_search(members, search, seed) for seed in range(found.shape[1])]
    fused = reported.quality(reported.fused(members, weights))
    best = max(members, key=lambda name: search.qualities[name].value)
    return Together(
        members=members,
        agreement=_agreement(members, reported) if len(members) == 2 else None,
        q=_q(members, reported) if len(members) == 2 else None,
        only=only,
        neither=neither,
        oracle=100 - neither,
        weights=tuple(sum(own) / len(own) for own in zip(*weights, strict=True)),
        fused=fused.interval(),
        best=best,
        gain=(fused - reported.qualities[best]).interval(),
    )


def _agreement(members: Sequence[str], reported: AlignedScores) -> float:
    """Classes that both name, percent."""
    one, other = (reported.named[name] for name in members)
    return 100 * float((one & other).sum()) / float(reported.wanted.sum())


def _q(members: Sequence[str], reported: AlignedScores) -> float:
    """Yule's Q of finding labels, of all seeds together."""
    found = [reported.found[name] for name in members]
    hot = labels(reported.target, found[0].shape[2])
    return float(arithmetic.q_statistic(torch.stack([each[:, hot].flatten() for each in found]))[0, 1])


def _search(members: Sequence[str], search: AlignedScores, seed: int) -> list[float]:
    """Weights that are best on the videos of `search`."""
    scores = torch.stack([search.scores[name][seed] for name in members])
    if search.scoring.ensemble == "probs" and not search.multi_label:
        scores = scores.exp()
    return arithmetic.search_weights(scores, search.target, search.multi_label, search.scoring)[0]


def _student(network: Network, names: Sequence[str], held: AlignedScores) -> Student:
    """The rule on a network and its best possible teacher."""
    even = [[1.0] * len(names)] * len(network.runs)
    teachers = {name: held.scores[name] for name in names if name != network.name}
    teachers[ENSEMBLE] = held.fused(names, even)
    quality = {name: held.qualities.get(name) or held.quality(scores) for name, scores in teachers.items()}
    teacher = max(quality, key=lambda name: quality[name].value)
    hot = labels(held.target, teachers[teacher].shape[2])
    finds = torch.stack([named_classes(one, held.target) & hot for one in teachers[teacher]])
    missed = hot & ~held.found[network.name]
    rescued = held.luck.ratio((finds & missed).sum(dim=2), missed.sum(dim=2))
    gap = _gap(network, held)
    evidence = Evidence(
        **{"student": network.name, "teacher": teacher, "metric": held.metric},
        lead=(quality[teacher] - held.qualities[network.name]).interval(),
        rescued=rescued.interval(),
        guessed=float(hot.sum()) / hot.numel(),
        gap=None if gap is None else gap.interval(),
        prior_loss=prior_loss(held.target, hot.shape[1]),
    )
    return Student(evidence, decide(evidence))


def _inside(
    model: JointModel, networks: Sequence[Network], search: AlignedScores, reported: AlignedScores
) -> list[Inside]:
    """Each peer of a joint model against the network of its modality alone, where there is one, and the output of the
    model against the best network alone."""
    own = [network for network in networks if not network.inside]
    told = []
    for one in model.peers:
        alike = [network for network in own if network.modality == one.modality]
        alike = [network for network in alike if network.name == one.runs[0].peer] or alike
        if alike:
            told.append((one.runs[0].peer, alike[0].name, reported.qualities[one.name]))
    if own and (model.fused or len(model.peers) > 1):
        best = max(own, key=lambda network: search.qualities[network.name].value).name
        if model.fused:
            told.append((FUSED, best, reported.qualities[model.fused.name]))
        else:
            even = [[1.0] * len(model.peers)] * len(own[0].runs)
            output = reported.fused([one.name for one in model.peers], even)
            told.append((ENSEMBLE, best, reported.quality(output)))
    return [
        Inside(
            **{"joint": model.name, "peer": peer, "network": network},
            alone=reported.qualities[network].interval(),
            inside=inside.interval(),
            change=(inside - reported.qualities[network]).interval(),
        )
        for peer, network, inside in told
    ]
