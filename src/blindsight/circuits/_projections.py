"""Public sparse random projections, each cut into bins: what LODA looks at."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from blindsight.errors import ParameterError

from ._encoding import MAX_LENGTH, Encoder, Floats, Ints, OneHot, bounded_list, matrix, number
from ._spread import spread

__all__ = ["ProjectedBins"]

POSITION_STEPS = 1 << 14
"""Steps of a feature's range. Positions and weights are whole numbers, so that a projection is exact in float64 and
depends neither on the batch nor on how a linear algebra library adds up."""

WEIGHT_STEPS = 1 << 10
"""Steps in a weight of one deviation."""

BEYOND = 0.5
"""How far past either end of its range a value is told from one further out, in ranges."""

STREAM = 2
"""Second half of the generator's key: other structures of the same seed use other streams."""

MAX_DRAWING = 1 << 26
"""Largest projections x features: what drawing them costs, and another party may ask for it."""


@dataclass(frozen=True, kw_only=True)
class ProjectedBins(OneHot):
    """One-hot bin of each of k sparse random projections: every record has exactly one 1 per projection.

    A feature's position is ``(spread(value) - start) / (stop - start)``, clipped half a range beyond both ends. A
    projection has ``ceil(sqrt(d))`` normal weights, the others are 0 (Pevny 2016, section 3). Over all records inside
    the ranges it takes values between the sums of its negative and of its positive weights: that interval is cut into
    ``bins - 2`` even bins, and two open ones lie outside.

    Parameters
    ----------
    lows, highs : tuple of float
        Public range of each feature. A categorical feature with K categories (codes 0 .. K - 1, K for undeclared) has
        the range -.5 to K + .5.
    logs : tuple of bool
        Whether the feature is spread logarithmically over its range.
    starts, stops : tuple of float
        Part of the spread range, 0 to 1 where nothing was learned, that the unit interval stands for.
    projections : int
    bins : int in [4, 1024]
    seed : int in [0, 2**63)
        Public; the projections follow from it, from ``projections`` and from d.
    """

    kind: ClassVar[str] = "projected_bins"

    lows: tuple[float, ...]
    highs: tuple[float, ...]
    logs: tuple[bool, ...]
    starts: tuple[float, ...]
    stops: tuple[float, ...]
    projections: int
    bins: int
    seed: int

    def __post_init__(self) -> None:
        d = len(self.lows)
        if not d or any(len(row) != d for row in (self.highs, self.logs, self.starts, self.stops)):
            raise ParameterError("ProjectedBins needs one low, high, log flag, start and stop per feature")
        with np.errstate(over="ignore"):
            span = np.asarray(self.highs) - np.asarray(self.lows)
        if not (np.isfinite(self.lows).all() and np.isfinite(span).all() and (span > 0).all()):
            raise ParameterError("ProjectedBins needs finite ranges with low < high")
        ends = np.asarray([self.starts, self.stops])
        if not ((ends >= 0) & (ends <= 1)).all() or not (ends[1] - ends[0] >= 1e-6).all():
            raise ParameterError("ProjectedBins needs 0 <= start < stop <= 1 for every feature")
        if not 4 <= self.bins <= 1024 or not 0 <= self.seed < 1 << 63:
            raise ParameterError(
                "The projections are out of their domain",
                got=f"bins={self.bins}, seed={self.seed}"[:80],
                rule="4 <= bins <= 1024, 0 <= seed < 2**63",
            )
        if not 1 <= self.projections <= MAX_LENGTH // self.bins or self.projections * d > MAX_DRAWING:
            raise ParameterError(
                "The encoding is too long",
                got=f"{self.projections} projections of {d} features in {self.bins} bins"[:80],
                rule=f"at most {MAX_LENGTH} bins, and {MAX_DRAWING} projections times features",
            )

    @property
    def n_features(self) -> int:
        """Number of input features d."""
        return len(self.lows)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of bins of each projection."""
        return (self.bins,) * self.projections

    @property
    def weights(self) -> Floats:
        """The projections, shape (projections, d), whole numbers."""
        return _draw(self.n_features, self.projections, self.seed)

    def positions(self, X: Floats) -> Floats:
        """Whole-number position of each value on its range, shape (d, n), float64."""
        X = matrix(X, self.n_features)
        out = np.empty(X.shape[::-1])
        for f, (low, high, log) in enumerate(zip(self.lows, self.highs, self.logs, strict=True)):
            start, stop = self.starts[f], self.stops[f]
            with np.errstate(over="ignore"):  # far out of range: infinity is clipped like the rest
                place = (spread(X[:, f], low, high, log=log) - start) / (stop - start)
            out[f] = np.rint(np.clip(place, -BEYOND, 1.0 + BEYOND) * POSITION_STEPS)
        return out

    def _bins(self, X: Floats) -> Floats:
        """Bin of each projection, shape (projections, n), whole numbers in float64."""
        weights = self.weights
        low = np.minimum(weights, 0.0).sum(axis=1) * POSITION_STEPS
        width = np.abs(weights).sum(axis=1) * POSITION_STEPS
        # whole numbers below 2**53 all the way to the quotient, which is never within rounding of the wrong side
        place = weights @ self.positions(X)
        place -= low[:, None]
        place *= self.bins - 2
        place /= width[:, None]
        np.floor(place, out=place)
        place += 1.0
        return np.clip(place, 0.0, self.bins - 1.0, out=place)

    def slots(self, X: Floats) -> npt.NDArray[np.int32]:
        """Return the slot of each record's bin on each projection, shape (n, projections), int32."""
        slots: npt.NDArray[np.int32] = (self._bins(X) + self.offsets[:, None]).astype(np.int32).T
        return slots

    def dot(self, X: Floats, weights: Ints) -> Ints:
        """Sum of the weights of each record's bins, shape (n,), int64; a few thousand rows at a time."""
        tables = np.asarray(weights, dtype=np.int64).reshape(self.projections, -1)
        total = np.zeros(len(X), dtype=np.int64)
        for start in range(0, len(X), 4096):
            rows = slice(start, start + 4096)
            for table, place in zip(tables, self._bins(X[rows]).astype(np.intp), strict=True):
                total[rows] += np.take(table, place)
        return total

    def count(self, X: Floats, accumulator: Ints) -> None:
        """Add every record's encoding to ``accumulator``, shape (m,), int64, in place."""
        counts = accumulator.reshape(self.projections, -1)
        for start in range(0, len(X), 4096):
            for row, place in zip(counts, self._bins(X[start : start + 4096]).astype(np.intp), strict=True):
                row += np.bincount(place, minlength=self.bins)

    def block_names(self, features: Sequence[str]) -> tuple[str, ...]:
        """A block is a projection: projection 0 and so on."""
        del features
        return tuple(f"projection {b}" for b in range(self.projections))

    def same_form(self, other: Encoder) -> bool:
        """Whether both have the same projections, and ranges that are equal up to their last bits."""
        return (
            isinstance(other, ProjectedBins)
            and (self.projections, self.bins, self.seed) == (other.projections, other.bins, other.seed)
            and self.logs == other.logs
            and all(
                np.allclose(mine, theirs, rtol=1e-9, atol=1e-12)
                for mine, theirs in (
                    (self.lows, other.lows),
                    (self.highs, other.highs),
                    (self.starts, other.starts),
                    (self.stops, other.stops),
                )
            )
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values without ``kind``: ranges and seed, not the projections."""
        names = ("lows", "highs", "logs", "starts", "stops")
        lists: dict[str, Any] = {name: list(getattr(self, name)) for name in names}
        return {**lists, "projections": self.projections, "bins": self.bins, "seed": self.seed}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Rebuild from untrusted values; TypeError or ParameterError on anything malformed."""
        if set(value) != {"lows", "highs", "logs", "starts", "stops", "projections", "bins", "seed"}:
            raise TypeError
        projections, bins, seed = value["projections"], value["bins"], value["seed"]
        logs = bounded_list(value["logs"])
        if not type(projections) is type(bins) is type(seed) is int or not all(type(log) is bool for log in logs):
            raise TypeError
        names = ("lows", "highs", "starts", "stops")
        numbers = {name: tuple(number(v) for v in bounded_list(value[name])) for name in names}
        return cls(**numbers, logs=tuple(logs), projections=projections, bins=bins, seed=seed)


@functools.lru_cache(maxsize=8)
def _draw(d: int, projections: int, seed: int) -> Floats:
    """Draw the weights, shape (projections, d), from the raw words of Philox, whose stream is fixed for good.

    Rounded to whole steps, so that the last bits of the inverse normal distribution do not matter.
    """
    words = np.random.Philox(key=np.array([seed, STREAM], dtype=np.uint64)).random_raw
    nonzero = math.ceil(math.sqrt(d))
    weights = np.zeros((projections, d))
    for row in weights:
        chosen = np.argsort(words(d), kind="stable")[:nonzero]
        uniform = ((words(nonzero) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        normal = np.rint(ndtri(uniform) * WEIGHT_STEPS)
        row[chosen] = np.where(normal == 0.0, 1.0, normal)
    weights.setflags(write=False)
    return weights
