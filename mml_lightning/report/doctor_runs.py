"""Runs to networks that can be compared: which are seeds of one network, which were trained alone, which together."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mml_lightning.evaluation.aligned_scores import Network, RunScores
from mml_lightning.evaluation.diagnosis import JointModel
from mml_lightning.evaluation.metrics import ENSEMBLE, FUSED
from mml_lightning.evaluation.predictions import Predictions
from mml_lightning.report.collect import mapping, number
from mml_lightning.report.details import curves
from mml_lightning.report.rows import group
from mml_lightning.utils.errors import UserError
from mml_lightning.utils.foreign import Foreign, read_yaml
from mml_lightning.utils.result_file import read_result


@dataclass(frozen=True)
class ScoredRun:
    """A run with its scores.

    Args:
        folder: of the run.
        label: what the user calls it; "" for what it is called by itself.
        peer: which of its networks is meant; "" for all.
        val, test: scores; None where it has none of the test split.
        head: which of several heads the scores are of; "" of the only one.
    """

    folder: Path
    label: str
    peer: str
    val: Predictions
    test: Predictions | None
    head: str = ""

    @property
    def peers(self) -> list[str]:
        return [self.peer] if self.peer else [name for name in self.val.logits if name != FUSED]

    @property
    def joint(self) -> bool:
        """Whether its networks were trained together, and the user chose none of them."""
        return len(self.peers) > 1


@dataclass(frozen=True)
class Compared:
    """What :func:`compared` makes of runs; `notes`: what was guessed or left out."""

    networks: list[Network]
    joint: list[JointModel]
    notes: list[str] = field(default_factory=list)


OF_TRAINING = (
    *("backbone.", "batch_norm.", "data.batch_size", "ema.", "loss", "mix.", "optimizer", "sampling", "schedule"),
    *("statistics", "trainer.accumulate", "transforms"),
)
"""Beginnings of settings that change what a network learns."""


@dataclass
class _Group:
    """Runs that differ in nothing but the seed."""

    name: str
    runs: dict[Any, ScoredRun]


def compared(runs: Sequence[ScoredRun]) -> Compared:
    """Networks and joint models of runs.

    Raises:
        UserError: fewer than two networks, two that can't be told apart, or no common seeds.
    """
    alone = _groups([run for run in runs if not run.joint], _network_name)
    joint = _groups([run for run in runs if run.joint], _model_name)
    seeds, notes = _common_seeds([*alone, *joint])
    networks = [_network(one, next(iter(one.runs.values())).peers[0], seeds, one.name) for one in alone]
    models = [_model(one, seeds) for one in joint]
    have = {network.modality for network in networks} | {network.name for network in networks}
    for model in models:
        for peer in model.peers:
            name = peer.runs[0].peer
            if not {name, peer.modality} & have:
                networks.append(Network(name, peer.modality, peer.runs, model.name))
                notes.append(f"{name} has no run of its own: the one inside {model.name} stands for it")
        have |= {network.name for network in networks}
    if len(networks) < 2:
        one = networks[0].name
        raise UserError(f"{one} alone can't be compared: give a run of another modality too, or one trained with it")
    if not alone:
        notes.append("no network was trained alone: give such runs too to see what training them together changed")
    return Compared(networks, models, [*notes, *_unlike_training(networks, models), *_unknown_losses(networks, runs)])


def _unlike_training(networks: Sequence[Network], models: Sequence[JointModel]) -> list[str]:
    """Where a network inside a joint model differs from the one alone in more than its company."""
    notes = []
    for model in models:
        for peer in model.peers:
            inside = _training(peer)
            for one in networks:
                if one.modality != peer.modality or one.inside:
                    continue
                alone, differ = _training(one), _settings(one) ^ _settings(peer)
                if None not in (alone, inside) and inside != alone:
                    notes.append(f"{one.name} was trained {alone}, {peer.name} {inside}")
                if differ:
                    told = ", ".join(sorted(differ))
                    notes.append(f"{one.name} and {peer.name} were not trained with the same settings: {told}")
    return notes


def _settings(network: Network) -> set[str]:
    """What a person chose for the training of a network, beside its company, its start, its data and its seed."""
    result = read_result(Path(network.runs[0].name)) or {}
    typed = [str(word).lstrip("+~") for word in result.get("overrides") or []]
    made = {f"{key}={result[key]}" for key in ("backbone", "setup") if result.get(key)}
    return made | {word for word in typed if word.startswith(OF_TRAINING)}


def _training(network: Network) -> str | None:
    """Where a network started, and its steps; None where its run does not tell."""
    run = network.runs[0]
    result = read_result(Path(run.name)) or {}
    init = mapping(mapping(result.get("peers")).get(run.peer)).get("init")
    steps = result.get("steps")
    return None if init is None or steps is None else f"from {Path(str(init)).name} for {steps} steps"


def _unknown_losses(networks: Sequence[Network], runs: Sequence[ScoredRun]) -> list[str]:
    heads = {str(run.folder): run.head for run in runs}
    unknown = [(n.name, r.name, r.peer) for n in networks for r in n.runs if r.train_loss is None]
    return [
        f"training loss of {name} of {folder} unknown: {train_loss(Path(folder), peer, heads[folder])[1]}"
        for name, folder, peer in unknown
    ]


def train_loss(run: Path, peer: str, head: str = "") -> tuple[float | None, str]:
    """Loss against the labels of the last epoch, from `logs/metrics.csv` of a run or, of a measurement, of the run that
    it measures; and why there is none.

    Args:
        head: of several, whose loss; "" of the only one.
    """
    suffix = f"_{head}" if head else ""
    logged: Mapping[str, Any] = {}
    origin = mapping(mapping((read_result(run) or {}).get("peers")).get(peer)).get("origin")
    for folder in [run, *([Path(origin)] if isinstance(origin, str) and os.path.isdir(origin) else [])]:
        logged = curves(folder)
        curve = logged.get(f"train/{peer}/ce{suffix}") or logged.get(f"train/{peer}/bce{suffix}")
        if curve:
            cfg = _config(folder)
            mix = mapping(cfg.get("mix"))
            if mix.get("mixup") or mix.get("cutmix"):
                return None, "its training videos were mixed (mix), which raises the loss"
            if mapping(cfg.get("loss")).get("label_smoothing"):
                return None, "its labels were smoothed (loss.label_smoothing), which raises the loss"
            weight = number(mapping(cfg.get("objective")).get("supervised_weight", 1.0))  # what is logged is weighted
            return (curve[-1][1] / weight, "") if weight else (None, "it did not learn from labels")
    told = f"logs/metrics.csv has no train/{peer}/ce{suffix}" if logged else "there is no logs/metrics.csv"
    return None, f"{told}; give the directory of the training run"


def _config(run: Path) -> Mapping[str, Any]:
    try:
        return mapping(read_yaml(run / ".hydra" / "config.yaml"))
    except (OSError, Foreign):
        return {}


def _network_name(run: ScoredRun) -> str:
    return run.label or run.peers[0]


def _model_name(run: ScoredRun) -> str:
    return run.label or str((read_result(run.folder) or {}).get("name") or run.folder.name)


def _groups(runs: Sequence[ScoredRun], name_of: Any) -> list[_Group]:
    """Runs of one name as seeds of one network, in order of the names.

    Raises:
        UserError: runs of one name and seed, or of one name that differ in more than the seed.
    """
    groups: dict[str, _Group] = {}
    for run in runs:
        name = name_of(run)
        if name in (ENSEMBLE, FUSED):
            raise UserError(f"{name} is what networks make together; call {run.folder} something else")
        own = groups.setdefault(name, _Group(name, {}))
        result = read_result(run.folder) or {}
        seed = result["seed"] if isinstance(result.get("seed"), int) else None
        other = own.runs.get(seed) or next(iter(own.runs.values()), None)
        if seed in own.runs or (other is not None and not run.label and not _differ_by_seed(other, run)):
            assert other is not None
            same = "of one run or of unknown seeds" if seed is None else f"of seed {seed}"
            what = same if seed in own.runs else "but differ in more than the seed"
            raise UserError(
                f"{other.folder} and {run.folder} are both {name} {what}: leave one out, or name them to compare "
                f"them, {name}={other.folder} {name}_2={run.folder}"
            )
        own.runs[seed] = run
    return list(groups.values())


def _differ_by_seed(one: ScoredRun, other: ScoredRun) -> bool:
    results = [{**(read_result(run.folder) or {}), "path": str(run.folder)} for run in (one, other)]
    return all("name" in result for result in results) and len(group(results)) == 1


def _common_seeds(groups: Sequence[_Group]) -> tuple[list[Any], list[str]]:
    """Seeds that all have; empty where each has one run, of whatever seed.

    Raises:
        UserError: there are none.
    """
    if all(len(one.runs) == 1 for one in groups):
        seeds = {str(seed) for one in groups for seed in one.runs}
        return [], [f"runs of different seeds are compared: {', '.join(sorted(seeds))}"] if len(seeds) > 1 else []
    common = [seed for seed in groups[0].runs if all(seed in one.runs for one in groups)]
    if not common:
        told = "; ".join(f"{one.name}: {', '.join(map(str, one.runs))}" for one in groups)
        raise UserError(f"no seed is in all of them ({told}): give runs of equal seeds")
    left = sorted({str(seed) for one in groups for seed in one.runs if seed not in common})
    return sorted(common, key=str), [f"not counted, since not all have them: seeds {', '.join(left)}"] if left else []


def _network(own: _Group, peer: str, seeds: Sequence[Any], name: str, inside: str = "") -> Network:
    runs = [own.runs[seed] for seed in seeds] or list(own.runs.values())
    told = mapping(mapping((read_result(runs[0].folder) or {}).get("peers")).get(peer)).get("modality")
    scores = []
    for run in runs:
        if peer not in run.val.logits or (run.test and peer not in run.test.logits):
            raise UserError(f"{run.folder} has no scores of {peer}; it has {', '.join(run.val.logits)}")
        loss, _ = train_loss(run.folder, peer, run.head)
        scores.append(RunScores(str(run.folder), peer, run.val, run.test, loss))
    return Network(name, str(told or peer), scores, inside)


def _model(own: _Group, seeds: Sequence[Any]) -> JointModel:
    first = next(iter(own.runs.values()))
    peers = [_network(own, peer, seeds, f"{own.name}/{peer}", own.name) for peer in first.peers]
    fused = _network(own, FUSED, seeds, f"{own.name}/{FUSED}", own.name) if FUSED in first.val.logits else None
    return JointModel(own.name, peers, fused)
