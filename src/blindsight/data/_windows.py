"""Windows over series: which rows follow each other, found by index arithmetic; no window is copied.

A series is what one entity's records make in order of time. A window never reaches over the end of a series, nor over
a gap where the distance between records is declared.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from blindsight.errors import BlindsightWarning, DataError, ParameterError

from ._column import show

__all__ = ["Segments", "Windows", "looking_back", "normalise_series", "segments", "uneven_time", "windows"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

UNEVEN = 0.1
"""Share of the steps of time, off their median by half of it or more, above which time is called uneven."""
MAX_SPAN = 100_000
"""Longest window, horizon included, in rows."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Segments:
    """Runs of rows that follow each other.

    Parameters
    ----------
    order : ndarray of shape (k,), int64
        Row numbers, segment after segment; every row once, but for rows that share their slot of an aligned grid.
    bounds : ndarray of shape (s + 1,), int64
        Segment i is ``order[bounds[i] : bounds[i + 1]]``.
    keys : ndarray of shape (s,)
        The entity of each segment; zeros where there is one series.
    slots : ndarray of shape (k,), int64
        Place of each ordered row on the grid of the interval; its place in the segment where there is no interval.
    """

    order: Ints
    bounds: Ints
    keys: npt.NDArray[Any]
    slots: Ints


@dataclass(frozen=True, kw_only=True, eq=False)
class Windows:
    """Windows of equal length over ordered rows.

    Parameters
    ----------
    X : ndarray of shape (k, d)
        The rows in order; the caller's own array where it was in order already. Its dtype is the caller's.
    order : ndarray of shape (k,), int64
        Row of the caller's array behind each row of `X`.
    starts : ndarray of shape (m,), int64
        First row of each window, in `X`.
    length, horizon : int
        Rows that a window looks at, and rows after them that it is to foretell.
    """

    X: npt.NDArray[Any]
    order: Ints
    starts: Ints
    length: int
    horizon: int

    def __len__(self) -> int:
        """Return the number of windows m."""
        return len(self.starts)

    def __repr__(self) -> str:
        """Return the shape only: records are private."""
        return f"Windows({len(self.starts)}, length={self.length}, horizon={self.horizon}, features={self.X.shape[1]})"

    @property
    def view(self) -> npt.NDArray[Any]:
        """Every run of ``length + horizon`` rows as a read-only view, shape (k - length - horizon + 1, rows, d): index
        it with `starts` or a part of them, which alone copies."""
        span = self.length + self.horizon
        if len(self.X) < span:
            return np.empty((0, span, self.X.shape[1]), dtype=self.X.dtype)
        return np.lib.stride_tricks.sliding_window_view(self.X, span, axis=0).transpose(0, 2, 1)

    def values(self, chosen: Any = slice(None)) -> npt.NDArray[Any]:
        """Copy the chosen windows out, shape (chosen, length + horizon, d)."""
        return np.ascontiguousarray(self.view[self.starts[chosen]])

    @property
    def rows(self) -> Ints:
        """The caller's row numbers in each window, shape (m, length + horizon), int64."""
        return self.order[self.starts[:, None] + np.arange(self.length + self.horizon)]


def segments(
    rows: int,
    *,
    time: npt.ArrayLike | None = None,
    entity: npt.ArrayLike | None = None,
    interval: float | None = None,
    tolerance: float = 0.1,
    irregular: Literal["split", "refuse"] = "split",
    aligned: bool = False,
    row0: int = 0,
) -> Segments:
    """Order rows into series, and cut the series at gaps.

    Parameters
    ----------
    rows : int
        Number of rows n.
    time : array of shape (n,), float or int64, optional
        When each record was made; not decreasing within a series. Without it the order of the rows counts.
    entity : array of shape (n,), optional
        What each record is about; entities may be interleaved.
    interval : float, optional
        Declared distance between records, in the unit of `time`. Without it no distance is looked at.
    tolerance : float in [0, .5)
        Fraction of the interval by which a distance may be off.
    irregular : {"split", "refuse"}
        What another distance does: begin a new segment, or be an error.
    aligned : bool
        Put records on the grid of the interval (slot ``round(time / interval)``), in any order, and leave out every
        record that shares its slot: what one record does then stays in its own slot, whatever else there is.
    row0 : int
        Number of the first row in its source, for what errors say.

    Returns
    -------
    Segments

    Raises
    ------
    DataError
        Time that decreases, is not finite, or is irregular where that is refused; names the first such row.
    ParameterError
        An option is out of its domain, or arrays differ in length.
    """
    times = _column(time, rows, "time")
    keys = _column(entity, rows, "entity")
    _check_grid(times, interval, tolerance, irregular, aligned)
    if times is not None:
        times = times.astype(np.float64)
        if not np.isfinite(times).all():
            raise DataError(
                f"The time of row {row0 + int(np.argmin(np.isfinite(times)))} is not finite",
                fix="drop the row, or mend it",
            )
    names, codes = (np.zeros(1, dtype=np.int64), np.zeros(rows, dtype=np.int64)) if keys is None else _codes(keys)
    if aligned and times is not None and interval is not None:
        return _aligned(names, codes, times, interval)
    sorted_already = not rows or bool((np.diff(codes) >= 0).all())
    order = np.arange(rows) if sorted_already else np.argsort(codes, kind="stable")
    code = codes[order]
    new = np.ones(rows, dtype=bool)
    new[1:] = code[1:] != code[:-1]
    if times is not None:
        step = np.diff(times[order])
        _refuse_unsorted(step, new, order, times, None if keys is None else names[code], row0)
        if interval is not None:
            gap = ~new[1:] & (np.abs(step - interval) > tolerance * interval)
            if irregular == "refuse" and gap.any():
                row = int(order[1:][np.argmax(gap)])
                whose = "" if keys is None else f" of {show(names[codes[row]])}"
                raise DataError(
                    f"The time is irregular in row {row0 + row}{whose}",
                    got=f"{step[np.argmax(gap)]:g} after the record before",
                    rule=f"records {interval:g} apart, give or take {tolerance:.0%}",
                    fix="resample the series, or set irregular='split' to begin a new segment there",
                )
            new[1:] |= gap
    first = np.flatnonzero(new)
    bounds = np.append(first, rows).astype(np.int64)
    slots = np.arange(rows) - np.repeat(first, np.diff(bounds))
    return Segments(order=order.astype(np.int64), bounds=bounds, keys=names[code[first]], slots=slots)


def windows(
    X: npt.NDArray[Any],
    *,
    length: int,
    stride: int = 1,
    horizon: int = 0,
    time: npt.ArrayLike | None = None,
    entity: npt.ArrayLike | None = None,
    interval: float | None = None,
    tolerance: float = 0.1,
    irregular: Literal["split", "refuse"] = "split",
    aligned: bool = False,
) -> Windows:
    """Find all windows of ``length + horizon`` rows that lie in one series and cross no gap.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Feature rows, float32 or float64; copied only where entities are interleaved.
    length, horizon : int
        Rows looked at, at least 1, and rows after them to foretell, at least 0.
    stride : int
        Rows from the start of one window to the next of the same segment. Aligned windows do not overlap: their stride
        is their span, and they begin at multiples of it on the grid.
    time, entity, interval, tolerance, irregular, aligned
        See :func:`segments`.

    Returns
    -------
    Windows
        A series that is too short is left out with a warning (without one where windows are aligned).

    Raises
    ------
    DataError
        No series is long enough; also what :func:`segments` raises.
    ParameterError
        An option is out of its domain.

    Privacy
    -------
    Nothing is released. Aligned, one record added or removed adds or removes at most one window. Otherwise it moves
    every later window of its series: then no count of windows has a bounded sensitivity.
    """
    for name, value, low in (("length", length, 1), ("stride", stride, 1), ("horizon", horizon, 0)):
        if type(value) is not int or not low <= value <= MAX_SPAN:
            raise ParameterError(
                f"{name} is out of its domain", got=show(value), rule=f"a whole number, {low} to {MAX_SPAN}"
            )
    X = np.asarray(X)
    if X.ndim != 2 or X.dtype.kind != "f":
        raise ParameterError("X is not a matrix of floats", got=f"shape {X.shape}, {X.dtype}", rule="(n, d), float")
    span = length + horizon
    found = segments(
        len(X),
        time=time,
        entity=entity,
        interval=interval,
        tolerance=tolerance,
        irregular=irregular,
        aligned=aligned,
    )
    sizes = np.diff(found.bounds)
    if aligned:
        starts = _aligned_starts(found, span)
    else:
        _refuse_short(found, sizes, span, entity is not None, len(X))
        counts = np.maximum((sizes - span) // stride + 1, 0)
        before = np.cumsum(counts) - counts
        inside = np.arange(int(counts.sum())) - np.repeat(before, counts)
        starts = np.repeat(found.bounds[:-1], counts) + inside * stride
    in_order = len(found.order) == len(X) and bool((found.order == np.arange(len(X))).all())
    return Windows(
        X=X if in_order else X[found.order], order=found.order, starts=starts, length=length, horizon=horizon
    )


def looking_back(found: Segments, span: int, step: int) -> Iterator[tuple[Ints, Ints]]:
    """The window that ends with each row; where a segment has too few rows yet, its first one stands for those before.

    Parameters
    ----------
    found : Segments
        Not aligned: every row is in them.
    span : int
        Rows of a window.
    step : int
        Most windows at once.

    Yields
    ------
    rows : ndarray of shape (n,), int64
        Row numbers, of the caller's array.
    places : ndarray of shape (n, span), int64
        For each, where the rows of its window are in ``found.order``.
    """
    first = np.repeat(found.bounds[:-1], np.diff(found.bounds))
    back = np.arange(1 - span, 1)
    for begin in range(0, len(found.order), step):
        rows = np.arange(begin, min(begin + step, len(found.order)))
        yield found.order[rows], np.maximum(rows[:, None] + back, first[rows][:, None])


def normalise_series(
    X: npt.NDArray[Any], entity: npt.ArrayLike | None = None, *, floor: npt.ArrayLike = 1e-6
) -> npt.NDArray[np.float64]:
    """Centre every channel of every series by its median and divide by its deviation, shape (n, d), float64.

    Parameters
    ----------
    X : ndarray of shape (n, d)
    entity : array of shape (n,), optional
        One series without it.
    floor : float or array of shape (d,)
        Least deviation: a constant channel becomes zeros, and its first change stays finite. A small fraction of the
        declared range says what is no change at all.

    Privacy
    -------
    Medians and deviations are those of private records. They stay with their owner: nothing here is released, and what
    is summed afterwards has no per-record bound, since one record moves its whole series.
    """
    values = np.array(X, dtype=np.float64)
    floors = np.broadcast_to(np.asarray(floor, dtype=np.float64), values.shape[1:])
    if not (np.isfinite(floors) & (floors > 0)).all():
        raise ParameterError("floor is out of its domain", rule="finite and above 0: a constant channel has no scale")
    keys = _column(entity, len(values), "entity")
    codes = np.zeros(len(values), dtype=np.int64) if keys is None else _codes(keys)[1]
    for code in range(int(codes.max()) + 1 if len(codes) else 0):
        rows = codes == code
        part = values[rows]
        values[rows] = (part - np.median(part, axis=0)) / np.maximum(part.std(axis=0), floors)
    return values


def uneven_time(time: npt.ArrayLike, entity: npt.ArrayLike | None = None) -> str:
    """Say in a sentence that the records of series are not equally far apart; "" where they nearly are.

    Parameters
    ----------
    time : array of shape (n,)
        When each record was made; finite.
    entity : array of shape (n,), optional
        One series without it. Steps of all series are taken together.

    Returns
    -------
    str
        Where time stands still in more than half of the steps, or more than a tenth of them are off their median by
        half of it or more. Single gaps are passed over, and so is time that goes back: that is refused elsewhere.

    Privacy
    -------
    A statistic of private records: for their owner alone.
    """
    times = np.asarray(time, dtype=np.float64)
    keys = _column(entity, len(times), "entity")
    codes = np.zeros(len(times), dtype=np.int64) if keys is None else _codes(keys)[1]
    order = np.argsort(codes, kind="stable")
    steps = np.diff(times[order])[np.diff(codes[order]) == 0]
    if not len(steps):
        return ""
    median = float(np.median(steps))
    if median == 0:
        return f"Time stands still in {np.mean(steps == 0):.0%} of the steps from one record to the next."
    share = float(np.mean(np.abs(steps - median) >= median / 2)) if median > 0 else 0.0
    if share <= UNEVEN:
        return ""
    return (
        f"Records are unevenly far apart: {share:.0%} of the steps are off their median, {median:g}, by half or more."
    )


def _column(values: npt.ArrayLike | None, rows: int, name: str) -> npt.NDArray[Any] | None:
    if values is None:
        return None
    array = np.asarray(values)
    if array.shape != (rows,):
        raise ParameterError(
            f"{name} does not fit the rows", got=f"shape {array.shape}", rule=f"one value a row: ({rows},)"
        )
    return array


def _codes(keys: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], Ints]:
    """Distinct keys in order of first appearance, and each row's number among them."""
    names, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    rank = np.empty(len(names), dtype=np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(len(names))
    return names[np.argsort(first, kind="stable")], rank[inverse.reshape(-1)]


def _check_grid(
    times: npt.NDArray[Any] | None, interval: float | None, tolerance: float, irregular: str, aligned: bool
) -> None:
    if interval is not None and (
        not isinstance(interval, int | float) or not np.isfinite(interval) or not interval > 0
    ):
        raise ParameterError("interval is out of its domain", got=show(interval), rule="finite and above 0")
    if not isinstance(tolerance, int | float) or not 0 <= tolerance < 0.5:
        raise ParameterError("tolerance is out of its domain", got=show(tolerance), rule="0 <= tolerance < .5")
    if irregular not in ("split", "refuse"):
        raise ParameterError("irregular is out of its domain", got=show(irregular), rule="'split' or 'refuse'")
    if times is None and interval is not None:
        raise DataError(
            "An interval is declared and the records have no time",
            rule="one column of role 'time' says when each record was made",
            fix="give tables with that column, or drop the interval: then the order of rows counts",
        )
    if aligned and interval is None:
        raise ParameterError("Aligned windows need the distance between records", fix="set interval")


def _refuse_unsorted(
    step: Floats, new: npt.NDArray[np.bool_], order: Ints, times: Floats, keys: npt.NDArray[Any] | None, row0: int
) -> None:
    back = ~new[1:] & (step < 0)
    if back.any():
        at = int(np.argmax(back))
        row = int(order[at + 1])
        raise DataError(
            f"The time goes back in row {row0 + row}{'' if keys is None else f' of series {show(keys[at + 1])}'}",
            got=f"{times[row]:.15g} after {times[order[at]]:.15g}",
            rule="the records of a series are in order of time",
            fix="sort the table by time",
        )


def _aligned(names: npt.NDArray[Any], codes: Ints, times: Floats, interval: float) -> Segments:
    places = np.rint(times / interval)
    if len(places) and np.abs(places).max() >= 2.0**53:
        raise ParameterError("The interval is too small for these times", got=show(interval), fix="declare it anew")
    slots = places.astype(np.int64)
    order = np.lexsort((slots, codes))
    code, slot = codes[order], slots[order]
    same = (np.diff(code) == 0) & (np.diff(slot) == 0)
    alone = np.ones(len(order), dtype=bool)
    alone[1:] &= ~same
    alone[:-1] &= ~same
    order, code, slot = order[alone], code[alone], slot[alone]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(code) != 0) | (np.diff(slot) != 1)
    first = np.flatnonzero(new)
    bounds = np.append(first, len(order)).astype(np.int64)
    return Segments(order=order.astype(np.int64), bounds=bounds, keys=names[code[first]], slots=slot)


def _aligned_starts(found: Segments, span: int) -> Ints:
    """Windows that begin at a multiple of the span on the grid and whose every slot holds one record."""
    if not len(found.order):
        return np.empty(0, dtype=np.int64)
    at = np.flatnonzero(found.slots % span == 0)
    end = found.bounds[1:][np.searchsorted(found.bounds, at, side="right") - 1]
    starts: Ints = at[at + span <= end].astype(np.int64)
    return starts


def _refuse_short(found: Segments, sizes: Ints, span: int, has_entity: bool, rows: int) -> None:
    short = np.flatnonzero(sizes < span)
    if len(short) == len(sizes):
        raise DataError(
            f"No series is long enough for a window of {span} rows",
            got=f"{rows} rows, the longest run of rows has {int(sizes.max()) if len(sizes) else 0}",
            rule="length + horizon rows without a gap",
            fix="choose a shorter window, or give longer series",
        )
    ends = np.unique(found.keys[sizes >= span])
    lost = [key for key in np.unique(found.keys[short]) if key not in ends] if has_entity else []
    if lost:
        shown = ", ".join(show(key) for key in lost[:5]) + (", ..." if len(lost) > 5 else "")
        warnings.warn(
            f"{len(lost)} series are shorter than a window of {span} rows and are left out: {shown}.",
            BlindsightWarning,
            stacklevel=3,
        )
