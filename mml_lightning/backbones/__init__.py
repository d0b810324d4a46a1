"""Networks of the peers: clip in, logits per head and named features out."""

from mml_lightning.backbones.batch_norm import freeze_batch_norm
from mml_lightning.backbones.cost import Cost, cost, parameter_count
from mml_lightning.backbones.efficientnet_lite import EfficientNetLite0
from mml_lightning.backbones.execution import checkpoint_blocks, set_memory_format
from mml_lightning.backbones.inflate import Inflated, inflate_state
from mml_lightning.backbones.mobilenet_v2 import MobileNetV2
from mml_lightning.backbones.non_local import NonLocal
from mml_lightning.backbones.peer import Peer, PeerOutput
from mml_lightning.backbones.pretrained import imagenet_weights
from mml_lightning.backbones.recognizer import Recognizer, tsm_efficientnet_lite0, tsm_mobilenet_v2, tsm_resnet
from mml_lightning.backbones.recognizer3d import Recognizer3d, video_resnet
from mml_lightning.backbones.registry import rebuild
from mml_lightning.backbones.resnet import ResNet, resnet
from mml_lightning.backbones.resnet3d import ResNet3d, resnet3d
from mml_lightning.backbones.temporal_shift import TemporalShift, add_temporal_shift, match_shift_names, temporal_shift

__all__ = [
    "Cost",
    "EfficientNetLite0",
    "Inflated",
    "MobileNetV2",
    "NonLocal",
    "Peer",
    "PeerOutput",
    "Recognizer",
    "Recognizer3d",
    "ResNet",
    "ResNet3d",
    "TemporalShift",
    "add_temporal_shift",
    "checkpoint_blocks",
    "cost",
    "freeze_batch_norm",
    "imagenet_weights",
    "inflate_state",
    "match_shift_names",
    "parameter_count",
    "rebuild",
    "resnet",
    "resnet3d",
    "set_memory_format",
    "temporal_shift",
    "tsm_efficientnet_lite0",
    "tsm_mobilenet_v2",
    "tsm_resnet",
    "video_resnet",
]
