"""Detectors trained by rounds: each party trains on its own records, and only the sum of what changed is opened.

No deep-learning library is needed here: parameters are named float32 arrays, and a subclass says how a party trains
(:meth:`RoundDetector._train`) and what a record's loss is (:meth:`RoundDetector._losses`). The state machine::

    prepare (scales="learned") | size (scales="declared")        one private sum
    round/0, [loss/0], round/1, [loss/1], ...                    a sum of updates; with patience, a sum of losses
    threshold                                                    the score histogram

A party's vector in a round is, in this order, its clipped update on an integer grid times its weight; its weight; 1 if
it trained under DP-SGD; and, for SCAFFOLD, the clipped change of its control variate on a grid of its own.
"""

from __future__ import annotations

import copy
import math
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from blindsight.data import Records, Schema, records
from blindsight.errors import BlindsightWarning, DataError, ParameterError

from ._aggregation import robust, server_step
from ._base import EXACT_SCORE_BINS, NOISY_SCORE_BINS, Detector, State, nonnegative, superseded
from ._inputs import Inputs, declared_scaling, learned_scaling, local_scaling, own_scaling
from ._preparation import SHARE, Preparation, Scaling, preparation_query
from ._queries import Local, Query, SumQuery, Total, Update, UpdateQuery
from ._scores import score_edges
from ._training import Training

__all__ = ["RoundDetector", "Trained", "held_out", "initial_uniform", "own_chunks"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Weights = npt.NDArray[np.float32]

GRID = 1 << 16
"""Grid units in the clip norm: truncation to the grid moves an update by at most sqrt(length) / 65,536 of that norm,
and noise up to 500 times the norm stays inside the sampler's domain."""

MAX_ROWS = 1 << 20
"""A party's weight by rows is capped here."""

VALIDATION_LEVELS = 1000
LOSS_LEVELS = 1024
SIZE_SHARE, LOSS_SHARE = 0.02, 0.1
"""Parts of the fit's share of the budget: the count of records, all losses together."""

MAX_PARAMETERS = 1 << 23
SCORE_SCALE = 2.0**-20
MAX_SCORE = 2.0**20
FIRST_SCORE = 2.0**-13

Parameters = dict[str, Weights]


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """What local training came to.

    Parameters
    ----------
    flat : ndarray of shape (P,), float64
        The parameters after it, flattened in their order. Not necessarily finite.
    rows : int
        Records trained on.
    steps : int
        Optimiser steps made.
    before, after : float
        Mean loss of the held-out records before and after; NaN where none were held out.
    """

    flat: Floats
    rows: int
    steps: int
    before: float = math.nan
    after: float = math.nan


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
        if self.scales not in ("learned", "declared", "local"):
            raise ParameterError(
                "scales is out of its domain", got=repr(self.scales)[:60], rule='"learned", "declared" or "local"'
            )
        if type(self.seed) is not int or not 0 <= self.seed < 1 << 63:
            raise ParameterError("seed is out of its domain", got=repr(self.seed)[:60], rule="0 <= seed < 2**63")

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
        self._shapes = {name: array.shape for name, array in self.parameters_.items()}
        check_parameters(self._size)
        self.control_ = np.zeros(self._size, dtype=np.float32) if self._training.scaffold else None
        # the coordinator's alone: no party needs them
        self._server: dict[str, Floats] = {}
        self._best: Parameters | None = None

    # -- the state machine ----------------------------------------------------------------------------------------

    @property
    def _size(self) -> int:
        return sum(math.prod(shape) for shape in self._shapes.values())

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
            return self._size_query()
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
            self._advance_round(total, parties)
            self.loss_due_ = self._training.patience > 0
        if self._can_score() and self._best is not None:
            self.parameters_, self._best = self._best, None

    # -- one round, at a party --------------------------------------------------------------------------------------

    @property
    def _steps(self) -> int:
        """Optimiser steps in a round: the same at every party, so that nobody's number of records shows."""
        return self._training.local_epochs * math.ceil(1.0 / self._training.sampling_rate - 1e-9)

    @property
    def _weighting(self) -> str:
        return "rows" if self._training.weighting == "auto" else self._training.weighting

    @property
    def _max_weight(self) -> int:
        return {"rows": MAX_ROWS, "validation": VALIDATION_LEVELS, "equal": 1}[self._weighting]

    @property
    def _control_norm(self) -> float:
        """L2 bound on the change of a control variate: twice that of an update over (steps * learning rate)."""
        return 2.0 * self._training.clip_norm / (self._steps * self._training.learning_rate)

    def _round_query(self) -> UpdateQuery:
        """One round: see the module's docstring for the vector and :class:`Training` for what bounds it.

        Privacy
        -------
        Adding or removing one party changes the total by at most ``sensitivity_l2``: truncation towards zero never
        lengthens a vector. Under record- or person-level privacy the noise is inside the update (DP-SGD).
        """
        training, size = self._training, self._size
        weight = self._max_weight
        squares = (weight * GRID) ** 2 + weight**2 + 1 + (GRID**2 if training.scaffold else 0)
        return UpdateQuery(
            name=f"round/{self.round_}",
            length=size + 2 + (size if training.scaffold else 0),
            sensitivity_l2=math.sqrt(squares),
            max_abs=weight * GRID,
            update=self._update,
            sampling_rate=training.sampling_rate,
            steps=self._steps,
            total_steps=training.rounds * self._steps,
            fraction=(1.0 - self._taken()) * (1.0 - 1e-9),
            parties=training.parties,
            masked=training.aggregation == "mean",
        )

    def _taken(self) -> float:
        """Part of the fit's share of the budget that the sums besides the updates take."""
        scales = {"learned": SHARE, "declared": SIZE_SHARE, "local": 0.0}[self.scales]
        return scales + (LOSS_SHARE if self._training.patience else 0.0)

    def _update(self, local: Local) -> Update:
        """Train, clip, weigh and round one party's update."""
        training = self._training
        noised = local.noise is not None
        if noised:
            self._check_noise(local)
        start = self._flat(self.parameters_)
        mine = self._own_control(local) if training.scaffold else None
        correction = None if mine is None or self.control_ is None else self.control_ - mine
        trained = self._train(local, self.parameters_, correction)
        delta = trained.flat - start
        empty = np.zeros(self._round_query().length, dtype=np.int64)
        notice = ""
        if not np.isfinite(delta).all():
            notice = "its training diverged: a lower learning_rate or another scaling of its columns may help"
        elif trained.rows == 0 and not noised:
            notice = "it has no records to train on"
        if notice:
            # under DP-SGD the weight is a public constant: it may not tell that this happened
            empty[self._size : self._size + 2] = (1, 1) if noised else (0, 0)
            return Update(values=empty, notice="" if noised else notice)
        delta = clipped(delta, training.clip_norm)
        weight = 1 if noised else self._weight(trained)
        parts = [on_grid(delta, training.clip_norm) * weight, np.array([weight, int(noised)], dtype=np.int64)]
        if mine is not None and self.control_ is not None:
            # SCAFFOLD, option II: c_i <- c_i - c + (x - y) / (steps * rate)
            change = clipped(
                -self.control_ - delta / (max(trained.steps, 1) * training.learning_rate), self._control_norm
            )
            local.memory["scaffold"] = (mine + change).astype("<f4").tobytes()
            parts.append(on_grid(change, self._control_norm))
        return Update(values=np.concatenate(parts))

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

    def _weight(self, trained: Trained) -> int:
        if self._weighting == "rows":
            return min(trained.rows, MAX_ROWS)
        if self._weighting == "equal":
            return 1
        # how much of the loss of records it did not see a party's training took away; half the levels where none
        before, after = trained.before, trained.after
        if not (math.isfinite(before) and math.isfinite(after)) or before + after <= 0:
            return VALIDATION_LEVELS // 2
        return round(VALIDATION_LEVELS * before / (before + after))

    def _own_control(self, local: Local) -> Weights:
        stored = local.memory.get("scaffold", b"")
        control = np.frombuffer(stored, dtype="<f4") if len(stored) == 4 * self._size else np.zeros(self._size)
        return control.astype(np.float32) if np.isfinite(control).all() else np.zeros(self._size, dtype=np.float32)

    # -- one round, at the coordinator ------------------------------------------------------------------------------

    def _advance_round(self, total: Total, parties: int) -> None:
        training, size = self._training, self._size
        self.noise_variance_ = float(total.noise_variance)
        if training.aggregation == "mean":
            values = np.asarray(total.values, dtype=np.float64)
            weight = float(total.values[size])
            self.sampled_noise_ |= bool(total.values[size + 1] > 0) and total.noise_variance == 0
            if total.noise_variance > 0:
                weight = float(parties)  # its own coordinate drowns in the noise
            update = values[:size] / (max(weight, 1.0) * GRID) * training.clip_norm
            control = values[size + 2 :] / (parties * GRID) * self._control_norm
            self._check_mean(update, control, weight, parties)
        else:
            update, control = self._robust(total)
        step, self._server = server_step(
            self._server,
            update,
            server=training.server,
            rate=training.server_rate,
            round_number=self.round_,
            rounds=training.rounds,
        )
        self.parameters_ = self._named(self._flat(self.parameters_) + step)
        if self.control_ is not None:
            # Karimireddy et al. 2020, algorithm 1: by the part of all parties that took part
            self.control_ = (self.control_ + training.parties * control).astype(np.float32)
        self.round_ += 1

    def _check_mean(self, update: Floats, control: Floats, weight: float, parties: int) -> None:
        """Honest updates are at most the clip norm long each, so their mean is; beyond it somebody cheated."""
        bounds = [(update, self._training.clip_norm), (control, self._control_norm)]
        # the noise of a whole vector is sqrt(length) deviations long, and ten more leave no honest round refused
        noise = math.sqrt(self.noise_variance_) * (math.sqrt(self._size) + 10.0) / (max(weight, 1.0) * GRID)
        fine = all(np.linalg.norm(vector) <= bound * (1.0 + noise + 1e-6) for vector, bound in bounds)
        if not fine or not 0 <= weight <= self._max_weight * parties:
            raise ParameterError(
                f"Round {self.round_} was refused: the parties' mean update is longer than any honest one",
                got=f"length {np.linalg.norm(update):.4g}, weight {weight:g}",
                rule=f"at most clip_norm = {self._training.clip_norm:g}: somebody sent more than training allows",
                fix="under masking nobody can see who; find out with the parties, or fit with "
                'Training(aggregation="median"), which shows every update to the coordinator',
            )

    def _robust(self, total: Total) -> tuple[Floats, Floats]:
        training, size = self._training, self._size
        rows = np.asarray(total.values, dtype=np.float64)
        names = total.parties or tuple(str(i) for i in range(len(rows)))
        weights = rows[:, size]
        lengths = np.linalg.norm(rows[:, :size], axis=1)
        fine = (weights >= 0) & (weights <= self._max_weight) & (lengths <= weights * GRID * (1.0 + 1e-9))
        for name in [n for n, ok in zip(names, fine, strict=True) if not ok]:
            warnings.warn(
                f"Round {self.round_}: the update of {name} is longer than clip_norm allows; it is left out.",
                BlindsightWarning,
                stacklevel=4,
            )
        used = fine & (weights > 0)
        self.sampled_noise_ |= bool((rows[:, size + 1] > 0).any())
        if not used.any():
            return np.zeros(size), np.zeros(rows.shape[1] - size - 2)
        updates = rows[used, :size] / (weights[used, None] * GRID) * training.clip_norm
        controls = rows[used, size + 2 :] / GRID * self._control_norm
        how = training.aggregation
        assert how != "mean"
        update = robust(updates, how, training.trimmed)
        return update, robust(controls, how, training.trimmed) if controls.shape[1] else controls[0]

    # -- the small sums ---------------------------------------------------------------------------------------------

    def _size_query(self) -> SumQuery:
        """Number of records: what scales DP-SGD's steps. L2 sensitivity 1, add or remove one record."""

        def add(accumulator: Ints, chunk: Records) -> None:
            accumulator += len(chunk)

        return SumQuery(name="size", length=1, sensitivity_l2=1.0, max_abs=1, add=add, fraction=SIZE_SHARE)

    def _loss_query(self) -> SumQuery:
        """Sum and number of the held-out records' losses.

        Privacy
        -------
        One record adds (loss, 1) in 1,024 levels each, its loss clipped at ``loss_clip``: L2 sensitivity
        1,024 * sqrt(2), add or remove one record.
        """
        training = self._training

        def add(accumulator: Ints, chunk: Records) -> None:
            X = chunk.X[held_out(chunk.X, training.validation)]
            if len(X):
                levels = np.rint(
                    self._clean(self._losses(self._inputs(X)), self.loss_clip) * LOSS_LEVELS / self.loss_clip
                )
                accumulator += np.array([int(levels.sum()), LOSS_LEVELS * len(X)], dtype=np.int64)

        return SumQuery(
            name=f"loss/{self.round_ - 1}",
            length=2,
            sensitivity_l2=LOSS_LEVELS * math.sqrt(2.0),
            max_abs=LOSS_LEVELS,
            add=add,
            fraction=LOSS_SHARE / training.rounds * (1.0 - 1e-9),
        )

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
        noisy = self.noise_variance_ > 0 or self.sampled_noise_
        bins = NOISY_SCORE_BINS if noisy else EXACT_SCORE_BINS
        return score_edges(0, round(FIRST_SCORE / SCORE_SCALE), round(MAX_SCORE / SCORE_SCALE), bins)

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
        """Records at which a round's noise is as long as one party's largest update, for parties of average size."""
        parties = math.sqrt(noise_variance * self._size) / GRID
        return math.ceil(parties * (self.mean_rows_ or 1.0))

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

    def _flat(self, parameters: Mapping[str, Weights]) -> Floats:
        flat: Floats = np.concatenate([parameters[name].ravel() for name in self._shapes]).astype(np.float64)
        return flat

    def _named(self, flat: Floats) -> Parameters:
        return dict(self._split(flat.astype(np.float32)))

    def _split(self, flat: Weights) -> Iterator[tuple[str, Weights]]:
        place = 0
        for name, shape in self._shapes.items():
            count = math.prod(shape)
            yield name, flat[place : place + count].reshape(shape)
            place += count

    def _dump(self) -> State:
        values: dict[str, Any] = {
            "round": self.round_,
            "stopped": self.stopped_,
            "loss_due": self.loss_due_,
            "stale": self.stale_,
            "best_loss": self.best_loss_ if math.isfinite(self.best_loss_) else None,
            "noise_variance": self.noise_variance_,
            "sampled_noise": self.sampled_noise_,
            "mean_rows": self.mean_rows_,
            "personal": self.is_personal_,
            "scales": {name: scale for name, (_, scale) in self.quantised_.items()},
        }
        arrays: dict[str, npt.NDArray[Any]] = {}
        if self.preparation_ is not None:
            values["preparation_noise_variance"] = self.preparation_.noise_variance
            arrays["preparation"] = self.preparation_.counts
        if self.local_scaling_ is not None:
            values["local_centres"] = list(self.local_scaling_.centres)
            values["local_scales"] = list(self.local_scaling_.scales)
        if not self.is_blank or self.is_personal_:
            for name in self._shapes:
                held = self.quantised_.get(name)
                arrays[f"p.{name}"] = self.parameters_[name] if held is None else held[0]
        if self.control_ is not None and not self._can_score():
            arrays["control"] = self.control_
        return State(values=values, arrays=arrays)

    def _load(self, state: State) -> None:
        values, arrays = dict(state.values), dict(state.arrays)
        self.round_ = _whole(values.pop("round"), self._training.rounds)
        self.stale_ = _whole(values.pop("stale"), self._training.rounds)
        flags = [values.pop(name) for name in ("stopped", "loss_due", "sampled_noise", "personal")]
        if not all(type(flag) is bool for flag in flags):
            raise ValueError("a flag is not true or false")
        self.stopped_, self.loss_due_, self.sampled_noise_, self.is_personal_ = flags
        best, rows = values.pop("best_loss"), values.pop("mean_rows")
        self.best_loss_ = math.inf if best is None else nonnegative(best)
        self.mean_rows_ = None if rows is None else nonnegative(rows, low=1.0)
        self.noise_variance_ = nonnegative(values.pop("noise_variance"))
        counts = arrays.pop("preparation", None)
        if counts is not None:
            noise = nonnegative(values.pop("preparation_noise_variance"))
            self.preparation_ = Preparation.from_total(self.schema_, Total(values=counts, noise_variance=noise))
        if (counts is not None) != (self.scales == "learned" and self.mean_rows_ is not None):
            raise ValueError("the preparation does not fit the detector's parameters")
        self._load_local(values)
        self._load_parameters(values.pop("scales"), arrays)
        control = arrays.pop("control", None)
        if (control is not None) != (self._training.scaffold and not self._can_score()):
            raise ValueError("the control variate does not fit the detector's parameters")
        if control is not None:
            self.control_ = _floats(control, (self._size,))
        if values or arrays:
            raise ValueError("the state has unknown parts")

    def _load_local(self, values: dict[str, Any]) -> None:
        centres, scales = values.pop("local_centres", None), values.pop("local_scales", None)
        if centres is None and scales is None:
            return
        for part in (centres, scales):
            if not isinstance(part, list) or len(part) != self.n_features_in_:
                raise ValueError("the local scales are malformed")
        if not all(type(c) is float and -2.0 <= c <= 3.0 for c in centres):
            raise ValueError("the local scales are malformed")
        self.local_scaling_ = own_scaling(
            self.schema_, tuple(centres), tuple(nonnegative(scale, low=1e-6) for scale in scales)
        )

    def _load_parameters(self, scales: object, arrays: dict[str, npt.NDArray[Any]]) -> None:
        if not isinstance(scales, dict) or not set(scales) <= set(self._shapes):
            raise ValueError("the scales of the parameters are malformed")
        if self.is_blank and not self.is_personal_:
            return
        found: Parameters = {}
        for name, shape in self._shapes.items():
            array = arrays.pop(f"p.{name}")
            if name not in scales:
                found[name] = _floats(array, shape)
                continue
            scale = nonnegative(scales[name], low=1e-30)
            if array.dtype != np.int8 or array.shape != shape:
                raise ValueError(f"the parameter {name} has another form than the network's")
            self.quantised_[name] = (array, scale)
            found[name] = dequantised(array, scale)
        self.parameters_ = found


MAX_WEIGHT = 1e6


def _floats(array: npt.NDArray[Any], shape: tuple[int, ...]) -> Weights:
    if array.dtype != np.float32 or array.shape != shape or not (np.abs(array) <= MAX_WEIGHT).all():
        raise ValueError("a parameter has another form than the network's, or is out of range")
    return array


def check_parameters(size: int) -> None:
    """Raise ParameterError for a network without parameters, or with more than travel in one message."""
    if not 1 <= size <= MAX_PARAMETERS:
        raise ParameterError("The network has too many parameters", got=f"{size:,}", rule=f"1 to {MAX_PARAMETERS:,}")


def _whole(value: object, high: int) -> int:
    if type(value) is not int or not 0 <= value <= high:
        raise ValueError("a count is out of range")
    return value


def dequantised(array: npt.NDArray[np.int8], scale: float) -> Weights:
    """The float32 weights that int8 ones stand for."""
    return (array.astype(np.float64) * scale).astype(np.float32)


def own_chunks(local: Local) -> list[Records]:
    """A party's records; none where its source has no rows, which the other parties need not wait for."""
    try:
        return list(local.records())
    except DataError as error:
        if error.what != "The source has no rows":
            raise
        return []


def clipped(vector: Floats, norm: float) -> Floats:
    """Shorten a vector to an L2 norm of at most ``norm``."""
    length = float(np.linalg.norm(vector))
    # one part in 10**12 less, so that rounding in the division cannot carry it over
    return vector if length <= norm else vector * (norm / length * (1.0 - 1e-12))


def on_grid(vector: Floats, norm: float) -> Ints:
    """Scale ``norm`` to GRID and truncate towards zero, which shortens every coordinate: the bound stays exact."""
    integers: Ints = np.trunc(clipped(vector, norm) / norm * (GRID * (1.0 - 1e-12))).astype(np.int64)
    return integers


def held_out(X: Floats, fraction: float) -> npt.NDArray[np.bool_]:
    """Which records are kept for validation, shape (n,): decided by each record's own content, by a public hash.

    So that adding or removing a record changes nobody else's part.
    """
    if fraction <= 0:
        return np.zeros(len(X), dtype=np.bool_)
    mixed = np.zeros(len(X), dtype=np.uint64)
    bits = np.ascontiguousarray(X + 0.0).view(np.uint64)
    for column in bits.T:
        mixed = (mixed ^ column) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    chosen: npt.NDArray[np.bool_] = (mixed >> np.uint64(32)) < np.uint64(round(fraction * 2**32))
    return chosen


def initial_uniform(shapes: Mapping[str, tuple[int, ...]], seed: int, *, gain: float = 1.0) -> Parameters:
    """Glorot-uniform matrices and zero vectors from a public seed, the same whatever library trains them.

    Parameters
    ----------
    shapes : mapping of name to shape
        In order. One axis: zeros. More: uniform with bound ``gain * sqrt(6 / (fan_in + fan_out))`` (Glorot and Bengio
        2010, equation 16), the trailing axes counting as a receptive field.
    seed : int
    gain : float
    """
    stream = np.random.Philox(key=seed)
    found = {}
    for name, shape in shapes.items():
        values = np.zeros(shape, dtype=np.float64)
        if len(shape) > 1:
            field_size = math.prod(shape[2:])
            bound = gain * math.sqrt(6.0 / ((shape[0] + shape[1]) * field_size))
            raw = np.asarray(stream.random_raw(math.prod(shape)), dtype=np.uint64)
            values = ((raw >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0).reshape(shape) * bound
        found[name] = values.astype(np.float32)
    return found
