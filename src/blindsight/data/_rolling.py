"""Rolling features: what happened lately to this person, at this terminal, on this host.

For every record and every entity it belongs to: how many events its window holds, the sum and the mean of a value over
them, how long ago the last one was. Only records before it count, so that the features can be had the moment a record
comes in. :class:`RollingState` (``_rolling_state``) gives the same numbers one record at a time.

Sums are integers on a grid of 2**-20: they do not depend on the order of additions, so that a table and a stream agree
to the last bit. (A running float sum, as data frame libraries keep it, drifts.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from blindsight.errors import DataError

from ._column import Column
from ._decode import decode_time
from ._rolling_plan import RATIO_TOP, STATISTICS, UNIT, Plan
from ._schema import Schema
from ._tables import open_table

if TYPE_CHECKING:
    import polars as pl

__all__ = ["rolling_features"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


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
    plan = Plan(schema, time, by, windows, values, statistics, current, most, ranges)
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


def _roll(plan: Plan, key: str, keys: npt.NDArray[Any], times: Floats, grids: dict[str, Ints]) -> dict[str, Any]:
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
    for name, (statistic, label, value) in plan.parts(key):
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
