"""Public encoders: from a float64 feature matrix to bounded integers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from blindsight.errors import FormatError, ParameterError

from ._spread import spread

__all__ = ["Encoder", "Monomials", "OneHotBins", "encoder_from_json", "encoder_to_json"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MAX_LENGTH = 1 << 20
"""Longest encoding accepted from a file or another party."""


@dataclass(frozen=True, kw_only=True)
class OneHotBins:
    """One-hot bin of each feature: every record has exactly one 1 per feature.

    Parameters
    ----------
    edges : tuple of tuple of float
        Per feature the strictly increasing inner edges; k edges make k + 1 bins, of which the outer two are open,
        so that values never seen before have a place. A value equal to an edge belongs to the bin right of it. A
        categorical feature with K categories (codes 0 .. K - 1) has the edges .5, 1.5, ..., K - .5: its last bin
        stands for every undeclared category.

    Notes
    -----
    ``length`` is the total number of bins; slot ``offsets[f] + b`` means *feature f lies in bin b*.
    """

    edges: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if not self.edges:
            raise ParameterError("OneHotBins needs at least one feature", got="no edges")
        for f, inner in enumerate(self.edges):
            array = np.asarray(inner, dtype=np.float64)
            if array.size == 0 or not np.isfinite(array).all() or (np.diff(array) <= 0).any():
                raise ParameterError(
                    f"Feature {f} has unusable bin edges",
                    got=f"{array.size} edges",
                    rule="at least one edge, all finite, strictly increasing",
                )
        if self.length > MAX_LENGTH:
            raise ParameterError("The encoding is too long", got=f"{self.length} slots", rule=f"at most {MAX_LENGTH}")

    @property
    def n_features(self) -> int:
        """Number of input features d."""
        return len(self.edges)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of bins of each feature."""
        return tuple(len(inner) + 1 for inner in self.edges)

    @property
    def offsets(self) -> Ints:
        """First slot of each feature, shape (d,)."""
        return np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.int64)

    @property
    def length(self) -> int:
        """Number of slots m of the encoding."""
        return sum(self.sizes)

    def slots(self, X: Floats) -> npt.NDArray[np.int32]:
        """Return the slot that each feature's 1 falls in.

        Parameters
        ----------
        X : ndarray of shape (n, d), float64
            Feature values; finite (the schema has refused NaN before).

        Returns
        -------
        ndarray of shape (n, d), int32
            Indices into the encoding of length m.
        """
        X = _matrix(X, self.n_features)
        out = np.empty(X.shape, dtype=np.int32)
        for f, (inner, offset) in enumerate(zip(self.edges, self.offsets, strict=True)):
            out[:, f] = bin_index(X[:, f], np.asarray(inner)) + offset
        return out

    def encode(self, X: Floats) -> Ints:
        """Return the dense encoding, shape (n, m), int64 of zeros and ones."""
        slots = self.slots(X)
        out = np.zeros((len(slots), self.length), dtype=np.int64)
        np.put_along_axis(out, slots, 1, axis=1)
        return out

    @property
    def max_abs(self) -> int:
        """Largest absolute value of any entry of the encoding."""
        return 1


def bin_index(x: Floats, edges: Floats) -> npt.NDArray[np.int32]:
    """Bin of each value: the number of edges at or below it; int32 in 0 .. len(edges).

    Equal to ``np.searchsorted(edges, x, side="right")``, but several times faster where the edges are evenly spaced:
    the bin is guessed by arithmetic and then corrected by comparing with the true neighbouring edges, so that the
    result does not depend on rounding.
    """
    k = edges.size
    step = (edges[-1] - edges[0]) / (k - 1) if k > 1 else 0.0
    if k < 4 or not np.allclose(np.diff(edges), step, rtol=1e-6, atol=0.0):
        return np.searchsorted(edges, x, side="right").astype(np.int32)
    with np.errstate(over="ignore"):  # far out of range: infinity is clipped like the rest
        guess = np.clip((x - edges[0]) * (1.0 / step), -1.0, float(k)).astype(np.int32)
    np.clip(guess, 0, k - 1, out=guess)
    # guess is within one of the truth: g' = #(edges <= x) is in {guess, guess + 1, guess + 2}
    padded = np.concatenate([edges, [np.inf, np.inf]])
    result = guess + (x >= padded[guess])
    result += x >= padded[result]
    result -= (result > 0) & (x < padded[np.maximum(result - 1, 0)])
    corrected: npt.NDArray[np.int32] = result.astype(np.int32, copy=False)
    return corrected


@dataclass(frozen=True, kw_only=True)
class Monomials:
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
        X = _matrix(X, self.n_features)
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


Encoder = OneHotBins | Monomials


def _matrix(X: Floats, d: int) -> Floats:
    X = np.asarray(X, dtype=np.float64)
    if X.ndim != 2 or X.shape[1] != d:
        raise ParameterError("The feature matrix has the wrong shape", got=str(X.shape), rule=f"(n, {d})")
    return X


def encoder_to_json(encoder: Encoder) -> dict[str, Any]:
    """Describe an encoder as plain JSON values; floats survive exactly (shortest round-trip form)."""
    if isinstance(encoder, OneHotBins):
        return {"kind": "one_hot_bins", "edges": [list(inner) for inner in encoder.edges]}
    return {
        "kind": "monomials",
        "lows": list(encoder.lows),
        "highs": list(encoder.highs),
        "logs": list(encoder.logs),
        "levels": encoder.levels,
    }


def encoder_from_json(value: object) -> Encoder:
    """Rebuild an encoder from untrusted JSON values.

    Raises
    ------
    FormatError
        Unknown kind, wrong type, non-finite number, or a length beyond ``MAX_LENGTH``.
    """
    try:
        if not isinstance(value, dict):
            raise TypeError
        match value.get("kind"):
            case "one_hot_bins" if set(value) == {"kind", "edges"}:
                rows = _bounded_list(value["edges"])
                total = 0
                edges = []
                for row in rows:
                    inner = tuple(_number(v) for v in _bounded_list(row))
                    total += len(inner) + 1
                    if total > MAX_LENGTH:
                        raise TypeError
                    edges.append(inner)
                return OneHotBins(edges=tuple(edges))
            case "monomials" if set(value) == {"kind", "lows", "highs", "logs", "levels"}:
                levels, logs = value["levels"], _bounded_list(value["logs"])
                if type(levels) is not int or not all(type(log) is bool for log in logs):
                    raise TypeError
                return Monomials(
                    lows=tuple(_number(v) for v in _bounded_list(value["lows"])),
                    highs=tuple(_number(v) for v in _bounded_list(value["highs"])),
                    logs=tuple(logs),
                    levels=levels,
                )
            case _:
                raise TypeError
    except (TypeError, OverflowError, ParameterError) as error:
        raise FormatError(
            "The description of an encoder is malformed",
            rule="docs/wire-formats.md, 'Encoders'",
            fix="ask the model's holder for a fresh copy",
        ) from error


def _bounded_list(value: object) -> list[Any]:
    if not isinstance(value, list) or len(value) > MAX_LENGTH:
        raise TypeError
    return value


def _number(value: object) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]
        raise TypeError
    return float(value)  # type: ignore[arg-type]
