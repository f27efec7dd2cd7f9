"""ECOD by counting: how far out in its tail each feature lies, summed over the features.

Parties sum: one count per feature and bin. Combine: per feature the larger of the two tail terms -log F(x) and
-log(1 - F(x)), read from the cumulative counts. Circuit: the inner product of the one-hot bins with that table.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from blindsight.circuits import InnerProduct, OneHotBins
from blindsight.data import Schema
from blindsight.errors import ParameterError

from ._counts import consistent_counts
from ._features import count_query, one_hot_bins
from ._queries import SumQuery, Total
from ._sums import SumDetector

__all__ = ["ECOD"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

TABLE_UNIT = 2.0**-10
"""One table step, in nats. Rounding moves a score by less than d * 2**-11."""


class ECOD(SumDetector):
    """Empirical-cumulative-distribution outlier detection (Li et al. 2022, TKDE) on public bins.

    Parameters
    ----------
    contamination : float in (0, .5]
        Fraction of the fitted records above ``threshold_``.
    bins : int in [4, 1024]
        Bins per numeric feature: ``bins - 2`` evenly spaced over the declared range (logarithmically where the schema
        says ``scale = "log"``) and two open outer ones for values beyond it.
    schema : Schema, optional
        Without it ``fit`` infers one and the ranges count as learned.

    Notes
    -----
    The paper sums three times over the features and takes the largest sum; taking the larger tail per feature instead
    keeps the score linear in the one-hot bins, hence exact under encryption, and ranks better (notes in
    docs/detectors.md). Categories score -log of their frequency; an undeclared category scores as one that was never
    seen.

    Privacy
    -------
    One record adds 1 to exactly one bin of each of the d features: L2 sensitivity sqrt(d), add or remove one record.
    Exact counts are a release about persons: a tail bin may hold one of them.
    """

    name = "ECOD"

    def __init__(self, *, contamination: float = 0.1, bins: int = 64, schema: Schema | None = None) -> None:
        self.contamination = contamination
        self.bins = bins
        self.schema = schema

    def _validate(self) -> None:
        super()._validate()
        if type(self.bins) is not int or not 4 <= self.bins <= 1024:
            raise ParameterError("bins is out of its domain", got=repr(self.bins), rule="an integer, 4 to 1024")

    def encoder(self, schema: Schema) -> OneHotBins:
        """Build the public encoder: a function of the schema alone."""
        return one_hot_bins(schema, self.bins)

    def fit_query(self, schema: Schema) -> SumQuery:
        """Counts per feature and bin; L2 sensitivity sqrt(d)."""
        self._validate()
        return count_query("fit", self.encoder(schema))

    def _build(self, schema: Schema, total: Total) -> tuple[OneHotBins, InnerProduct, float]:
        encoder = self.encoder(schema)
        blocks = np.split(np.asarray(total.values, dtype=np.int64), encoder.offsets[1:])
        n = max(float(np.mean([block.sum() for block in blocks])), 1.0)
        deviation = math.sqrt(total.noise_variance)
        tables = [
            _frequency_term(block, n, deviation) if column.type == "category" else _tail_term(block, n, deviation)
            for column, block in zip(schema.features, blocks, strict=True)
        ]
        weights = np.rint(np.concatenate(tables) / TABLE_UNIT).astype(np.int64)
        return encoder, InnerProduct(weights=weights), TABLE_UNIT

    def _first_score(self) -> tuple[int, int]:
        low = self.circuit_.bounds(self.encoder_)[0]
        return low, round(0.05 * self.encoder_.n_features / TABLE_UNIT)

    @property
    def n_records_(self) -> float:
        """Mean over the features of their total count."""
        self._check_fitted()
        return max(float(self.totals_.sum()) / self.n_features_in_, 0.0)

    def noise_floor(self, noise_variance: float) -> int:
        """Records that outnumber the noise of one feature's bins, all together, two to one."""
        return math.ceil(2.0 * math.sqrt(noise_variance * self.bins))


def _tail_term(counts: Ints, n: float, deviation: float) -> Floats:
    """max(-log left tail, -log right tail) of each bin, the bin itself counted in both; a tail is at least .5."""
    fitted = counts.astype(np.float64) if deviation == 0 else consistent_counts(counts, n)
    left, right = np.cumsum(fitted), np.cumsum(fitted[::-1])[::-1]
    smaller = np.minimum(left, right)
    term: Floats = -np.log(np.clip(smaller, 0.5, n) / n)
    return term


def _frequency_term(counts: Ints, n: float, deviation: float) -> Floats:
    """-log of each category's frequency, taken as at least half a record and at least what noise could fake."""
    fitted = counts.astype(np.float64) if deviation == 0 else consistent_counts(counts, n)
    term: Floats = -np.log(np.clip(fitted, min(max(0.5, deviation), n), n) / n)
    return term
