"""What a party trains on: its records, and which of them are kept to validate on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from blindsight.data import Records
from blindsight.errors import DataError

from ._queries import Local

__all__ = ["content_hash", "held_out", "own_chunks"]

Floats = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint64]


def own_chunks(local: Local) -> list[Records]:
    """A party's records; none where its source has no rows, which the other parties need not wait for."""
    try:
        return list(local.records())
    except DataError as error:
        if error.what != "The source has no rows":
            raise
        return []


def held_out(X: Floats, fraction: float) -> npt.NDArray[np.bool_]:
    """Which records are kept for validation, shape (n,): decided by each record's own content, by a public hash.

    So that adding or removing a record changes nobody else's part.
    """
    if fraction <= 0:
        return np.zeros(len(X), dtype=np.bool_)
    chosen: npt.NDArray[np.bool_] = (content_hash(X) >> np.uint64(32)) < np.uint64(round(fraction * 2**32))
    return chosen


def content_hash(X: Floats) -> Words:
    """Public hash of each record's values, shape (n,), uint64; the upper half is the better mixed one."""
    mixed = np.zeros(len(X), dtype=np.uint64)
    bits = np.ascontiguousarray(X + 0.0).view(np.uint64)
    for column in bits.T:
        mixed = (mixed ^ column) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return mixed
