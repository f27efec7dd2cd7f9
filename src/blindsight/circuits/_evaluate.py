"""The reference evaluator: chunked NumPy, exact integers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from blindsight.errors import ParameterError

from ._encoding import Encoder
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
        out[rows] = encoder.dot(X[rows], circuit.weights) + circuit.bias
    return out
