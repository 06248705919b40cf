"""Metrics of a model on a labelled set."""

from rlpath_core.evaluation.metrics import error_metrics, evaluate

__all__ = ["error_metrics", "evaluate"]
