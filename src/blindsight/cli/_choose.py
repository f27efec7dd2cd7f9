"""From words on the command line to a detector and to what privacy is asked for."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blindsight.errors import ParameterError

if TYPE_CHECKING:
    from blindsight.detectors import Detector
    from blindsight.keys import Sealer
    from blindsight.privacy import DifferentialPrivacy

__all__ = ["choose_detector", "choose_privacy", "detector_class", "give_teacher", "plain_name", "read_settings"]


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
        raise ParameterError(
            "--unit is unknown", got=repr(unit)[:80], rule="record, person or party", fix="--unit record"
        )
    if trust not in ("federation", "local"):
        raise ParameterError(
            "--trust is unknown", got=repr(trust)[:80], rule="federation or local", fix="--trust federation"
        )
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
        settings[key] = _json_or_text(value)
    return settings


def plain_name(name: str) -> str:
    """A detector's name as it is compared: small letters, without hyphens and underscores."""
    return name.lower().replace("-", "").replace("_", "")


def detector_class(name: str, *, option: str = "--detector") -> type[Detector]:
    """Return a known detector by name, in capitals or not, with hyphens or not; a third party's by its exact name.

    Raises
    ------
    ParameterError
        There is none of this name.
    """
    from blindsight.detectors import known_detectors

    known = known_detectors(allowed=frozenset({name}))
    for candidate, cls in known.items():
        if plain_name(candidate) == plain_name(name):
            return cls
    raise ParameterError(
        f"{option} names no known detector",
        got=repr(name)[:80],
        rule=", ".join(sorted(candidate.lower() for candidate in known)),
        fix=_did_you_mean(plain_name(name), map(plain_name, known), f"{option} ")
        or f"blindsight detectors lists them: {option} NAME",
    )


def _did_you_mean(word: str, known: Iterable[str], before: str) -> str | None:
    close = difflib.get_close_matches(word[:80], list(known), n=1)
    return f"did you mean {before}{close[0]}?" if close else None


def choose_detector(
    name: str, settings: Mapping[str, Any], *, contamination: float, option: str = "--detector", of: str = ""
) -> Detector:
    """Build an unfitted detector.

    Parameters
    ----------
    name : str
        In capitals or not.
    settings : mapping
        Parameters by name; ``training.rounds`` and its like set a part of ``training``. Where a parameter is a list,
        ``8,4`` and ``(8,4)`` are the list ``[8, 4]``, and ``8`` is ``[8]``.
    contamination : float
    option : str
        Where the name was given, for the message.
    of : str
        What stands before a parameter's name in ``--set``: nothing, or which of several detectors it is for.

    Raises
    ------
    ParameterError, FormatError
        An unknown name or parameter, or a value out of its domain.
    """
    from blindsight.detectors import detector_from_json, detector_to_json

    cls = detector_class(name, option=option)
    plain = detector_to_json(cls())
    parameters = {**plain["parameters"], "contamination": contamination}
    for key, value in settings.items():
        outer, dot, inner = key.partition(".")
        if outer not in parameters or (dot and outer != "training"):
            names = _names(cls, parameters)
            raise ParameterError(
                f"{cls.name} has no parameter '{key[:60]}'",
                rule=", ".join(sorted(names)),
                fix=_did_you_mean(key, names, f"--set {of}") or "give one of these",
            )
        if not dot:
            if key == "training":
                raise ParameterError(
                    "training is not one value",
                    got=repr(value)[:80],
                    rule="each part is set by its name: " + ", ".join(sorted(_default_training(cls))),
                    fix=f"--set {of}training.rounds=5",
                )
            is_list = isinstance(parameters[key], list)
            parameters[key] = _listed(value) if is_list else value
            continue
        training = parameters["training"] or _default_training(cls)
        if inner not in training:
            raise ParameterError(
                f"There is no 'training.{inner[:60]}'",
                rule=", ".join(sorted(training)),
                fix=_did_you_mean(inner, training, f"--set {of}training.") or "give one of these",
            )
        parameters["training"] = {**training, inner: value}
    return detector_from_json({"name": cls.name, "parameters": parameters}, allowed=frozenset({cls.name}))


def give_teacher(
    detector: Detector, teacher: Path | None, *, sealer: Sealer | None, allowed: frozenset[str] = frozenset()
) -> None:
    """Let a student imitate the model in a file.

    Parameters
    ----------
    detector : Detector
        Changed, if it is a TableStudent.
    teacher : Path, optional
    sealer : keys.Sealer, optional
        Opens the file if it is sealed.
    allowed : frozenset of str
        Other packages' detectors that the file may hold.

    Raises
    ------
    ParameterError
        A student without a teacher, or a teacher for what is no student.
    FormatError, AuthenticationError, StoreError
        The file cannot be read.
    """
    from blindsight import modelfile
    from blindsight.detectors import TableStudent

    if isinstance(detector, TableStudent):
        if teacher is None:
            raise ParameterError("A TableStudent needs a teacher", fix="--teacher MODEL, fitted under the same schema")
        detector.teacher = modelfile.load(teacher, sealer=sealer, allowed=allowed)
    elif teacher is not None:
        raise ParameterError(
            f"{detector.name} takes no teacher",
            rule="--teacher goes with --detector tablestudent",
            fix="leave --teacher out",
        )


def _listed(value: Any) -> Any:
    """The value of a parameter that is a list: ``8,4``, ``(8,4)`` and ``[8,4]`` alike, and a single one."""
    if not isinstance(value, str):
        return value if isinstance(value, list) else [value]
    words = value.strip().removeprefix("(").removesuffix(")").split(",")
    return [_json_or_text(word.strip()) for word in words if word.strip()]


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _names(cls: type[Detector], parameters: Mapping[str, Any]) -> set[str]:
    names = set(parameters)
    if "training" in names:
        names = (names - {"training"}) | {f"training.{part}" for part in _default_training(cls)}
    return names


def _default_training(cls: type[Detector]) -> dict[str, Any]:
    from blindsight.detectors import Training

    return dataclasses.asdict(getattr(cls, "default_training", Training()))
