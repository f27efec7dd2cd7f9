"""The reference evaluator: chunked NumPy, exact integers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from blindsight.errors import ParameterError

from ._encoders import Encoder, OneHotBins, bin_index
from ._layers import InnerProduct

__all__ = ["evaluate"]

CHUNK_ROWS = 16_384


def evaluate(
    encoder: Encoder, circuit: InnerProduct, X: npt.NDArray[np.float64], *, chunk_rows: int = CHUNK_ROWS
) -> npt.NDArray[np.int64]:
    """Score records in the clear, exactly.

    Parameters
    ----------
    encoder, circuit
        Of equal length.
    X : ndarray of shape (n, d), float64
        Finite feature values.
    chunk_rows : int
        Rows worked on at a time; the temporary memory is about ``chunk_rows * d`` numbers.

    Returns
    -------
    ndarray of shape (n,), int64
        What every other engine must return, integer for integer.
    """
    circuit.check(encoder)
    X = np.asarray(X, dtype=np.float64)
    if X.ndim != 2 or X.shape[1] != encoder.n_features:
        raise ParameterError(
            "The feature matrix has the wrong shape", got=str(X.shape), rule=f"(n, {encoder.n_features})"
        )
    out = np.empty(len(X), dtype=np.int64)
    for start in range(0, len(X), chunk_rows):
        rows = slice(start, min(start + chunk_rows, len(X)))
        out[rows] = (_one_hot if isinstance(encoder, OneHotBins) else _quadratic)(encoder, circuit, X[rows])
    return out


def _one_hot(encoder: Encoder, circuit: InnerProduct, X: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    assert isinstance(encoder, OneHotBins)
    score = np.full(len(X), circuit.bias, dtype=np.int64)
    for f, table in enumerate(np.split(circuit.weights, encoder.offsets[1:])):
        score += table[bin_index(X[:, f], np.asarray(encoder.edges[f]))]
    return score


def _quadratic(encoder: Encoder, circuit: InnerProduct, X: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """<z z', W> as a matrix product: exact in float64 because the static bound is below 2**53."""
    assert not isinstance(encoder, OneHotBins)
    z = encoder.homogeneous(encoder.quantise(X))
    upper = np.zeros((encoder.n_features + 1,) * 2, dtype=np.int64)
    upper[np.triu_indices(encoder.n_features + 1)] = circuit.weights
    if int(np.abs(circuit.weights).sum()) * encoder.max_abs < 2**53:
        zf = z.astype(np.float64)
        product = np.einsum("ij,ij->i", zf @ upper.astype(np.float64), zf).astype(np.int64)
    else:
        product = np.einsum("ij,ij->i", z @ upper, z)
    scores: npt.NDArray[np.int64] = product + circuit.bias
    return scores
