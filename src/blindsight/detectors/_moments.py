"""Detectors that sum moments: a quadratic form in a record, read from mean and covariance."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod

import numpy as np
import numpy.typing as npt

from blindsight.circuits import InnerProduct, Monomials
from blindsight.data import Records, Schema
from blindsight.errors import BlindsightWarning, SchemaError

from ._circuit import whole_weights
from ._domains import number
from ._features import quantiser
from ._queries import SumQuery, Total
from ._sums import SumDetector

__all__ = ["MomentDetector", "clip_to_ball", "numbers_only"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

DIAGONAL, MIXED = 5, 7
"""Integer stand-ins for 1 and sqrt(2): 7**2 <= 2 * 5**2, so that mixed moments get less noise at no sensitivity."""

LEVELS = 127
"""Quantised features lie in -127 .. 127: a 255-step grid over the declared range."""

ROUNDING = 1.0 / 12.0
"""Variance that rounding to whole levels adds by itself."""


class MomentDetector(SumDetector):
    """Base of Mahalanobis and PCA: what parties sum is (1, x)(1, x)' of quantised, norm-clipped records.

    A subclass states one thing, :meth:`_form`: the matrix P of the score (x - mean)' P (x - mean).
    """

    norm_clip: float
    eigenvalue_floor: float

    @abstractmethod
    def _form(self, covariance: Floats, noise: float) -> Floats:
        """Return P, positive definite, from the covariance in squared levels.

        ``noise`` is what noise alone may add to an eigenvalue.
        """

    def _validate(self) -> None:
        super()._validate()
        number("norm_clip", self.norm_clip, 0.0, 1.0, open_low=True)
        number("eigenvalue_floor", self.eigenvalue_floor, 0.0, 1.0, open_low=True, open_high=True)

    def encoder(self, schema: Schema) -> Monomials:
        """Build the public encoder: a function of the schema alone."""
        numbers_only(schema, type(self).__name__)
        return quantiser(schema.features, levels=LEVELS, logs=True)

    def radius_squared(self, encoder: Monomials) -> int:
        """Square of the norm ball's radius R, in squared quantisation levels; whole, so that no rounding enters."""
        return math.floor(self.norm_clip**2 * encoder.n_features * encoder.levels**2)

    def fit_query(self, schema: Schema) -> SumQuery:
        """Scaled upper triangle of zz'; L2 sensitivity 5 * (levels**2 + R**2)."""
        self._validate()
        encoder = self.encoder(schema)
        radius_squared = self.radius_squared(encoder)
        upper = np.triu_indices(encoder.n_features + 1)
        factors = np.where(upper[0] == upper[1], DIAGONAL, MIXED)

        def add(accumulator: Ints, chunk: Records) -> None:
            # 16,384 products of 11-bit levels stay far below 2**53: the float64 matrix product is exact
            for start in range(0, len(chunk.X), 16_384):
                x = clip_to_ball(encoder.quantise(chunk.X[start : start + 16_384]), radius_squared)
                z = encoder.homogeneous(x).astype(np.float64)
                accumulator += factors * (z.T @ z)[upper].astype(np.int64)

        return SumQuery(
            name="fit",
            length=encoder.length,
            sensitivity_l2=float(DIAGONAL * (encoder.one**2 + radius_squared)),
            max_abs=MIXED * encoder.max_abs,
            add=add,
        )

    @staticmethod
    def moments(encoder: Monomials, total: Total) -> tuple[Floats, Floats, Floats, float]:
        """Read released moments.

        Returns
        -------
        second, mean, covariance : ndarray of shape (d + 1,), (d,), (d, d), float64
            Mean square of the constant and the quantised features, their mean and covariance, in levels.
        noise : float
            What noise alone may add to an eigenvalue of the covariance.
        """
        d = encoder.n_features
        upper = np.triu_indices(d + 1)
        moments = np.zeros((d + 1, d + 1))
        moments[upper] = total.values / np.where(upper[0] == upper[1], DIAGONAL, MIXED)
        moments = moments + moments.T - np.diag(np.diag(moments))
        n = max(moments[0, 0] / encoder.one**2, 1.0)
        mean = moments[0, 1:] / (encoder.one * n)
        covariance = moments[1:, 1:] / n - np.outer(mean, mean)
        # a symmetric noise matrix of entry deviation s has spectral norm about 2 s sqrt(d)
        noise = 2.0 * math.sqrt(total.noise_variance * d) / (DIAGONAL * n)
        return np.abs(np.diag(moments)) / n, mean, covariance, noise

    def _build(self, schema: Schema, total: Total) -> tuple[Monomials, InnerProduct, float]:
        encoder = self.encoder(schema)
        d = encoder.n_features
        upper = np.triu_indices(d + 1)
        second, mean, covariance, noise = self.moments(encoder, total)
        matrix = self._form(covariance, noise)
        form = np.empty((d + 1, d + 1))
        form[1:, 1:] = matrix
        form[0, 1:] = form[1:, 0] = -(matrix @ mean) / encoder.one
        form[0, 0] = float(mean @ matrix @ mean) / encoder.one**2
        weights = form[upper] * np.where(upper[0] == upper[1], 1.0, 2.0)
        circuit, scale = whole_weights(weights, encoder)
        # rounding moves each weight by up to half a step; second moments say how much that moves a score
        error = scale * float(np.sqrt(np.outer(second, second)[upper].sum() / 12.0))
        if error > 0.2 * math.sqrt(2.0 * d):
            name = type(self).__name__
            warnings.warn(
                f"{name} on {d} features: rounding the weights to integers moves scores by about {error:.1f}, of "
                f"a spread of about {math.sqrt(2.0 * d):.1f} among ordinary records. Use ECOD, or fewer features.",
                BlindsightWarning,
                stacklevel=2,
            )
        return encoder, circuit, scale

    def _first_score(self) -> tuple[int, int]:
        return 0, round(0.02 * self.encoder_.n_features / self.score_scale_)

    @property
    def n_records_(self) -> float:
        """From the constant coordinate."""
        self._check_fitted()
        return max(float(self.totals_[0]) / self._counted_by, 0.0)

    @property
    def n_records_deviation_(self) -> float:
        """Standard deviation of the noise in ``n_records_``."""
        return math.sqrt(self.noise_variance_) / self._counted_by

    @property
    def _counted_by(self) -> float:
        """What one record adds to the first total."""
        assert isinstance(self.encoder_, Monomials)
        return float(DIAGONAL * self.encoder_.one**2)

    def noise_floor(self, noise_variance: float) -> int:
        """Records needed for the covariance's noise to stay under a tenth of a feature's variance at a fifth of range.

        A feature's deviation is taken as a fifth of its half range: 25 levels.
        """
        features = getattr(self, "n_features_in_", 1)
        return math.ceil(2.0 * math.sqrt(noise_variance * features) / (MIXED * 0.1 * 25.0**2))

    def _plausible(self, values: Ints) -> bool:
        # the constant and the squares are the only coordinates that cannot be negative
        d = self.n_features_in_
        upper = np.triu_indices(d + 1)
        return bool((values[upper[0] == upper[1]] >= 0).all())


def numbers_only(schema: Schema, detector: str) -> None:
    """Raise SchemaError for the first category column."""
    for column in schema.features:
        if column.type == "category":
            raise SchemaError(
                f"{detector} cannot use the categorical column '{column.name}'",
                rule="every feature is a number",
                fix="use ECOD, or give the column the role 'ignore'",
            )


def clip_to_ball(x: Ints, radius_squared: int) -> Ints:
    """Pull integer rows into the ball; truncation towards zero keeps them inside."""
    squares = np.einsum("ij,ij->i", x, x)
    outside = squares > radius_squared
    if not outside.any():
        return x
    x = x.copy()
    # one part in 10**12 less, so that rounding in the division cannot carry a row over the rim
    shrink = (1.0 - 1e-12) * np.sqrt(radius_squared / squares[outside])
    x[outside] = np.trunc(x[outside] * shrink[:, None]).astype(np.int64)
    return x


def eigenvalue_floor(values: Floats, relative: float, rounding: float, noise: float) -> float:
    """Smallest eigenvalue to divide by: a fraction of the mean one, what rounding adds, and what noise may fake."""
    return max(relative * max(float(values.mean()), 0.0), rounding, noise)
