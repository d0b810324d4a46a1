"""Metrics of video classification, exact and in float64: torch only, nothing of the rest of the package.

scoring = Scoring(pooling="probs", ensemble="probs", ap="sequential")
pooled = pool_peers({"rgb": rgb, "flow": flow}, multi_label=True, scoring=scoring)   # logits [N, V, K] each
measure(pooled, target, multi_label=True, scoring=scoring)["ensemble"]["map"]        # percent
"""

from mml_lightning.evaluation.metrics.average_precision import (
    average_precision,
    mean_average_precision,
    sample_average_precision,
    unlabelled_last,
    weighted_average_precision,
)
from mml_lightning.evaluation.metrics.classification import class_accuracy, confusion_matrix
from mml_lightning.evaluation.metrics.pooling import ensemble, pool_views
from mml_lightning.evaluation.metrics.protocol import (
    DEFAULT,
    ENSEMBLE,
    FUSED,
    Scoring,
    by_class,
    labelled,
    measure,
    pool_peers,
)

__all__ = [
    "DEFAULT",
    "ENSEMBLE",
    "FUSED",
    "Scoring",
    "average_precision",
    "by_class",
    "class_accuracy",
    "confusion_matrix",
    "ensemble",
    "labelled",
    "mean_average_precision",
    "measure",
    "pool_peers",
    "pool_views",
    "sample_average_precision",
    "unlabelled_last",
    "weighted_average_precision",
]
