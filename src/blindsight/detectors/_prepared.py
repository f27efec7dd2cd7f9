"""Detectors on declared or learned scales: one more private histogram may come before the fit's own sums."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy.typing as npt

from blindsight.circuits import Encoder
from blindsight.data import Schema

from ._circuit import CircuitDetector
from ._preparation import SHARE, Preparation, preparation_query
from ._queries import Query, SumQuery, Total
from ._state import State, nonnegative

__all__ = ["PreparedDetector"]


class PreparedDetector(CircuitDetector):
    """Base of the detectors whose encoder may stand on privately learned bin edges or scales.

    Attributes
    ----------
    preparation_ : Preparation or None
        What an earlier private histogram said of the features' distribution, where the detector asks for one.
    """

    @abstractmethod
    def encoder(self, schema: Schema) -> Encoder:
        """Build the encoder: a function of schema, parameters and ``preparation_`` alone."""

    @abstractmethod
    def _next_scaled_query(self) -> SumQuery:
        """Return the next sum once the scales are settled."""

    @abstractmethod
    def _advance_scaled(self, total: Total) -> None:
        """Take the total of :meth:`_next_scaled_query` into the state."""

    def _learns_scales(self) -> bool:
        """Whether one more private histogram comes first, for bin edges or scales; the model is then not secret."""
        return False

    @property
    def _share_left(self) -> float:
        """Part of the fit's share of the budget that the preparation left."""
        return 1.0 if self.preparation_ is None else 1.0 - SHARE

    def _settle(self, schema: Schema) -> None:
        super()._settle(schema)
        self.preparation_: Preparation | None = None

    def _next_fit_query(self) -> Query | None:
        if self._learns_scales() and self.preparation_ is None:
            return preparation_query(self.schema_)
        return self._next_scaled_query()

    def _advance_fit(self, query: Query, total: Total) -> None:
        if query.name == "prepare":
            self.preparation_ = Preparation.from_total(self.schema_, total)
        else:
            self._advance_scaled(total)

    def _expected_encoder(self) -> Encoder:
        return self.encoder(self.schema_)

    @property
    def is_secret_(self) -> bool:
        """Whether the public encoder is free of anything learned from data, so that blind scoring hides the model."""
        return super().is_secret_ and self.preparation_ is None

    def _dump_prepared(self) -> State:
        """Circuit and preparation, as far as they are there."""
        circuit = self._dump_circuit()
        if self.preparation_ is None:
            return circuit
        return State(
            values={**circuit.values, "preparation_noise_variance": self.preparation_.noise_variance},
            arrays={**circuit.arrays, "preparation": self.preparation_.counts},
        )

    def _load_preparation(self, values: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Take the preparation out of ``values`` and ``arrays``: before whatever stands on its scales."""
        counts = arrays.pop("preparation", None)
        if self._learns_scales() != (counts is not None) and (counts is not None or arrays):
            raise ValueError("the preparation does not fit the detector's parameters")
        if counts is not None:
            noise = nonnegative(values.pop("preparation_noise_variance"))
            self.preparation_ = Preparation.from_total(self.schema_, Total(values=counts, noise_variance=noise))
