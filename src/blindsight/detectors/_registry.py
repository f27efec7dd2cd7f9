"""Detectors by name: the only way that another party's request can reach one."""

from __future__ import annotations

import dataclasses
import inspect
import math
from importlib.metadata import entry_points
from typing import Any

import numpy as np

from blindsight.errors import FormatError, ParameterError

from ._base import Detector
from ._brought import brought_modules
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

__all__ = ["detector_from_json", "detector_to_json", "known_detectors"]

ENTRY_POINT_GROUP = "blindsight.detectors"


def known_detectors(*, allowed: frozenset[str] | None = None) -> dict[str, type[Detector]]:
    """Detectors by name: ours, and third parties' entry points that ``allowed`` names.

    An entry point is code from an installed package: it is loaded only when its name is allowed.
    """
    found: dict[str, type[Detector]] = {
        cls.name: cls
        for cls in (
            AutoEncoder,
            COPOD,
            ConvAutoEncoder,
            DeepSVDD,
            ECOD,
            HBOS,
            IForest,
            LODA,
            LSTMAutoEncoder,
            Mahalanobis,
            OCSVM,
            PCA,
            RandomFeatures,
            TableStudent,
            TransformerAutoEncoder,
            VotingForest,
        )
    }
    for entry in entry_points(group=ENTRY_POINT_GROUP) if allowed else ():
        if allowed and entry.name in allowed and entry.name not in found:
            cls = entry.load()
            if isinstance(cls, type) and issubclass(cls, Detector):
                found[entry.name] = cls
    if allowed:
        found = {**brought_modules(allowed - set(found)), **found}
    return found


def detector_to_json(detector: Detector) -> dict[str, Any]:
    """Name and parameters, as plain JSON values; the schema travels on its own."""
    parameters = {k: _to_plain(v) for k, v in detector.get_params(deep=False).items() if k != "schema"}
    return {"name": type(detector).name, "parameters": parameters}


def detector_from_json(value: object, *, allowed: frozenset[str] | None = None) -> Detector:
    """Build an unfitted detector from an untrusted description.

    Raises
    ------
    FormatError
        Unknown name, unknown parameter, or a value that is not a finite number, a short string, a bool or None.
    ParameterError
        A value outside the detector's domain.
    """
    if not isinstance(value, dict) or set(value) != {"name", "parameters"}:
        raise FormatError("A detector's description is malformed", rule="an object with name and parameters")
    name, parameters = value["name"], value["parameters"]
    known = known_detectors(allowed=allowed)
    if not isinstance(name, str) or name not in known:
        raise FormatError(
            "Unknown detector",
            got=repr(name)[:60],
            rule="one of " + ", ".join(sorted(known)),
            fix="check the spelling",
        )
    cls = known[name]
    accepted = set(inspect.signature(cls.__init__).parameters) - {"self", "schema"}
    if not isinstance(parameters, dict) or not set(parameters) <= accepted:
        raise FormatError(f"Unknown parameter for {name}", rule="one of " + ", ".join(sorted(accepted)))
    for key, item in parameters.items():
        if key != "training" and not _is_plain(item):
            raise FormatError(f"Parameter '{key}' of {name} is not a plain finite value", got=type(item).__name__)
    try:
        parameters = {key: _from_plain(key, item) for key, item in parameters.items()}
        detector = cls(**parameters)
        detector._validate()
    except TypeError as error:
        raise ParameterError(f"A parameter of {name} has the wrong type", rule="see the class's docstring") from error
    return detector


MAX_ITEMS = 64


def _is_plain(item: object) -> bool:
    if isinstance(item, list):
        return len(item) <= MAX_ITEMS and all(not isinstance(part, list) and _is_plain(part) for part in item)
    if item is None or type(item) in (bool, int):
        return True
    return (isinstance(item, str) and len(item) <= 200) or (type(item) is float and math.isfinite(item))


def _to_plain(value: object) -> object:
    if isinstance(value, Training):
        return {k: _to_plain(v) for k, v in dataclasses.asdict(value).items()}
    if isinstance(value, np.generic):  # a parameter may have come out of an array
        return value.item()
    return list(value) if isinstance(value, tuple) else value


def _from_plain(key: str, item: Any) -> Any:
    """Tuples travel as lists, and ``training`` as an object of plain values."""
    if key == "training" and item is not None:
        if not isinstance(item, dict) or not all(isinstance(k, str) and _is_plain(v) for k, v in item.items()):
            raise FormatError("The training parameters are malformed", rule="an object of plain finite values")
        return Training(**{k: _from_plain("", v) for k, v in item.items()})
    return tuple(item) if isinstance(item, list) else item
