"""What is anomalous: one file per detector, stating what parties sum, how totals combine, which circuit it becomes."""

from ._base import Detector, local_total
from ._features import category_names, count_query, one_hot_bins, public_range, quantiser
from ._queries import SumQuery, Total, TotalOf
from ._registry import detector_from_json, detector_to_json, known_detectors
from ._scores import ScoreHistogram, score_edges
from .ecod import ECOD
from .mahalanobis import Mahalanobis

__all__ = [
    "ECOD",
    "Detector",
    "Mahalanobis",
    "ScoreHistogram",
    "SumQuery",
    "Total",
    "TotalOf",
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
