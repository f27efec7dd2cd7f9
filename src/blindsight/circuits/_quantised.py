"""Public inputs of a quadratic form that is not multiplied out: the quantised record itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from blindsight.errors import FormatError, ParameterError

from ._encoding import Floats
from ._monomials import Monomials

__all__ = ["Quantised", "quantised_from_json", "quantised_to_json"]


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """``x_f / levels`` of the quantised features x that :class:`Monomials` multiplies with one another.

    d numbers in place of ``(d + 1)(d + 2) / 2``, for an engine that squares by itself.

    Parameters
    ----------
    monomials : Monomials
        Public.
    """

    kind: ClassVar[str] = "quantised"

    monomials: Monomials

    @property
    def n_features(self) -> int:
        """Number of input features d."""
        return self.monomials.n_features

    @property
    def width(self) -> int:
        """Number of inputs, d."""
        return self.n_features

    @property
    def max_abs(self) -> float:
        """Largest absolute value of any input."""
        return 1.0

    def encode(self, X: Floats) -> Floats:
        """Map (n, d) feature rows to (n, d) inputs in [-1, 1], float64."""
        values: Floats = self.monomials.quantise(X) / self.monomials.levels
        return values


def quantised_to_json(value: Quantised) -> dict[str, Any]:
    """Plain JSON values; floats survive exactly (shortest round-trip form)."""
    return {"kind": value.kind, **value.monomials.to_json()}


def quantised_from_json(value: object) -> Quantised:
    """Rebuild inputs from untrusted JSON values; FormatError on anything malformed."""
    try:
        if not isinstance(value, dict) or value.get("kind") != Quantised.kind:
            raise TypeError
        return Quantised(monomials=Monomials.from_json({name: v for name, v in value.items() if name != "kind"}))
    except (TypeError, OverflowError, ParameterError) as error:
        raise FormatError(
            "The description of a quadratic form's inputs is malformed",
            rule="docs/wire-formats.md, 'Encoders'",
            fix="ask the model's holder for a fresh copy",
        ) from error
