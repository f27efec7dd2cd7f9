"""Rolling features one record at a time: the same numbers as of a table, to the last bit."""

from __future__ import annotations

import datetime
import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from blindsight.errors import DataError

from ._column import Column, show
from ._rolling_plan import RATIO_TOP, STATISTICS, UNIT, Plan
from ._schema import Schema

__all__ = ["RollingState", "moment"]


class RollingState:
    """Rolling features, one record at a time: the numbers of :func:`rolling_features`.

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
        self._plan = Plan(schema, time, by, windows, values, statistics, current, most, ranges)
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


class _Events:
    """One entity's events within the longest window, and the running sums of each window."""

    __slots__ = ("_begin", "_counts", "_last", "_sums", "_times", "_values")

    def __init__(self, windows: int, values: int) -> None:
        self._times: list[deque[float]] = [deque() for _ in range(windows)]
        self._values: list[deque[list[int]]] = [deque() for _ in range(windows)]
        self._sums = [[0] * values for _ in range(windows)]
        self._last: float | None = None

    def push(self, plan: Plan, key: str, now: float, grids: list[int], out: dict[str, float | None]) -> None:
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
