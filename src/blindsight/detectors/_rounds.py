"""Detectors trained by rounds: each party trains on its own records, and only the sum of what changed is opened.

No deep-learning library is needed here: parameters are named float32 arrays, and a subclass says how a party trains
(:meth:`RoundDetector._train`) and what a record's loss is (:meth:`RoundDetector._losses`). The state machine::

    prepare (scales="learned") | size (scales="declared")        one private sum
    round/0, [loss/0], round/1, [loss/1], ...                    a sum of updates; with patience, a sum of losses
    threshold                                                    the score histogram

What a party's vector in a round holds, and what its total says, is in ``_round_vector``.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from blindsight.data import Records, Schema, records
from blindsight.errors import DataError, ParameterError

from ._aggregation import server_step
from ._base import NOISY_SCORE_BINS, Detector, superseded
from ._domains import choice, seed_number
from ._inputs import Inputs, declared_scaling, learned_scaling, local_scaling
from ._own_records import held_out
from ._parameters import Layout, Parameters, Weights, check_parameters
from ._preparation import SHARE, Preparation, Scaling, preparation_query
from ._queries import Local, Query, SumQuery, Total, Update, UpdateQuery
from ._round_state import dump_rounds, load_rounds
from ._round_sums import LOSS_SHARE, SIZE_SHARE, loss_levels, loss_query, size_query
from ._round_vector import RoundVector, Trained, clipped
from ._scores import score_edges
from ._state import State
from ._training import Training

__all__ = ["RoundDetector"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

SCORE_SCALE = 2.0**-20
MAX_SCORE = 2.0**20
FIRST_SCORE = 2.0**-13


class RoundDetector(Detector):
    """Base of the detectors that are trained by rounds.

    A subclass has the constructor parameters ``contamination``, ``training``, ``scales``, ``seed`` and ``schema``, and
    states :meth:`_initial`, :meth:`_train` and :meth:`_losses`.

    Attributes
    ----------
    parameters_ : dict of str to ndarray, float32
        The shared model.
    round_ : int
        Rounds taken.
    best_loss_ : float
        Smallest privately summed validation loss so far; infinite where none was asked for.
    preparation_ : Preparation or None
    is_personal_ : bool
        Whether the model was tuned to one party's records, exactly; it must not be shared then.
    """

    name: ClassVar[str]
    default_training: ClassVar[Training] = Training()
    """Used where ``training`` is None."""
    loss_clip: ClassVar[float] = 4.0
    """A record's loss counts at most this much in the early-stopping sum."""
    momentum: ClassVar[float] = 0.9

    training: Training | None
    scales: str
    seed: int

    # -- what a subclass states ---------------------------------------------------------------------------------

    @abstractmethod
    def _initial(self, schema: Schema) -> Parameters:
        """Initial parameters, by name and in a fixed order: a function of schema and parameters (``seed`` is public)
        that does not depend on any library's version. See :func:`initial_uniform`."""

    @abstractmethod
    def _train(self, local: Local, start: Parameters, correction: Weights | None) -> Trained:
        """Train on one party's records from ``start`` on; ``correction`` (flat) is added to every gradient."""

    @abstractmethod
    def _losses(self, Z: Floats) -> Floats:
        """Loss of each record from its inputs (:meth:`_inputs`), shape (n, m) -> (n,): the anomaly score."""

    # -- parameters ---------------------------------------------------------------------------------------------

    @property
    def _training(self) -> Training:
        return self.default_training if self.training is None else self.training

    def _validate(self) -> None:
        super()._validate()
        if self.training is not None and not isinstance(self.training, Training):
            raise ParameterError("training is not a Training", got=type(self.training).__name__)
        choice("scales", self.scales, ("learned", "declared", "local"))
        seed_number(self.seed)

    def _under_privacy(self) -> None:
        self._check_private()
        self.training = self._training.under_privacy()

    def _settle(self, schema: Schema) -> None:
        super()._settle(schema)
        self.preparation_: Preparation | None = None
        self.mean_rows_: float | None = None
        self.round_ = 0
        self.stopped_ = False
        self.loss_due_ = False
        self.best_loss_ = math.inf
        self.stale_ = 0
        self.sampled_noise_ = False
        self.is_personal_ = False
        self.score_scale_ = SCORE_SCALE
        self.local_scaling_: Scaling | None = None
        self.quantised_: dict[str, tuple[npt.NDArray[np.int8], float]] = {}
        self.parameters_ = self._initial(schema)
        self._layout = Layout.of(self.parameters_)
        check_parameters(self._size)
        self.control_ = np.zeros(self._size, dtype=np.float32) if self._training.scaffold else None
        # the coordinator's alone: no party needs them
        self._server: dict[str, Floats] = {}
        self._best: Parameters | None = None

    # -- the state machine ----------------------------------------------------------------------------------------

    @property
    def _size(self) -> int:
        return self._layout.size

    @property
    def is_blank(self) -> bool:
        """Whether nothing has been released yet."""
        return self.round_ == 0 and self.preparation_ is None and self.mean_rows_ is None

    def _can_score(self) -> bool:
        if not hasattr(self, "parameters_"):
            return False
        return (self.stopped_ or self.round_ >= self._training.rounds) and not self.loss_due_

    def _next_fit_query(self) -> Query | None:
        if self.scales == "learned" and self.preparation_ is None:
            return preparation_query(self.schema_)
        if self.scales == "declared" and self.mean_rows_ is None:
            return size_query()
        return self._loss_query() if self.loss_due_ else self._round_query()

    def _later_queries(self) -> list[Query]:
        return [self._round_query()]

    def _advance_fit(self, query: Query, total: Total) -> None:
        parties = max(len(total.parties), 1)
        if query.name == "prepare":
            self.preparation_ = Preparation.from_total(self.schema_, total)
            rows = float(self.preparation_.counts.sum()) / self.n_features_in_
            self.mean_rows_ = max(rows / parties, 1.0)
        elif query.name == "size":
            self.mean_rows_ = max(float(total.values[0]) / parties, 1.0)
        elif self.loss_due_:
            self._advance_loss(total)
        else:
            self._advance_round(total)
            self.loss_due_ = self._training.patience > 0
        if self._can_score() and self._best is not None:
            self.parameters_, self._best = self._best, None

    # -- one round, at a party --------------------------------------------------------------------------------------

    @property
    def _vector(self) -> RoundVector:
        return RoundVector(training=self._training, size=self._size, seed=self.seed, round_number=self.round_)

    def _round_query(self) -> UpdateQuery:
        """One round: see :class:`RoundVector` for the vector and :class:`Training` for what bounds it.

        Privacy
        -------
        Adding or removing one party changes the total by at most ``sensitivity_l2``. Under record- or person-level
        privacy the noise is inside the update (DP-SGD).
        """
        training, vector = self._training, self._vector
        return UpdateQuery(
            name=f"round/{self.round_}",
            length=vector.length,
            sensitivity_l2=vector.sensitivity_l2,
            max_abs=vector.max_abs,
            update=self._update,
            sampling_rate=training.sampling_rate,
            steps=vector.steps,
            total_steps=training.rounds * vector.steps,
            fraction=(1.0 - self._taken()) * (1.0 - 1e-9),
            parties=training.parties,
            masked=training.aggregation == "mean",
            narrow=training.grid_bits < 16,
        )

    @property
    def _held_fraction(self) -> float:
        """Part of a party's records that is held out: none where no loss of theirs is looked at."""
        training = self._training
        return training.validation if training.patience or self._vector.weighting == "validation" else 0.0

    def _taken(self) -> float:
        """Part of the fit's share of the budget that the sums besides the updates take."""
        scales = {"learned": SHARE, "declared": SIZE_SHARE, "local": 0.0}[self.scales]
        return scales + (LOSS_SHARE if self._training.patience else 0.0)

    def _update(self, local: Local) -> Update:
        """Train, clip, weigh and round one party's update."""
        training, vector = self._training, self._vector
        noised = local.noise is not None
        if noised:
            self._check_noise(local)
        mine = self._own_control(local) if training.scaffold else None
        correction = None if mine is None or self.control_ is None else self.control_ - mine
        trained = self._train(local, self.parameters_, correction)
        delta = trained.flat - self._layout.flat(self.parameters_)
        notice = ""
        if not np.isfinite(delta).all():
            notice = "its training diverged: a lower learning_rate or another scaling of its columns may help"
        elif trained.rows == 0 and not noised:
            notice = f"it has {self._lack}"
        if notice:
            return Update(values=vector.nothing(noised=noised), notice="" if noised else notice)
        delta = clipped(delta, training.clip_norm)
        change = None
        if mine is not None and self.control_ is not None:
            # SCAFFOLD, option II: c_i <- c_i - c + (x - y) / (steps * rate)
            change = -self.control_ - delta / (max(trained.steps, 1) * training.learning_rate)
            change = clipped(change, vector.control_norm)
            local.memory["scaffold"] = (mine + change).astype("<f4").tobytes()
        if training.compresses:
            delta = delta + self._waiting(local)
        sent, left = vector.rounded(delta)
        if training.compresses:
            left = clipped(left, training.clip_norm / training.sent_fraction)
            local.memory["waiting"] = left.astype("<f4").tobytes()
        weight = 1 if noised else vector.weight(trained)
        return Update(values=vector.packed(sent, weight, change, noised=noised))

    @property
    def _lack(self) -> str:
        """What a party lacks that has nothing to add, and was not found to diverge."""
        return "no records to train on"

    def _check_noise(self, local: Local) -> None:  # noqa: ARG002 (subclasses look at it)
        """Refuse what differential privacy cannot be had with; ``local.noise`` is there."""
        self._check_private()

    def check_privacy(self, unit: str) -> None:
        """Refuse a party's own scales, in every sum: one record would move the inputs of all others."""
        super().check_privacy(unit)
        if self.scales == "local":
            raise ParameterError(
                "A party's own scales are computed from its records",
                got='scales="local" under differential privacy',
                rule="what is computed from records before the noise is part of the mechanism",
                fix='use scales="declared" or "learned"',
            )

    def _check_private(self) -> None:
        RoundDetector.check_privacy(self, "record")  # the same for every unit
        self._training.under_privacy()
        if self._training.augment == "mixup":
            raise ParameterError(
                "Mixed records have no sensitivity of one record",
                got='augment="mixup" under differential privacy',
                rule="DP-SGD clips the gradient of one record at a time",
                fix='use augment="jitter" or "none"',
            )

    def _own_control(self, local: Local) -> Weights:
        return self._remembered(local, "scaffold")

    def _waiting(self, local: Local) -> Weights:
        """What earlier rounds did not send: error feedback (Karimireddy et al. 2019, algorithm 2).

        Privacy
        -------
        It never leaves but through a later round's vector, whose bound holds whatever is in it. Under DP-SGD it is
        made of noised updates alone, and costs nothing more.
        """
        return self._remembered(local, "waiting")

    def _remembered(self, local: Local, key: str) -> Weights:
        """A vector of this party's own from its last round, shape (P,); zeros at first."""
        stored = local.memory.get(key, b"")
        vector = np.frombuffer(stored, dtype="<f4") if len(stored) == 4 * self._size else np.zeros(self._size)
        return vector.astype(np.float32) if np.isfinite(vector).all() else np.zeros(self._size, dtype=np.float32)

    # -- one round, at the coordinator ------------------------------------------------------------------------------

    def _advance_round(self, total: Total) -> None:
        training = self._training
        self.noise_variance_ = float(total.noise_variance)
        opened = self._vector.opened(total, self.round_)
        if opened.empty:
            self._refuse_untrained()
        self.sampled_noise_ |= opened.sampled_noise
        step, self._server = server_step(
            self._server,
            opened.update,
            server=training.server,
            rate=training.server_rate,
            round_number=self.round_,
            rounds=training.rounds,
        )
        self.parameters_ = self._layout.named(self._layout.flat(self.parameters_) + step)
        if self.control_ is not None:
            # Karimireddy et al. 2020, algorithm 1: by the part of all parties that took part
            self.control_ = (self.control_ + training.parties * opened.control).astype(np.float32)
        self.round_ += 1

    def _refuse_untrained(self) -> None:
        """Stop after a round to which nobody added, if the model is still the initial one.

        At once where every party was asked; where a part of them is, after the last round.
        """
        training = self._training
        if training.parties < 1.0 and self.round_ + 1 < training.rounds:
            return
        if np.array_equal(self._layout.flat(self.parameters_), self._layout.flat(self._initial(self.schema_))):
            raise DataError(
                f"Nothing was added in round {self.round_}, so that there is no trained model",
                got=f"{self._lack}, or training that diverged",
                rule="at least one party has what to train on",
                fix="give more records, or settings that fewer records suffice for; a lower learning_rate where "
                "training diverged",
            )

    # -- the held-out loss --------------------------------------------------------------------------------------------

    def _loss_query(self) -> SumQuery:
        training = self._training

        def add(accumulator: Ints, chunk: Records) -> None:
            X = chunk.X[held_out(chunk.X, training.validation)]
            if len(X):
                accumulator += self._loss_levels(self._losses(self._inputs(X)))

        return loss_query(add, self.round_ - 1, training.rounds)

    def _loss_levels(self, losses: Floats) -> Ints:
        return loss_levels(self._clean(losses, self.loss_clip), self.loss_clip)

    def _advance_loss(self, total: Total) -> None:
        loss = float(total.values[0]) / max(float(total.values[1]), 1.0)
        self.loss_due_ = False
        if loss < self.best_loss_:
            self.best_loss_, self.stale_ = max(loss, 0.0), 0
            self._best = {name: array.copy() for name, array in self.parameters_.items()}
        else:
            self.stale_ += 1
            self.stopped_ = self.stale_ >= self._training.patience

    # -- scoring ------------------------------------------------------------------------------------------------------

    def _scaling(self) -> Scaling:
        if self.local_scaling_ is not None:
            return self.local_scaling_
        if self.preparation_ is not None:
            return learned_scaling(self.schema_, self.preparation_)
        if self.scales == "local":
            raise ParameterError(
                "This model was trained on every party's own scales and has none itself",
                rule='with scales="local" a mean and a deviation never leave their party',
                fix="call model.localise(X) with records of the party whose records are to be scored",
            )
        return declared_scaling(self.schema_)

    def _inputs(self, X: Floats) -> Floats:
        """Map feature rows to inputs: (n, d) -> (n, m), float64, bounded."""
        return Inputs.of(self.schema_, self._scaling())(X)

    def _party_inputs(self, X: Floats) -> Floats:
        """As at a party that trains or sums: on its own scales where that was asked for."""
        if self.scales == "local" and self.local_scaling_ is None:
            return Inputs.of(self.schema_, local_scaling(self.schema_, X))(X)
        return self._inputs(X)

    def _clean(self, losses: Floats, high: float) -> Floats:
        """Bound losses; what is not a number is as anomalous as can be."""
        bounded: Floats = np.clip(np.nan_to_num(losses, nan=high, posinf=high, neginf=0.0), 0.0, high)
        return bounded

    def _integer_scores(self, X: Floats) -> Ints:
        return self._scored(self._inputs(X))

    def _cases(self, chunk: Records) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """As for every detector; with ``scales="local"`` each party scales its own chunk."""
        if self.scales != "local" or self.local_scaling_ is not None:
            return super()._cases(chunk)
        assert chunk.label is not None
        return self._scored(self._party_inputs(chunk.X)), chunk.label != 0

    def _scored(self, Z: Floats) -> Ints:
        scores: Ints = np.rint(self._clean(self._losses(Z), MAX_SCORE) / SCORE_SCALE).astype(np.int64)
        return scores

    def score_query(self) -> SumQuery:
        """Return the sum behind every threshold; with ``scales="local"`` each chunk is scaled by itself."""
        query = super().score_query()
        if self.scales != "local" or self.local_scaling_ is not None:
            return query
        edges = self._score_grid()

        def add(accumulator: Ints, chunk: Records) -> None:
            place = np.searchsorted(edges, self._scored(self._party_inputs(chunk.X)), side="right")
            accumulator += np.bincount(place, minlength=accumulator.size)

        return replace(query, add=add)

    def _score_grid(self) -> Ints:
        return score_edges(0, round(FIRST_SCORE / SCORE_SCALE), round(MAX_SCORE / SCORE_SCALE), self._score_bins)

    @property
    def _score_bins(self) -> int:
        return NOISY_SCORE_BINS if self.sampled_noise_ else super()._score_bins

    @property
    def is_secret_(self) -> bool:
        """Whether nothing public was learned from data."""
        return super().is_secret_ and self.preparation_ is None

    @property
    def n_records_(self) -> float:
        """Number of records in the score histogram; before that one, a party's mean number."""
        histogram = getattr(self, "score_histogram_", None)
        return float(histogram.n_records) if histogram is not None else self.mean_rows_ or 0.0

    def noise_floor(self, noise_variance: float) -> int:
        """Records at which a round's noise is as long as one party's largest update, for parties of average size.

        And no fewer than outnumber the noise of the score histogram's bins, all together, two to one: under DP-SGD the
        noise inside the updates is not known here, and the histogram's is.
        """
        parties = math.sqrt(noise_variance * self._vector.sent) / self._vector.grid
        return math.ceil(max(parties * (self.mean_rows_ or 1.0), 2.0 * self.n_records_deviation_))

    def describe_state(self) -> dict[str, Any]:
        """Size and training of the model; no parameter of it."""
        return {
            **super().describe_state(),
            "parameters": self._size,
            "rounds": self.round_,
            "personal": self.is_personal_,
            "int8": bool(self.quantised_),
        }

    # -- one party's own ----------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit alone; with ``scales="local"`` on the mean and deviation of ``X``. See :meth:`Detector.fit`."""
        super().fit(X, y)
        if self.scales == "local":
            self.local_scaling_ = local_scaling(self.schema_, self._matrix(X))
        return self

    def localise(self, X: Any) -> Self:
        """Return a copy that standardises by the mean and deviation of ``X``: one party's own scales.

        Privacy
        -------
        The copy holds means and deviations of ``X``, exactly: it is marked personal and must not be shared.
        """
        self._check_fitted()
        mine = self._personal("given one party's own scales")
        mine.local_scaling_ = local_scaling(self.schema_, self._matrix(X))
        return mine.calibrate(X)

    def _personal(self, how: str) -> Self:
        mine = copy.deepcopy(self)
        mine.certificate_ = superseded(f"{how}, exactly, and must stay with that party", (self.certificate_,))
        mine.is_personal_ = True
        return mine

    def _matrix(self, X: Any) -> Floats:
        return np.concatenate([chunk.X for chunk in records(self.schema_, X, warn=False)])

    # -- state --------------------------------------------------------------------------------------------------------

    def _dump(self) -> State:
        return dump_rounds(self)

    def _load(self, state: State) -> None:
        load_rounds(self, state)
