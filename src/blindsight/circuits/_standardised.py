"""Public real-valued inputs of a network: standardised and bounded numbers, then one-hot categories."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from blindsight.errors import FormatError, ParameterError

from ._encoding import Floats, bounded_list, matrix, number

__all__ = ["Standardised", "standardised_from_json", "standardised_to_json"]

MAX_FEATURES = 1 << 16
MAX_WIDTH = 1 << 16
MAX_BOUND = 1024.0


@dataclass(frozen=True, kw_only=True)
class Standardised:
    """``clip((x - offset) / scale, -bound, bound)`` of every number, then the slots of every category.

    Unlike an :class:`Encoder` it gives real numbers, and the circuit on them is a :class:`Network`.

    Parameters
    ----------
    offsets, scales : tuple of float
        One pair per feature, categories included (theirs are not used); public.
    slots : tuple of int
        0 for a number; for a category its number of slots, the last of which takes every unknown code.
    bound : float
        Largest absolute input.
    """

    kind: ClassVar[str] = "standardised"

    offsets: tuple[float, ...]
    scales: tuple[float, ...]
    slots: tuple[int, ...]
    bound: float

    def __post_init__(self) -> None:
        d = len(self.offsets)
        if not 1 <= d <= MAX_FEATURES or len(self.scales) != d or len(self.slots) != d:
            raise ParameterError("Standardised needs one offset, scale and slot count per feature")
        scales = np.asarray(self.scales)
        if not (np.isfinite(self.offsets).all() and np.isfinite(scales).all() and (scales > 0).all()):
            raise ParameterError("Standardised needs finite offsets and positive, finite scales")
        if not (math.isfinite(self.bound) and 0 < self.bound <= MAX_BOUND):
            raise ParameterError("bound is out of its domain", got=str(self.bound), rule=f"0 < bound <= {MAX_BOUND:g}")
        if min(self.slots) < 0 or self.width > MAX_WIDTH:
            raise ParameterError("The inputs are too wide", got=f"{self.width}", rule=f"at most {MAX_WIDTH}")

    @property
    def n_features(self) -> int:
        """Number of input features d."""
        return len(self.offsets)

    @property
    def width(self) -> int:
        """Number of inputs m."""
        return sum(count or 1 for count in self.slots)

    @property
    def max_abs(self) -> float:
        """Largest absolute value of any input."""
        return max(self.bound, 1.0)

    def encode(self, X: Floats) -> Floats:
        """Map (n, d) feature rows to (n, m) inputs, float64; numbers come first, whatever their place in the schema."""
        X = matrix(X, self.n_features)
        numbers = np.flatnonzero(np.asarray(self.slots) == 0)
        with np.errstate(over="ignore"):  # a value of 1e300 becomes infinite and is clipped
            z = (X[:, numbers] - np.asarray(self.offsets)[numbers]) / np.asarray(self.scales)[numbers]
        parts = [np.clip(z, -self.bound, self.bound)]
        for feature, count in enumerate(self.slots):
            if count:
                code = np.clip(X[:, feature], 0, count - 1).astype(np.int64)
                parts.append((code[:, None] == np.arange(count)).astype(np.float64))
        joined: npt.NDArray[np.float64] = np.concatenate(parts, axis=1)
        return joined


def standardised_to_json(value: Standardised) -> dict[str, Any]:
    """Plain JSON values; floats survive exactly (shortest round-trip form)."""
    return {
        "kind": value.kind,
        "offsets": list(value.offsets),
        "scales": list(value.scales),
        "slots": list(value.slots),
        "bound": value.bound,
    }


def standardised_from_json(value: object) -> Standardised:
    """Rebuild inputs from untrusted JSON values; FormatError on anything malformed."""
    try:
        if not isinstance(value, dict) or set(value) != {"kind", "offsets", "scales", "slots", "bound"}:
            raise TypeError
        slots = bounded_list(value["slots"])
        if value["kind"] != Standardised.kind or not all(type(s) is int for s in slots):
            raise TypeError
        return Standardised(
            offsets=tuple(number(v) for v in bounded_list(value["offsets"])),
            scales=tuple(number(v) for v in bounded_list(value["scales"])),
            slots=tuple(slots),
            bound=number(value["bound"]),
        )
    except (TypeError, OverflowError, ParameterError) as error:
        raise FormatError(
            "The description of a network's inputs is malformed",
            rule="docs/wire-formats.md, 'Encoders'",
            fix="ask the model's holder for a fresh copy",
        ) from error
