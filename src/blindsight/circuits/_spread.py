"""The public map from a declared range to [0, 1], linear or logarithmic, and its inverse."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["even_edges", "spread", "unspread"]

LOG_RATIO = 1000.0
"""A logarithmic column resolves about a thousandth of its range next to the lower end."""

Floats = npt.NDArray[np.float64]


def spread(x: Floats, low: float, high: float, *, log: bool) -> Floats:
    """Map ``low`` to 0 and ``high`` to 1, monotonically; values outside the range map outside [0, 1].

    Logarithmic: ``log1p(1000 u) / log1p(1000)`` of the linear position u; below ``low`` it stays 0.
    """
    position = (x - low) / (high - low)
    if not log:
        return np.asarray(position, dtype=np.float64)
    mapped: Floats = np.log1p(LOG_RATIO * np.maximum(position, 0.0)) / np.log1p(LOG_RATIO)
    return mapped


def even_edges(low: float, high: float, count: int, *, log: bool) -> Floats:
    """Edges from ``low`` to ``high``, evenly spaced under :func:`spread`; shape (count,), strictly increasing."""
    edges = unspread(np.linspace(0.0, 1.0, count), low, high, log=log)
    edges[-1] = high
    distinct: Floats = np.unique(edges)
    return distinct


def unspread(position: Floats, low: float, high: float, *, log: bool) -> Floats:
    """Return the values whose :func:`spread` the positions are."""
    if log:
        position = np.expm1(position * np.log1p(LOG_RATIO)) / LOG_RATIO
    values: Floats = low + position * (high - low)
    return values
