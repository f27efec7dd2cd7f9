"""Detectors that count single features: a table of one number per feature and bin."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import numpy as np
import numpy.typing as npt

from blindsight.circuits import OneHot, OneHotBins
from blindsight.data import Schema

from ._counting import CountingDetector, frequency_term
from ._counts import BlockCounts
from ._domains import choice, whole_number
from ._features import one_hot_bins

__all__ = ["BinnedDetector", "tail_masses"]

Floats = npt.NDArray[np.float64]


class BinnedDetector(CountingDetector):
    """Base of ECOD, COPOD and HBOS: what parties sum is one count per feature and bin.

    A subclass states one thing, :meth:`_number_term`: what a bin of a number column adds to the score. Categories
    score -log of their frequency; an undeclared category scores as one that was never seen.
    """

    ordinary = 0.2
    mean_of_blocks = False

    def __init__(
        self,
        *,
        contamination: float = 0.1,
        bins: int = 64,
        edges: Literal["declared", "learned"] = "declared",
        schema: Schema | None = None,
    ) -> None:
        self.contamination = contamination
        self.bins = bins
        self.edges = edges
        self.schema = schema

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
        whole_number("bins", self.bins, 4, 1024)
        choice("edges", self.edges, ("declared", "learned"))

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

    def _tables(self, schema: Schema, encoder: OneHot, counts: BlockCounts) -> list[Floats]:
        assert isinstance(encoder, OneHotBins)
        tables = []
        for column, fitted, inner in zip(schema.features, counts.blocks, encoder.edges, strict=True):
            if column.type == "category":
                tables.append(frequency_term(fitted, counts.n, counts.deviation))
            else:
                tables.append(self._number_term(fitted, np.asarray(inner), counts.n))
        return tables

    @property
    def _slots_per_block(self) -> int:
        return self.bins


def tail_masses(fitted: Floats, n: float) -> tuple[Floats, Floats]:
    """-log of the left and of the right tail at each bin, the bin itself counted in both; a tail is at least .5."""
    left, right = np.cumsum(fitted), np.cumsum(fitted[::-1])[::-1]
    return -np.log(np.clip(left, 0.5, n) / n), -np.log(np.clip(right, 0.5, n) / n)
