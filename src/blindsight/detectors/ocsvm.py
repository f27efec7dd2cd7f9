"""One-class support vector machine by rounds of private sums, on random Fourier features.

Parties sum, in each round: the encoded records on the wrong side of the present plane, how many they are, and a
histogram of how far records lie from it. Combine: a Frank-Wolfe step of the dual. Circuit: the inner product of the
encoding with minus the normal vector. Nothing here is random but the noise asked for, so that the federated model is
the centralised one, integer for integer.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from blindsight.circuits import InnerProduct, RandomFourier
from blindsight.data import Records, Schema

from ._circuit import whole_weights
from ._domains import number, whole_number
from ._fourier import FourierDetector, encodings, even_score_grid
from ._queries import SumQuery, Total
from ._state import State, integer_vector, nonnegative

__all__ = ["OCSVM"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

PLACES = 64
"""Bins of the histogram by which the plane's offset follows the normal vector."""

MAX_ROUNDS = 1000


class OCSVM(FourierDetector):
    """One-class SVM (Schoelkopf et al. 2001) with a Gaussian kernel in random Fourier features.

    Parameters
    ----------
    contamination : float in (0, .5]
        Fraction of the fitted records above ``threshold_``.
    nu : float in (0, 1)
        Fraction of the records on the wrong side of the plane.
    rounds : int in [2, 1000]
        Private sums; the first is the mean of the encoded records.
    features : int, even, in [2, 32768]
        Length of the encoding.
    bandwidth : float in [.01, 100]
        Of the kernel; 1 is gamma = 1 / d on standardised features.
    scales : {"declared", "learned"}
        As for :class:`RandomFeatures`.
    seed : int in [0, 2**63)
        Public: frequencies are drawn from it.
    schema : Schema, optional
        Without it ``fit`` infers one and the ranges count as learned. Number columns only.

    Notes
    -----
    The dual of the paper's problem (its equations 10 and 11) is the shortest vector w = sum a_i z(x_i) with
    0 <= a_i <= 1 / (nu n) and sum a_i = 1. Frank-Wolfe (Jaggi 2013, algorithm 1) moves w towards the mean of the nu n
    records that score lowest, by 2 / (round + 1): that mean is a private sum once the nu-quantile of the scores is
    known, which the last round's histogram foretells. The records summed are about, not exactly, nu n; the step is
    normalised by how many they were.

    Privacy
    -------
    In each round one record adds its encoding (or nothing), 127 to one counter (or not), and 127 to one bin: L2
    sensitivity at most sqrt(square + 2 * 127**2), square being the encoder's bound; add or remove one record. Each
    round takes 1 / rounds of the fit's share of the budget, after a quarter for learned scales.
    """

    name = "OCSVM"

    def __init__(
        self,
        *,
        contamination: float = 0.1,
        nu: float = 0.5,
        rounds: int = 6,
        features: int = 1024,
        bandwidth: float = 1.0,
        scales: Literal["declared", "learned"] = "declared",
        seed: int = 0,
        schema: Schema | None = None,
    ) -> None:
        self.contamination = contamination
        self.nu = nu
        self.rounds = rounds
        self.features = features
        self.bandwidth = bandwidth
        self.scales = scales
        self.seed = seed
        self.schema = schema

    def _validate(self) -> None:
        super()._validate()
        number("nu", self.nu, 0.0, 1.0, open_low=True, open_high=True)
        whole_number("rounds", self.rounds, 2, MAX_ROUNDS)

    # -- the state machine ------------------------------------------------------------------------------------------

    def _settle(self, schema: Schema) -> None:
        super()._settle(schema)
        self.round_ = 0

    @property
    def is_blank(self) -> bool:
        """Whether nothing has been released yet."""
        return self.preparation_ is None and self.round_ == 0

    def _next_scaled_query(self) -> SumQuery:
        return self.round_query(self.schema_)

    def round_query(self, schema: Schema) -> SumQuery:
        """Return the next round's sum: encodings below the plane, their number, and where all records lie.

        Before the first round there is no plane: every record counts, and the histogram is empty.
        """
        self._validate()
        encoder = self.encoder(schema)
        plane = (self.plane_, self.offset_, self._places()) if self.round_ else None

        def add(accumulator: Ints, chunk: Records) -> None:
            for z in encodings(encoder, chunk):
                below = z
                if plane is not None:
                    normal, offset, edges = plane
                    scores = z @ normal
                    below = z[scores <= offset]
                    place = np.searchsorted(edges, scores, side="right")
                    accumulator[-PLACES:] += encoder.levels * np.bincount(place, minlength=PLACES)
                accumulator[: encoder.length] += below.sum(axis=0)
                accumulator[encoder.length] += encoder.levels * len(below)

        return SumQuery(
            name=f"round/{self.round_ + 1}",
            length=encoder.length + 1 + PLACES,
            sensitivity_l2=math.sqrt(encoder.square + 2 * encoder.levels**2),
            max_abs=encoder.levels,
            add=add,
            fraction=self._share_left / self.rounds,
        )

    def _places(self) -> Ints:
        """Inner edges of the histogram of scores under the present plane."""
        encoder = self.encoder(self.schema_)
        edges = even_score_grid(encoder, self.plane_, PLACES)
        # a plane of tiny weights leaves fewer whole numbers than edges: the last ones then hold nothing
        missing = PLACES - 1 - edges.size
        return np.concatenate([edges, edges[-1] + 1 + np.arange(missing)]) if missing else edges

    def _advance_scaled(self, total: Total) -> None:
        encoder = self.encoder(self.schema_)
        values = np.asarray(total.values, dtype=np.int64)
        count = float(values[encoder.length]) / encoder.levels
        # in units of the kernel: two encodings' product over this is the kernel of their records
        mean = values[: encoder.length] / (max(count, 1.0) * encoder.pairs * encoder.levels**2)
        self.noise_variance_ = float(total.noise_variance)
        if self.round_ == 0:
            self.mean_ = values[: encoder.length + 1].copy()
            normal, offset = mean, self._mean_score(mean)
        else:
            normal, offset = self._step(encoder, values, count, mean)
        circuit, unit = whole_weights(normal, encoder)
        self.plane_, self.unit_ = np.array(circuit.weights), unit
        self.offset_ = math.floor(min(max(offset / unit, -(2.0**60)), 2.0**60))
        self.round_ += 1
        if self.round_ == self.rounds:
            self._adopt(encoder, InnerProduct(weights=-self.plane_), unit)

    def _step(self, encoder: RandomFourier, values: Ints, count: float, mean: Floats) -> tuple[Floats, float]:
        """One Frank-Wolfe step; returns the next normal vector and its offset, in units of the kernel."""
        normal = self.plane_ * self.unit_
        deviation = math.sqrt(self.noise_variance_) / encoder.levels
        step = 2.0 / (self.round_ + 2.0)
        if count <= max(0.5, 3.0 * deviation):
            step = 0.0  # next to nobody below the plane: nothing to move towards but noise
        following = (1.0 - step) * normal + step * mean
        here, there = self._mean_score(normal), self._mean_score(following)
        ratio = float(np.linalg.norm(following)) / max(float(np.linalg.norm(normal)), 1e-300)
        return following, there + (self._quantile(values[-PLACES:]) * self.unit_ - here) * ratio

    def _mean_score(self, normal: Floats) -> float:
        """Mean of <z, normal> over all records, by the first round's sums."""
        n = max(float(self.mean_[-1]) / self.encoder(self.schema_).levels, 1.0)
        return float(self.mean_[:-1].astype(np.float64) @ normal) / n

    def _quantile(self, histogram: Ints) -> float:
        """nu-quantile of the scores under the present plane, linear inside a bin, in whole score units."""
        counts = np.maximum(histogram.astype(np.float64), 0.0)
        edges = self._places().astype(np.float64)
        cumulative = np.cumsum(counts)[:-1] / max(float(counts.sum()), 1e-9)
        return float(np.interp(self.nu, cumulative, edges))

    # -- state ------------------------------------------------------------------------------------------------------

    @property
    def n_records_(self) -> float:
        """From the first round's count."""
        self._check_fitted()
        return max(float(self.mean_[-1]) / self._fourier.levels, 0.0)

    @property
    def n_records_deviation_(self) -> float:
        """Standard deviation of the noise in ``n_records_``."""
        return math.sqrt(self.noise_variance_) / self._fourier.levels

    def noise_floor(self, noise_variance: float) -> int:
        """Records needed for the noise in a round's mean to stay under a hundredth of the kernel's range."""
        return math.ceil(100.0 * math.sqrt(noise_variance / (self.features // 2)) / (127.0 * self.nu))

    def _dump(self) -> State:
        prepared = self._dump_prepared()
        values: dict[str, Any] = {**prepared.values, "round": self.round_}
        arrays = dict(prepared.arrays)
        if self.round_:
            arrays["mean"] = self.mean_
        if self.round_ and not self._can_score():
            values |= {"unit": self.unit_, "offset": self.offset_}
            arrays["plane"] = self.plane_
        return State(values=values, arrays=arrays)

    def _load(self, state: State) -> None:
        values, arrays = dict(state.values), dict(state.arrays)
        self._load_preparation(values, arrays)
        self.round_ = values.pop("round")
        if type(self.round_) is not int or not 0 <= self.round_ <= self.rounds:
            raise ValueError("the round is out of range")
        if self.round_:
            self.mean_ = integer_vector(arrays.pop("mean"), self.features + 1)
        if 0 < self.round_ < self.rounds:
            self.plane_ = InnerProduct(weights=integer_vector(arrays.pop("plane"), self.features)).weights
            self.unit_, self.offset_ = nonnegative(values.pop("unit"), low=1e-100), values.pop("offset")
            if type(self.offset_) is not int or abs(self.offset_) > 1 << 61:
                raise ValueError("the plane's offset is out of range")
        self._load_circuit(values, arrays)
        if values or arrays or self._can_score() != (self.round_ == self.rounds):
            raise ValueError("the state has unknown or missing parts")
