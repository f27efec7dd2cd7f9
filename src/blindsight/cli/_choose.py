"""From words on the command line to a detector and to what privacy is asked for."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from blindsight.errors import ParameterError

if TYPE_CHECKING:
    from blindsight.detectors import Detector
    from blindsight.privacy import DifferentialPrivacy

__all__ = ["choose_detector", "choose_privacy", "detector_class", "read_settings"]


def choose_privacy(
    epsilon: float | None,
    delta: float,
    unit: str,
    max_records_per_person: int | None,
    *,
    exact: bool,
    max_records_per_party: int | None = None,
    trust: str = "federation",
) -> DifferentialPrivacy | None:
    """Return what is asked for; None for exact sums.

    Raises
    ------
    ParameterError
        Neither or both, or a value out of its domain.
    """
    from blindsight.privacy import DifferentialPrivacy

    if exact == (epsilon is not None):
        raise ParameterError(
            "Say how private the fit is to be",
            got="both --epsilon and --exact" if exact else "neither --epsilon nor --exact",
            rule="--epsilon for differential privacy, or --exact for exact sums where every policy allows them",
            fix="--epsilon 1 --delta 1e-6",
        )
    if exact:
        return None
    if unit not in ("record", "person", "party"):
        raise ParameterError("--unit is unknown", got=repr(unit)[:80], rule="record, person or party")
    if trust not in ("federation", "local"):
        raise ParameterError("--trust is unknown", got=repr(trust)[:80], rule="federation or local")
    return DifferentialPrivacy(
        epsilon=epsilon,  # type: ignore[arg-type]
        delta=delta,
        unit=unit,  # type: ignore[arg-type]
        max_records_per_person=max_records_per_person,
        max_records_per_party=max_records_per_party,
        trust=trust,  # type: ignore[arg-type]
    )


def read_settings(values: Iterable[str]) -> dict[str, Any]:
    """Read repeated ``KEY=VALUE`` options; a value is JSON where it is JSON, and text otherwise.

    Raises
    ------
    ParameterError
        Not of that form, or a key twice.
    """
    settings: dict[str, Any] = {}
    for item in values:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise ParameterError(
                "--set cannot be read", got=repr(item)[:120], rule="--set KEY=VALUE", fix="--set bins=32"
            )
        if key in settings:
            raise ParameterError(f"--set gives '{key}' twice", fix="give it once")
        try:
            settings[key] = json.loads(value)
        except ValueError:
            settings[key] = value
    return settings


def detector_class(name: str) -> type[Detector]:
    """Return a known detector by name, in capitals or not; a third party's by its exact name.

    Raises
    ------
    ParameterError
        There is none of this name.
    """
    from blindsight.detectors import known_detectors

    known = known_detectors(allowed=frozenset({name}))
    for candidate, cls in known.items():
        if candidate.lower() == name.lower():
            return cls
    raise ParameterError(
        "--detector is unknown",
        got=repr(name)[:80],
        rule=", ".join(sorted(candidate.lower() for candidate in known)),
        fix="blindsight detectors lists them",
    )


def choose_detector(name: str, settings: Mapping[str, Any], *, contamination: float) -> Detector:
    """Build an unfitted detector.

    Parameters
    ----------
    name : str
        In capitals or not.
    settings : mapping
        Parameters by name; ``training.rounds`` and its like set a part of ``training``.
    contamination : float

    Raises
    ------
    ParameterError, FormatError
        An unknown name or parameter, or a value out of its domain.
    """
    from blindsight.detectors import detector_from_json, detector_to_json

    cls = detector_class(name)
    plain = detector_to_json(cls())
    parameters = {**plain["parameters"], "contamination": contamination}
    for key, value in settings.items():
        outer, dot, inner = key.partition(".")
        if outer not in parameters or (dot and outer != "training"):
            raise ParameterError(
                f"{cls.name} has no parameter '{key[:60]}'", rule=", ".join(sorted(_names(cls, parameters)))
            )
        if not dot:
            parameters[key] = value
            continue
        training = parameters["training"] or _default_training(cls)
        if inner not in training:
            raise ParameterError(f"There is no 'training.{inner[:60]}'", rule=", ".join(sorted(training)))
        parameters["training"] = {**training, inner: value}
    return detector_from_json({"name": cls.name, "parameters": parameters}, allowed=frozenset({cls.name}))


def _names(cls: type[Detector], parameters: Mapping[str, Any]) -> set[str]:
    names = set(parameters)
    if "training" in names:
        names = (names - {"training"}) | {f"training.{part}" for part in _default_training(cls)}
    return names


def _default_training(cls: type[Detector]) -> dict[str, Any]:
    from blindsight.detectors import Training

    return dataclasses.asdict(getattr(cls, "default_training", Training()))
