"""Detectors on random Fourier features: how records are standardised and encoded, and where scores may lie."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from blindsight.circuits import RandomFourier
from blindsight.data import Records, Schema

from ._domains import choice, number, out_of_domain, seed_number
from ._moments import numbers_only
from ._preparation import Scaling
from ._prepared import PreparedDetector

__all__ = ["FourierDetector", "encodings", "even_score_grid"]

Ints = npt.NDArray[np.int64]

DEVIATION = 0.175
"""Part of the declared range that counts as one deviation of a feature. Wider kernels than the usual eighth of the
range rank better, on declared and on learned ranges alike (docs/detectors/random-features.md)."""

ROWS = 4096

MAX_FEATURES = 1 << 15


class FourierDetector(PreparedDetector):
    """Base of RandomFeatures and OCSVM: an inner product with random Fourier features of standardised numbers.

    The kernel is exp(-|u - u'|**2 / (bandwidth**2 d)) on features of deviation one: at bandwidth 1 the gamma = 1 / d
    of PyOD and libsvm.
    """

    features: int
    bandwidth: float
    scales: str
    seed: int

    def _validate(self) -> None:
        super()._validate()
        if type(self.features) is not int or not 2 <= self.features <= MAX_FEATURES or self.features % 2:
            raise out_of_domain("features", self.features, f"an even whole number, 2 to {MAX_FEATURES}")
        number("bandwidth", self.bandwidth, 0.01, 100.0)
        choice("scales", self.scales, ("declared", "learned"))
        seed_number(self.seed)

    def _learns_scales(self) -> bool:
        return self.scales == "learned"

    def encoder(self, schema: Schema) -> RandomFourier:
        """Build the public encoder: a function of schema, parameters and, with learned scales, the preparation."""
        numbers_only(schema, self.name)
        if self.preparation_ is None:
            scaling = Scaling.declared(schema, deviation=DEVIATION)
        else:
            scaling = self.preparation_.centre_scale(schema)
        return RandomFourier(
            lows=scaling.lows,
            highs=scaling.highs,
            logs=scaling.logs,
            centres=scaling.centres,
            scales=scaling.scales,
            bandwidth=float(self.bandwidth) * math.sqrt(schema.n_features / 2.0),
            pairs=self.features // 2,
            seed=self.seed,
        )

    def _score_grid(self) -> Ints:
        return even_score_grid(self._fourier, self.circuit_.weights, self._score_bins)

    @property
    def _fourier(self) -> RandomFourier:
        assert isinstance(self.encoder_, RandomFourier)
        return self.encoder_


def encodings(encoder: RandomFourier, chunk: Records) -> Iterator[Ints]:
    """Encode a chunk a few thousand rows at a time."""
    for start in range(0, len(chunk.X), ROWS):
        yield encoder.encode(chunk.X[start : start + ROWS])


def even_score_grid(encoder: RandomFourier, weights: Ints, bins: int) -> Ints:
    """Edges spaced evenly over what Cauchy-Schwarz leaves: |<z, w>| <= |z| |w|; in whole numbers on every machine."""
    top = math.isqrt(encoder.square * sum(int(w) ** 2 for w in weights)) + 1
    edges: Ints = np.unique(np.rint(np.linspace(-top, top, bins - 1)).astype(np.int64))
    return edges
