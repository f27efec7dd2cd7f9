"""Bounding how many records of one person enter a sum."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from blindsight.errors import DataError, ParameterError

from ._source import NoiseSource

__all__ = ["bound_contributions"]

Mask = npt.NDArray[np.bool_]


def bound_contributions(person_ids: npt.NDArray[Any], max_records: int, source: NoiseSource | None = None) -> Mask:
    """Choose at most ``max_records`` records of each person, uniformly at random.

    Parameters
    ----------
    person_ids : ndarray of shape (n,), integers or strings
        Whose record each row is.
    max_records : int
        At least 1.
    source : NoiseSource, optional
        ``NoiseSource.secure()`` if not given.

    Returns
    -------
    ndarray of shape (n,), bool
        True where the row is used.

    Raises
    ------
    DataError
        The identifiers are neither integers nor strings, or not one-dimensional.
    ParameterError
        ``max_records`` is below 1.

    Privacy
    -------
    Which of a person's records are used depends on that person's records alone, so that removing a person
    changes nobody else's part in the sum. Nothing is released here.
    """
    codes = _codes(person_ids)
    _check_bound(max_records)
    source = NoiseSource.secure() if source is None else source
    order = np.lexsort((source.uint64(codes.size), codes))
    mask = np.zeros(codes.size, dtype=np.bool_)
    mask[order] = _rank_in_runs(codes[order]) < max_records
    return mask


def _codes(person_ids: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    ids = np.asarray(person_ids)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iuUS" and not _all_text(ids)):
        raise DataError(
            "Person identifiers cannot be used",
            got=f"{ids.dtype}, shape {ids.shape}",
            rule="one integer or string per row, none missing",
        )
    codes: npt.NDArray[np.int64] = np.unique(ids, return_inverse=True)[1].astype(np.int64).reshape(-1)
    return codes


def _all_text(ids: npt.NDArray[Any]) -> bool:
    return ids.dtype.kind == "O" and all(isinstance(i, str) for i in ids.tolist())


def _check_bound(max_records: int) -> None:
    if isinstance(max_records, bool) or max_records < 1:
        raise ParameterError("max_records is out of its domain", got=repr(max_records), rule="at least 1")


def _rank_in_runs(sorted_codes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Position of each entry within its run of equal codes."""
    index = np.arange(sorted_codes.size, dtype=np.int64)
    starts = np.ones(sorted_codes.size, dtype=np.bool_)
    starts[1:] = sorted_codes[1:] != sorted_codes[:-1]
    ranks: npt.NDArray[np.int64] = index - np.maximum.accumulate(np.where(starts, index, 0))
    return ranks
