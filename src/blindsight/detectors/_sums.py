"""Detectors that are one private sum over all records: federated equals centralised, integer for integer."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from blindsight.circuits import Encoder, InnerProduct
from blindsight.data import Schema
from blindsight.errors import DataError, ParameterError

from ._base import Detector, local_total, superseded
from ._prepared import PreparedDetector
from ._queries import SumQuery, Total
from ._scores import ScoreHistogram, scaled_counts
from ._state import State

__all__ = ["SumDetector"]

Ints = npt.NDArray[np.int64]


class SumDetector(PreparedDetector):
    """Base of every detector that is fitted from one sum, on public or privately learned scales.

    A subclass states three things: the public encoder (:meth:`encoder`), what one record adds (:meth:`fit_query`), and
    how a total becomes encoder, circuit and score scale (:meth:`_build`).

    Attributes
    ----------
    totals_ : ndarray, int64
        The released sums: all that the data left in the model besides the histograms.
    """

    # -- what a subclass states ---------------------------------------------------------------------------------

    @abstractmethod
    def fit_query(self, schema: Schema) -> SumQuery:
        """Return the sum that fitting needs: what one record adds and its bound. Named ``"fit"``."""

    @abstractmethod
    def _build(self, schema: Schema, total: Total) -> tuple[Encoder, InnerProduct, float]:
        """Turn a total into (encoder, circuit, score scale)."""

    # -- the state machine ----------------------------------------------------------------------------------------

    @property
    def is_blank(self) -> bool:
        """Whether nothing has been released yet."""
        return self.preparation_ is None and not self._can_score()

    def _next_scaled_query(self) -> SumQuery:
        query = self.fit_query(self.schema_)
        return replace(query, fraction=query.fraction * self._share_left)

    def _advance_scaled(self, total: Total) -> None:
        self._absorb(total)

    def _absorb(self, total: Total) -> None:
        """Build encoder and circuit from a released total; the score histogram is still to come."""
        self._adopt(*self._build(self.schema_, total))
        self.totals_ = np.asarray(total.values, dtype=np.int64)
        self.noise_variance_ = float(total.noise_variance)
        self.certificate_ = None
        self.provenance_ = None

    def _dump(self) -> State:
        prepared = self._dump_prepared()
        if not self._can_score():
            return prepared
        return State(values=prepared.values, arrays={**prepared.arrays, "totals": self.totals_})

    def _load(self, state: State) -> None:
        values, arrays = dict(state.values), dict(state.arrays)
        self._load_preparation(values, arrays)
        totals = arrays.pop("totals", None)
        self._load_circuit(values, arrays)
        if values or arrays or (totals is not None) != self._can_score():
            raise ValueError("the state has unknown or missing parts")
        if totals is not None:
            if totals.dtype != np.int64 or totals.shape != (self.fit_query(self.schema_).length,):
                raise ValueError("the totals have another length than the detector asks for")
            self.totals_ = totals

    # -- updating ---------------------------------------------------------------------------------------------------

    def partial_fit(self, X: Any, y: Any = None) -> Self:  # noqa: ARG002 (scikit-learn's signature)
        """Add records to a fitted model; on an unfitted one, the same as :meth:`fit`.

        The totals, hence the scores, are those of one fit on all records. The score histogram keeps the earlier
        records' scores as they were; ``calibrate`` replaces it when that matters.
        """
        if not self._is_fitted():
            return self.fit(X)
        return self._update(X, +1)

    def forget(self, X: Any) -> Self:
        """Subtract records that were fitted before: erasure as a subtraction.

        Raises
        ------
        DataError
            These records cannot all have been fitted: a count would fall below zero.

        Notes
        -----
        No privacy budget comes back, and copies of the earlier model still know the records.
        """
        self._check_fitted()
        return self._update(X, -1)

    def merge(self, other: Detector) -> Self:
        """Add another model's totals: as if both had been fitted on all records together.

        Raises
        ------
        ParameterError
            The other model is of another kind, schema or parameters.
        """
        if not isinstance(other, SumDetector):
            raise self._unlike(other)
        self._check_fitted()
        other._check_fitted()
        self._check_parameters()
        other._check_parameters()
        mine, theirs = self._fit_parameters(), other._fit_parameters()
        if type(self) is not type(other) or mine != theirs or self.schema_.digest() != other.schema_.digest():
            raise self._unlike(other)
        if self.preparation_ is not None or other.preparation_ is not None:
            raise self._unlike(other)  # totals over other edges or scales do not add up
        old, scale, before = self.score_histogram_, self.score_scale_, (self.certificate_, other.certificate_)
        total = Total(values=self.totals_ + other.totals_, noise_variance=self.noise_variance_ + other.noise_variance_)
        self._absorb(total)
        edges = self._score_grid()
        a = old.rebinned(edges, scale / self.score_scale_)
        b = other.score_histogram_.rebinned(edges, other.score_scale_ / self.score_scale_)
        self.score_histogram_ = ScoreHistogram(
            edges=edges, counts=a.counts + b.counts, noise_variance=a.noise_variance + b.noise_variance
        )
        self.certificate_ = superseded("merged with another model", before)
        return self

    def _update(self, X: Any, sign: int) -> Self:
        self._check_parameters()
        fit_query = self.fit_query(self.schema_)
        change = local_total(fit_query, self.schema_, X)
        values = self.totals_ + sign * change.values
        if sign < 0 and self.noise_variance_ == 0 and not self._plausible(values):
            raise DataError(
                "These records were not all fitted before",
                rule="forget subtracts what fit or partial_fit added",
                fix="give exactly the rows to forget, under the same schema",
            )
        if sign < 0 and change.values.any() and not values.any():
            raise DataError("Forgetting these records would leave nothing", fix="delete the model instead")
        old, scale, before = self.score_histogram_, self.score_scale_, (self.certificate_,)
        old_scores = local_total(self.score_query(), self.schema_, X) if sign < 0 else None
        self._absorb(Total(values=values, noise_variance=self.noise_variance_))
        edges = self._score_grid()
        if old_scores is not None:
            left = old.counts - old_scores.values
            if old.noise_variance == 0:
                # after earlier updates a record may stand in another bin than it was counted in
                left = scaled_counts(np.maximum(left, 0), round(self.n_records_))
            counts = (
                ScoreHistogram(edges=old.edges, counts=left, noise_variance=old.noise_variance)
                .rebinned(edges, scale / self.score_scale_)
                .counts
            )
        else:
            new = local_total(self.score_query(), self.schema_, X)
            counts = old.rebinned(edges, scale / self.score_scale_).counts + new.values
        self.score_histogram_ = ScoreHistogram(edges=edges, counts=counts, noise_variance=old.noise_variance)
        self.certificate_ = superseded("updated with exact sums", before)
        return self

    def _plausible(self, values: Ints) -> bool:
        return bool((values >= 0).all())

    def _unlike(self, other: object) -> ParameterError:
        return ParameterError(
            "These models cannot be merged",
            got=f"{type(self).__name__} and {type(other).__name__}",
            rule="same detector, same parameters, same schema, and scales that were not learned",
            fix="fit both with the same declared schema",
        )
