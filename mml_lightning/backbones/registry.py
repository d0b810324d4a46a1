"""Builders by name: what makes a network again from the plain values stored beside its weights.

A network of ours is a function that returns a `Peer` whose `arch` names it as `builder`, listed here. One of another
package is known by the importable name of its function, which whoever calls :func:`rebuild` finds, or refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mml_lightning.backbones.peer import Peer
from mml_lightning.backbones.recognizer import tsm_efficientnet_lite0, tsm_mobilenet_v2, tsm_resnet
from mml_lightning.backbones.recognizer3d import video_resnet

BUILDERS: dict[str, Callable[..., Peer]] = {
    "tsm_resnet": tsm_resnet,
    "tsm_mobilenet_v2": tsm_mobilenet_v2,
    "tsm_efficientnet_lite0": tsm_efficientnet_lite0,
    "video_resnet": video_resnet,
}


def rebuild(arch: Mapping[str, Any], other: Callable[[str, Mapping[str, Any]], Peer] | None = None) -> Peer:
    """Make a network with fresh weights from the `arch` of another one, for example from a checkpoint.

    Args:
        other: (importable name, arguments) -> network, for builders that are none of ours.

    Raises:
        ValueError: the builder is unknown.
    """
    values = dict(arch)
    builder = values.pop("builder", None)
    if builder in BUILDERS:
        return BUILDERS[builder](**values)
    if other is not None and isinstance(builder, str) and "." in builder:
        return other(builder, values)
    raise ValueError(f"arch names builder {builder!r}: use one of {', '.join(BUILDERS)}")
