"""Encoders by name, to and from JSON: the only way that another party's bytes become one."""

from __future__ import annotations

from typing import Any

from blindsight.errors import FormatError, ParameterError

from ._bins import OneHotBins
from ._encoding import Encoder
from ._fourier import RandomFourier
from ._monomials import Monomials
from ._projections import ProjectedBins
from ._trees import TreeLeaves

__all__ = ["encoder_from_json", "encoder_to_json"]

_KINDS: dict[str, type[Encoder]] = {
    cls.kind: cls for cls in (OneHotBins, Monomials, RandomFourier, ProjectedBins, TreeLeaves)
}


def encoder_to_json(encoder: Encoder) -> dict[str, Any]:
    """Describe an encoder as plain JSON values; floats survive exactly (shortest round-trip form)."""
    return {"kind": encoder.kind, **encoder.to_json()}


def encoder_from_json(value: object) -> Encoder:
    """Rebuild an encoder from untrusted JSON values.

    Raises
    ------
    FormatError
        Unknown kind, wrong type, non-finite number, or a length beyond ``MAX_LENGTH``.
    """
    try:
        if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
            raise TypeError
        return _KINDS[value["kind"]].from_json({k: v for k, v in value.items() if k != "kind"})
    except (TypeError, KeyError, OverflowError, ParameterError) as error:
        raise FormatError(
            "The description of an encoder is malformed",
            rule="docs/wire-formats.md, 'Encoders'",
            fix="ask the model's holder for a fresh copy",
        ) from error
