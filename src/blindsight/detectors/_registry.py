"""Detectors by name: the only way that another party's request can reach one."""

from __future__ import annotations

import inspect
import math
from importlib.metadata import entry_points
from typing import Any

from blindsight.errors import FormatError, ParameterError

from ._base import Detector
from .ecod import ECOD
from .mahalanobis import Mahalanobis

__all__ = ["detector_from_json", "detector_to_json", "known_detectors"]

ENTRY_POINT_GROUP = "blindsight.detectors"


def known_detectors(*, allowed: frozenset[str] | None = None) -> dict[str, type[Detector]]:
    """Detectors by name: ours, and third parties' entry points that ``allowed`` names.

    An entry point is code from an installed package: it is loaded only when its name is allowed.
    """
    found: dict[str, type[Detector]] = {cls.name: cls for cls in (ECOD, Mahalanobis)}
    for entry in entry_points(group=ENTRY_POINT_GROUP) if allowed else ():
        if allowed and entry.name in allowed and entry.name not in found:
            cls = entry.load()
            if isinstance(cls, type) and issubclass(cls, Detector):
                found[entry.name] = cls
    return found


def detector_to_json(detector: Detector) -> dict[str, Any]:
    """Name and parameters, as plain JSON values; the schema travels on its own."""
    parameters = {k: v for k, v in detector.get_params(deep=False).items() if k != "schema"}
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
        plain = item is None or type(item) in (bool, int) or (isinstance(item, str) and len(item) <= 200)
        if not plain and not (type(item) is float and math.isfinite(item)):
            raise FormatError(f"Parameter '{key}' of {name} is not a plain finite value", got=type(item).__name__)
    try:
        detector = cls(**parameters)
        detector._validate()
    except TypeError as error:
        raise ParameterError(f"A parameter of {name} has the wrong type", rule="see the class's docstring") from error
    return detector
