"""Monomials of quantised features: what quadratic detectors look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from blindsight.errors import ParameterError

from ._encoding import MAX_LENGTH, Encoder, Floats, Ints, bounded_list, matrix, number
from ._spread import spread

__all__ = ["Monomials"]


@dataclass(frozen=True, kw_only=True)
class Monomials(Encoder):
    """All products ``z_i z_j``, i <= j, of the quantised record ``z = (one, x_1, ..., x_d)``.

    ``x_f = rint(clip(levels * (2 * spread(value_f) - 1), -levels, levels))``. Order: row by row of the upper triangle,
    as in ``np.triu_indices(d + 1)``; the first entry is the constant ``one ** 2``.

    Parameters
    ----------
    lows, highs : tuple of float
        Public range of each feature: declared, never taken from the data.
    logs : tuple of bool
        Whether the feature is spread logarithmically over its range.
    levels : int
        Largest absolute quantised value c.
    """

    kind: ClassVar[str] = "monomials"

    lows: tuple[float, ...]
    highs: tuple[float, ...]
    logs: tuple[bool, ...]
    levels: int = 127

    def __post_init__(self) -> None:
        if not len(self.lows) == len(self.highs) == len(self.logs) or not self.lows:
            raise ParameterError("Monomials needs one low, high and log flag per feature")
        with np.errstate(over="ignore"):
            span = np.asarray(self.highs) - np.asarray(self.lows)
        if not (np.isfinite(self.lows).all() and np.isfinite(span).all() and (span > 0).all()):
            raise ParameterError("Monomials needs finite ranges with low < high")
        if not 1 <= self.levels <= 2047:
            raise ParameterError("levels is out of its domain", got=str(self.levels), rule="1 <= levels <= 2047")
        if self.length > MAX_LENGTH:
            raise ParameterError("The encoding is too long", got=f"{self.length} slots", rule=f"at most {MAX_LENGTH}")

    @property
    def n_features(self) -> int:
        """Number of input features d."""
        return len(self.lows)

    @property
    def length(self) -> int:
        """Number of monomials m = (d + 1)(d + 2) / 2."""
        d = self.n_features
        return (d + 1) * (d + 2) // 2

    @property
    def one(self) -> int:
        """The constant coordinate, as large as the others may become so that weights share one scale."""
        return self.levels

    @property
    def max_abs(self) -> int:
        """Largest absolute value of any monomial."""
        return self.levels**2

    def quantise(self, X: Floats) -> Ints:
        """Quantise and clip to the box; (n, d) float64 -> (n, d) int64 in [-levels, levels]."""
        X = matrix(X, self.n_features)
        out = np.empty(X.shape, dtype=np.int64)
        for f, (low, high, log) in enumerate(zip(self.lows, self.highs, self.logs, strict=True)):
            scaled = self.levels * (2.0 * spread(X[:, f], low, high, log=log) - 1.0)
            out[:, f] = np.rint(np.clip(scaled, -self.levels, self.levels))
        return out

    def encode(self, X: Floats) -> Ints:
        """Return all monomials, shape (n, m), int64."""
        z = self.homogeneous(self.quantise(X))
        i, j = np.triu_indices(self.n_features + 1)
        return z[:, i] * z[:, j]

    def homogeneous(self, quantised: Ints) -> Ints:
        """Prepend the constant: (n, d) -> (n, d + 1)."""
        ones = np.full((len(quantised), 1), self.one, dtype=np.int64)
        return np.concatenate([ones, quantised], axis=1)

    def dot(self, X: Floats, weights: Ints) -> Ints:
        """``<z z', W>`` as a matrix product; exact in float64 where the static bound is below 2**53."""
        z = self.homogeneous(self.quantise(X))
        upper = np.zeros((self.n_features + 1,) * 2, dtype=np.int64)
        upper[np.triu_indices(self.n_features + 1)] = weights
        if int(np.abs(weights).sum()) * self.max_abs < 2**53:
            zf = z.astype(np.float64)
            exact: Ints = np.einsum("ij,ij->i", zf @ upper.astype(np.float64), zf).astype(np.int64)
            return exact
        product: Ints = np.einsum("ij,ij->i", z @ upper, z)
        return product

    def reach(self, weights: Ints) -> tuple[int, int]:
        """Interval arithmetic: squares lie in [0, c**2], mixed products in [-c**2, c**2]."""
        i, j = np.triu_indices(self.n_features + 1)
        top = self.max_abs
        fixed = int(weights[0]) * self.one**2
        square = weights[(i == j) & (i > 0)]
        mixed = int(np.abs(weights[i != j]).sum())
        low = fixed + top * (int(square[square < 0].sum()) - mixed)
        high = fixed + top * (int(square[square > 0].sum()) + mixed)
        return low, high

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values without ``kind``."""
        return {"lows": list(self.lows), "highs": list(self.highs), "logs": list(self.logs), "levels": self.levels}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Rebuild from untrusted values; TypeError or ParameterError on anything malformed."""
        if set(value) != {"lows", "highs", "logs", "levels"}:
            raise TypeError
        levels, logs = value["levels"], bounded_list(value["logs"])
        if type(levels) is not int or not all(type(log) is bool for log in logs):
            raise TypeError
        return cls(
            lows=tuple(number(v) for v in bounded_list(value["lows"])),
            highs=tuple(number(v) for v in bounded_list(value["highs"])),
            logs=tuple(logs),
            levels=levels,
        )
