"""Sums over windows of a source that comes in chunks: a window may reach over any border between two of them.

A party's sum takes one chunk after the other, and is told of no last one. What a chunk adds must therefore be what all
chunks so far come to, less what was added before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from blindsight.data import Records, joined, series_key

from ._queries import Ints

__all__ = ["Following", "each_once", "following", "over_all", "over_touched"]

Add = Callable[[Ints, Records], None]
Count = Callable[[Records], Ints]


@dataclass(frozen=True, kw_only=True, eq=False)
class Following(Records):
    """A chunk, with what its windows need of the chunks before it.

    Parameters
    ----------
    before : Records or None
        The last records of every series before this chunk, in the source's order; None at its begin.
    """

    before: Records | None = None


def following(chunks: Iterable[Records], rows: int) -> Iterator[Following]:
    """Yield each chunk with the last ``rows`` records of every series before it."""
    before: Records | None = None
    for chunk in chunks:
        yield _after(chunk, before)
        before = _last(chunk if before is None else joined([before, chunk]), rows)


def each_once(count: Count, rows: int) -> Add:
    """A sum in which a record counts by itself and the ``rows`` records of its series before it: nothing is read again.

    Parameters
    ----------
    count : callable Following -> ndarray of shape (length,), int64
    rows : int
    """
    kept: list[Records | None] = [None]

    def add(accumulator: Ints, chunk: Records) -> None:
        before = kept[0] if chunk.row0 else None
        accumulator += count(_after(chunk, before))
        kept[0] = _last(chunk if before is None else joined([before, chunk]), rows)

    return add


def over_touched(count: Count, cells: Callable[[Records], Ints]) -> Add:
    """A sum over cells of records that come in any order: a chunk changes what its own cells add, and no other's.

    Parameters
    ----------
    count : callable Records -> ndarray of shape (length,), int64
        A sum over cells, each of its own records alone.
    cells : callable Records -> ndarray of shape (n,), int64
        Which cell each record is in.
    """
    seen: list[Records] = []

    def add(accumulator: Ints, chunk: Records) -> None:
        if chunk.row0 == 0:
            seen.clear()
        whole = joined([*seen, chunk])
        new = np.arange(len(whole)) >= len(whole) - len(chunk)
        place = cells(whole)
        touched = np.isin(place, place[new])
        accumulator += count(whole.only(touched)) - count(whole.only(touched & ~new))
        seen[:] = [whole]

    return add


def over_all(count: Count) -> Add:
    """A sum that depends on all records together: counted anew with every chunk, less what was added."""
    seen: list[Records] = []
    added: list[Ints] = []

    def add(accumulator: Ints, chunk: Records) -> None:
        if chunk.row0 == 0:
            seen.clear()
            added.clear()
        seen.append(chunk)
        now = count(joined(seen))
        accumulator += now - (added[-1] if added else 0)
        added[:] = [now]

    return add


def _after(chunk: Records, before: Records | None) -> Following:
    return Following(**{field.name: getattr(chunk, field.name) for field in fields(Records)}, before=before)


def _last(whole: Records, rows: int) -> Records:
    """The last ``rows`` records of every series."""
    key = series_key(whole)
    codes = np.zeros(len(whole), dtype=np.int64) if key is None else np.unique(key, return_inverse=True)[1].reshape(-1)
    order = np.argsort(codes, kind="stable")
    from_end = np.cumsum(np.bincount(codes))[codes[order]] - np.arange(len(whole))
    keep: npt.NDArray[np.bool_] = np.zeros(len(whole), dtype=np.bool_)
    keep[order[from_end <= rows]] = True
    return whole.only(keep)
