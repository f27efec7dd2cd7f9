"""Blindsight: train one anomaly detector across organisations that may not share records; score records blind.

The public face. Names load on first use, so that ``import blindsight`` and ``blindsight --help`` stay fast.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from . import blind, errors, keys
    from .data import Schema, load_hospitals, read_table, simulate_card_payments
    from .detectors import (
        COPOD,
        ECOD,
        HBOS,
        LODA,
        OCSVM,
        PCA,
        AutoEncoder,
        ConvAutoEncoder,
        DeepSVDD,
        Detector,
        IForest,
        LSTMAutoEncoder,
        Mahalanobis,
        RandomFeatures,
        ScoreHistogram,
        TableStudent,
        Training,
        TransformerAutoEncoder,
        VotingForest,
    )
    from .errors import BlindsightError, BlindsightWarning
    from .federation import Evaluation, Federation, Party, Policy
    from .modelfile import inspect, load
    from .privacy import DifferentialPrivacy

__all__ = [
    "COPOD",
    "ECOD",
    "HBOS",
    "LODA",
    "OCSVM",
    "PCA",
    "AutoEncoder",
    "BlindsightError",
    "BlindsightWarning",
    "ConvAutoEncoder",
    "DeepSVDD",
    "Detector",
    "DifferentialPrivacy",
    "Evaluation",
    "Federation",
    "IForest",
    "LSTMAutoEncoder",
    "Mahalanobis",
    "Party",
    "Policy",
    "RandomFeatures",
    "Schema",
    "ScoreHistogram",
    "TableStudent",
    "Training",
    "TransformerAutoEncoder",
    "VotingForest",
    "__version__",
    "blind",
    "errors",
    "inspect",
    "keys",
    "load",
    "load_hospitals",
    "read_table",
    "simulate_card_payments",
]

# a library says nothing unless asked; refusals and dropouts go to the log "blindsight"
logging.getLogger(__name__).addHandler(logging.NullHandler())

_HOMES = {
    "AutoEncoder": "detectors",
    "BlindsightError": "errors",
    "BlindsightWarning": "errors",
    "COPOD": "detectors",
    "ConvAutoEncoder": "detectors",
    "DeepSVDD": "detectors",
    "Detector": "detectors",
    "DifferentialPrivacy": "privacy",
    "ECOD": "detectors",
    "Evaluation": "federation",
    "Federation": "federation",
    "HBOS": "detectors",
    "IForest": "detectors",
    "LODA": "detectors",
    "LSTMAutoEncoder": "detectors",
    "Mahalanobis": "detectors",
    "OCSVM": "detectors",
    "PCA": "detectors",
    "Party": "federation",
    "Policy": "federation",
    "RandomFeatures": "detectors",
    "Schema": "data",
    "ScoreHistogram": "detectors",
    "TableStudent": "detectors",
    "Training": "detectors",
    "TransformerAutoEncoder": "detectors",
    "VotingForest": "detectors",
    "inspect": "modelfile",
    "load": "modelfile",
    "load_hospitals": "data",
    "read_table": "data",
    "simulate_card_payments": "data",
}
_MODULES = frozenset({"blind", "errors", "keys"})


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name in _HOMES:
        value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
