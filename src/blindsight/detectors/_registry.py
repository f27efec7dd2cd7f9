"""Detectors by name: the only way that another party's request can reach one."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Iterable
from importlib.metadata import entry_points
from typing import Any

import numpy as np

from blindsight.errors import FormatError, ParameterError, UnknownDetectorError

from ._base import Detector
from ._brought import ENTRY_POINT_GROUP as MODULES
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

__all__ = ["brought_names", "detector_from_json", "detector_to_json", "known_detectors"]

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


def brought_names() -> list[str]:
    """Names of the detectors and modules that installed packages bring; none of their code is loaded."""
    return sorted({entry.name for group in (ENTRY_POINT_GROUP, MODULES) for entry in entry_points(group=group)})


def detector_to_json(detector: Detector) -> dict[str, Any]:
    """Name and parameters, as plain JSON values; the schema travels on its own."""
    parameters = {k: _to_plain(v) for k, v in detector.get_params(deep=False).items() if k != "schema"}
    return {"name": type(detector).name, "parameters": parameters}


def detector_from_json(value: object, *, allowed: frozenset[str] | None = None) -> Detector:
    """Build an unfitted detector from an untrusted description.

    Raises
    ------
    UnknownDetectorError
        No such name, or another package's that is not allowed.
    FormatError
        Unknown parameter, or a value that is not a finite number, a short string, a bool or None.
    ParameterError
        A value outside the detector's domain.
    """
    if not isinstance(value, dict) or set(value) != {"name", "parameters"}:
        raise FormatError("A detector's description is malformed", rule="an object with name and parameters")
    name, parameters = value["name"], value["parameters"]
    known = known_detectors(allowed=allowed)
    if not isinstance(name, str) or name not in known:
        raise _unknown(name, known)
    cls = known[name]
    accepted = set(inspect.signature(cls.__init__).parameters) - {"self", "schema"}
    if not isinstance(parameters, dict) or not set(parameters) <= accepted:
        raise FormatError(f"Unknown parameter for {name}", rule="one of " + ", ".join(sorted(accepted)))
    for key, item in parameters.items():
        if key != "training" and not _is_plain(item):
            raise FormatError(
                f"Parameter '{key}' of {name} is not a plain finite value",
                got=type(item).__name__,
                rule="docs/wire-formats.md, 'Model file'",
            )
    try:
        parameters = {key: _from_plain(key, item) for key, item in parameters.items()}
        detector = cls(**parameters)
        if isinstance(detector, TableStudent):
            detector._allowed_teachers = allowed or frozenset()
        detector._validate()
    except TypeError as error:
        raise ParameterError(f"A parameter of {name} has the wrong type", rule="see the class's docstring") from error
    return detector


def _unknown(name: object, known: Iterable[str]) -> UnknownDetectorError:
    """An installed package may have it, and nobody has allowed it: that is another mistake than a misspelt name."""
    if name in brought_names():
        return UnknownDetectorError(
            "Unknown detector",
            got=f"{name!r}, which an installed package brings"[:120],
            rule="code of other packages is loaded only where its name is allowed",
            fix=f"allowed=frozenset({{{name!r}}}) in Python, --allow {name} on the command line",
        )
    return UnknownDetectorError(
        "Unknown detector",
        got=repr(name)[:60],
        rule="one of " + ", ".join(sorted(known)),
        fix="check the spelling; if another package brings it, install that, and allow it by name",
    )


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
