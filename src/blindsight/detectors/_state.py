"""The state of a detector as plain values, and checks of parts that came from an untrusted file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["State", "integer_vector", "nonnegative"]

MAX_NUMBER = 1e100


@dataclass(frozen=True, kw_only=True)
class State:
    """What a detector has become so far, as plain values: what a model file holds and a step carries to the parties.

    Parameters
    ----------
    values : mapping
        JSON values.
    arrays : mapping of name to ndarray
        int64, int8 or float32; finite.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


def nonnegative(value: object, *, low: float = 0.0) -> float:
    """Return an untrusted finite number of at least ``low``; ValueError otherwise."""
    if type(value) not in (int, float) or not math.isfinite(value) or not low <= value <= MAX_NUMBER:  # type: ignore[arg-type,operator]
        raise ValueError("a number is not finite or out of range")
    return float(value)  # type: ignore[arg-type]


def integer_vector(array: npt.NDArray[Any], length: int) -> npt.NDArray[np.int64]:
    """Return an untrusted int64 vector of this length; ValueError otherwise."""
    if array.dtype != np.int64 or array.shape != (length,):
        raise ValueError("a vector has another type or length than the detector's")
    return array
