"""What RandomFeatures and OCSVM share: scales, bandwidth, and a weight vector in whole numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from blindsight.circuits import InnerProduct, RandomFourier
from blindsight.data import Records, Schema
from blindsight.errors import ParameterError

from ._base import is_number
from ._moments import numbers_only
from ._preparation import Preparation, Scaling

__all__ = ["check_fourier", "encodings", "even_score_grid", "fourier_encoder", "whole_weights"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

SCORE_BITS = 35
"""|score| stays below 2**35: one bit under the plaintext modulus 2**36 of the encrypted packings."""

WEIGHT_SUM_BITS = 25
"""The weights' absolute sum stays below 2**25, so that float64 products with 27-bit residues are exact."""

DEVIATION = 0.175
"""Part of the declared range that counts as one deviation of a feature. Wider kernels than the usual eighth of the
range rank better, on declared and on learned ranges alike (docs/detectors/random-features.md)."""

ROWS = 4096


def check_fourier(features: object, bandwidth: object, scales: object, seed: object) -> None:
    """Raise ParameterError unless the parameters that both detectors have are in their domain."""
    if type(features) is not int or not 2 <= features <= 1 << 15 or features % 2:
        raise ParameterError("features is out of its domain", got=repr(features)[:60], rule="an even integer to 32768")
    if not is_number(bandwidth) or not 0.01 <= bandwidth <= 100:  # type: ignore[operator]
        raise ParameterError("bandwidth is out of its domain", got=repr(bandwidth)[:60], rule="0.01 to 100")
    if scales not in ("declared", "learned"):
        raise ParameterError("scales is out of its domain", got=repr(scales)[:60], rule="'declared' or 'learned'")
    if type(seed) is not int or not 0 <= seed < 1 << 63:
        raise ParameterError("seed is out of its domain", got=repr(seed)[:60], rule="an integer, 0 <= seed < 2**63")


def fourier_encoder(
    schema: Schema, preparation: Preparation | None, *, detector: str, features: int, bandwidth: float, seed: int
) -> RandomFourier:
    """Build the encoder on learned scales, or on the declared ranges where there is no preparation.

    The kernel is exp(-|u - u'|**2 / (bandwidth**2 d)) on features of deviation one: at bandwidth 1 the gamma = 1 / d
    of PyOD and libsvm.
    """
    numbers_only(schema, detector)
    scaling = Scaling.declared(schema, deviation=DEVIATION) if preparation is None else preparation.centre_scale(schema)
    return RandomFourier(
        lows=scaling.lows,
        highs=scaling.highs,
        logs=scaling.logs,
        centres=scaling.centres,
        scales=scaling.scales,
        bandwidth=float(bandwidth) * math.sqrt(schema.n_features / 2.0),
        pairs=features // 2,
        seed=seed,
    )


def encodings(encoder: RandomFourier, chunk: Records) -> Iterator[Ints]:
    """Encode a chunk a few thousand rows at a time."""
    for start in range(0, len(chunk.X), ROWS):
        yield encoder.encode(chunk.X[start : start + ROWS])


def whole_weights(direction: Floats, encoder: RandomFourier) -> tuple[InnerProduct, float]:
    """Round a direction to integers as large as blind scoring carries.

    Parameters
    ----------
    direction : ndarray of shape (m,), float64
        The score is ``<z(x), direction>``.
    encoder : RandomFourier

    Returns
    -------
    InnerProduct, float
        Circuit and score scale.
    """
    mass = max(float(np.abs(direction).sum()), 1e-9)
    limit = min(2.0**SCORE_BITS / encoder.max_abs, 2.0**WEIGHT_SUM_BITS) - direction.size
    scale = mass / limit
    return InnerProduct(weights=np.rint(direction / scale).astype(np.int64)), scale


def even_score_grid(encoder: RandomFourier, weights: Ints, bins: int) -> Ints:
    """Edges spaced evenly over what Cauchy-Schwarz leaves: |<z, w>| <= |z| |w|; in whole numbers on every machine."""
    top = math.isqrt(encoder.square * sum(int(w) ** 2 for w in weights)) + 1
    edges: Ints = np.unique(np.rint(np.linspace(-top, top, bins - 1)).astype(np.int64))
    return edges
