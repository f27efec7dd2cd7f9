"""Detectors that count: a table of one number per feature and bin, read from how many records lie where."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from blindsight.circuits import InnerProduct, OneHotBins
from blindsight.data import Schema
from blindsight.errors import ParameterError

from ._counts import consistent_counts
from ._features import count_query, one_hot_bins
from ._queries import SumQuery, Total
from ._sums import SumDetector

__all__ = ["BinnedDetector", "frequency_term", "tail_masses"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

TABLE_UNIT = 2.0**-10
"""One table step, in nats. Rounding moves a score by less than d * 2**-11."""


class BinnedDetector(SumDetector):
    """Base of ECOD, COPOD and HBOS: what parties sum is one count per feature and bin.

    A subclass states one thing, :meth:`_number_term`: what a bin of a number column adds to the score. Categories
    score -log of their frequency; an undeclared category scores as one that was never seen.
    """

    ordinary: ClassVar[float] = 0.2
    """Nats per feature above the least score that an ordinary record is sure to exceed: where the score grid begins."""

    bins: int
    edges: str

    @abstractmethod
    def _number_term(self, fitted: Floats, edges: Floats, n: float) -> Floats:
        """Score of each bin, in nats.

        Parameters
        ----------
        fitted : ndarray of shape (bins,), float64
            Records per bin, nonnegative; they add up to about n.
        edges : ndarray of shape (bins - 1,), float64
            Inner edges, in the column's unit.
        n : float
            Number of records, at least 1.
        """

    def _validate(self) -> None:
        super()._validate()
        if type(self.bins) is not int or not 4 <= self.bins <= 1024:
            raise ParameterError("bins is out of its domain", got=repr(self.bins), rule="an integer, 4 to 1024")
        if self.edges not in ("declared", "learned"):
            raise ParameterError(
                "edges is out of its domain", got=repr(self.edges)[:60], rule="'declared' or 'learned'"
            )

    def _learns_scales(self) -> bool:
        return self.edges == "learned"

    def encoder(self, schema: Schema) -> OneHotBins:
        """Build the public encoder: a function of the schema and, with learned edges, of the preparation."""
        if self.preparation_ is None:
            return one_hot_bins(schema, self.bins)
        return OneHotBins(edges=self._learned_edges(schema))

    def _learned_edges(self, schema: Schema) -> tuple[tuple[float, ...], ...]:
        assert self.preparation_ is not None
        return self.preparation_.quantile_edges(schema, self.bins)

    def fit_query(self, schema: Schema) -> SumQuery:
        """Counts per feature and bin; L2 sensitivity sqrt(d)."""
        self._validate()
        return count_query("fit", self.encoder(schema))

    def _build(self, schema: Schema, total: Total) -> tuple[OneHotBins, InnerProduct, float]:
        encoder = self.encoder(schema)
        blocks = np.split(np.asarray(total.values, dtype=np.int64), encoder.offsets[1:])
        n = max(float(np.mean([block.sum() for block in blocks])), 1.0)
        deviation = math.sqrt(total.noise_variance)
        tables = []
        for column, block, inner in zip(schema.features, blocks, encoder.edges, strict=True):
            fitted = block.astype(np.float64) if deviation == 0 else consistent_counts(block, n)
            if column.type == "category":
                tables.append(frequency_term(fitted, n, deviation))
            else:
                tables.append(self._number_term(fitted, np.asarray(inner), n))
        weights = np.rint(np.concatenate(tables) / TABLE_UNIT).astype(np.int64)
        return encoder, InnerProduct(weights=weights), TABLE_UNIT

    def _first_score(self) -> tuple[int, int]:
        low = self.circuit_.bounds(self.encoder_)[0]
        return low, round(self.ordinary * self.encoder_.n_features / TABLE_UNIT)

    @property
    def n_records_(self) -> float:
        """Mean over the features of their total count."""
        self._check_fitted()
        return max(float(self.totals_.sum()) / self.n_features_in_, 0.0)

    def noise_floor(self, noise_variance: float) -> int:
        """Records that outnumber the noise of one feature's bins, all together, two to one."""
        return math.ceil(2.0 * math.sqrt(noise_variance * self.bins))


def tail_masses(fitted: Floats, n: float) -> tuple[Floats, Floats]:
    """-log of the left and of the right tail at each bin, the bin itself counted in both; a tail is at least .5."""
    left, right = np.cumsum(fitted), np.cumsum(fitted[::-1])[::-1]
    return -np.log(np.clip(left, 0.5, n) / n), -np.log(np.clip(right, 0.5, n) / n)


def frequency_term(fitted: Floats, n: float, deviation: float = 0.0) -> Floats:
    """-log of each bin's frequency, taken as at least half a record and at least what noise could fake."""
    term: Floats = -np.log(np.clip(fitted, min(max(0.5, deviation), n), n) / n)
    return term
