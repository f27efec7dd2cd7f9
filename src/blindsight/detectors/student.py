"""A table that imitates another detector: cheap to score blind where the teacher is deep.

Parties sum, in each round: what the table still lacks of the teacher's score, per feature and bin. Combine: a step of
the table against that residual. Circuit: the inner product of the one-hot bins with the table.
"""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from blindsight.circuits import Encoder, InnerProduct, OneHotBins
from blindsight.data import Records, Schema
from blindsight.errors import NotFittedError, ParameterError

from ._base import Detector, local_total
from ._circuit import CircuitDetector
from ._counts import consistent_counts
from ._domains import whole_number
from ._features import one_hot_bins
from ._queries import Query, SumQuery, Total
from ._state import State, integer_vector

__all__ = ["TableStudent"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

UNIT = 1024
"""Table steps per nat."""

LEVEL = 64
"""Table steps per level of the residual that is summed: a sixteenth of a nat."""

CAP = 128
"""Largest absolute residual of one record in one feature: 8 nats."""

COUNT = 16
"""What one record adds to a count in the first round: about as much as an ordinary residual."""

PROBES = 4
"""Made-up records per slot: what a bin that nobody was in shall say."""

PROBE_WEIGHT = 0.25
"""All probes of a slot together, in records: next to nothing where a few real ones were."""

PROBE_SEED = 0x5374756465
"""Public: the probes are the same everywhere."""

PREFIX = "teacher."


class TableStudent(CircuitDetector):
    """Additive table over one-hot bins, fitted to another detector's scores (distillation, Hinton et al. 2015).

    Parameters
    ----------
    teacher : Detector, optional
        Fitted, under the schema that the student is fitted under; every party sees it. It is not one of
        ``get_params``: a clone shares it, and a saved student does without it.
    contamination : float in (0, .5]
        Fraction of the fitted records above ``threshold_``.
    bins : int in [4, 1024]
        Bins per numeric feature, two of them open, as for :class:`ECOD`.
    rounds : int in [1, 1000]
        Private sums of residuals.
    schema : Schema, optional
        Without it ``fit`` uses the teacher's.

    Notes
    -----
    What is imitated is -log of the share of the teacher's records that score as high, read from the teacher's released
    score histogram: bounded, and alike for every teacher. Backfitting of an additive model (Hastie and Tibshirani
    1990, section 4.4), all features at once, with the step of Barzilai and Borwein (1988) that the last two sums imply.
    Bins that hold nobody are taught by probes: records made up from the released counts, each feature drawn on its
    own, one of them put into the bin. They cost no privacy. No additive table can follow an interaction of two
    features: compare ranks with the teacher's before relying on it.

    Privacy
    -------
    In each round one record adds, for each of the d features, a residual of at most 128 to one bin, and in the first
    round 16 to that bin's count: L2 sensitivity sqrt(d (128**2 + 16**2)) and 128 sqrt(d); add or remove one record.
    Each round takes 1 / rounds of the fit's share. What the teacher has released is not charged again.
    """

    name = "TableStudent"

    _allowed_teachers: frozenset[str] = frozenset()
    """Teachers of other packages that a state may hold: what whoever loads it allows, at a party its policy."""

    def __init__(
        self,
        *,
        teacher: Detector | None = None,
        contamination: float = 0.1,
        bins: int = 64,
        rounds: int = 8,
        schema: Schema | None = None,
    ) -> None:
        self.teacher = teacher
        self.contamination = contamination
        self.bins = bins
        self.rounds = rounds
        self.schema = schema

    @classmethod
    def _get_param_names(cls) -> list[str]:
        """Name the parameters that travel as plain values: the teacher does not."""
        return [name for name in super()._get_param_names() if name != "teacher"]

    def __sklearn_clone__(self) -> Self:
        """Share the teacher, which is fitted and not changed."""
        return type(self)(teacher=self.teacher, **self.get_params(deep=False))

    def _validate(self) -> None:
        super()._validate()
        whole_number("bins", self.bins, 4, 1024)
        whole_number("rounds", self.rounds, 1, 1000)
        if self.teacher is not None and (
            not isinstance(self.teacher, Detector) or isinstance(self.teacher, TableStudent)
        ):
            raise ParameterError("teacher is not a detector of another kind", got=type(self.teacher).__name__)

    # -- the state machine ------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit alone, with exact sums: see :meth:`Detector.fit`. The schema is the teacher's unless one was given."""
        if self.schema is not None or self.teacher is None or not hasattr(self.teacher, "schema_"):
            return super().fit(X, y)
        schema = self.teacher.schema_
        return self.run(schema, lambda query: local_total(query, schema, X))

    def begin(self, schema: Schema) -> None:
        """Validate the parameters, take the teacher, and forget whatever was fitted before."""
        super().begin(schema)
        if self.teacher is None:
            raise ParameterError("A TableStudent needs a teacher", fix="TableStudent(teacher=a_fitted_detector)")
        if not self.teacher._is_fitted():
            raise NotFittedError("The teacher is not fitted", fix="fit it first, under the same schema")
        if self.teacher.schema_.digest() != schema.digest():
            raise ParameterError("The teacher was fitted under another schema", fix="fit both under one schema")
        self.teacher_ = self.teacher

    def _settle(self, schema: Schema) -> None:
        super()._settle(schema)
        self.round_ = 0

    @property
    def is_blank(self) -> bool:
        """Never: a party needs the teacher from the first round on."""
        return False

    def encoder(self, schema: Schema) -> OneHotBins:
        """Build the public encoder: a function of the schema alone."""
        return one_hot_bins(schema, self.bins)

    def _next_fit_query(self) -> Query | None:
        return self.round_query(self.schema_)

    def round_query(self, schema: Schema) -> SumQuery:
        """Return the next round's sum: residuals per feature and bin, in the first round counts besides."""
        self._validate()
        encoder = self.encoder(schema)
        m, first = encoder.length, self.round_ == 0
        table = None if first else (self.table_, self.bias_)

        def add(accumulator: Ints, chunk: Records) -> None:
            residuals = self._targets(chunk.X)
            if table is not None:
                residuals = residuals - encoder.dot(chunk.X, table[0]) - table[1]
            levels = np.clip(np.rint(residuals / LEVEL), -CAP, CAP)
            for slots in encoder.slots(chunk.X).T:
                # whole numbers far below 2**53: exact in any order
                accumulator[:m] += np.bincount(slots, weights=levels, minlength=m).astype(np.int64)
                if first:
                    accumulator[m:] += COUNT * np.bincount(slots, minlength=m)

        square = CAP**2 + (COUNT**2 if first else 0)
        return SumQuery(
            name=f"round/{self.round_ + 1}",
            length=2 * m if first else m,
            sensitivity_l2=math.sqrt(encoder.n_features * square),
            max_abs=CAP,
            add=add,
            fraction=1.0 / self.rounds,
        )

    def _targets(self, X: Floats) -> Ints:
        """What the table shall say of each record: -log of the share that the teacher scores as high, table steps."""
        histogram = self.teacher_.score_histogram_
        n = max(histogram.n_records, 1.0)
        shares = -np.log(np.clip(histogram.tail, 0.5, n) / n)
        scores = self.teacher_._integer_scores(X)
        targets: Ints = np.rint(UNIT * np.interp(scores, histogram.edges, shares)).astype(np.int64)
        return targets

    def _advance_fit(self, query: Query, total: Total) -> None:  # noqa: ARG002 (the base's signature)
        encoder = self.encoder(self.schema_)
        values = np.asarray(total.values, dtype=np.int64)
        m, d = encoder.length, encoder.n_features
        self.noise_variance_ = float(total.noise_variance)
        if self.round_ == 0:
            self.counts_ = values[m:].copy()
        held = self._held(encoder)
        lacking = values[:m] * float(LEVEL)
        step = 1.0 / d
        if self.round_ == 0:
            self.bias_ = round(float(lacking.sum()) / max(float(held.sum()), 1.0))
            lacking -= self.bias_ * held
            self.table_ = np.zeros(m, dtype=np.int64)
        table = self.table_.astype(np.float64)
        lacking += PROBE_WEIGHT * self._lacking_of_probes(encoder, held)
        held += PROBE_WEIGHT
        if self.round_:
            # along the last direction the residual fell linearly: where would it have been nil?
            before, after = float(self.direction_ @ self.lacking_), float(self.direction_ @ lacking)
            step = float(np.clip(self.step_ * before / max(before - after, 1e-9), 1.0 / d, 1.0))
        # a bin of little but noise moves little
        prior = math.sqrt(self.noise_variance_) / COUNT
        direction = lacking / (held + prior)
        self.table_ = np.rint(np.clip(table + step * direction, -(2.0**30), 2.0**30)).astype(np.int64)
        self.direction_: Ints = np.rint(direction).astype(np.int64)
        self.lacking_: Ints = np.rint(lacking).astype(np.int64)
        self.step_: float = step
        self.round_ += 1
        if self.round_ == self.rounds:
            self._adopt(encoder, InnerProduct(weights=self.table_, bias=self.bias_), 1.0 / UNIT)
            del self.teacher_, self.table_, self.direction_, self.lacking_, self.step_

    def _lacking_of_probes(self, encoder: OneHotBins, held: Floats) -> Floats:
        """What the table lacks of the teacher's score on the probes of each slot, their mean."""
        probes = _probes(encoder, held)
        lacking = self._targets(probes) - encoder.dot(probes, self.table_) - self.bias_
        clipped = np.clip(lacking, -CAP * LEVEL, CAP * LEVEL)
        means: Floats = clipped.reshape(PROBES, encoder.length).mean(axis=0)
        return means

    def _held(self, encoder: OneHotBins) -> Floats:
        """Records per slot, consistent where the first round's counts were noisy."""
        blocks = np.split(self.counts_ / COUNT, encoder.offsets[1:])
        if self.noise_variance_ == 0:
            return np.concatenate(blocks)
        n = max(float(np.mean([block.sum() for block in blocks])), 1.0)
        return np.concatenate([consistent_counts(np.rint(block).astype(np.int64), n) for block in blocks])

    # -- state ------------------------------------------------------------------------------------------------------

    def _expected_encoder(self) -> Encoder:
        return self.encoder(self.schema_)

    def _first_score(self) -> tuple[int, int]:
        low = self.circuit_.bounds(self.encoder_)[0]
        return low, max((self.circuit_.bias - low) // 4, 1)

    @property
    def n_records_(self) -> float:
        """Mean over the features of the first round's counts."""
        self._check_fitted()
        return max(float(self.counts_.sum()) / (COUNT * self.n_features_in_), 0.0)

    @property
    def n_records_deviation_(self) -> float:
        """Standard deviation of the noise in ``n_records_``."""
        return math.sqrt(self.noise_variance_ * self.counts_.size) / (COUNT * self.n_features_in_)

    def noise_floor(self, noise_variance: float) -> int:
        """Records that outnumber the noise of one feature's bins, all together, two to one."""
        return math.ceil(2.0 * math.sqrt(noise_variance * self.bins) / COUNT)

    def _dump(self) -> State:
        from ._registry import detector_to_json

        circuit = self._dump_circuit()
        values: dict[str, Any] = {**circuit.values, "round": self.round_}
        arrays = dict(circuit.arrays)
        if self.round_:
            arrays["counts"] = self.counts_
        if not self._can_score():
            taught = self.teacher_.dump()
            values["teacher"] = {"detector": detector_to_json(self.teacher_), "state": dict(taught.values)}
            arrays |= {PREFIX + name: array for name, array in taught.arrays.items()}
            if self.round_:
                values |= {"step": self.step_, "table_bias": self.bias_}
                arrays |= {"table": self.table_, "direction": self.direction_, "lacking": self.lacking_}
        return State(values=values, arrays=arrays)

    def _load(self, state: State) -> None:
        values = dict(state.values)
        arrays = {name: array for name, array in state.arrays.items() if not name.startswith(PREFIX)}
        taught = {name[len(PREFIX) :]: array for name, array in state.arrays.items() if name.startswith(PREFIX)}
        self.round_ = values.pop("round")
        if type(self.round_) is not int or not 0 <= self.round_ <= self.rounds:
            raise ValueError("the round is out of range")
        length = self.encoder(self.schema_).length
        if self.round_:
            self.counts_ = integer_vector(arrays.pop("counts"), length)
        if self.round_ < self.rounds:
            self.teacher_ = self._load_teacher(values.pop("teacher"), taught)
            taught = {}
            if self.round_:
                self.step_, self.bias_ = values.pop("step"), values.pop("table_bias")
                if type(self.step_) is not float or not 0 < self.step_ <= 1:
                    raise ValueError("the step is out of range")
                if type(self.bias_) is not int or abs(self.bias_) > 1 << 31:
                    raise ValueError("the bias is out of range")
                self.table_ = integer_vector(arrays.pop("table"), length)
                InnerProduct(weights=self.table_, bias=self.bias_)
                self.direction_ = integer_vector(arrays.pop("direction"), length)
                self.lacking_ = integer_vector(arrays.pop("lacking"), length)
        self._load_circuit(values, arrays)
        if values or arrays or taught or self._can_score() != (self.round_ == self.rounds):
            raise ValueError("the state has unknown or missing parts")

    def _load_teacher(self, described: object, arrays: dict[str, npt.NDArray[Any]]) -> Detector:
        from ._registry import detector_from_json

        if not isinstance(described, dict) or set(described) != {"detector", "state"}:
            raise ValueError("the teacher is malformed")
        if not isinstance(described["state"], dict):
            raise ValueError("the teacher's state is not an object")
        teacher = detector_from_json(described["detector"], allowed=self._allowed_teachers)
        if isinstance(teacher, TableStudent):
            raise ValueError("the teacher is a student itself")
        teacher.load_state(self.schema_, State(values=described["state"], arrays=arrays))
        if not teacher._is_fitted():
            raise ValueError("the teacher is not fitted")
        return teacher


def _probes(encoder: OneHotBins, held: Floats) -> Floats:
    """Records made up from counts: shape (PROBES * m, d); record i has feature and bin of slot i modulo m.

    Every value is the middle of a bin; an open outer bin's lies one bin's width beyond its edge.
    """
    m, d = encoder.length, encoder.n_features
    words = np.random.Philox(key=PROBE_SEED).random_raw(PROBES * m * d)
    uniform = ((words >> np.uint64(11)).astype(np.float64) * 2.0**-53).reshape(PROBES * m, d)
    out = np.empty((PROBES * m, d))
    each = zip(encoder.edges, encoder.offsets, np.split(held, encoder.offsets[1:]), strict=True)
    for f, (inner, offset, counts) in enumerate(each):
        edges = np.asarray(inner)
        width = (edges[-1] - edges[0]) / (edges.size - 1) if edges.size > 1 else 1.0
        ends = np.concatenate([[edges[0] - 2.0 * width], edges, [edges[-1] + 2.0 * width]])
        middles = (ends[1:] + ends[:-1]) / 2.0
        cumulative = np.cumsum(counts) / max(float(counts.sum()), 1e-9)
        drawn = np.minimum(np.searchsorted(cumulative, uniform[:, f], side="right"), counts.size - 1)
        out[:, f] = middles[drawn]
        for turn in range(PROBES):
            start = turn * m + int(offset)
            out[start : start + counts.size, f] = middles
    return out
