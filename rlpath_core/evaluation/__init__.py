"""Metrics of a model on a labelled set, its predictions on disk, parity plots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlpath_core.lazy import loader

if TYPE_CHECKING:
    from rlpath_core.evaluation.metrics import check_measurable, error_metrics, evaluate, metrics_of
    from rlpath_core.evaluation.predicted import Predicted, predict

__all__ = ["Predicted", "check_measurable", "error_metrics", "evaluate", "metrics_of", "predict"]

__getattr__ = loader(
    __name__,
    {
        "Predicted": "predicted",
        "check_measurable": "metrics",
        "error_metrics": "metrics",
        "evaluate": "metrics",
        "metrics_of": "metrics",
        "predict": "predicted",
    },
)
