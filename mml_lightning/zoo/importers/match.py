"""Recognised weights fitted to one of our networks, with a report of what found its place and what did not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from mml_lightning.backbones.inflate import inflate_state
from mml_lightning.backbones.peer import Peer
from mml_lightning.backbones.resnet3d import ResNet3d
from mml_lightning.backbones.stem import convert_state
from mml_lightning.backbones.temporal_2d import TemporalPool
from mml_lightning.backbones.temporal_shift import TemporalShift, match_shift_names
from mml_lightning.utils.errors import UserError
from mml_lightning.zoo.importers.naming import COUNTER, Recognised, wrapped_places

NONLOCALS = "net.nonlocals."
POOLED = "layer2"  # what TSM's temporal pooling wraps
SHOWN = 3  # names told of each kind
MIN_MATCHED = 1.0


@dataclass(frozen=True)
class Report:
    """What became of the tensors of trunk and file; counters of batch norms are left out of all numbers.

    Args:
        scheme: how the file names its tensors.
        matched: tensors of the trunk filled from the file.
        total: distinct tensors on either side: those of the trunk and those of the file.
        missing: of the trunk, not in the file: they stay random.
        added: of the trunk's non-local blocks, where the file's network has none: they start as the identity.
        unexpected: of the file, not in the trunk.
        mismatched: in both with another shape, as `name (file's shape, trunk's shape)`.
        ignored: entries of the file that are no weights.
        stem: what was done to the first convolution; empty for nothing.
        shift: how the file's network shifts or pools along time otherwise than this one; empty if alike or unknown.
    """

    scheme: str
    matched: int
    total: int
    missing: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    ignored: int = 0
    stem: str = ""
    shift: str = ""

    @property
    def share(self) -> float:
        """Matched tensors of all. A file of a deeper network fills a shallower one completely, so the rest counts."""
        return self.matched / max(self.total, 1)

    def lines(self, shown: int | None = None) -> list[str]:
        """For people: one line per kind, with `shown` names of each, by default all."""
        kinds = {"missing": self.missing, "unexpected": self.unexpected, "other shape": self.mismatched}
        kinds |= {"new non-local blocks": self.added}
        told = [f"{self.scheme} names: {self.matched} of {self.total} trunk tensors matched ({self.share:.1%})"]
        told += [f"{kind}: {_some(names, shown)}" for kind, names in kinds.items() if names]
        told += [f"{what}: {done}" for what, done in (("stem", self.stem), ("along time", self.shift)) if done]
        return told + ([f"ignored: {self.ignored} entries that are not weights"] if self.ignored else [])

    def plain(self) -> dict[str, Any]:
        """For a zoo file: plain values."""
        return asdict(self)


def fit(
    net: Peer,
    recognised: Recognised,
    origin: str,
    min_matched: float = MIN_MATCHED,
    convert_stem: bool = False,
    add_nonlocals: bool = False,
    inflate: bool = False,
) -> tuple[dict[str, Tensor], Report]:
    """Rename and check the trunk's weights for `net`.

    Args:
        net: the network to fill; it is not changed.
        origin: what to call the file in messages.
        min_matched: least share of matched tensors, see `Report.share`.
        convert_stem: average the first convolution over its input channels where the file's has another number.
        inflate: repeat 2-D kernels over time where the network is 3-D, see `inflate_state`.
        add_nonlocals: a file without non-local blocks fits a network with them: new ones are the identity.

    Returns: entries for `net.load_state_dict(.., strict=False)`, in the network's names and types, and the report.

    Raises:
        UserError: too few tensors match; whatever the share, a tensor has another shape or the stem is missing; the
            channels of the stems differ and `convert_stem` is off.
    """
    wanted = {name: value for name, value in net.state_dict().items() if name.startswith("net.")}
    given = match_shift_names({f"net.{name}": value for name, value in recognised.trunk.items()}, wanted)
    if inflate:
        given |= inflate_state(given, wanted, f"{net.stem_name}.weight").state
    given, stem = _match_stem(net, given, origin, convert_stem)
    given = {name: _without_singletons(value, wanted.get(name)) for name, value in given.items()}
    fitting = {n: v.to(wanted[n].dtype) for n, v in given.items() if n in wanted and v.shape == wanted[n].shape}
    missing, added = _weights(name for name in wanted if name not in given), []
    if add_nonlocals and not any(name.startswith(NONLOCALS) for name in given):
        added = [name for name in missing if name.startswith(NONLOCALS)]
        missing = [name for name in missing if not name.startswith(NONLOCALS)]
    unexpected = _weights([*(name for name in given if name not in wanted), *recognised.unknown])
    differing = _weights(name for name in given if name in wanted and name not in fitting)
    matched = len(_weights(fitting))
    report = Report(
        scheme=recognised.scheme,
        matched=matched,
        total=matched + len(missing) + len(unexpected) + len(differing),
        missing=missing,
        added=added,
        unexpected=unexpected,
        mismatched=[f"{n} ({_shape(given[n])} in the file, {_shape(wanted[n])} here)" for n in differing],
        ignored=recognised.ignored,
        stem=stem,
        shift=_shift_difference(net, recognised),
    )
    if reason := _unfit(report, f"{net.stem_name}.weight", min_matched):
        told = "; ".join(report.lines(SHOWN))
        raise UserError(
            f"{origin} does not fit this backbone: {told}; {reason}: choose the backbone that the file was made with"
        )
    return fitting, report


def _unfit(report: Report, stem: str, min_matched: float) -> str:
    """Why the weights must not be used; empty if they may."""
    if report.mismatched:  # another network, however large the share of the rest: its kernels would stay random
        return "all shapes must agree"
    if stem in report.missing:
        return "the first convolution is required"
    if report.share < min_matched:
        return f"at least {100 * min_matched:g}% must match (mml import --min-matched takes less: the rest is random)"
    return ""


def _shift_difference(net: Peer, recognised: Recognised) -> str:
    """A shift and a pooling have no tensors, so that all may match while the networks differ."""
    if recognised.pooled is not None and recognised.pooled != pools(net):
        words = [("without", "with")[pooled] for pooled in (recognised.pooled, pools(net))]
        return f"{words[0]} temporal pooling in the file, {words[1]} here"
    online = next((m.online for m in net.net.modules() if isinstance(m, TemporalShift)), None)
    if None not in (online, recognised.online) and online != recognised.online:
        words = [("bidirectional", "online")[bool(shift)] for shift in (recognised.online, online)]
        return f"the {words[0]} shift in the file, the {words[1]} one here"
    if recognised.wrapped is None:
        return ""
    here = {place for name in net.net.state_dict() for place in wrapped_places(name)}
    here |= {POOLED} if pools(net) else set()
    theirs = recognised.wrapped
    if here == theirs:
        return ""
    counts = [len(places - {POOLED}) for places in (theirs, here)]
    words = ["with" if POOLED in places else "without" for places in (theirs, here)]
    return (
        f"{counts[0]} places of a shift, {words[0]} temporal pooling in the file; {counts[1]} places, {words[1]} "
        "temporal pooling here"
    )


def pools(net: Peer) -> bool:
    """Whether the trunk halves the number of frames on its way."""
    if isinstance(net.net, ResNet3d):
        return net.net.time_stride > 1
    return any(isinstance(module, TemporalPool) for module in net.net.modules())


def _match_stem(net: Peer, given: dict[str, Tensor], origin: str, convert_stem: bool) -> tuple[dict[str, Tensor], str]:
    name = f"{net.stem_name}.weight"
    if name not in given or given[name].ndim < 4 or given[name].shape[1] == net.in_channels:
        return given, ""
    channels = given[name].shape[1]
    if not convert_stem:
        raise UserError(
            f"{origin} was trained on inputs of {channels} channels, this modality has {net.in_channels}: choose the "
            "modality it was trained on, or average its first convolution over the channels with --convert-stem"
        )
    told = f"averaged over {channels} channels, copied to {net.in_channels}"
    return convert_state(given, name, net.in_channels), told


def _without_singletons(value: Tensor, wanted: Tensor | None) -> Tensor:
    """Old files drop, or add, trailing dimensions of size one."""
    if wanted is None or value.ndim == wanted.ndim or _trimmed(value) != _trimmed(wanted):
        return value
    return value.reshape(wanted.shape)


def _trimmed(value: Tensor) -> list[int]:
    shape = list(value.shape)
    while shape and shape[-1] == 1:
        shape.pop()
    return shape


def _weights(names: Iterable[str]) -> list[str]:
    return [name for name in names if not name.endswith(COUNTER)]


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "scalar"


def _some(names: list[str], shown: int | None) -> str:
    left = len(names) - len(names[:shown])
    return f"{len(names)} ({', '.join(names[:shown])}{f', .. and {left} more' if left else ''})"


def fit_head(net: Peer, head: Mapping[str, Tensor], named: bool) -> tuple[dict[str, Tensor], str]:
    """The classifier's entries for `net`, if its size is that of the only head, and what to tell about it. Several
    heads, which only files of this package have, are taken if names and sizes agree.

    Args:
        head: `Recognised.head`.
        named: the classes have names from elsewhere; False if they are numbers.
    """
    if any("." in name for name in head):
        return _fit_heads(net, head)
    weight, bias = head.get("weight"), head.get("bias")
    if weight is None or bias is None:
        return {}, "none in the file"
    size = weight.shape[0]
    if len(net.num_classes) != 1:
        return {}, f"dropped: the file has one classifier, the network has {', '.join(net.num_classes)}"
    (name,) = net.num_classes
    layer = net.heads[name]
    own = layer.state_dict()
    values = {"weight": weight.flatten(1), "bias": bias}
    if any(values[kind].shape != own[kind].shape for kind in own):
        return {}, f"dropped: {size} classes of {weight.flatten(1).shape[1]} features in the file, {_head(own)} here"
    told = "the file does not name them, so check their order" if named else "classes named by numbers"
    return {f"heads.{name}.{kind}": values[kind].to(own[kind].dtype) for kind in own}, f"kept: {size} classes, {told}"


def _fit_heads(net: Peer, heads: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    own = net.heads.state_dict()
    here, there = (", ".join(f"{n}: {k}" for n, k in sizes.items()) for sizes in (net.num_classes, head_sizes(heads)))
    if {name: value.shape for name, value in heads.items()} != {name: value.shape for name, value in own.items()}:
        return {}, f"dropped: the file has the heads {there}, the network has {here}"
    return {f"heads.{name}": value.to(own[name].dtype) for name, value in heads.items()}, f"kept: {here}"


def head_sizes(heads: Mapping[str, Tensor]) -> dict[str, int]:
    """{head: K} of a file with several heads."""
    return {n.removesuffix(".weight"): value.shape[0] for n, value in heads.items() if n.endswith(".weight")}


def _head(own: Mapping[str, Tensor]) -> str:
    classes, features = own["weight"].shape
    return f"{classes} of {features}"
