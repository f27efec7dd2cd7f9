"""What a detector asks of the data: bounded integer sums, and what comes back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from blindsight.data import Records
from blindsight.errors import ParameterError

__all__ = ["SumQuery", "Total", "TotalOf"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class SumQuery:
    """One private sum: every record adds a bounded integer vector; only the total is ever released.

    Parameters
    ----------
    name : str
        Stable name of the step, e.g. ``"fit"``; part of the release id.
    length : int
        Number of coordinates.
    sensitivity_l2 : float
        Largest L2 norm of the vector that one record adds (neighbours: one record added or removed). Grid units.
    max_abs : int
        Largest absolute coordinate that one record adds. Grid units.
    add : callable (accumulator, records) -> None
        Adds a chunk's vectors, in place, to an int64 accumulator of shape (length,).
    """

    name: str
    length: int
    sensitivity_l2: float
    max_abs: int
    add: Callable[[Ints, Records], None]

    def __post_init__(self) -> None:
        if self.length < 1 or not self.sensitivity_l2 > 0 or self.max_abs < 1:
            raise ParameterError(f"The query '{self.name}' has no bound", rule="length, sensitivity and max_abs > 0")


@dataclass(frozen=True, kw_only=True)
class Total:
    """A released total.

    Parameters
    ----------
    values : ndarray of shape (length,), int64
        The sum over all records, plus integer noise if any was asked for.
    noise_variance : float
        Variance of the noise on every coordinate; 0 for an exact sum. Grid units squared.
    """

    values: Ints
    noise_variance: float = 0.0


TotalOf = Callable[[SumQuery], Total]
"""How a detector gets its totals: a local sum for ``fit``, a private one in a federation."""
