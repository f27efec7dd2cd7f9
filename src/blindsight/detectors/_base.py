"""The contract of a detector whose fit is a sequence of private sums and whose score is a secret integer circuit."""

from __future__ import annotations

import importlib
import math
import os
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, clone

from blindsight.circuits import Encoder, InnerProduct, evaluate
from blindsight.data import Records, Schema, records
from blindsight.errors import DataError, NotFittedError, NotKeptError, ParameterError

from ._queries import SumQuery, Total, TotalOf
from ._scores import ScoreHistogram, scaled_counts, score_edges

__all__ = ["Detector"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

EXACT_SCORE_BINS = 2048
NOISY_SCORE_BINS = 128
"""A noisy histogram has fewer bins: the noise of a tail is that of all its bins together."""


class Detector(BaseEstimator, ABC):  # type: ignore[misc]
    """Base of every sum-based detector.

    A subclass states three things: what one record adds (:meth:`fit_query`), how a total becomes encoder, circuit and
    score scale (:meth:`_build`), and where ordinary scores begin (:meth:`_first_score`). The rest is here: fitting
    alone or through any sum, updating, scoring, thresholds.

    Attributes
    ----------
    schema_ : Schema
    totals_ : ndarray, int64
        The released sums: all that the data left in the model besides the score histogram.
    noise_variance_ : float
        Variance of the noise on each coordinate of ``totals_``; 0 for exact sums.
    encoder_, circuit_, score_scale_
        ``decision_function = score_scale_ * (<encoder_(x), circuit_.weights> + circuit_.bias)``.
    score_histogram_ : ScoreHistogram
    n_features_in_, feature_names_in_
        As in scikit-learn.

    Notes
    -----
    Differences from PyOD, all deliberate: scores never depend on the batch; a model keeps no per-record score
    (``decision_scores_`` and ``labels_`` raise); higher is more anomalous, 1 is an anomaly, as in PyOD.
    """

    name: ClassVar[str]

    contamination: float
    schema: Schema | None

    # -- what a subclass states ---------------------------------------------------------------------------------

    @abstractmethod
    def encoder(self, schema: Schema) -> Encoder:
        """Build the public encoder: a function of schema and parameters alone."""

    @abstractmethod
    def fit_query(self, schema: Schema) -> SumQuery:
        """Return the sum that fitting needs: what one record adds and its bound."""

    @abstractmethod
    def _build(self, schema: Schema, total: Total) -> tuple[Encoder, InnerProduct, float]:
        """Turn a total into (encoder, circuit, score scale)."""

    @abstractmethod
    def _first_score(self) -> tuple[int, int]:
        """Return (low, first) for the score grid: see :func:`score_edges`."""

    @property
    @abstractmethod
    def n_records_(self) -> float:
        """Number of records in the totals; an estimate when the totals are noisy."""

    @abstractmethod
    def noise_floor(self, noise_variance: float) -> int:
        """Number of records below which noise of this variance drowns the totals."""

    def _validate(self) -> None:
        if not is_number(self.contamination) or not 0 < self.contamination <= 0.5:
            raise ParameterError(
                "contamination is out of its domain",
                got=repr(self.contamination),
                rule="0 < contamination <= 0.5",
                fix="give the fraction of records you can afford to look at, e.g. 0.02",
            )

    # -- fitting --------------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: ARG002 (scikit-learn's signature)
        """Fit alone, on one's own records, with exact sums.

        Parameters
        ----------
        X : array, pandas, polars or Arrow table, dict of columns, or path of a CSV or Parquet file
            Read in chunks; columns by name where they have names.
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        DataError, SchemaError, ParameterError
        """
        schema = self.schema if self.schema is not None else Schema.infer(X)
        return self.run(schema, lambda query: local_total(query, schema, X))

    def run(self, schema: Schema, total_of: TotalOf) -> Self:
        """Fit through any sum: ``total_of(query)`` is asked for the fit's total, then for the score histogram's.

        Parameters
        ----------
        schema : Schema
        total_of : callable SumQuery -> Total
        """
        self._validate()
        self.absorb(schema, total_of(self.fit_query(schema)))
        query = self.score_query()
        total = total_of(query)
        self.score_histogram_ = ScoreHistogram(
            edges=self._score_grid(), counts=total.values, noise_variance=total.noise_variance
        )
        return self

    def absorb(self, schema: Schema, total: Total) -> None:
        """Build encoder and circuit from a released total; the score histogram is still to come."""
        encoder, circuit, scale = self._build(schema, total)
        self.schema_ = schema
        self.fit_parameters_ = self._fit_parameters()
        self.totals_ = np.asarray(total.values, dtype=np.int64)
        self.noise_variance_ = float(total.noise_variance)
        self.encoder_, self.circuit_, self.score_scale_ = encoder, circuit, float(scale)
        self.n_features_in_ = encoder.n_features
        self.feature_names_in_ = np.array(schema.feature_names, dtype=object)
        self.certificate_: dict[str, Any] | None = None
        self.provenance_: dict[str, Any] | None = None

    def _score_grid(self) -> Ints:
        low, first = self._first_score()
        high = self.circuit_.bounds(self.encoder_)[1]
        bins = EXACT_SCORE_BINS if self.noise_variance_ == 0 else NOISY_SCORE_BINS
        return score_edges(low, first, high, bins)

    def score_query(self) -> SumQuery:
        """Return the sum behind every threshold: a histogram of scores on a grid that the model fixes.

        Privacy
        -------
        One record adds 1 to one bin: L2 sensitivity 1 (add or remove one record).
        """
        edges = self._score_grid()

        def add(accumulator: Ints, chunk: Records) -> None:
            place = np.searchsorted(edges, self._integer_scores(chunk.X), side="right")
            accumulator += np.bincount(place, minlength=accumulator.size)

        return SumQuery(name="threshold", length=edges.size + 1, sensitivity_l2=1.0, max_abs=1, add=add)

    # -- updating ---------------------------------------------------------------------------------------------------

    def partial_fit(self, X: Any, y: Any = None) -> Self:  # noqa: ARG002 (scikit-learn's signature)
        """Add records to a fitted model; on an unfitted one, the same as :meth:`fit`.

        The totals, hence the scores, are those of one fit on all records. The score histogram keeps the earlier
        records' scores as they were; ``calibrate`` replaces it when that matters.
        """
        if not hasattr(self, "circuit_"):
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
        self._check_parameters()
        other._check_parameters()
        mine, theirs = self._fit_parameters(), other._fit_parameters()
        if type(self) is not type(other) or mine != theirs or self.schema_.digest() != other.schema_.digest():
            raise ParameterError(
                "These models cannot be merged",
                got=f"{type(self).__name__} and {type(other).__name__}",
                rule="same detector, same parameters, same schema",
                fix="fit both with the same declared schema",
            )
        old, scale, before = self.score_histogram_, self.score_scale_, (self.certificate_, other.certificate_)
        total = Total(values=self.totals_ + other.totals_, noise_variance=self.noise_variance_ + other.noise_variance_)
        self.absorb(self.schema_, total)
        edges = self._score_grid()
        a = old.rebinned(edges, scale / self.score_scale_)
        b = other.score_histogram_.rebinned(edges, other.score_scale_ / self.score_scale_)
        self.score_histogram_ = ScoreHistogram(
            edges=edges, counts=a.counts + b.counts, noise_variance=a.noise_variance + b.noise_variance
        )
        self.certificate_ = _superseded("merged with another model", before)
        return self

    def calibrate(self, X: Any) -> Self:
        """Replace the score histogram by that of ``X`` under the present circuit, exactly and locally."""
        self._check_fitted()
        total = local_total(self.score_query(), self.schema_, X)
        self.score_histogram_ = ScoreHistogram(edges=self._score_grid(), counts=total.values)
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
        self.absorb(self.schema_, Total(values=values, noise_variance=self.noise_variance_))
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
        self.certificate_ = _superseded("updated with exact sums", before)
        return self

    def _plausible(self, values: Ints) -> bool:
        return bool((values >= 0).all())

    def _fit_parameters(self) -> dict[str, Any]:
        parameters: dict[str, Any] = self.get_params(deep=False)
        return {k: v for k, v in parameters.items() if k not in ("schema", "contamination")}

    # -- scoring -----------------------------------------------------------------------------------------------------

    def decision_function(self, X: Any) -> Floats:
        """Anomaly score of each record; higher is more anomalous; independent of the other rows.

        Parameters
        ----------
        X : as in :meth:`fit`

        Returns
        -------
        ndarray of shape (n,), float64
        """
        self._check_fitted()
        scores = [self._integer_scores(chunk.X) for chunk in records(self.schema_, X, for_scoring=True)]
        return np.concatenate(scores) * self.score_scale_

    def predict(self, X: Any) -> npt.NDArray[np.int64]:
        """1 for records whose score exceeds ``threshold_``, else 0; shape (n,), int64."""
        return (self.decision_function(X) > self.threshold_).astype(np.int64)

    def predict_proba(self, X: Any) -> Floats:
        """Outlier probability as in PyOD's ``unify`` (Kriegel et al. 2011): erf of the standardised score.

        Mean and deviation come from the released score histogram, not from training scores.

        Returns
        -------
        ndarray of shape (n, 2), float64
            Columns: normal, anomaly.
        """
        from scipy.special import erf

        scores = self.decision_function(X) / self.score_scale_
        mean, deviation = self.score_histogram_.moments()
        anomalous = np.clip(erf((scores - mean) / (deviation * math.sqrt(2))), 0.0, 1.0)
        return np.column_stack([1.0 - anomalous, anomalous])

    @property
    def threshold_(self) -> float:
        """Score above which about a fraction ``contamination`` of the fitted records lie.

        Read off the released histogram, so ``set_params(contamination=...)`` moves it at no privacy cost.
        """
        self._check_fitted()
        self._validate()
        return self.score_histogram_.threshold(self.contamination) * self.score_scale_

    @property
    def is_secret_(self) -> bool:
        """Whether the public encoder is free of anything learned from data, so that blind scoring hides the model."""
        self._check_fitted()
        return bool(self.schema_.ranges == "declared")

    @property
    def decision_scores_(self) -> Floats:
        """Not kept: one number per training record. Raises NotKeptError naming the replacement."""
        raise NotKeptError(
            "decision_scores_ is not kept",
            rule="a model holds no number of a single training record",
            fix="call model.decision_function(X)",
        )

    @property
    def labels_(self) -> Ints:
        """Not kept: one label per training record. Raises NotKeptError naming the replacement."""
        raise NotKeptError(
            "labels_ is not kept",
            rule="a model holds no number of a single training record",
            fix="call model.predict(X)",
        )

    def save(self, path: str | os.PathLike[str], *, sealer: Any = None) -> None:
        """Write the model to a file, sealed at rest when a ``keys.Sealer`` is given. See ``blindsight.modelfile``."""
        # the one upward call: users expect the method, and the file format stands to the right of detectors
        importlib.import_module("blindsight.modelfile").save(self, path, sealer=sealer)

    def _integer_scores(self, X: Floats) -> Ints:
        return evaluate(self.encoder_, self.circuit_, X)

    def _check_fitted(self) -> None:
        if not hasattr(self, "circuit_"):
            raise NotFittedError(
                f"This {type(self).__name__} is not fitted",
                fix="call fit, Federation.fit or blindsight.load first",
            )

    def _check_parameters(self) -> None:
        """Raise unless the fit's own parameters still stand: another ``bins`` is another model."""
        self._check_fitted()
        if self._fit_parameters() != self.fit_parameters_:
            raise ParameterError(
                f"The parameters of this {type(self).__name__} were changed after it was fitted",
                got=repr(self._fit_parameters()),
                rule=f"fitted with {self.fit_parameters_!r}; only contamination may change",
                fix="set them back, or fit again",
            )

    def unfitted_copy(self) -> Self:
        """Return a clone with the same parameters and no fitted state."""
        copy: Self = clone(self)
        return copy


def _superseded(how: str, before: tuple[dict[str, Any] | None, ...]) -> dict[str, Any] | None:
    """Certificate of a model that changed after its release; None where there was none."""
    earlier = [certificate for certificate in before if certificate is not None]
    if not earlier:
        return None
    return {
        "differential_privacy": False,
        "statement": f"This model was {how} after it was released; the earlier certificates cover the releases that "
        "they name, not this model.",
        "earlier": earlier,
    }


def is_number(value: object) -> bool:
    """Whether a parameter is a real number: not a bool, not text."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def local_total(query: SumQuery, schema: Schema, X: Any) -> Total:
    """Sum a query over one's own records, chunk by chunk, exactly."""
    accumulator = np.zeros(query.length, dtype=np.int64)
    # what lies outside the ranges is said once, when it is first read
    for chunk in records(schema, X, warn=query.name == "fit"):
        query.add(accumulator, chunk)
    return Total(values=accumulator)
