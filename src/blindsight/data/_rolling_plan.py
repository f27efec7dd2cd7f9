"""What is to be rolled: the options of both forms, checked once, and the columns that come out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from blindsight.errors import DataError, ParameterError, SchemaError

from ._column import Column, show
from ._decode import decode_key, decode_number
from ._schema import Schema

if TYPE_CHECKING:
    import polars as pl

__all__ = ["RATIO_TOP", "STATISTICS", "UNIT", "Plan"]

Ints = npt.NDArray[np.int64]

STATISTICS = ("count", "sum", "mean", "ratio", "gap")
"""What can be asked of a window; sum, mean and ratio of each value column, count and gap of the events themselves."""

UNIT = 2.0**-20
"""Grid of the sums: values are rounded to multiples of it (about a millionth)."""
MAX_SUM = 2.0**62 * UNIT
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
RATIO_TOP = 100.0
MAX_PLACES = 10_000


class Plan:
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
        self.names = tuple(name for key in self.by for name, _ in self.parts(key))
        if len(self.names) > MAX_PLACES:
            raise ParameterError("There are too many new columns", got=str(len(self.names)), rule=f"{MAX_PLACES}")

    def parts(self, key: str) -> Iterator[tuple[str, tuple[str, str, str]]]:
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
            for name, (statistic, _, value) in self.parts(key):
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
