"""Bounding how many records of one person enter a sum."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from blindsight.errors import DataError, ParameterError

from ._source import NoiseSource

__all__ = ["ContributionBound", "bound_contributions"]

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


class ContributionBound:
    """The bound over chunks: the first ``max_records`` records of each person, in the order of the data.

    Parameters
    ----------
    max_records : int
        At least 1.

    Notes
    -----
    Memory grows with the number of persons, not of records.

    Privacy
    -------
    The *first* records, not random ones of each chunk: one person's rows shift the chunk boundaries of all
    the rows behind them, hence a choice within chunks would let them change whose other records are used, and
    the sensitivity of the sum would not be the stated one. Where the order of rows means something (time), so
    does the choice; :func:`bound_contributions` chooses uniformly where all identifiers fit in memory.
    """

    def __init__(self, max_records: int) -> None:
        _check_bound(max_records)
        self._max_records = max_records
        self._used: dict[int | str, int] = {}

    def keep(self, ids_chunk: npt.NDArray[Any]) -> Mask:
        """Return which rows of the next chunk are used, shape (n,), bool."""
        codes = _codes(ids_chunk)
        order = np.argsort(codes, kind="stable")
        ranks = np.empty(codes.size, dtype=np.int64)
        ranks[order] = _rank_in_runs(codes[order])
        persons, inverse, counts = np.unique(ids_chunk, return_inverse=True, return_counts=True)
        keys = persons.tolist()
        before = np.array([self._used.get(key, 0) for key in keys], dtype=np.int64)
        # Counting stops at the bound: all that matters of a person is how many records may still come.
        after = np.minimum(before + counts, self._max_records)
        self._used.update(zip(keys, after.tolist(), strict=True))
        kept: Mask = before[inverse] + ranks < self._max_records
        return kept


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
