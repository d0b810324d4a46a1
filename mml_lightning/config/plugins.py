"""Functions of the user's own packages where the config or a weight file has a name of ours: networks, preparations of
clips, lessons.

A weight file stores of such a function its importable name and the options it was called with. What a file names is
imported where its package was typed as trusted, and nowhere else: docs/plugins.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mml_lightning.backbones.peer import Peer
from mml_lightning.backbones.registry import BUILDERS, rebuild
from mml_lightning.config.instantiate import TARGET, TRUSTED, instantiate, lies_in, trusted_object
from mml_lightning.config.targets import current
from mml_lightning.modalities import Modality, Preparation
from mml_lightning.objectives.lessons import LESSONS
from mml_lightning.utils.errors import UserError

HYDRAS = ("_partial_", "_convert_", "_recursive_")  # beside what is called


def modality(name: str, values: Mapping[str, Any], trusted: Sequence[str]) -> Modality:
    """A modality as conf/modality tells it: `prepare` is a name of ours, or a table that calls a function.

    Raises:
        UserError: the function is not trusted or can't be found, or gives something else.
        TypeError, ValueError: a field is unknown, missing or wrong.
    """
    own = values.get("prepare")
    if isinstance(own, Mapping):
        values = {**values, "prepare": _preparation(f"modality.{name}.prepare", own, trusted)}
    return Modality(name=name, **values)


def stored_modality(peer: str, values: Mapping[str, Any], trusted: Sequence[str]) -> Modality:
    """A modality as a weight file tells it.

    Raises:
        UserError: it names a function of a package that was not typed as trusted, or is damaged.
    """
    rest = {key: value for key, value in values.items() if key != "name"}
    try:
        return modality(str(values["name"]), rest, trusted)
    except UserError as error:
        raise UserError(f"{peer}: {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{peer}: what its weights say of their modality is damaged ({error})") from None


def _preparation(key: str, node: Mapping[str, Any], trusted: Sequence[str]) -> Preparation:
    """With `_partial_: true` a function (clip, modality, **options) -> input of the network; else one that makes a
    Preparation."""
    target = _target(key, node)
    found = _of_typed(f"{key} calls {target}", target, trusted)
    made = found if isinstance(found, Preparation) else instantiate(node, trusted)
    if isinstance(made, Preparation):
        return made
    if not callable(made):
        raise UserError(
            f"{key}={target} makes a {type(made).__name__}: for a function (clip, modality) add _partial_: true"
        )
    return Preparation(made)


def edges(declared: Any, trusted: Sequence[str]) -> Any:
    """The edges of an objective, in which a lesson that is called by `_target_` has a name: its importable one, under
    which it stands in :data:`LESSONS` afterwards. The options of the table count as those of the edge.

    Raises:
        UserError: the function is not trusted or can't be found.
    """
    if not isinstance(declared, list):
        return declared
    return [_edge(f"objective.edges.{number}.lesson", edge, trusted) for number, edge in enumerate(declared)]


def _edge(key: str, edge: Any, trusted: Sequence[str]) -> Any:
    lesson = edge.get("lesson") if isinstance(edge, Mapping) else None
    if not isinstance(lesson, Mapping):
        return edge
    target = _target(key, lesson)
    LESSONS[target] = trusted_object(target, (*TRUSTED, *trusted))
    options = {name: value for name, value in lesson.items() if name not in (TARGET, *HYDRAS)}
    return {**options, **edge, "lesson": target}


def name_builder(net: Peer, node: Mapping[str, Any]) -> None:
    """Have a network that a package of the user's has made know how it is built again.

    Args:
        node: what was called, plain.
    """
    if net.arch.get("builder") not in BUILDERS:
        options = {key: value for key, value in node.items() if key not in (TARGET, *HYDRAS)}
        net.built_by(current(str(node[TARGET])), options)


def check_rebuilt(word: str, net: Peer, node: Mapping[str, Any], trusted: Sequence[str]) -> None:
    """A network that can't be built again would be found out when it is wanted: this does it before training.

    Raises:
        UserError: building it again fails, or gives a network of other shape.
    """
    if lies_in(str(node[TARGET]), TRUSTED):
        return
    with torch.random.fork_rng(devices=[]):
        again = network(net.arch, trusted)
    shapes, others = ({key: value.shape for key, value in one.state_dict().items()} for one in (net, again))
    if shapes != others or type(net) is not type(again):
        raise UserError(
            f"{word}: {net.arch['builder']} makes another network when it is called again with the same options: all "
            "that decides its shape must be among them"
        )


def network(arch: Mapping[str, Any], trusted: Sequence[str]) -> Peer:
    """A network with fresh weights from what a weight file tells of it.

    Raises:
        UserError: its builder is of a package that was not typed as trusted.
        Exception: what a builder raises that is called with something wrong.
    """
    return rebuild(arch, lambda name, options: _called(name, options, trusted))


def _called(name: str, options: Mapping[str, Any], trusted: Sequence[str]) -> Peer:
    _of_typed(f"its network is built by {name}", name, trusted)
    heads = {"in_channels": options["in_channels"], "num_classes": options["num_classes"]}
    given = {key: value for key, value in options.items() if key not in heads}
    return peer_of(name, instantiate({**given, TARGET: name, "_partial_": True}, trusted)(**heads))


def peer_of(name: str, made: Any) -> Peer:
    """What a builder has made.

    Raises:
        UserError: it is no network of a peer.
    """
    if not isinstance(made, Peer):
        kind = type(made).__name__
        raise UserError(f"{name} makes a {kind}: a backbone is a mml_lightning.backbones.Peer, docs/plugins.md")
    return made


def _of_typed(what: str, name: str, trusted: Sequence[str]) -> Any:
    """What a file names: of a package that was typed as trusted, beside those that configs may call anyway."""
    packages = tuple(map(str, trusted))
    if not lies_in(name, packages):
        raise UserError(f"{what}: if you trust that package, type trusted=[{name.partition('.')[0]}]")
    return trusted_object(name, packages)


def _target(key: str, node: Mapping[str, Any]) -> str:
    if not isinstance(node.get(TARGET), str):
        raise UserError(f"{key} must be a name or a table with {TARGET}: my_package.function")
    return current(node[TARGET])
