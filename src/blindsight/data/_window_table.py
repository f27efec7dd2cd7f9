"""A table whose rows are windows: any detector of tables then looks at a series."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from blindsight.errors import ParameterError

from ._column import MAX_TEXT, Column, show
from ._records import Records, records
from ._schema import Schema
from ._windows import MAX_SPAN, uneven_time, windows

if TYPE_CHECKING:
    import polars as pl

__all__ = ["SUMMARIES", "gather", "joined", "missing_order", "series_key", "window_table"]

SUMMARIES = ("mean", "deviation", "min", "max", "slope", "last")
"""What a window says of each channel."""


def window_table(
    table: object,
    schema: Schema,
    *,
    length: int,
    stride: int = 1,
    summaries: tuple[str, ...] = SUMMARIES,
    interval: float | None = None,
    tolerance: float = 0.1,
    irregular: Literal["split", "refuse"] = "split",
    aligned: bool = False,
) -> tuple[pl.DataFrame, Schema]:
    """Summarise every window of a series in one row.

    Parameters
    ----------
    table : path, array, pandas, polars or Arrow table, or dict of columns
        Read whole.
    schema : Schema
        Its time, entity and person columns order the series, where the table has them. A window never mixes persons.
    length : int
        Rows of a window, at least 2.
    stride : int
        Rows from one window to the next.
    summaries : tuple of {"mean", "deviation", "min", "max", "slope", "last", "all"}
        "slope" is that of the least-squares line, per row; "all" is every value of the window, one column each.
    interval, tolerance, irregular, aligned
        See :func:`windows`.

    Returns
    -------
    table : polars.DataFrame of m rows
        ``<channel>_<summary>`` of every number feature, the last value of every category, the label's greatest, the
        last time, the entity and person; ``row``, the number of the window's last row in the source.
    schema : Schema
        Public ranges derived from the declared ones; declared or learned, as the one given.

    Raises
    ------
    DataError, ParameterError
        As :func:`windows`.

    Privacy
    -------
    Nothing is released. A row is a window: ``unit="record"`` of this table protects one window, and a record lies in up
    to ``ceil(length / stride)`` of them. With ``aligned=True`` (and time and an interval) one record is one window.
    """
    import polars as pl

    if type(length) is not int or not 2 <= length <= MAX_SPAN:
        raise ParameterError("length is out of its domain", got=show(length), rule=f"a whole number, 2 to {MAX_SPAN}")
    known = (*SUMMARIES, "all")
    if not summaries or any(name not in known for name in summaries):
        raise ParameterError("summaries are out of their domain", got=show(str(summaries)), rule=", ".join(known))
    whole = gather(schema, table)
    found = windows(
        np.asarray(whole.X),
        length=length,
        stride=stride,
        time=whole.time,
        entity=series_key(whole),
        interval=interval,
        tolerance=tolerance,
        irregular=irregular,
        aligned=aligned,
    )
    last = found.order[found.starts + length - 1]
    data: dict[str, Any] = {}
    columns: list[Column] = []
    view = found.view
    for position, column in enumerate(schema.features):
        # one channel at a time: the chosen windows of one channel are all that is copied
        chosen = view[found.starts, :, position]
        if column.type == "category":
            names = np.array([*(column.categories or ()), None], dtype=object)
            data[f"{column.name}_last"] = pl.Series(names[chosen[:, -1].astype(np.int64)].tolist(), dtype=pl.String)
            first = (column.categories or ("",))[0]
            columns.append(replace(column, name=f"{column.name}_last", missing=first))
            continue
        for name, values, new in _summaries(column, chosen, summaries):
            data[name] = values
            columns.append(new)
    roles: tuple[tuple[Literal["time", "entity", "person"], npt.NDArray[Any] | None], ...]
    roles = (("time", whole.time), ("entity", whole.entity), ("person", whole.person))
    for role, known_of in roles:
        if known_of is not None:
            kept = known_of[last]
            name = " + ".join(c.name for c in schema.columns if c.role == role)[:MAX_TEXT]
            data[name] = kept
            columns.append(Column(name=name, role=role, type="text" if kept.dtype.kind == "U" else "number"))
    if whole.label is not None and schema.label is not None:
        data[schema.label.name] = whole.label[found.rows].max(axis=1)
        columns.append(Column(name=schema.label.name, role="label"))
    data["row"] = last
    columns.append(Column(name="row", role="ignore"))
    return pl.DataFrame(data), Schema(tuple(columns), schema.ranges)


def gather(schema: Schema, table: object, *, for_scoring: bool = False, warn: bool = True) -> Records:
    """Read all records at once, with time, entity and person where the table has them."""
    chunks = list(records(schema, table, for_scoring=for_scoring, with_series=True, warn=warn))
    if len(chunks) == 1:
        return chunks[0]
    return joined(chunks)


def joined(chunks: list[Records]) -> Records:
    """Consecutive chunks of one source as one."""

    def part(name: str) -> Any:
        arrays = [getattr(chunk, name) for chunk in chunks]
        return None if arrays[0] is None else np.concatenate(arrays)

    return Records(
        X=np.concatenate([chunk.X for chunk in chunks]),
        **{name: part(name) for name in ("person", "label", "time", "entity")},
    )


def series_key(whole: Records) -> npt.NDArray[Any] | None:
    """What tells series apart: entity and person together; None where there is neither."""
    if whole.entity is None or whole.person is None:
        return whole.person if whole.entity is None else whole.entity
    pairs = np.column_stack(
        [np.unique(part, return_inverse=True)[1].reshape(-1) for part in (whole.entity, whole.person)]
    )
    codes: npt.NDArray[np.int64] = pairs[:, 0] * (int(pairs[:, 1].max()) + 1) + pairs[:, 1]
    return codes


def missing_order(schema: Schema, whole: Records) -> str:
    """Say in a sentence which columns are missing that order records and tell series apart; "" where none is.

    Parameters
    ----------
    schema : Schema
    whole : Records
        Read with its series.
    """
    roles = (
        (schema.time, whole.time),
        (next(iter(schema.entities), None), whole.entity),
        (schema.person, whole.person),
    )
    lost = [f"'{column.name}' ({column.role})" for column, values in roles if column is not None and values is None]
    if not lost:
        return ""
    return (
        f"The table lacks the schema's {' and '.join(lost)}: its rows are taken in the order in which they come, and "
        "series that only a missing column tells apart are taken as one."
    )


def doubtful_order(schema: Schema, whole: Records, interval: float | None) -> str:
    """Say in a sentence why the records' order says little of the time between them; "" where nothing does.

    Parameters
    ----------
    schema : Schema
    whole : Records
        Read with its series.
    interval : float or None
        Declared distance between records.
    """
    odd = missing_order(schema, whole)
    if not odd and interval is None and whole.time is not None:
        odd = uneven_time(whole.time, series_key(whole))
        odd += " Without interval=... they are taken as equally far apart." if odd else ""
    return odd


def _summaries(
    column: Column, chosen: npt.NDArray[np.float64], summaries: tuple[str, ...]
) -> list[tuple[str, npt.NDArray[np.float64], Column]]:
    assert column.low is not None
    assert column.high is not None
    low, high, length = column.low, column.high, chosen.shape[1]
    # values beyond the declared range must not carry summaries beyond theirs
    values = np.clip(chosen, low, high)
    out = []
    for summary in summaries:
        name = f"{column.name}_{summary}"
        if summary == "all":
            for at in range(length):
                new = replace(column, name=f"{column.name}_{at}", missing="refuse")
                out.append((new.name, np.ascontiguousarray(chosen[:, at]), new))
            continue
        if summary == "deviation":
            new = Column(name=name, low=0.0, high=(high - low) / 2, scale="log")
            result = values.std(axis=1)
        elif summary == "slope":
            away = np.arange(length) - (length - 1) / 2
            result = values @ (away / (away @ away))
            steepest = (high - low) * away[away > 0].sum() / (away @ away)  # a step in the middle of the window
            new = Column(name=name, low=-steepest, high=steepest)
        else:
            new = replace(column, name=name, missing="refuse")
            if summary == "mean":
                result = values.mean(axis=1)
            elif summary == "last":
                result = np.ascontiguousarray(chosen[:, -1])
            else:
                result = chosen.min(axis=1) if summary == "min" else chosen.max(axis=1)
        out.append((name, result, new))
    return out
