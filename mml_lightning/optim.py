"""Parameter groups: which rate and decay each tensor of a network gets.

All functions return what a `torch.optim` optimiser takes: dicts with `name`, `params`, `lr` and `weight_decay`. Groups
that would be empty are left out; every trainable parameter is in exactly one group, frozen ones in none.
Source of the TSN factors: Wang et al., "Temporal Segment Networks", ECCV 2016, and the code of TSM and MML.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.modules.instancenorm._InstanceNorm)

Factors = dict[str, tuple[float, float]]
TSN_FACTORS: Factors = {  # group: (factor on the rate, factor on the decay)
    "first_conv_weight": (1, 1),
    "first_conv_bias": (2, 0),
    "weight": (1, 1),
    "bias": (2, 0),
    "norm": (1, 0),
    "custom": (1, 1),
    "fc_weight": (5, 1),
    "fc_bias": (10, 0),
}


def tsn_parameter_groups(
    net: nn.Module, lr: float, weight_decay: float, fc_lr5: bool = True, flow_stem_lr5: bool = False
) -> list[dict[str, Any]]:
    """Groups of TSN: biases at twice the rate without decay, norms without decay, a new classifier five times faster.

    Args:
        net: the network, after freezing and stem conversion. Its first convolution is the first one registered; its
            classifier is every linear layer under `net.heads`, or every linear layer if it has no `heads`.
        lr, weight_decay: base values.
        fc_lr5: classifier weights at 5, biases at 10 times the rate. Off, the classifier joins `weight` and `bias`, as
            when a network is tuned further on the dataset it was trained on.
        flow_stem_lr5: the same factors for the first convolution (TSM's rule for flow; MML dropped it).

    Raises:
        ValueError: the network has no trainable parameter.
    """
    factors = dict(TSN_FACTORS)
    if flow_stem_lr5:
        factors.update(first_conv_weight=(5, 1), first_conv_bias=(10, 0))
    members: dict[str, list[nn.Parameter]] = {name: [] for name in factors}
    for group, parameter in _tsn_members(net, fc_lr5):
        members[group].append(parameter)
    groups = [
        {"name": name, "params": members[name], "lr": lr * rate, "weight_decay": weight_decay * decay}
        for name, (rate, decay) in factors.items()
    ]
    return _non_empty(groups)


def _tsn_members(net: nn.Module, fc_lr5: bool) -> Iterator[tuple[str, nn.Parameter]]:
    heads = getattr(net, "heads", net)
    classifier = {id(module) for module in heads.modules() if isinstance(module, nn.Linear)} if fc_lr5 else set()
    first_conv = next((module for module in net.modules() if isinstance(module, CONVOLUTIONS)), None)
    seen: set[int] = set()
    for module in net.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))  # a shared tensor belongs to the first module that has it
                yield _tsn_group(module, name, module is first_conv, id(module) in classifier), parameter


def _tsn_group(module: nn.Module, name: str, is_first: bool, is_classifier: bool) -> str:
    kind = "bias" if name == "bias" else "weight"
    if is_first:
        return f"first_conv_{kind}"
    if is_classifier:
        return f"fc_{kind}"
    if isinstance(module, NORMS):
        return "norm"
    return kind if isinstance(module, (*CONVOLUTIONS, nn.Linear)) else "custom"


def parameter_groups(net: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups, the usual ones for AdamW: `weight` with decay, `norm_and_bias` (one dimension or none) without.

    Raises:
        ValueError: the network has no trainable parameter.
    """
    trainable = [parameter for parameter in net.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trainable if parameter.ndim > 1]
    plain = [parameter for parameter in trainable if parameter.ndim <= 1]
    groups = [
        {"name": "weight", "params": decayed, "lr": lr, "weight_decay": weight_decay},
        {"name": "norm_and_bias", "params": plain, "lr": lr, "weight_decay": 0.0},
    ]
    return _non_empty(groups)


def slowfast_parameter_groups(net: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups at one rate: `norm` without decay, `rest` with it, the bias of the classifier included (PySlowFast).

    Raises:
        ValueError: the network has no trainable parameter.
    """
    norms = {id(p) for module in net.modules() if isinstance(module, NORMS) for p in module.parameters(recurse=False)}
    trainable = [parameter for parameter in net.parameters() if parameter.requires_grad]
    groups = [
        {
            "name": "rest",
            "params": [p for p in trainable if id(p) not in norms],
            "lr": lr,
            "weight_decay": weight_decay,
        },
        {"name": "norm", "params": [p for p in trainable if id(p) in norms], "lr": lr, "weight_decay": 0.0},
    ]
    return _non_empty(groups)


def _non_empty(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ValueError("the network has no trainable parameter: leave frozen peers out of the optimiser")
    return groups
