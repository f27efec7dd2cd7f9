"""Random Fourier features in whole numbers: what kernel detectors look at, the same on every machine."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from blindsight.errors import ParameterError

from ._encoding import MAX_LENGTH, Encoder, Floats, Ints, bounded_list, matrix, number
from ._spread import spread

__all__ = ["RandomFourier"]

CLIP = 16.0
"""Standardised features are cut off here: so far out, a record is like no other anyway."""

FEATURE_STEP = 2.0**-10
FREQUENCY_STEP = 2.0**-18
MAX_FREQUENCY = 16.0
"""Turns per unit. In steps: features below 2**14, frequencies at most 2**22, so that the sum over at most 2**16
features stays below 2**53 and a float64 matrix product is exact in any order of its additions."""

MAX_FEATURES = 1 << 16
MAX_MATRIX = 1 << 24
"""Most frequencies held: 128 MiB."""

ANGLES = 4096
"""Points on the circle: an angle is off by at most a turn over 8,192, which moves an entry by less than .1 level."""

PHASE_SHIFT = 16
"""Phases come in steps of 2**-28 turns; the upper 12 bits of the fraction choose the point on the circle."""

ROWS = 2048


@dataclass(frozen=True, kw_only=True)
class RandomFourier(Encoder):
    """``(cos(2 pi f_j u), sin(2 pi f_j u))`` for random frequencies f_j, in whole levels; all cosines come first.

    Rahimi and Recht 2007 (NIPS, "Random features for large-scale kernel machines", algorithm 1, the paired form): the
    inner product of two encodings, over ``pairs * levels**2``, estimates exp(-|u - u'|**2 / (2 bandwidth**2)).

    Parameters
    ----------
    lows, highs : tuple of float
        Public range of each feature.
    logs : tuple of bool
        Whether the feature is spread logarithmically over its range.
    centres, scales : tuple of float
        ``u = (spread(value) - centre) / scale``, clipped to +-16: public numbers, declared or privately learned.
    bandwidth : float
        Of the Gaussian kernel, in units of u.
    pairs : int
        Frequencies; the encoding is twice as long.
    seed : int in [0, 2**64)
        Public. Frequencies come from the raw words of ``numpy.random.Philox`` (Salmon et al. 2011) through the normal
        quantile, and are then rounded, so that they do not depend on a library's version.
    levels : int in [1, 127]
        Largest absolute entry.
    """

    kind: ClassVar[str] = "random_fourier"

    lows: tuple[float, ...]
    highs: tuple[float, ...]
    logs: tuple[bool, ...]
    centres: tuple[float, ...]
    scales: tuple[float, ...]
    bandwidth: float
    pairs: int
    seed: int
    levels: int = 127

    def __post_init__(self) -> None:
        d = len(self.lows)
        if not d or not all(len(part) == d for part in (self.highs, self.logs, self.centres, self.scales)):
            raise ParameterError("RandomFourier needs one low, high, log flag, centre and scale per feature")
        with np.errstate(over="ignore"):
            span = np.asarray(self.highs) - np.asarray(self.lows)
        if not (np.isfinite(self.lows).all() and np.isfinite(span).all() and (span > 0).all()):
            raise ParameterError("RandomFourier needs finite ranges with low < high")
        scales = np.asarray(self.scales)
        if not (np.isfinite(self.centres).all() and np.isfinite(scales).all() and (scales >= 1e-9).all()):
            raise ParameterError("RandomFourier needs finite centres, and scales of at least 1e-9")
        if not math.isfinite(self.bandwidth) or not 1e-3 <= self.bandwidth <= 1e6:
            raise ParameterError("bandwidth is out of its domain", got=str(self.bandwidth), rule="0.001 to 1000000")
        if not 1 <= self.levels <= 127:
            raise ParameterError("levels is out of its domain", got=str(self.levels), rule="1 <= levels <= 127")
        if not 0 <= self.seed < 1 << 64:
            raise ParameterError("seed is out of its domain", got=str(self.seed)[:40], rule="0 <= seed < 2**64")
        if not 1 <= self.pairs <= MAX_LENGTH // 2 or d > MAX_FEATURES or d * self.pairs > MAX_MATRIX:
            raise ParameterError(
                "The encoding is too long",
                got=f"{d} features, {self.pairs} pairs",
                rule=f"at most {MAX_FEATURES} features and {MAX_MATRIX} frequencies",
            )

    @property
    def n_features(self) -> int:
        """Number of input features d."""
        return len(self.lows)

    @property
    def length(self) -> int:
        """Number of entries, ``2 * pairs``."""
        return 2 * self.pairs

    @property
    def max_abs(self) -> int:
        """Largest absolute value of any entry."""
        return self.levels

    @property
    def square(self) -> int:
        """Largest squared L2 norm of any encoding: ``pairs`` times that of the longest rounded point on the circle."""
        cosine, sine = _circle(self.levels)
        return self.pairs * round(float((cosine**2 + sine**2).max()))

    def encode(self, X: Floats) -> Ints:
        """Return the encoding, shape (n, 2 * pairs), int64."""
        X = matrix(X, self.n_features)
        out = np.empty((len(X), self.length), dtype=np.int64)
        cosine, sine = _circle(self.levels)
        for start in range(0, len(X), ROWS):
            index = self._angles(X[start : start + ROWS])
            out[start : start + ROWS, : self.pairs] = cosine[index]
            out[start : start + ROWS, self.pairs :] = sine[index]
        return out

    def dot(self, X: Floats, weights: Ints) -> Ints:
        """Return ``encode(X) @ weights``; by matrix products in float64 where the static bound is below 2**53."""
        if int(np.abs(weights).sum()) * self.levels >= 2**53:
            return super().dot(X, weights)
        X = matrix(X, self.n_features)
        cosine, sine = _circle(self.levels)
        first, second = weights[: self.pairs].astype(np.float64), weights[self.pairs :].astype(np.float64)
        out = np.empty(len(X), dtype=np.int64)
        for start in range(0, len(X), ROWS):
            index = self._angles(X[start : start + ROWS])
            out[start : start + ROWS] = cosine[index] @ first + sine[index] @ second
        return out

    def reach(self, weights: Ints) -> tuple[int, int]:
        """Cauchy-Schwarz on every pair: a cosine and its sine are never both large."""
        cosine, sine = _circle(self.levels)
        radius = math.sqrt(float((cosine**2 + sine**2).max()))
        pairs = float(np.hypot(*weights.reshape(2, self.pairs).astype(np.float64)).sum())
        top = min(math.ceil(radius * pairs * (1 + 1e-9)), self.levels * int(np.abs(weights).sum()))
        return -top, top

    def same_form(self, other: Encoder) -> bool:
        """Whether both have the same frequencies, and scales that are equal up to their last bits."""
        return (
            isinstance(other, RandomFourier)
            and (self.logs, self.pairs, self.seed, self.levels)
            == (
                other.logs,
                other.pairs,
                other.seed,
                other.levels,
            )
            and (self.lows, self.highs) == (other.lows, other.highs)
            and math.isclose(self.bandwidth, other.bandwidth, rel_tol=1e-9)
            and np.allclose(self.centres, other.centres, rtol=1e-9, atol=1e-9)
            and np.allclose(self.scales, other.scales, rtol=1e-9, atol=0.0)
        )

    def _angles(self, X: Floats) -> npt.NDArray[np.int64]:
        """Point on the circle of every row and frequency, shape (n, pairs), int64 in [0, ANGLES)."""
        phases = self._steps(X) @ _frequencies(self.seed, self.n_features, self.pairs, self.bandwidth)
        angles: npt.NDArray[np.int64] = (phases.astype(np.int64) + (1 << (PHASE_SHIFT - 1))) >> PHASE_SHIFT
        angles &= ANGLES - 1
        return angles

    def _steps(self, X: Floats) -> Floats:
        """Features in whole steps; (n, d) float64 -> (n, d) float64 of integers."""
        out = np.empty(X.shape, dtype=np.float64)
        each = zip(self.lows, self.highs, self.logs, self.centres, self.scales, strict=True)
        for f, (low, high, log, centre, scale) in enumerate(each):
            with np.errstate(over="ignore"):  # far out of range: infinity is clipped like the rest
                u = (spread(X[:, f], low, high, log=log) - centre) / scale
            out[:, f] = np.rint(np.clip(u, -CLIP, CLIP) / FEATURE_STEP)
        return out

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values without ``kind``."""
        return {
            field.name: list(value) if isinstance(value := getattr(self, field.name), tuple) else value
            for field in fields(self)
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Rebuild from untrusted values; TypeError or ParameterError on anything malformed."""
        if set(value) != {field.name for field in fields(cls)}:
            raise TypeError
        logs = bounded_list(value["logs"])
        if not all(type(log) is bool for log in logs):
            raise TypeError
        if not all(type(value[name]) is int for name in ("pairs", "seed", "levels")):
            raise TypeError
        lows, highs, centres, scales = (
            tuple(number(v) for v in bounded_list(value[name])) for name in ("lows", "highs", "centres", "scales")
        )
        return cls(
            lows=lows,
            highs=highs,
            logs=tuple(logs),
            centres=centres,
            scales=scales,
            bandwidth=number(value["bandwidth"]),
            pairs=value["pairs"],
            seed=value["seed"],
            levels=value["levels"],
        )


@functools.lru_cache(maxsize=8)
def _circle(levels: int) -> tuple[Floats, Floats]:
    """Rounded cosine and sine of ANGLES points, as float64 whole numbers."""
    turns = np.arange(ANGLES) * (2.0 * np.pi / ANGLES)
    cosine = np.rint(levels * np.cos(turns))
    sine = np.roll(cosine, ANGLES // 4)  # the very numbers, a quarter turn later
    cosine.setflags(write=False)
    sine.setflags(write=False)
    return cosine, sine


@functools.lru_cache(maxsize=2)
def _frequencies(seed: int, features: int, pairs: int, bandwidth: float) -> Floats:
    """Frequencies in whole steps, turns per unit; shape (features, pairs), float64 of integers."""
    from scipy.special import ndtri

    words = np.random.Philox(key=seed).random_raw(features * pairs)
    normal = ndtri(((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53)
    turns = np.clip(normal / (2.0 * np.pi * bandwidth), -MAX_FREQUENCY, MAX_FREQUENCY)
    steps: Floats = np.rint(turns / FREQUENCY_STEP).reshape(pairs, features).T.copy()
    steps.setflags(write=False)
    return steps
