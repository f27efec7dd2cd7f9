"""What a fitted detector says of records: scores, labels and probabilities, as in scikit-learn and PyOD."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator

from blindsight.data import Records, Schema, records
from blindsight.errors import NotFittedError, NotKeptError

from ._domains import number
from ._scores import ScoreHistogram

__all__ = ["ScoringEstimator"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class ScoringEstimator(BaseEstimator, ABC):  # type: ignore[misc]
    """Base of :class:`Detector`: whole-number scores of feature rows, and the threshold of the released histogram.

    Attributes
    ----------
    score_scale_ : float
        ``decision_function`` is a whole number of these.
    score_histogram_ : ScoreHistogram
    """

    contamination: float
    schema_: Schema
    score_scale_: float
    score_histogram_: ScoreHistogram

    @abstractmethod
    def _is_fitted(self) -> bool:
        """Whether records can be scored and a threshold stands."""

    @abstractmethod
    def _integer_scores(self, X: Floats) -> Ints:
        """Scores of feature rows in units of ``score_scale_``, shape (n,), int64."""

    def _validate(self) -> None:
        number(
            "contamination",
            self.contamination,
            0.0,
            0.5,
            open_low=True,
            fix="give the fraction of records you can afford to look at, e.g. 0.02",
        )

    def _chunks(self, schema: Schema, X: Any, *, for_scoring: bool = False) -> Iterator[Records]:
        """Read records in chunks that can be scored by themselves."""
        return records(schema, X, for_scoring=for_scoring, warn=for_scoring)

    def _scores_of(self, chunk: Records) -> Ints:
        """Score of every record of such a chunk, in units of ``score_scale_``; shape (n,), int64."""
        return self._integer_scores(chunk.X)

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
        scores = [self._scores_of(chunk) for chunk in self._chunks(self.schema_, X, for_scoring=True)]
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

    def _check_fitted(self) -> None:
        if not self._is_fitted():
            raise NotFittedError(
                f"This {type(self).__name__} is not fitted",
                fix="call fit, Federation.fit or blindsight.load first",
            )
