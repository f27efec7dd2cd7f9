"""What an owner shares of its records: feature rows one by one, or the window that ends with each."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from blindsight.circuits import Windowed
from blindsight.data import Schema, doubtful_order, gather, looking_back, segments, series_key
from blindsight.errors import BlindsightWarning, ParameterError

from ._offer import MpcOffer

__all__ = ["records_of"]

Pieces = Iterator[tuple[Any, npt.NDArray[Any]]]


def records_of(offer: MpcOffer, X: Any, rows: int) -> tuple[int, Pieces]:
    """Number of records, and pieces of them as the program wants them.

    Parameters
    ----------
    offer : MpcOffer
    X : ndarray of shape (n, d), float64
        Or a table, for windows.
    rows : int
        Records of one piece.

    Returns
    -------
    n : int
    pieces : iterator of (place, ndarray of shape (rows, inputs))
        Where in the answers each piece belongs.

    Raises
    ------
    ParameterError, DataError

    Privacy
    -------
    Everything happens where the records are; nothing leaves but the shares that are made of the pieces.
    """
    if isinstance(offer.inputs, Windowed):
        return _windows(offer, offer.inputs, X, rows)
    X = np.asarray(X, dtype=np.float64)
    if X.ndim != 2 or not len(X) or not np.isfinite(X).all():
        raise ParameterError("Records must be finite numbers, one row each", got=str(X.shape))
    starts = range(0, len(X), rows)
    return len(X), ((slice(start, start + rows), offer.records(X[start : start + rows])) for start in starts)


def _windows(offer: MpcOffer, inputs: Windowed, X: Any, rows: int) -> tuple[int, Pieces]:
    schema = Schema.from_json(offer.schema)
    whole = gather(schema, X, for_scoring=True)
    if whole.X.shape[1] != inputs.n_features:
        raise ParameterError(
            "Records have another number of features than the model's inputs",
            got=f"{whole.X.shape[1]} features",
            rule=f"{inputs.n_features}",
        )
    if odd := doubtful_order(schema, whole, inputs.interval):
        warnings.warn(odd, BlindsightWarning, stacklevel=4)
    found = segments(
        len(whole),
        time=whole.time,
        entity=series_key(whole),
        interval=inputs.interval,
        tolerance=inputs.tolerance,
    )
    Z = inputs.rows.encode(np.asarray(whole.X)[found.order])
    pieces = looking_back(found, inputs.span, rows)
    return len(whole), ((place, inputs.joined(Z[windows])) for place, windows in pieces)
