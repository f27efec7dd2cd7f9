"""The contract of a detector: a sequence of private sums makes it, and every state on the way can be carried."""

from __future__ import annotations

import importlib
import os
import warnings
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, clone

from blindsight.data import Records, Schema, records
from blindsight.errors import BlindsightWarning, DataError, ParameterError

from ._estimator import ScoringEstimator
from ._queries import Local, Query, SumQuery, Total, TotalOf
from ._scores import ScoreHistogram
from ._state import State, nonnegative

if TYPE_CHECKING:
    from blindsight.data import RollingState

    from ._stream import Stream

__all__ = ["Detector", "local_total", "superseded"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

EXACT_SCORE_BINS = 2048
FEW_LEARNED = 50
"""Fewest records from which ranges are learned without a warning."""
NOISY_SCORE_BINS = 128
"""A noisy histogram has fewer bins: the noise of a tail is that of all its bins together."""


class Detector(ScoringEstimator):
    """Base of every detector.

    A detector is a state machine: :meth:`begin`, then :meth:`next_query` and :meth:`advance` in turn until there is
    no further query. It is the same whether the sums are local (:meth:`fit`) or a federation's, and each state can be
    dumped, sent to the parties, and loaded there, so that a party rebuilds the very query that it is asked.

    Attributes
    ----------
    schema_ : Schema
    noise_variance_ : float
        Variance of the noise on each coordinate of what was fitted; 0 for exact sums.
    score_scale_ : float
        ``decision_function`` is a whole number of these.
    score_histogram_ : ScoreHistogram
    n_features_in_, feature_names_in_
        As in scikit-learn.

    Notes
    -----
    Differences from PyOD, all deliberate: scores never depend on the batch; a model keeps no per-record score
    (``decision_scores_`` and ``labels_`` raise); higher is more anomalous, 1 is an anomaly, as in PyOD.
    """

    name: ClassVar[str]

    schema: Schema | None

    # -- what a subclass states ---------------------------------------------------------------------------------

    @abstractmethod
    def _next_fit_query(self) -> Query | None:
        """Return the next sum that fitting needs, from the present state; None when the model can score."""

    def _later_queries(self) -> list[Query]:
        """Queries that are sure to come after the first one and follow from schema and parameters alone.

        Asked before the first is charged: what would be refused later is refused then.
        """
        return []

    @abstractmethod
    def _advance_fit(self, query: Query, total: Total) -> None:
        """Take the total of ``query`` into the state."""

    @abstractmethod
    def _score_grid(self) -> Ints:
        """Public grid of the score histogram: see :func:`score_edges`. It depends on nothing but the released state."""

    @property
    def _counted(self) -> str:
        """What ``n_records_`` is a number of."""
        return "records"

    @property
    @abstractmethod
    def n_records_(self) -> float:
        """Number of records fitted; an estimate when the totals are noisy."""

    @property
    def n_records_deviation_(self) -> float:
        """Standard deviation of the noise in ``n_records_``: 0 for exact sums.

        Here that of the score histogram's count; a detector that counts records elsewhere overrides it.
        """
        histogram = getattr(self, "score_histogram_", None)
        return 0.0 if histogram is None else float(histogram.deviation)

    @abstractmethod
    def noise_floor(self, noise_variance: float) -> int:
        """Number of records below which noise of this variance drowns the totals."""

    @abstractmethod
    def _dump(self) -> State:
        """Everything fitted but schema, parameters, histogram, certificate and provenance."""

    @abstractmethod
    def _load(self, state: State) -> None:
        """Take what :meth:`_dump` returned, from an untrusted file: TypeError, ValueError, KeyError or a
        BlindsightError on anything that does not fit. ``schema_`` is there already."""

    def _is_fitted(self) -> bool:
        return self._can_score() and hasattr(self, "score_histogram_")

    @abstractmethod
    def _can_score(self) -> bool:
        """Whether only the score histogram may be missing."""

    def _under_privacy(self) -> None:
        """Settle what differential privacy needs where the parameters leave it open; before :meth:`begin`."""

    def check_privacy(self, unit: str) -> None:
        """Refuse differential privacy that this detector cannot keep as its parameters stand.

        Asked by the coordinator before anything is sent, and by every party before anything is charged.

        Parameters
        ----------
        unit : {"record", "person", "party"}

        Raises
        ------
        ParameterError
            With what to set instead.
        """

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
        memory: dict[str, bytes] = {}
        cache: dict[str, object] = {}
        self.run(schema, lambda query: local_total(query, schema, X, memory=memory, cache=cache))
        self._warn_of_few_learned()
        return self

    def _warn_of_few_learned(self) -> None:
        """Warn where the ranges were learned from the records of this very fit, and those are few."""
        if self.schema is None and self.n_records_ < FEW_LEARNED:
            warnings.warn(
                f"{type(self).__name__} was fitted on {self.n_records_:,.0f} records, fewer than {FEW_LEARNED}: ranges "
                "and threshold stand on single ones, and the next record may well lie outside. Fit on more, or "
                "declare the ranges: schema=Schema(...).",
                BlindsightWarning,
                stacklevel=3,
            )

    def run(self, schema: Schema, total_of: TotalOf) -> Self:
        """Fit through any sum: ``total_of(query)`` is asked for one total after the other.

        Parameters
        ----------
        schema : Schema
        total_of : callable Query -> Total
        """
        self.begin(schema)
        while (query := self.next_query()) is not None:
            self.advance(query, total_of(query))
        return self

    def begin(self, schema: Schema) -> None:
        """Validate the parameters and forget whatever was fitted before."""
        self._validate()
        for name in [name for name in vars(self) if name.endswith("_") and not name.startswith("_")]:
            delattr(self, name)
        self._settle(schema)

    def _settle(self, schema: Schema) -> None:
        """Set what follows from schema and parameters alone."""
        self.schema_ = schema
        self.fit_parameters_ = self._fit_parameters()
        self.noise_variance_ = 0.0
        self.n_features_in_ = schema.n_features
        self.feature_names_in_ = np.array(schema.feature_names, dtype=object)
        self.certificate_: dict[str, Any] | None = None
        self.provenance_: dict[str, Any] | None = None

    @property
    def is_blank(self) -> bool:
        """Whether the state follows from schema and parameters alone, so that nothing need be sent."""
        return not self._can_score()

    def next_query(self) -> Query | None:
        """Return the next sum, from the present state; None when fitted. The last one is the score histogram's."""
        if not self._can_score():
            return self._next_fit_query()
        return None if hasattr(self, "score_histogram_") else self.score_query()

    def advance(self, query: Query, total: Total) -> None:
        """Take the total of :meth:`next_query` into the state."""
        if not self._can_score():
            self._advance_fit(query, total)
            return
        self.score_histogram_ = ScoreHistogram(
            edges=self._score_grid(), counts=total.values, noise_variance=total.noise_variance
        )

    def score_query(self) -> SumQuery:
        """Return the sum behind every threshold: a histogram of scores on a grid that the model fixes.

        Privacy
        -------
        One record adds 1 to one bin: L2 sensitivity 1 (add or remove one record).
        """
        edges = self._score_grid()

        def count(chunk: Records) -> Ints:
            place = np.searchsorted(edges, self._integer_scores(chunk.X), side="right")
            return np.bincount(place, minlength=edges.size + 1)

        return self._counting("threshold", edges.size + 1, count)

    @property
    def _score_bins(self) -> int:
        """Bins of the score histogram."""
        return EXACT_SCORE_BINS if self.noise_variance_ == 0 else NOISY_SCORE_BINS

    def _counting(self, name: str, length: int, count: Callable[[Records], Ints]) -> SumQuery:
        """A sum to which a record, or what :meth:`_cases` calls a case, adds 1 in one place.

        Parameters
        ----------
        name : str
        length : int
        count : callable Records -> ndarray of shape (length,), int64
        """

        def add(accumulator: Ints, chunk: Records) -> None:
            accumulator += count(chunk)

        return SumQuery(name=name, length=length, sensitivity_l2=1.0, max_abs=1, add=add)

    def _cases(self, chunk: Records) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """What an evaluation counts, in a chunk with labels: integer scores, and which of them are anomalous."""
        assert chunk.label is not None
        return self._scores_of(chunk), chunk.label != 0

    def calibrate(self, X: Any) -> Self:
        """Replace the score histogram by that of ``X``, exactly and locally: a threshold of one's own.

        Privacy
        -------
        The model then holds how many of these records score how high, without noise, and its certificate says so: it
        is for whoever has ``X``.
        """
        self._check_fitted()
        total = local_total(self.score_query(), self.schema_, X)
        if not total.values.any():
            raise DataError("There is nothing to calibrate on", got=f"no {self._counted}")
        self.score_histogram_ = ScoreHistogram(edges=self._score_grid(), counts=total.values)
        if not getattr(self, "is_personal_", False):  # a personal copy's certificate says more already
            how = "given the exact scores of one party's records, for a threshold of that party's own,"
            self.certificate_ = superseded(how, (self.certificate_,))
        return self

    # -- updating: sum-based detectors override these ---------------------------------------------------------------

    def partial_fit(self, X: Any, y: Any = None) -> Self:  # noqa: ARG002 (scikit-learn's signature)
        """Fit an unfitted model; a fitted one of this kind cannot take further records exactly."""
        if not self._is_fitted():
            return self.fit(X)
        raise self._not_a_sum("take further records")

    def forget(self, X: Any) -> Self:  # noqa: ARG002
        """Refused: what one record did to a model trained by rounds cannot be subtracted."""
        self._check_fitted()
        raise self._not_a_sum("forget records")

    def merge(self, other: Detector) -> Self:  # noqa: ARG002
        """Refused: two models trained by rounds do not add up."""
        self._check_fitted()
        raise self._not_a_sum("be merged")

    def personalise(
        self,
        X: Any,  # noqa: ARG002
        *,
        epochs: int = 5,  # noqa: ARG002
        learning_rate: float | None = None,  # noqa: ARG002
        distil: float = 0.0,  # noqa: ARG002
    ) -> Self:
        """Refused: only a network can be trained further on one party's own records; those override this."""
        raise ParameterError(
            f"A {type(self).__name__} cannot be personalised",
            rule="only a network, e.g. AutoEncoder, is trained further on one party's own records",
            fix="call calibrate(X) for a threshold of one's own",
        )

    def localise(self, X: Any) -> Self:  # noqa: ARG002
        """Refused: only a network has scales of its records that one party can replace; those override this."""
        raise ParameterError(
            f"A {type(self).__name__} cannot be localised",
            rule="only a network, e.g. AutoEncoder, standardises by a mean and deviation that can be one party's own",
            fix="call calibrate(X) for a threshold of one's own",
        )

    def _not_a_sum(self, what: str) -> ParameterError:
        return ParameterError(
            f"A fitted {type(self).__name__} cannot {what}",
            rule="only a model that is one sum over its records can",
            fix="fit again on the records that shall count, or use ECOD, IForest or another sum-based detector",
        )

    # -- in words ---------------------------------------------------------------------------------------------------

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        """scikit-learn's text, without the schema: that has a file of its own."""
        if self.schema is None:
            return str(super().__repr__(N_CHAR_MAX=N_CHAR_MAX))
        bare = clone(self)
        bare.schema = None
        return str(BaseEstimator.__repr__(bare, N_CHAR_MAX=N_CHAR_MAX))

    def _repr_html_(self) -> str:
        from ._display import detector_html

        return detector_html(self)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        # scikit-learn's would draw a diagram of parameters alone
        return {"text/plain": repr(self), "text/html": self._repr_html_()}

    def _fit_parameters(self) -> dict[str, Any]:
        parameters: dict[str, Any] = self.get_params(deep=False)
        return {k: v for k, v in parameters.items() if k not in ("schema", "contamination")}

    # -- state --------------------------------------------------------------------------------------------------------

    def dump(self) -> State:
        """The present state as plain values; the model file adds schema, parameters, certificate and provenance."""
        self._check_parameters()
        own = self._dump()
        histogram = getattr(self, "score_histogram_", None)
        if histogram is None:
            return own
        return State(
            values={**own.values, "histogram_noise_variance": float(histogram.noise_variance)},
            arrays={**own.arrays, "score_edges": histogram.edges, "score_counts": histogram.counts},
        )

    def load_state(self, schema: Schema, state: State) -> None:
        """Take an untrusted state; TypeError, ValueError, KeyError or a BlindsightError on anything that does not
        fit."""
        self._settle(schema)
        values, arrays = dict(state.values), dict(state.arrays)
        edges, counts = arrays.pop("score_edges", None), arrays.pop("score_counts", None)
        noise = values.pop("histogram_noise_variance", None)
        self._load(State(values=values, arrays=arrays))
        if edges is None and counts is None and noise is None:
            return
        if edges is None or counts is None or noise is None or not self._can_score():
            raise ValueError("a part of the score histogram is missing")
        if edges.dtype != np.int64 or counts.dtype != np.int64 or edges.ndim != 1 or counts.shape != (edges.size + 1,):
            raise ValueError("the score histogram is inconsistent")
        if edges.size == 0 or (np.diff(edges) <= 0).any():
            raise ValueError("the score histogram is inconsistent")
        self.score_histogram_ = ScoreHistogram(edges=edges, counts=counts, noise_variance=nonnegative(noise))

    def describe_state(self) -> dict[str, Any]:
        """What can be said of the fitted model in public: no weight and no count. Subclasses add to it."""
        return {"encoding": "none", "encoding_length": 0, "score_bits": 63}

    # -- the fitted model -------------------------------------------------------------------------------------------

    @property
    def is_secret_(self) -> bool:
        """Whether the public encoder is free of anything learned from data, so that blind scoring hides the model."""
        self._check_fitted()
        return bool(self.schema_.ranges == "declared")

    def stream(self, rolling: RollingState | None = None) -> Stream:
        """Score one record at a time, on its owner's machine: the same integers as :meth:`decision_function`.

        Parameters
        ----------
        rolling : RollingState, optional
            Adds rolling features to each record first.
        """
        from ._stream import Stream

        return Stream(self, rolling)

    def save(self, path: str | os.PathLike[str], *, sealer: Any = None) -> None:
        """Write the model to a file, sealed at rest when a ``keys.Sealer`` is given. See ``blindsight.modelfile``."""
        # the one upward call: users expect the method, and the file format stands to the right of detectors
        importlib.import_module("blindsight.modelfile").save(self, path, sealer=sealer)

    def _check_parameters(self) -> None:
        """Raise unless the fit's own parameters still stand: another ``bins`` is another model."""
        if not hasattr(self, "schema_"):
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


def superseded(how: str, before: tuple[dict[str, Any] | None, ...]) -> dict[str, Any] | None:
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


def local_total(
    query: Query,
    schema: Schema,
    X: Any,
    *,
    memory: dict[str, bytes] | None = None,
    cache: dict[str, object] | None = None,
) -> Total:
    """Answer a query from one's own records, exactly: a sum chunk by chunk, or one round of training."""
    if isinstance(query, SumQuery):
        accumulator = np.zeros(query.length, dtype=np.int64)
        # what lies outside the ranges is said once, when it is first read
        for chunk in records(schema, X, warn=query.name == "fit"):
            query.add(accumulator, chunk)
        return Total(values=accumulator)
    local = Local(
        records=lambda: records(schema, X, warn=False),
        memory={} if memory is None else memory,
        cache={} if cache is None else cache,
    )
    values = query.update(local).values
    return Total(values=values if query.masked else values[None, :])
