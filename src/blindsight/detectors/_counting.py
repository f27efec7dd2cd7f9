"""Detectors that count: a table of one number per slot, read from how many records have their 1 there."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from blindsight.circuits import InnerProduct, OneHot
from blindsight.data import Schema

from ._counts import BlockCounts
from ._features import count_query
from ._queries import SumQuery, Total
from ._sums import SumDetector

__all__ = ["TABLE_UNIT", "CountingDetector", "frequency_term"]

Floats = npt.NDArray[np.float64]

TABLE_UNIT = 2.0**-10
"""One table step: a part of a nat, or of a test on a path. Rounding moves a score by less than 2**-11 a block."""


class CountingDetector(SumDetector):
    """Base of the detectors on a one-hot encoding: what parties sum is one count per block and slot.

    A subclass states the public encoder (:meth:`encoder`) and what each slot adds to the score (:meth:`_tables`).
    """

    ordinary: ClassVar[float] = 0.02
    """Nats per block above the least score that an ordinary record is sure to exceed: where the score grid begins."""

    mean_of_blocks: ClassVar[bool] = True
    """Whether a score is the mean over the blocks, or the sum."""

    @abstractmethod
    def encoder(self, schema: Schema) -> OneHot:
        """Build the encoder: a function of schema, parameters and ``preparation_`` alone."""

    @abstractmethod
    def _tables(self, schema: Schema, encoder: OneHot, counts: BlockCounts) -> list[Floats]:
        """What each slot of each block adds to the score, before any rounding."""

    @property
    @abstractmethod
    def _slots_per_block(self) -> int:
        """Slots of one block; the most that any has."""

    def fit_query(self, schema: Schema) -> SumQuery:
        """Counts per block and slot; L2 sensitivity sqrt(blocks)."""
        self._validate()
        return count_query("fit", self.encoder(schema))

    def _build(self, schema: Schema, total: Total) -> tuple[OneHot, InnerProduct, float]:
        encoder = self.encoder(schema)
        tables = self._tables(schema, encoder, BlockCounts.read(encoder, total))
        weights = np.rint(np.concatenate(tables) / TABLE_UNIT).astype(np.int64)
        scale = TABLE_UNIT / encoder.blocks if self.mean_of_blocks else TABLE_UNIT
        return encoder, InnerProduct(weights=weights), scale

    def _first_score(self) -> tuple[int, int]:
        low = self.circuit_.bounds(self.encoder_)[0]
        return low, round(self.ordinary * self._blocks / TABLE_UNIT)

    @property
    def _blocks(self) -> int:
        assert isinstance(self.encoder_, OneHot)
        return self.encoder_.blocks

    @property
    def _ones_of_a_record(self) -> int:
        """In how many slots one record counts."""
        return self._blocks

    @property
    def n_records_(self) -> float:
        """All counts together, over the number of slots in which one record counts."""
        self._check_fitted()
        return max(float(self.totals_.sum()) / self._ones_of_a_record, 0.0)

    @property
    def n_records_deviation_(self) -> float:
        """Standard deviation of the noise in ``n_records_``."""
        return math.sqrt(self.noise_variance_ * self.totals_.size) / self._ones_of_a_record

    def noise_floor(self, noise_variance: float) -> int:
        """Records that outnumber the noise of one block's slots, all together, two to one."""
        return math.ceil(2.0 * math.sqrt(noise_variance * self._slots_per_block))


def frequency_term(fitted: Floats, n: float, deviation: float = 0.0) -> Floats:
    """-log of each slot's frequency, taken as at least half a record and at least what noise could fake."""
    term: Floats = -np.log(np.clip(fitted, min(max(0.5, deviation), n), n) / n)
    return term
