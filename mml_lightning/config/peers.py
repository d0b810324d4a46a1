"""Config to peers: which networks a run has, where each starts, and the networks themselves."""

from __future__ import annotations

import functools
import itertools
import logging
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mml_lightning.backbones.peer import Peer
from mml_lightning.backbones.pretrained import PACKAGED, image_statistics, packaged_file
from mml_lightning.config import backbones, instantiate, phases, plugins
from mml_lightning.config import data as config_data
from mml_lightning.config.settings import Settings
from mml_lightning.config.values import check_stage
from mml_lightning.data.records.records import Dataset
from mml_lightning.modalities import Modality
from mml_lightning.utils.errors import UserError
from mml_lightning.zoo import aliases
from mml_lightning.zoo import init as zoo_init
from mml_lightning.zoo.aliases import Origin

log = logging.getLogger(__name__)

STATISTICS_DIFFER = 1e-3  # of values from 0 to 1

# What the command that makes an origin does not take over from the command that needs it.
OWN = re.compile(
    r"[+~]*((stage|init|objective|fusion|balance|phases|pipeline|catalogue|tables|name|tags|resume|resume_force|"
    r"seeds?|repeat|hydra)\b"
    r"(?!\.(base|file|runs)\b)|modality=|trainer=smoke\b|trainer\.(limit_|max_(steps|time)\b))"
)


@dataclass(frozen=True)
class PeerSpec:
    """A peer before its network exists."""

    name: str
    modality: Modality
    origin: Origin


def peer_specs(cfg: Settings, overrides: Sequence[str]) -> list[PeerSpec]:
    """The peers of the stage with their origins, which may be yet to train (:func:`require_origins`) and, of aliases,
    yet to be found (:class:`mml_lightning.runs.lineage.Lineage`).

    Raises:
        UserError: the stage does not fit the modalities, an origin is unknown, or two peers of one modality would start
            (and stay) identical.
    """
    check_stage(cfg)
    looked_at, copies = config_data.modalities(cfg), int(cfg.stage.copies)
    chosen = {name: modality for name, modality in looked_at.items() if name not in phases.proxies(cfg)}
    find = functools.partial(resolve, cfg, shared(cfg, overrides))
    specs = []
    for modality in chosen.values():
        for number in range(copies):
            copy = f"_{number}" if number else ""
            name = f"{modality.name}{copy}"
            own = cfg.init.copies if number and cfg.init.copies else cfg.init.of(modality.name)
            init = str(own).replace("{modality}", modality.name)
            origin = find(init, modality.name, copy)
            if origin.init == aliases.KINETICS:
                zoo_init.kinetics_file(cfg.init.file)
            if origin.init == aliases.IMAGENET and cfg.init.file is None:
                _require_package(cfg, modality.name)
            specs.append(PeerSpec(name, modality, origin))
    _refuse_twins(specs)
    check_file([(cfg, specs)])
    return specs


def _require_package(cfg: Settings, modality: str) -> None:
    """Raises:
    UserError: the ImageNet weights of a network come with a package that is not installed.
    """
    called = str(backbones.of(cfg, modality).net.get("_target_"))
    for name in PACKAGED:
        if called.endswith(f"_{name}"):
            try:
                packaged_file(name)
            except ValueError as error:
                raise UserError(str(error)) from None


def check_file(runs: Iterable[tuple[Settings, Sequence[PeerSpec]]]) -> None:
    """Args:
        runs: configs, each with its peers.

    Raises:
        UserError: networks of several depths would start from the one file `init.file`.
    """
    depths: dict[str, dict[Any, str]] = {}
    for cfg, specs in runs:
        for spec in specs:
            if cfg.init.file is not None and spec.origin.init in (aliases.IMAGENET, aliases.KINETICS):
                network = backbones.of(cfg, spec.modality.name)
                depths.setdefault(str(cfg.init.file), {})[network.net.get("depth", network.name)] = str(network.name)
    for file, found in depths.items():
        if len(found) > 1:
            raise UserError(
                f"init.file={file} is the file of one network, and {' and '.join(found.values())} would start from it: "
                "remove it (ImageNet weights are downloaded by depth), or give each its own, stage by stage: "
                "init.<modality>=<zoo file>, which mml import makes"
            )


def shared(cfg: Settings, overrides: Sequence[str]) -> list[str]:
    """What a command that makes first weights takes over from the present one: its stage and limits are its own."""
    return [o for o in overrides if not OWN.match(o) and not (cfg.declares_runs and o.startswith("experiment="))]


def resolve(cfg: Settings, kept: Sequence[str], init: str, modality: str, copy: str = "") -> Origin:
    """What `init` means in a config, see :func:`mml_lightning.zoo.aliases.resolve`.

    Raises:
        UserError: as there, or `aliases` or `init.runs` is wrong.
    """
    zoo = Path(cfg.paths.zoo) / cfg.data.name / str(backbones.of(cfg, modality).name)
    chosen = aliases.chosen_entries(cfg.init.runs)
    others = set(backbones.names(cfg).values()) - {zoo.name}
    declared = aliases.aliases(cfg.plain("aliases"))
    found = aliases.resolve(init, modality, copy, declared, zoo, kept, cfg.seed, chosen, others)
    if found.place is None:
        return found
    looked_at = next(
        (m[1].split(",") for word in found.making if (m := aliases.MODALITIES.fullmatch(word))), [modality]
    )
    taken = COPY.sub("", found.place.stem)
    return replace(found, making=tuple(backbones.words_of(found.making, cfg, modality, taken, looked_at)))


def require_origins(specs: Sequence[PeerSpec], coming: Set[Path] = frozenset()) -> None:
    """Raises:
    UserError: the weights of a peer are not there, nor among those `coming`; names the command that makes them.
    """
    # the second network first: the command that makes it makes the first one too
    for spec in sorted(specs, key=lambda spec: spec.name, reverse=True):
        if spec.origin.key not in coming:
            aliases.require_file(spec.origin, f"init.{spec.name}")


def _refuse_twins(specs: Sequence[PeerSpec]) -> None:
    seen: dict[tuple[str, Path], str] = {}
    for spec in specs:
        if spec.origin.key is None:
            continue
        key = (spec.modality.name, spec.origin.key)
        if key in seen:
            raise UserError(
                f"peers {seen[key]} and {spec.name} would start from the same weights, {spec.origin.key}: identical "
                "networks have nothing to learn from each other; give them different files or init=scratch"
            )
        seen[key] = spec.name


def peers(cfg: Settings, specs: Sequence[PeerSpec], data: Dataset) -> tuple[dict[str, Peer], dict[str, dict[str, Any]]]:
    """Networks and their provenance. The seed of a peer depends on the run's seed and the peer's name alone."""
    classes = {head: list(value.classes) for head, value in data.heads.items()}
    nets: dict[str, Peer] = {}
    provenance = {}
    for spec in specs:
        torch.manual_seed(_peer_seed(cfg.draw_seed, spec.name))
        backbone = backbones.of(cfg, spec.modality.name)
        word = backbones.word(cfg, spec.modality.name)
        net = new_network(cfg, spec.modality, data.num_classes)
        _check_activation(word, net, data)
        plugins.check_rebuilt(word, net, cfg.plain(f"{word}.net"), cfg.trusted)
        provenance[spec.name] = zoo_init.load_initial_weights(
            net,
            spec.origin,
            spec.name,
            spec.modality.name,
            classes,
            getattr(net.net, "pretrained", None) or backbone.net.get("depth", backbone.name),
            cfg.init.file,
            bool(cfg.init.new_head),
        )
        if spec.origin.init == aliases.IMAGENET:
            _check_statistics(spec, word, str(backbone.name), net)
        nets[spec.name] = net
    return nets, provenance


def _check_statistics(spec: PeerSpec, word: str, name: str, net: Peer) -> None:
    """Warn of frames that are not normalised as those that the ImageNet weights of a network were trained on."""
    modality = spec.modality
    if modality.source != "frames" or modality.prepare != "normalise":
        return
    for kind, have, want in zip(("mean", "std"), (modality.mean, modality.std), image_statistics(net.net), strict=True):
        if any(abs(a - b) > STATISTICS_DIFFER for a, b in zip(itertools.cycle(have), want, strict=False)):
            values = ",".join(f"{value:.6g}" for value in want)
            log.warning(
                f"{spec.name}: the ImageNet weights of {word}={name} were trained with other statistics of frames: "
                f"'statistics.{kind}=[{values}]'"
            )


def new_network(cfg: Settings, modality: Modality, num_classes: Mapping[str, int]) -> Peer:
    """A fresh network for a modality.

    Raises:
        UserError: its settings are wrong, or clips of this run too short or too small for it.
    """
    word = backbones.word(cfg, modality.name)
    node = cfg.plain(f"{word}.net")
    make = instantiate.instantiate(node, cfg.trusted)
    try:
        net = make(in_channels=modality.channels, num_classes=num_classes)
    except (TypeError, ValueError) as error:
        raise UserError(f"{word}={backbones.of(cfg, modality.name).name}: {error}") from None
    plugins.name_builder(plugins.peer_of(f"{word}={backbones.of(cfg, modality.name).name}", net), node)
    return net


def _check_activation(word: str, net: Peer, data: Dataset) -> None:
    if net.arch.get("eval_pool") != "sliding":
        return
    for head, value in data.heads.items():
        right = "sigmoid" if value.multi_label else "softmax"
        if net.arch["activation"] != right:
            labels = "several labels" if value.multi_label else "one label"
            raise UserError(
                f"head {head} has {labels} per video, so sliding windows need {word}.net.activation={right}"
            )


def describe_peers(
    cfg: Settings, specs: Sequence[PeerSpec], nets: Mapping[str, Peer], data: Dataset
) -> dict[str, dict[str, Any]]:
    """What a zoo file or a checkpoint needs to rebuild each peer, in plain values."""
    classes = {head: list(value.classes) for head, value in data.heads.items()}
    multi_label = {head: value.multi_label for head, value in data.heads.items()}
    return {
        spec.name: {
            "arch": nets[spec.name].arch,
            "modality": {"name": spec.modality.name, **cfg.plain("modality")[spec.modality.name]},
            "classes": classes,
            "multi_label": multi_label,
        }
        for spec in specs
    }


def _peer_seed(seed: int, name: str) -> int:
    return (seed * 1_000_003 + sum((i + 1) * ord(c) for i, c in enumerate(name))) % 2**31


COPY = re.compile(r"_\d+$")  # ends the names of further networks of a modality
