"""What is anomalous: one file per detector, stating what parties sum, how totals combine, which circuit it becomes."""

from ._base import Detector, local_total
from ._brought import module_detector
from ._circuit import CircuitDetector
from ._export import export
from ._features import category_names, count_query, one_hot_bins, public_range, quantiser
from ._preparation import Preparation, Scaling, preparation_query
from ._queries import Local, Query, SumQuery, Total, TotalOf, Update, UpdateQuery
from ._registry import brought_names, detector_from_json, detector_to_json, known_detectors
from ._rounds import RoundDetector
from ._scores import ScoreHistogram, score_edges
from ._selection import FeatureRank, moments_query, number_columns, select_features
from ._sequences import SequenceDetector
from ._state import State
from ._stream import SeriesStream, Stream
from ._sums import SumDetector
from ._torch import TorchDetector
from ._training import Training
from .autoencoder import AutoEncoder
from .conv import ConvAutoEncoder
from .copod import COPOD
from .deepsvdd import DeepSVDD
from .ecod import ECOD
from .hbos import HBOS
from .iforest import IForest
from .loda import LODA
from .lstm import LSTMAutoEncoder
from .mahalanobis import Mahalanobis
from .ocsvm import OCSVM
from .pca import PCA
from .randomfeatures import RandomFeatures
from .student import TableStudent
from .transformer import TransformerAutoEncoder
from .votingforest import VotingForest

__all__ = [
    "COPOD",
    "ECOD",
    "HBOS",
    "LODA",
    "OCSVM",
    "PCA",
    "AutoEncoder",
    "CircuitDetector",
    "ConvAutoEncoder",
    "DeepSVDD",
    "Detector",
    "FeatureRank",
    "IForest",
    "LSTMAutoEncoder",
    "Local",
    "Mahalanobis",
    "Preparation",
    "Query",
    "RandomFeatures",
    "RoundDetector",
    "Scaling",
    "ScoreHistogram",
    "SequenceDetector",
    "SeriesStream",
    "State",
    "Stream",
    "SumDetector",
    "SumQuery",
    "TableStudent",
    "TorchDetector",
    "Total",
    "TotalOf",
    "Training",
    "TransformerAutoEncoder",
    "Update",
    "UpdateQuery",
    "VotingForest",
    "brought_names",
    "category_names",
    "count_query",
    "detector_from_json",
    "detector_to_json",
    "export",
    "known_detectors",
    "local_total",
    "module_detector",
    "moments_query",
    "number_columns",
    "one_hot_bins",
    "preparation_query",
    "public_range",
    "quantiser",
    "score_edges",
    "select_features",
]
