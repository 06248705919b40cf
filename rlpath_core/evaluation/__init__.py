"""Metrics of a model on a labelled set, its predictions on disk, parity plots."""

from rlpath_core.evaluation.breakdown import breakdown
from rlpath_core.evaluation.metrics import error_metrics, evaluate, metrics_of
from rlpath_core.evaluation.predicted import Predicted, predict

__all__ = ["Predicted", "breakdown", "error_metrics", "evaluate", "metrics_of", "predict"]
