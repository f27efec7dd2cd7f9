"""Rolling features: what happened lately to this person, at this terminal, on this host.

For every record and every entity it belongs to: how many events its window holds, the sum and the mean of a value over
them, how long ago the last one was. Only records before it count, so that the features can be had the moment a record
comes in. :class:`RollingState` gives the same numbers one record at a time.

Sums are integers on a grid of 2**-20: they do not depend on the order of additions, so that a table and a stream agree
to the last bit. (A running float sum, as data frame libraries keep it, drifts.)
"""

from __future__ import annotations

import datetime
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from blindsight.errors import DataError, ParameterError, SchemaError

from ._column import Column, show
from ._decode import decode_key, decode_number, decode_time
from ._schema import Schema
from ._tables import open_table

if TYPE_CHECKING:
    import polars as pl

__all__ = ["STATISTICS", "RollingState", "moment", "rolling_features"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

STATISTICS = ("count", "sum", "mean", "ratio", "gap")
"""What can be asked of a window; sum, mean and ratio of each value column, count and gap of the events themselves."""

UNIT = 2.0**-20
"""Grid of the sums: values are rounded to multiples of it (about a millionth)."""
MAX_SUM = 2.0**62 * UNIT
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
RATIO_TOP = 100.0
MAX_PLACES = 10_000


def rolling_features(
    table: object,
    *,
    schema: Schema | None = None,
    time: str | None = None,
    by: Sequence[str] | None = None,
    windows: Sequence[str | float] = ("1d", "7d"),
    values: Sequence[str] = (),
    statistics: Sequence[str] = STATISTICS,
    current: bool = False,
    most: float = 1000,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> tuple[pl.DataFrame, tuple[Column, ...]]:
    """Add rolling counts, sums, means and gaps per entity to a table.

    Parameters
    ----------
    table : path, pandas, polars or Arrow table, or dict of columns
        In any order; read whole.
    schema : Schema, optional
        Says which column is the time, which are entities and persons, and the public range of each value.
    time : str, optional
        Name of the time column; the schema's without it.
    by : sequence of str, optional
        Columns to group by, each on its own; the schema's entities and person without it.
    windows : sequence of str or float
        Lengths: "90s", "15m", "1h", "1d", "1w", or numbers in the time column's own unit.
    values : sequence of str
        Number columns to sum, without missing values.
    statistics : sequence of {"count", "sum", "mean", "ratio", "gap"}
        "mean" is null where a window is empty; "ratio" is the record's own value over that mean, 1 where there is no
        mean or it is 0, cut at 0 and 100; "gap" is the time since the entity's last event, at most the longest window.
    current : bool
        Whether a record counts in its own windows. (Its gap always looks back.)
    most : float
        Public: events of one entity in one window beyond which the schema calls a count out of range.
    ranges : mapping of column name to (low, high), optional
        Public ranges of value columns, or of new columns, where the schema does not say them.

    Returns
    -------
    table : polars.DataFrame
        All columns of the table and the new ones (``terminal_count_1d``, ``customer_amount_mean_7d``,
        ``customer_gap``), in the table's order.
    columns : tuple of Column
        One per new column, for a schema: features with a public range derived from what was declared; role "ignore"
        where nothing declared gives a range.

    Raises
    ------
    DataError
        A column is missing or unreadable, or a sum would overflow.
    ParameterError, SchemaError
        An option is out of its domain; no time column or nothing to group by.

    Notes
    -----
    A window holds the records of the entity before this one, less than its length ago; records of the same moment count
    in the order of the table. Windows of one party hold that party's records alone.

    Privacy
    -------
    Nothing is released. A feature of one record holds what other records say: one record moves the features of every
    later record of its entities within a window. ``unit="record"`` then does not cover that; ``unit="person"`` does,
    where all columns of `by` follow from the person.
    """
    import polars as pl

    source = open_table(table, None)
    chunks = [pl.DataFrame({k: pl.Series(k, v) for k, v in c.items()}) for c in source.chunks(source.names, 1 << 18)]
    if not chunks or not sum(chunk.height for chunk in chunks):
        raise DataError("The source has no rows", fix="check the export or the filter that made it")
    frame = pl.concat(chunks)
    plan = _Plan(schema, time, by, windows, values, statistics, current, most, ranges)
    for name in (plan.time, *plan.by, *plan.values):
        if name not in frame.columns:
            raise DataError(f"Column '{name}' is missing", got=", ".join(frame.columns[:12]), rule="it is to be rolled")
    times = decode_time(plan.column(plan.time, "time"), frame[plan.time], 0, is_text=source.is_text)
    grids = {name: plan.quantised(frame[name], name, is_text=source.is_text) for name in plan.values}
    new: dict[str, npt.NDArray[Any]] = {}
    for key in plan.by:
        new |= _roll(plan, key, plan.keys(frame[key], key, is_text=source.is_text), times, grids)
    for name in new:
        if name in frame.columns:
            raise DataError(f"The table has a column '{name}' already", fix="rename it, or roll other windows")
    return frame.with_columns(pl.Series(name, new[name], nan_to_null=True) for name in plan.names), plan.columns()


class RollingState:
    """The same features, one record at a time.

    Parameters
    ----------
    schema, time, by, windows, values, statistics, current, most, ranges
        As for :func:`rolling_features`.

    Notes
    -----
    Keeps every entity's events of the longest window, in memory. Records come in order of time.
    """

    def __init__(
        self,
        *,
        schema: Schema | None = None,
        time: str | None = None,
        by: Sequence[str] | None = None,
        windows: Sequence[str | float] = ("1d", "7d"),
        values: Sequence[str] = (),
        statistics: Sequence[str] = STATISTICS,
        current: bool = False,
        most: float = 1000,
        ranges: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        self._plan = _Plan(schema, time, by, windows, values, statistics, current, most, ranges)
        self._events: dict[tuple[str, Any], _Events] = {}
        self._now = -math.inf

    @property
    def columns(self) -> tuple[Column, ...]:
        """The new columns, as :func:`rolling_features` returns them."""
        return self._plan.columns()

    def push(self, record: Mapping[str, Any]) -> dict[str, float | None]:
        """Take one record in and return its rolling features by name.

        Parameters
        ----------
        record : mapping of column name to value
            The time (a number or a datetime), every column of `by`, every value column.

        Raises
        ------
        DataError
            A column is missing, a value is no number, or the time goes back.
        """
        plan = self._plan
        try:
            now = moment(record[plan.time])
            grids = [_on_grid(record[name], name) for name in plan.values]
            keys = [record[name] for name in plan.by]
        except KeyError as error:
            raise DataError(f"Column {error} is missing from the record", rule="it is to be rolled") from error
        if now < self._now:
            raise DataError("The time goes back", got=f"{now:.15g} after {self._now:.15g}", fix="push in order of time")
        self._now = now
        out: dict[str, float | None] = {}
        for name, key in zip(plan.by, keys, strict=True):
            if key is None:
                raise DataError(f"Entity '{name}' is missing from the record", fix="give it, or leave it out of by")
            events = self._events.get((name, key))
            if events is None:
                events = self._events[name, key] = _Events(len(plan.windows), len(grids))
            events.push(plan, name, now, grids, out)
        return out


class _Plan:
    """The options of both forms, checked once: which columns, which windows, which names come out."""

    def __init__(
        self,
        schema: Schema | None,
        time: str | None,
        by: Sequence[str] | None,
        windows: Sequence[str | float],
        values: Sequence[str],
        statistics: Sequence[str],
        current: bool,
        most: float,
        ranges: Mapping[str, tuple[float, float]] | None,
    ) -> None:
        self.schema = schema
        if time is None and schema is not None and schema.time is not None:
            time = schema.time.name
        if by is None and schema is not None:
            by = [column.name for column in (*schema.entities, schema.person) if column is not None]
        if time is None:
            raise SchemaError("There is no time to roll over", fix="give time=, or one column of role 'time'")
        if isinstance(by, str) or isinstance(values, str) or isinstance(statistics, str):
            raise ParameterError("Columns and statistics are lists of names", fix="write ('name',)")
        if not by:
            raise SchemaError("There is nothing to group by", fix="give by=, or a column of role 'entity' or 'person'")
        self.time, self.by, self.values, self.current = time, tuple(by), tuple(values), bool(current)
        self.windows = {_label(window): _length(window) for window in windows}
        if not self.windows:
            raise ParameterError("There is no window", fix="give lengths like '1h' or '7d'")
        self.longest = max(self.windows.values())
        self.statistics = tuple(dict.fromkeys(statistics))
        unknown = [statistic for statistic in self.statistics if statistic not in STATISTICS]
        if unknown or not self.statistics:
            raise ParameterError("Unknown statistic", got=show(next(iter(unknown), "")), rule=", ".join(STATISTICS))
        if not isinstance(most, int | float) or not 1 <= most <= 1e12:
            raise ParameterError("most is out of its domain", got=show(most), rule="1 to 1e12 events")
        self.most, self.ranges = float(most), dict(ranges or {})
        self.names = tuple(name for key in self.by for name, _ in self._parts(key))
        if len(self.names) > MAX_PLACES:
            raise ParameterError("There are too many new columns", got=str(len(self.names)), rule=f"{MAX_PLACES}")

    def _parts(self, key: str) -> Iterator[tuple[str, tuple[str, str, str]]]:
        """Name and (statistic, window, value) of each new column of one entity."""
        for label in self.windows:
            if "count" in self.statistics:
                yield f"{key}_count_{label}", ("count", label, "")
            for value in self.values:
                for statistic in ("sum", "mean", "ratio"):
                    if statistic in self.statistics:
                        yield f"{key}_{value}_{statistic}_{label}", (statistic, label, value)
        if "gap" in self.statistics:
            yield f"{key}_gap", ("gap", "", "")

    def column(self, name: str, role: str) -> Column:
        """The schema's column, or one that says nothing."""
        known = {column.name: column for column in self.schema.columns} if self.schema is not None else {}
        if name in known and known[name].role == role:
            return known[name]
        return Column(name=name, role="time", type="text") if role == "time" else Column(name=name, role="ignore")

    def keys(self, data: pl.Series, name: str, *, is_text: bool) -> npt.NDArray[Any]:
        whole = data.dtype.is_integer()
        column = Column(name=name, role="entity", type="number" if whole else "text")
        return decode_key(column, data, 0, is_text=is_text)

    def quantised(self, data: pl.Series, name: str, *, is_text: bool) -> Ints:
        out = np.empty(len(data))
        tally = decode_number(Column(name=name, role="ignore"), data, out, 0, is_text=is_text)
        if tally.missing or tally.infinite:
            raise DataError(
                f"Column '{name}' has a missing or infinite value in row {tally.first}",
                rule="what is summed is finite",
                fix="drop or fill these rows",
            )
        if len(out) and float(np.abs(out).max()) * len(out) >= MAX_SUM:
            raise DataError(f"Sums of column '{name}' would overflow", rule=f"below {MAX_SUM:.3g}", fix="rescale it")
        grid: Ints = np.rint(out / UNIT).astype(np.int64)
        return grid

    def columns(self) -> tuple[Column, ...]:
        """Columns for a schema, with the public range that follows from what was declared."""
        columns = []
        for key in self.by:
            for name, (statistic, _, value) in self._parts(key):
                low_high, log = self._range(name, statistic, value)
                if low_high is None:
                    columns.append(Column(name=name, role="ignore"))
                    continue
                missing = "middle" if statistic == "mean" else "refuse"
                scale: Any = "log" if log and low_high[0] >= 0 else "linear"
                columns.append(Column(name=name, low=low_high[0], high=low_high[1], scale=scale, missing=missing))
        return tuple(columns)

    def _range(self, name: str, statistic: str, value: str) -> tuple[tuple[float, float] | None, bool]:
        if name in self.ranges:
            return self.ranges[name], self.ranges[name][0] >= 0
        if statistic == "count":
            return (0.0, self.most), True
        if statistic == "gap":
            return (0.0, self.longest), True
        if statistic == "ratio":
            return (0.0, RATIO_TOP), True
        known = {c.name: (c.low, c.high, c.scale) for c in self.schema.columns} if self.schema is not None else {}
        low, high, scale = (*self.ranges[value], "linear") if value in self.ranges else known.get(value, (None,) * 3)
        if low is None or high is None:
            return None, False
        if statistic == "mean":
            return (low, high), scale == "log"
        return (min(0.0, low * self.most), max(0.0, high * self.most)), low >= 0


def _roll(plan: _Plan, key: str, keys: npt.NDArray[Any], times: Floats, grids: dict[str, Ints]) -> dict[str, Any]:
    """All new columns of one entity column, in the table's order."""
    codes = np.unique(keys, return_inverse=True)[1].reshape(-1).astype(np.int64)
    order = np.lexsort((times, codes))  # stable: records of one moment stay in the table's order
    code, time = codes[order], times[order]
    moments, moment = np.unique(time, return_inverse=True)
    # one increasing whole number for (entity, moment): a search for the window's begin never leaves the entity
    width = len(moments) + 1
    place = code * width + moment.reshape(-1)
    row = np.arange(len(code))
    end = row + 1 if plan.current else row
    prefix = {name: np.concatenate([[0], np.cumsum(grid[order])]) for name, grid in grids.items()}
    out: dict[str, Any] = {}
    begin = {}
    for label, length in plan.windows.items():
        after = np.searchsorted(moments, time - length, side="right")  # strictly less than its length ago
        begin[label] = np.searchsorted(place, code * width + after, side="left")
    first = np.ones(len(code), dtype=bool)
    first[1:] = code[1:] != code[:-1]
    for name, (statistic, label, value) in plan._parts(key):
        if statistic == "gap":
            gap = np.where(first, plan.longest, np.diff(time, prepend=time[0]))
            result = np.minimum(gap, plan.longest)
        else:
            count = end - begin[label]
            if statistic == "count":
                result = count.astype(np.float64)
            else:
                total = prefix[value][end] - prefix[value][begin[label]]
                result = total * UNIT
                if statistic != "sum":
                    with np.errstate(divide="ignore", invalid="ignore"):
                        result = result / count  # nothing over nothing: there is no mean
                        if statistic == "ratio":
                            ratio = grids[value][order] * UNIT / result
                            result = np.where(np.isfinite(ratio), np.clip(ratio, 0.0, RATIO_TOP), 1.0)
        unordered = np.empty(len(result))
        unordered[order] = result
        out[name] = unordered
    return out


class _Events:
    """One entity's events within the longest window, and the running sums of each window."""

    __slots__ = ("_begin", "_counts", "_last", "_sums", "_times", "_values")

    def __init__(self, windows: int, values: int) -> None:
        self._times: list[deque[float]] = [deque() for _ in range(windows)]
        self._values: list[deque[list[int]]] = [deque() for _ in range(windows)]
        self._sums = [[0] * values for _ in range(windows)]
        self._last: float | None = None

    def push(self, plan: _Plan, key: str, now: float, grids: list[int], out: dict[str, float | None]) -> None:
        """Let go of what is too old, write this record's features into ``out``, and take it in."""
        if plan.current:
            self._take(now, grids)
        for index, (label, length) in enumerate(plan.windows.items()):
            times, values, sums = self._times[index], self._values[index], self._sums[index]
            while times and times[0] <= now - length:
                times.popleft()
                for at, old in enumerate(values.popleft()):
                    sums[at] -= old
            count = len(times)
            if "count" in plan.statistics:
                out[f"{key}_count_{label}"] = float(count)
            for at, name in enumerate(plan.values):
                total = sums[at] * UNIT
                mean = total / count if count else None
                for statistic in plan.statistics:
                    if statistic == "sum":
                        out[f"{key}_{name}_sum_{label}"] = total
                    elif statistic == "mean":
                        out[f"{key}_{name}_mean_{label}"] = mean
                    elif statistic == "ratio":
                        ratio = grids[at] * UNIT / mean if mean else 1.0
                        out[f"{key}_{name}_ratio_{label}"] = min(max(ratio, 0.0), RATIO_TOP)
        if "gap" in plan.statistics:
            out[f"{key}_gap"] = plan.longest if self._last is None else min(now - self._last, plan.longest)
        self._last = now
        if not plan.current:
            self._take(now, grids)

    def _take(self, now: float, grids: list[int]) -> None:
        for times, values, sums in zip(self._times, self._values, self._sums, strict=True):
            times.append(now)
            values.append(grids)
            for at, value in enumerate(grids):
                sums[at] += value


def _label(window: str | float) -> str:
    return window if isinstance(window, str) else f"{window:g}"


def _length(window: str | float) -> float:
    text = window[:-1] if isinstance(window, str) and window[-1:] in UNITS_S else window
    try:
        length = float(text) * (UNITS_S[window[-1]] if isinstance(window, str) and text is not window else 1)
    except (TypeError, ValueError):
        length = math.nan
    if isinstance(window, bool) or not 0 < length < math.inf:
        raise ParameterError(
            "A window's length is unusable", got=show(window), rule="like '90s', '15m', '1h', '7d', '2w', or a number"
        )
    return length


def moment(value: Any) -> float:
    """Return one record's time as ``decode_time`` would: seconds since 1970 of a date, a number as it stands."""
    try:
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                value = datetime.datetime.fromisoformat(value)
        if isinstance(value, datetime.datetime):
            # as in a table: a time without a zone is UTC
            return (value if value.tzinfo else value.replace(tzinfo=datetime.UTC)).timestamp()
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError("The record's time is unreadable", got=show(value), rule="a finite number, or a date and time")
    return number


def _on_grid(value: Any, name: str) -> int:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"Column '{name}' is not a finite number in the record", got=show(value))
    return round(number / UNIT)
