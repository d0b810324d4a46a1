"""Where and when a network looks: Grad-CAM, the part that each frame has in a score, and what is lost without a frame.

For any network that returns logits by head and the feature `map` before pooling, as a `Peer` does: 2-D trunks with
frames as rows, and 3-D ones.

Legend: B clips, T frames, C channels, H W height and width; T' h w size of the feature map, D its channels.
Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class GradCam:
    """What speaks for one class in each clip.

    Args:
        logit: [B], of the class.
        cam: [B, T', h, w], zero or more: the feature map, each channel weighted by its mean gradient over time and
            space, summed over the channels; what speaks against the class is cut off.
        frames: [B, T'], of either sign, in units of the logit: gradient times activation, summed over channels and
            space. With global pooling and a linear head they add up to the logit without its bias.
    """

    logit: Tensor
    cam: Tensor
    frames: Tensor

    def heat(self, frames: int, height: int, width: int) -> Tensor:
        """The cam at the size of a clip, [B, T, H, W]; 1 is its maximum over the clip, all 0 where nothing speaks for
        the class."""
        size = (frames, height, width)
        grown = functional.interpolate(self.cam[:, None], size, mode="trilinear", align_corners=False)[:, 0]
        return grown / _positive(grown.amax((1, 2, 3), keepdim=True))

    def shares(self) -> Tensor:
        """[B, T']: the part that each frame has in what speaks for the class; sums to 1, or all 0 where no frame
        does."""
        speaking = self.frames.relu()
        return speaking / _positive(speaking.sum(1, keepdim=True))


def grad_cam(network: nn.Module, clip: Tensor, classes: Sequence[int] | Tensor, head: str) -> GradCam:
    """Args:
        network: in eval mode; its parameters need no gradient, and get none. The activations of all layers are held.
        clip: [B, T, C, H, W], as the network takes it.
        classes: [B], the class of each clip that is looked at.
        head: name of the head.

    Raises:
        ValueError: training mode, or the logits do not depend on the feature map.
    """
    if network.training:
        raise ValueError("the network is in training mode: call eval() first")
    outputs: list[Tensor] = []
    hooks = [module.register_forward_hook(_keeper(outputs)) for module in network.modules() if module is not network]
    with torch.inference_mode(False), torch.enable_grad():
        try:
            found = network(clip.detach().clone().requires_grad_())
        finally:
            for hook in hooks:
                hook.remove()
        logits = _of_classes(found.logits[head], classes)
        gradient = _gradient(logits.sum(), found.features["map"], outputs)
    features = found.features["map"].detach()
    weights = gradient.mean((1, 3, 4), keepdim=True)  # over time and space, one per channel and clip
    cam = (weights * features).sum(2).relu()
    return GradCam(logits.detach(), cam, (gradient * features).sum((2, 3, 4)))


def occlusion(network: nn.Module, clip: Tensor, classes: Sequence[int] | Tensor, head: str) -> Tensor:
    """[B, T]: by how much the logit of a class falls when a frame (segment) is hidden behind the one before it, the
    first behind the second. Below zero: it rises. One forward pass per frame.

    Args: as of :func:`grad_cam`.

    Raises:
        ValueError: training mode, or clips of one frame.
    """
    if network.training:
        raise ValueError("the network is in training mode: call eval() first")
    count = clip.shape[1]
    if count < 2:
        raise ValueError("a clip of one frame has no other frame to hide it behind")
    with torch.no_grad():
        whole = _of_classes(network(clip).logits[head], classes)
        falls = []
        for frame in range(count):
            shown = list(range(count))
            shown[frame] = frame - 1 if frame else 1
            falls.append(whole - _of_classes(network(clip[:, shown]).logits[head], classes))
    return torch.stack(falls, 1)


def _of_classes(logits: Tensor, classes: Sequence[int] | Tensor) -> Tensor:
    """[B] of [B, K]."""
    chosen = torch.as_tensor(classes, device=logits.device)
    return logits.gather(1, chosen[:, None])[:, 0]


def _keeper(outputs: list[Tensor]) -> Callable[..., None]:
    def keep(module: nn.Module, given: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            outputs.append(output)

    return keep


def _gradient(score: Tensor, features: Tensor, outputs: Sequence[Tensor]) -> Tensor:
    """Of `score` to the feature map, in its shape. Where the map that a network returns is a view that nothing was
    computed from, it is the gradient to the layer's output that it is a view of.

    Raises:
        ValueError: there is none.
    """
    place = features.untyped_storage().data_ptr()
    behind = [output for output in reversed(outputs) if output.untyped_storage().data_ptr() == place]
    for source in (features, *behind):
        if not source.requires_grad:
            continue
        (found,) = torch.autograd.grad(score, source, retain_graph=True, allow_unused=True)
        if found is not None:
            alike = torch.empty_strided(source.shape, source.stride(), dtype=found.dtype, device=found.device)
            offset = features.storage_offset() - source.storage_offset()
            return alike.copy_(found).as_strided(features.shape, features.stride(), offset)
    raise ValueError(
        "the logits do not depend on the feature map: return what is pooled as features['map'], [B, T', D, h, w]"
    )


def _positive(value: Tensor) -> Tensor:
    """What a division by may follow: 1 in place of 0."""
    return torch.where(value > 0, value, 1.0)
