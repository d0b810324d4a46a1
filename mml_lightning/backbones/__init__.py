"""Networks of the peers: clip in, logits per head and named features out."""

from mml_lightning.backbones.pretrained import imagenet_weights
from mml_lightning.backbones.recognizer import PeerOutput, Recognizer, freeze_batch_norm, rebuild, tsm_resnet
from mml_lightning.backbones.resnet import ResNet, resnet
from mml_lightning.backbones.temporal_shift import TemporalShift, add_temporal_shift, match_shift_names, temporal_shift

__all__ = [
    "PeerOutput",
    "Recognizer",
    "ResNet",
    "TemporalShift",
    "add_temporal_shift",
    "freeze_batch_norm",
    "imagenet_weights",
    "match_shift_names",
    "rebuild",
    "resnet",
    "temporal_shift",
    "tsm_resnet",
]
