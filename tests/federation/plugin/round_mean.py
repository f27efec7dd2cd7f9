"""A third party's detector, trained by rounds: each party pulls a common mean towards its own. NumPy alone."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from blindsight.data import Schema
from blindsight.detectors import Detector, Local, Query, State, Total, Update, UpdateQuery
from blindsight.errors import ReleaseError
from blindsight.privacy import NoiseSource

GRID = 1 << 16
CLIP = 1.0
STEPS = 4
SCALE = 2.0**-16


class RoundMean(Detector):
    """Distance to a mean that is found by rounds of clipped steps."""

    name: ClassVar[str] = "RoundMean"

    def __init__(
        self,
        *,
        contamination: float = 0.1,
        schema: Schema | None = None,
        rounds: int = 3,
        parties: float = 1.0,
        masked: bool = True,
        sampling_rate: float = 0.25,
        diverges_above: float = 1e9,
        exceeds: bool = False,
        greedy: bool = False,
    ) -> None:
        self.contamination, self.schema, self.rounds, self.parties = contamination, schema, rounds, parties
        self.masked, self.sampling_rate = masked, sampling_rate
        self.diverges_above, self.exceeds, self.greedy = diverges_above, exceeds, greedy

    def _settle(self, schema: Schema) -> None:
        super()._settle(schema)
        self.mean_ = np.zeros(schema.n_features, dtype=np.float32)
        self.round_ = 0
        self.total_parties_ = 0.0

    def _can_score(self) -> bool:
        return self.round_ >= self.rounds

    @property
    def is_blank(self) -> bool:
        return self.round_ == 0

    def _scaled(self, X: Any) -> Any:
        low = np.array([c.low for c in self.schema_.features])
        high = np.array([c.high for c in self.schema_.features])
        return np.clip(2 * (X - low) / (high - low) - 1, -1, 1)

    def _next_fit_query(self) -> Query | None:
        d = self.schema_.n_features
        return UpdateQuery(
            name=f"round/{self.round_}",
            length=d,
            sensitivity_l2=CLIP * GRID,
            max_abs=int(CLIP * GRID),
            update=self._update,
            sampling_rate=self.sampling_rate,
            steps=STEPS,
            total_steps=STEPS * (1 if self.greedy else self.rounds),  # greedy: each round takes all of the share
            fraction=1.0,
            parties=self.parties,
            masked=self.masked,
        )

    def _update(self, local: Local) -> Update:
        X = np.concatenate([self._scaled(chunk.X) for chunk in local.records()])
        d = X.shape[1]
        local.memory["rounds"] = bytes([local.memory.get("rounds", b"\0")[0] + 1])
        local.memory["rows"] = str(len(X)).encode()
        local.cache["rounds"] = int(local.cache.get("rounds", 0)) + 1  # type: ignore[call-overload]
        if len(X) > self.diverges_above:
            return Update(values=np.zeros(d, dtype=np.int64), notice="its update was not finite")
        if local.noise is None:
            step = X.mean(axis=0) - self.mean_
        else:
            generator = np.random.default_rng(int(NoiseSource.secure().uint64(1)[0]))
            chosen = generator.random((STEPS, len(X))) < local.noise.sampling_rate
            step = np.zeros(d)
            for rows in chosen:
                gradients = X[rows] - self.mean_
                gradients = gradients / np.maximum(1, np.linalg.norm(gradients, axis=1, keepdims=True))
                noise = generator.normal(0, local.noise.noise_multiplier * local.noise.records_per_unit, d)
                step += (gradients.sum(axis=0) + noise) / (STEPS * local.noise.sampling_rate * 100)
        step = step * min(1.0, CLIP / max(float(np.linalg.norm(step)), 1e-12))
        values = np.trunc(step * GRID).astype(np.int64)
        return Update(values=2 * values + 2 * GRID if self.exceeds else values)

    def _advance_fit(self, query: Query, total: Total) -> None:
        n = max(len(total.parties), 1)
        values = total.values if self.masked else np.median(total.values, axis=0)
        reach = query.sensitivity_l2 * (n if self.masked else 1) + 8 * np.sqrt(total.noise_variance * query.length)
        if np.linalg.norm(values.astype(np.float64)) > reach:
            raise ReleaseError("The total of the updates is beyond its bound", fix="find out who sent it")
        self.mean_ = (self.mean_ + values / (GRID * (n if self.masked else 1))).astype(np.float32)
        self.round_ += 1
        self.total_parties_ += n
        self.noise_variance_ = total.noise_variance

    def _score_grid(self) -> Any:
        return np.unique(np.linspace(1, 8 * self.schema_.n_features / SCALE, 65).astype(np.int64))

    score_scale_ = SCALE

    @property
    def n_records_(self) -> float:
        return 1e9

    def noise_floor(self, noise_variance: float) -> int:
        return 0

    def _dump(self) -> State:
        return State(
            values={"round": self.round_, "asked": self.total_parties_, "noise": float(self.noise_variance_)},
            arrays={"mean": self.mean_},
        )

    def _load(self, state: State) -> None:
        if set(state.values) != {"round", "asked", "noise"} or set(state.arrays) != {"mean"}:
            raise ValueError("the state has other fields")
        mean, rounds = state.arrays["mean"], state.values["round"]
        if mean.dtype != np.float32 or mean.shape != self.mean_.shape or type(rounds) is not int:
            raise ValueError("the state is malformed")
        if not 0 <= rounds <= self.rounds:
            raise ValueError("a round that does not exist")
        self.mean_, self.round_ = mean, rounds
        self.total_parties_, self.noise_variance_ = float(state.values["asked"]), float(state.values["noise"])

    def _integer_scores(self, X: Any) -> Any:
        distance = ((self._scaled(X) - self.mean_) ** 2).sum(axis=1)
        return np.rint(np.minimum(distance, 8.0 * X.shape[1]) / SCALE).astype(np.int64)
