"""Random Fourier features: how little a record is like the others, under a Gaussian kernel.

Parties sum: the encoded records. Combine: their mean, which is the kernel density up to a factor. Circuit: the inner
product of the encoding with minus the mean.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

from blindsight.circuits import InnerProduct, RandomFourier
from blindsight.data import Records, Schema

from ._circuit import whole_weights
from ._fourier import FourierDetector, encodings
from ._queries import SumQuery, Total
from ._sums import SumDetector

__all__ = ["RandomFeatures"]

Ints = npt.NDArray[np.int64]


class RandomFeatures(FourierDetector, SumDetector):
    """Kernel density by random Fourier features (Rahimi and Recht 2007): the score is minus <z(x), mean z>.

    Parameters
    ----------
    contamination : float in (0, .5]
        Fraction of the fitted records above ``threshold_``.
    features : int, even, in [2, 32768]
        Length of the encoding: half as many random frequencies, each with its cosine and sine.
    bandwidth : float in [.01, 100]
        Of the Gaussian kernel; 1 is gamma = 1 / d on standardised features.
    scales : {"declared", "learned"}
        ``"learned"`` centres and scales every feature by one more private histogram; the model is then not secret
        under blind scoring. ``"declared"`` takes .175 of the declared range as a feature's deviation.
    seed : int in [0, 2**63)
        Public: frequencies are drawn from it, the same everywhere.
    schema : Schema, optional
        Without it ``fit`` infers one and the ranges count as learned. Number columns only.

    Privacy
    -------
    One record adds an integer vector whose pairs (cosine, sine) lie on a circle of radius 127, rounded: L2
    sensitivity at most 128 sqrt(features / 2), the exact bound being the encoder's. Learned scales are a second
    release, of sensitivity sqrt(d); it takes a quarter of the fit's share of the budget.
    """

    name = "RandomFeatures"

    def __init__(
        self,
        *,
        contamination: float = 0.1,
        features: int = 1024,
        bandwidth: float = 1.0,
        scales: Literal["declared", "learned"] = "declared",
        seed: int = 0,
        schema: Schema | None = None,
    ) -> None:
        self.contamination = contamination
        self.features = features
        self.bandwidth = bandwidth
        self.scales = scales
        self.seed = seed
        self.schema = schema

    def fit_query(self, schema: Schema) -> SumQuery:
        """Sum of the encoded records, and how many there are.

        The count is a coordinate of its own, scaled to the size of the others.
        """
        self._validate()
        encoder = self.encoder(schema)

        def add(accumulator: Ints, chunk: Records) -> None:
            for z in encodings(encoder, chunk):
                accumulator[:-1] += z.sum(axis=0)
                accumulator[-1] += encoder.levels * len(z)

        return SumQuery(
            name="fit",
            length=encoder.length + 1,
            sensitivity_l2=math.sqrt(encoder.square + encoder.levels**2),
            max_abs=encoder.levels,
            add=add,
        )

    def _build(self, schema: Schema, total: Total) -> tuple[RandomFourier, InnerProduct, float]:
        encoder = self.encoder(schema)
        n = max(float(total.values[-1]) / encoder.levels, 1.0)
        # in units of the kernel: the score is minus the mean kernel value, between -1 and 1
        direction = -total.values[:-1].astype(np.float64) / (n * encoder.pairs * encoder.levels**2)
        circuit, scale = whole_weights(direction, encoder)
        return encoder, circuit, scale

    @property
    def n_records_(self) -> float:
        """From the counting coordinate."""
        self._check_fitted()
        return max(float(self.totals_[-1]) / self._fourier.levels, 0.0)

    @property
    def n_records_deviation_(self) -> float:
        """Standard deviation of the noise in ``n_records_``."""
        return math.sqrt(self.noise_variance_) / self._fourier.levels

    def noise_floor(self, noise_variance: float) -> int:
        """Records needed for the noise in a score to stay under a hundredth of the kernel's range."""
        return math.ceil(100.0 * math.sqrt(noise_variance / max(self.features // 2, 1)) / 127.0)

    def _plausible(self, values: Ints) -> bool:
        # the count alone cannot be negative; no other coordinate can exceed it
        return bool(values[-1] >= 0 and (np.abs(values[:-1]) <= values[-1]).all())
