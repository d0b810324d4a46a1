"""Names of other projects' tensors, mapped to the names of our networks.

A scheme is recognised by the names themselves, never by a file's name. The result uses torchvision's names for a trunk
(`conv1.weight`, `layer1.0.conv1.weight`, `features.0.0.weight`), `nonlocals.layer2_1.theta.weight` for a non-local
block after the block `layer2.1`, and `weight` and `bias` for the classifier.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from mml_lightning.utils.errors import UserError

Rename = Callable[[str], str | None]
"""Name in the file -> our name, `HEAD` + weight or bias for the classifier, or None for a name the scheme lacks."""

HEAD = "head."
COUNTER = "num_batches_tracked"
_NO_WEIGHT = re.compile(r"_momentum$|^lr$|^model_iter$")  # what Caffe2 keeps beside the weights
WRAPPERS = ("module.", "model.", "_orig_mod.")  # DataParallel, hosts of PyTorchVideo networks, torch.compile


@dataclass(frozen=True)
class Recognised:
    """A checkpoint in our names.

    Args:
        scheme: in words.
        trunk: tensors of the trunk, without the recogniser's `net.`.
        head: `weight` and `bias` of the classifier, if the file has one; `verb.weight`, .. where it has several.
        unknown: names that the scheme does not have.
        ignored: how many entries are no weights, such as momenta and counters of iterations.
        wrapped: what the names say is wrapped by a shift (`layer1.0.conv1`, `features.3`) or by the temporal pooling
            (`layer2`); None for schemes whose names say nothing about it.
        pooled: whether its names say that the network pools along time; None for names that say nothing.
        online: whether its shift is the online one; None where nothing tells, or there is no shift.
    """

    scheme: str
    trunk: dict[str, Tensor]
    head: dict[str, Tensor]
    unknown: list[str] = field(default_factory=list)
    ignored: int = 0
    wrapped: frozenset[str] | None = None
    pooled: bool | None = None
    online: bool | None = None


@dataclass(frozen=True)
class _Scheme:
    name: str
    marks: tuple[str, ...]  # patterns that all must be found
    rename: Callable[[Iterable[str]], Rename]
    tells_shift: bool = False
    pooled: Callable[[Iterable[str]], bool | None] = lambda names: None


def recognise(state: Mapping[str, Tensor]) -> Recognised:
    """Find the naming scheme of a state dict and apply it.

    Raises:
        UserError: no scheme has these names, or it is one of a network with two pathways.
    """
    state = _without_wrappers(state)
    _refuse_two_pathways(state)
    for scheme in SCHEMES:
        if all(any(re.search(mark, name) for name in state) for mark in scheme.marks):
            return _apply(scheme, state)
    first, known = ", ".join(list(state)[:3]), "; ".join(scheme.name for scheme in SCHEMES)
    raise UserError(
        f"none of the known naming schemes ({known}) has tensors named {first}, ..: rename them to torchvision's names"
    )


def _apply(scheme: _Scheme, state: Mapping[str, Tensor]) -> Recognised:
    rename = scheme.rename(state)
    trunk: dict[str, Tensor] = {}
    head: dict[str, Tensor] = {}
    unknown: list[str] = []
    ignored = 0
    for name, value in state.items():
        if _NO_WEIGHT.search(name):
            ignored += 1
            continue
        ours = rename(name)
        place, ours = (head, ours.removeprefix(HEAD)) if ours and ours.startswith(HEAD) else (trunk, ours)
        if ours is None or ours in place:  # two names for one tensor: a network with more than ours
            unknown.append(name)
        else:
            place[ours] = value
    wrapped = frozenset(place for name in trunk for place in wrapped_places(name)) if scheme.tells_shift else None
    online = False if wrapped else None  # a scheme that tells has the bidirectional one alone
    return Recognised(scheme.name, trunk, head, unknown, ignored, wrapped, scheme.pooled(state), online)


def wrapped_places(name: str) -> Iterator[str]:
    """What the `.net` in a name of a trunk's tensor stands around; of MobileNetV2 the whole block."""
    plain: list[str] = []
    for part in name.split("."):
        if part == "net" and plain:
            yield ".".join(plain[:2] if plain[0] == "features" else plain)
        else:
            plain.append(part)


def _without_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Prefixes that every name has, in any order and number."""
    names = list(state)
    while prefix := next((w for w in WRAPPERS if all(name.startswith(w) for name in names)), None):
        names = [name.removeprefix(prefix) for name in names]
    return dict(zip(names, state.values(), strict=True))


def _refuse_two_pathways(state: Mapping[str, Tensor]) -> None:
    mark = re.compile(r"\.pathway1_|\.multipathway_|^t_res\d|^t_conv1_")
    if any(mark.search(name) for name in state):
        raise UserError("the file holds a network with two pathways (SlowFast), and no backbone here has two")


# --- ours


def _own(names: Iterable[str]) -> Rename:
    several = len({name.split(".")[1] for name in names if name.startswith("heads.")}) > 1

    def rename(name: str) -> str | None:
        if name.startswith("heads."):
            return HEAD + name.split(".", 1 if several else 2)[-1]
        return name.removeprefix("net.") if name.startswith("net.") else None

    return rename


# --- torchvision, TSM and MML

_RESNET = re.compile(r"(conv1|bn1|layer[1-4])\.")
_TSM_NONLOCAL = re.compile(r"(layer\d)\.(?:net\.)?(\d+)\.nl\.(?:(theta)|(phi|g)\.0|(phi|g)|W\.([01]))\.(\w+)$")
_TSM_BLOCK = re.compile(r"(layer\d\.(?:net\.)?\d+)\.block\.")


def _image(name: str) -> str | None:
    """torchvision's own names stay as they are."""
    if name.startswith(("fc.", "classifier.")):
        return HEAD + name.rpartition(".")[2]
    return name if _RESNET.match(name) or name.startswith("features.") else None


def _torchvision(names: Iterable[str]) -> Rename:
    return _old_mobilenet(names, _image)


def _tsm(names: Iterable[str]) -> Rename:
    """`base_model.` before the trunk, `new_fc.` after it, `.block.` and `.nl.` for non-local blocks."""

    def plain(name: str) -> str | None:
        if name.startswith("new_fc."):
            return HEAD + name.removeprefix("new_fc.")
        if not name.startswith("base_model."):
            return None
        inner = name.removeprefix("base_model.")
        found = _TSM_NONLOCAL.match(inner)
        if found is None:
            return _image(_TSM_BLOCK.sub(r"\1.", inner))
        stage, block, theta, pooled, bare, out, kind = found.groups()
        part = theta or pooled or bare or ("out", "norm")[int(out)]
        return f"nonlocals.{stage}_{block}.{part}.{kind}"

    return _old_mobilenet(names, plain)


def _efficientnet(names: Iterable[str]) -> Rename:
    """The names of the common PyTorch port, which are ours."""

    def rename(name: str) -> str | None:
        if name.startswith("_fc."):
            return HEAD + name.removeprefix("_fc.")
        return name if name.startswith(("_conv_", "_bn", "_blocks.")) else None

    return rename


_OLD_MOBILENET = re.compile(r"(features)\.(\d+)\.conv\.(\d+)\.((?:net\.)?\w+)$")
# MobileNetV2 as TSM has it: all layers of a block in one row, activations counted; torchvision groups them.
_EXPANDED = {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1", "6": "2", "7": "3"}
_UNEXPANDED = {"0": "0.0", "1": "0.1", "3": "1", "4": "2"}


def _old_mobilenet(names: Iterable[str], rename: Rename) -> Rename:
    old = any(re.search(r"(^|\.)features\.\d+\.conv\.7\.running_var$", name) for name in names)

    def renamed(name: str) -> str | None:
        ours = rename(name)
        found = _OLD_MOBILENET.match(ours) if old and ours else None
        if found is None:
            return ours
        features, block, layer, kind = found.groups()
        layers = _UNEXPANDED if block == "1" else _EXPANDED
        return f"{features}.{block}.conv.{layers[layer]}.{kind}" if layer in layers else None

    return renamed


# --- SlowFast, Caffe2 and PyTorchVideo

_PARTS = {
    "branch1": "downsample.0",
    "branch1_bn": "downsample.1",
    **{f"branch2.{letter}": f"conv{number}" for number, letter in enumerate("abc", 1)},
    **{f"branch2.{letter}_bn": f"bn{number}" for number, letter in enumerate("abc", 1)},
}
_NONLOCAL = {"conv_theta": "theta", "conv_phi": "phi", "conv_g": "g", "conv_out": "out", "bn": "norm"}
_SLOWFAST_BLOCK = re.compile(r"s([2-5])\.pathway0_res(\d+)\.(.+)\.(\w+)$")
_SLOWFAST_NONLOCAL = re.compile(r"s([2-5])\.pathway0_nonlocal(\d+)\.(\w+)\.(\w+)$")
_SLOWFAST_STEM = {"s1.pathway0_stem.conv.": "conv1.", "s1.pathway0_stem.bn.": "bn1."}


def _slowfast(names: Iterable[str]) -> Rename:
    return _slowfast_name


def _slowfast_name(name: str) -> str | None:
    for theirs, ours in _SLOWFAST_STEM.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    if name.startswith("head.projection."):
        return HEAD + name.rpartition(".")[2]
    if found := _SLOWFAST_BLOCK.match(name):
        stage, block, part, kind = found.groups()
        return f"layer{int(stage) - 1}.{block}.{_PARTS[part]}.{kind}" if part in _PARTS else None
    if found := _SLOWFAST_NONLOCAL.match(name):
        stage, block, part, kind = found.groups()
        return f"nonlocals.layer{int(stage) - 1}_{block}.{_NONLOCAL[part]}.{kind}" if part in _NONLOCAL else None
    return None


_BLOB_KINDS = {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}
_BLOB_BLOCK = re.compile(r"res([2-5])_(\d+)_branch(1|2[abc])_(?:(w|b)|bn_(s|b|rm|riv))$")
_BLOB_NONLOCAL = re.compile(r"nonlocal_conv([2-5])_(\d+)_(?:(theta|phi|g|out)_(w|b)|bn_(s|b|rm|riv))$")
_BLOB_ENDS = re.compile(r"(?:(conv1|pred)_(w|b)|res_conv1_bn_(s|b|rm|riv))$")
_FILTER_KINDS = {"w": "weight", "b": "bias"}


def _caffe2(names: Iterable[str]) -> Rename:
    return _blob_name


def _blob_name(name: str) -> str | None:
    if found := _BLOB_ENDS.match(name):
        layer, kind, norm = found.groups()
        if norm:
            return f"bn1.{_BLOB_KINDS[norm]}"
        return (HEAD if layer == "pred" else "conv1.") + _FILTER_KINDS[kind]
    if found := _BLOB_BLOCK.match(name):
        stage, block, branch, kind, norm = found.groups()
        part = "branch1" if branch == "1" else f"branch2.{branch[1]}"
        part = _PARTS[f"{part}_bn" if norm else part]
        return f"layer{int(stage) - 1}.{block}.{part}.{_BLOB_KINDS[norm] if norm else _FILTER_KINDS[kind]}"
    if found := _BLOB_NONLOCAL.match(name):
        stage, block, part, kind, norm = found.groups()
        end = f"norm.{_BLOB_KINDS[norm]}" if norm else f"{part}.{_FILTER_KINDS[kind]}"
        return f"nonlocals.layer{int(stage) - 1}_{block}.{end}"
    return None


_VIDEO_BLOCK = re.compile(r"blocks\.(\d+)\.res_blocks\.(\d+)\.(.+)\.(\w+)$")
_VIDEO_PARTS = {
    "branch1_conv": "downsample.0",
    "branch1_norm": "downsample.1",
    **{f"branch2.conv_{letter}": f"conv{number}" for number, letter in enumerate("abc", 1)},
    **{f"branch2.norm_{letter}": f"bn{number}" for number, letter in enumerate("abc", 1)},
}


def _pytorchvideo(names: Iterable[str]) -> Rename:
    """Stages are counted, since a pooling without weights between them takes a number in some networks."""
    stages = {number: position for position, number in enumerate(_video_stages(names), 1)}

    def rename(name: str) -> str | None:
        if name.startswith("blocks.0."):
            layer, _, kind = name.removeprefix("blocks.0.").partition(".")
            ours = {"conv": "conv1", "norm": "bn1"}.get(layer)
            return f"{ours}.{kind}" if ours else None
        if re.fullmatch(r"blocks\.\d+\.proj\.(weight|bias)", name):
            return HEAD + name.rpartition(".")[2]
        if block := _VIDEO_BLOCK.match(name):
            number, index, part, kind = block.groups()
            return f"layer{stages[int(number)]}.{index}.{_VIDEO_PARTS[part]}.{kind}" if part in _VIDEO_PARTS else None
        return None

    return rename


def _video_stages(names: Iterable[str]) -> list[int]:
    return sorted({int(match[1]) for name in names if (match := _VIDEO_BLOCK.match(name))})


def _video_pooled(names: Iterable[str]) -> bool | None:
    """Whether the number after the first stage is that of a pooling."""
    stages = _video_stages(names)
    return next((pooled for known, pooled in (([1, 2, 3, 4], False), ([1, 3, 4, 5], True)) if stages == known), None)


SCHEMES = (
    _Scheme("this package", (r"^net\.(conv1|features\.0\.0|_conv_stem)\.weight$",), _own),
    _Scheme("TSM/MML", (r"^base_model\.",), _tsm, tells_shift=True),
    _Scheme("SlowFast", (r"^s1\.pathway0_stem\.", r"^s2\.pathway0_res0\."), _slowfast),
    _Scheme(
        "PyTorchVideo",
        (r"^blocks\.0\.conv\.", r"^blocks\.\d+\.res_blocks\.0\."),
        _pytorchvideo,
        pooled=_video_pooled,
    ),
    _Scheme("Caffe2", (r"^conv1_w$", r"^res2_0_branch2a_w$"), _caffe2),
    _Scheme("torchvision ResNet", (r"^conv1\.weight$", r"^layer1\.0\."), _torchvision),
    _Scheme("torchvision MobileNetV2", (r"^features\.0\.0\.weight$",), _torchvision),
    _Scheme("EfficientNet", (r"^_conv_stem\.weight$", r"^_blocks\.0\."), _efficientnet),
)
