"""What is anomalous: one file per detector, stating what parties sum, how totals combine, which circuit it becomes."""

from ._base import Detector, State, local_total
from ._circuit import CircuitDetector
from ._features import category_names, count_query, one_hot_bins, public_range, quantiser
from ._preparation import Preparation
from ._queries import Local, Query, SumQuery, Total, TotalOf, Update, UpdateQuery
from ._registry import detector_from_json, detector_to_json, known_detectors
from ._scores import ScoreHistogram, score_edges
from ._sums import SumDetector
from ._training import Training
from .ecod import ECOD
from .mahalanobis import Mahalanobis

__all__ = [
    "ECOD",
    "CircuitDetector",
    "Detector",
    "Local",
    "Mahalanobis",
    "Preparation",
    "Query",
    "ScoreHistogram",
    "State",
    "SumDetector",
    "SumQuery",
    "Total",
    "TotalOf",
    "Training",
    "Update",
    "UpdateQuery",
    "category_names",
    "count_query",
    "detector_from_json",
    "detector_to_json",
    "known_detectors",
    "local_total",
    "one_hot_bins",
    "public_range",
    "quantiser",
    "score_edges",
]
