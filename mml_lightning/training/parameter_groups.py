"""Parameter groups: which rate and decay each tensor of a network gets; and optimisers that step peer by peer.

Functions that make groups return what a `torch.optim` optimiser takes: dicts with `name`, `params`, `lr` and
`weight_decay`. Groups that would be empty are left out; every trainable parameter is in exactly one group, frozen ones
in none.
Source of the TSN factors: Wang et al., "Temporal Segment Networks", ECCV 2016, and the code of TSM and MML.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

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


class ByPeer(torch.optim.Optimizer):
    """Part of a fused optimiser whose groups are named `<peer>/<group>`: a peer's step can be left out by a flag that
    lies on the device, so that the host need not know it.

    `left_out` holds for the next step: {peer: [] float32, 1 where its weights and all of its state shall stay as they
    are, else 0}.
    """

    left_out: Mapping[str, Tensor] = MappingProxyType({})
    found_inf: Tensor | None = None  # what torch's fused kernels look at

    def heeds_flags(self) -> bool:
        """Whether `left_out` is heeded: not with groups of a checkpoint that were not fused."""
        return all(group["fused"] for group in self.param_groups)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch does, and laid out like the weights: fused kernels on a CPU go through memory as it lies, and a
        checkpoint may come from a run in another memory format."""
        super().load_state_dict(state_dict)
        for parameter, state in self.state.items():
            for key, value in state.items():
                if torch.is_tensor(value) and value.shape == parameter.shape and value.stride() != parameter.stride():
                    state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None if closure is None else closure()
        groups = self.param_groups
        try:
            for peer, own in itertools.groupby(groups, key=lambda group: group.get("name", "").partition("/")[0]):
                self.param_groups, self.found_inf = list(own), self.left_out.get(peer)
                super().step()
        finally:
            self.param_groups, self.found_inf, self.left_out = groups, None, {}
        return loss


class SGD(ByPeer, torch.optim.SGD):
    """:class:`torch.optim.SGD`, peer by peer. Momenta begin at 0: a fused step wants those of all parameters of a group
    or of none."""

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, **options)
        for group in self.param_groups:
            for parameter in group["params"] if group["momentum"] else ():
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


class Adam(ByPeer, torch.optim.Adam):
    """:class:`torch.optim.Adam`, peer by peer."""


class AdamW(ByPeer, torch.optim.AdamW):
    """:class:`torch.optim.AdamW`, peer by peer."""


FUSED: dict[Any, Any] = {torch.optim.SGD: SGD, torch.optim.Adam: Adam, torch.optim.AdamW: AdamW}


def fused(optimizer: functools.partial[Any], precision: str) -> Callable[[Any], torch.optim.Optimizer]:
    """An optimiser that updates all parameters in one pass over memory, up to rounding to the same numbers, and peer by
    peer; others as they are.

    Not in float16: a fused optimiser takes the scale off the gradients as it steps, after they were clipped. Nor with
    dampening, which is not for the first gradient.

    Args:
        optimizer: parameter groups -> optimiser.
        precision: of the trainer.
    """
    chosen = {"fused", "foreach", "differentiable", "dampening", "capturable"} & set(optimizer.keywords)
    if optimizer.func not in FUSED or chosen or precision.startswith("16"):
        return optimizer
    return functools.partial(FUSED[optimizer.func], *optimizer.args, **optimizer.keywords, fused=True)
