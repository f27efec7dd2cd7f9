"""``schema check``: hold a table against a schema and list everything that is wrong, not only the first."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from blindsight.errors import DataError

from ._column import Column
from ._decode import Tally, decode_feature, decode_key, decode_label, decode_time
from ._records import CHUNK_ROWS, CHUNK_VALUES, close_name
from ._schema import Schema
from ._tables import Table, open_table

__all__ = ["Finding", "check"]

NARROW = 0.02
"""Share of its declared range below which a column's values are said to be squeezed into too few bins."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that ``check`` found.

    Parameters
    ----------
    level : {"error", "warning", "note"}
        Errors would stop a reader; warnings would not, but deserve a look.
    column : str or None
        The column concerned; None for the file as a whole.
    message : str
        A sentence for the records' owner; it may quote values.
    """

    level: Literal["error", "warning", "note"]
    column: str | None
    message: str

    def __str__(self) -> str:
        """Return the finding as one line."""
        return f"{self.level}: {self.message}"


def check(schema: Schema | str | os.PathLike[str], source: object) -> list[Finding]:
    """Hold a table or file against a schema and list everything that is wrong, not only the first.

    Parameters
    ----------
    schema : Schema or path
        The schema, or the TOML file that holds it.
    source : path, array, pandas, polars or Arrow table, or dict of columns
        Read once, in chunks.

    Returns
    -------
    list of Finding
        Errors first, then warnings and notes; empty where there is nothing to say.

    Raises
    ------
    SchemaError
        The schema itself cannot be read.

    Notes
    -----
    *Privacy*: findings describe the records exactly (shares, extremes, records per person). They are for
    their owner and must not leave the house.
    """
    if not isinstance(schema, Schema):
        schema = Schema.read(schema)
    found = _Findings()
    try:
        table = open_table(source, schema.feature_names)
        columns = _present(schema, table, found)
        if columns:
            _scan(table, columns, found)
    except DataError as error:
        found.add("error", None, str(error))
    order = ("error", "warning", "note")
    return sorted(found.all, key=lambda finding: order.index(finding.level))


class _Findings:
    def __init__(self) -> None:
        self.all: list[Finding] = []

    def add(self, level: Literal["error", "warning", "note"], column: str | None, message: str) -> None:
        self.all.append(Finding(level=level, column=column, message=message))


@dataclass
class _Seen:
    """What all chunks of one column held together."""

    tally: Tally = field(default_factory=Tally)
    low: float = np.inf
    high: float = -np.inf
    labels: Counter[int] = field(default_factory=Counter)
    keys: Counter[Any] = field(default_factory=Counter)


def _present(schema: Schema, table: Table, found: _Findings) -> list[Column]:
    read = [column for column in schema.columns if column.role in ("feature", "label", "person", "entity", "time")]
    if table.is_positional:
        return list(schema.features)
    for column in read:
        if column.name not in table.names:
            close = close_name(column.name, table.names)
            meant = f"; is '{close}' meant?" if close else ""
            level: Literal["error", "note"] = "error" if column.role in ("feature", "person") else "note"
            found.add(level, column.name, f"Column '{column.name}' ({column.role}) is missing{meant}")
    known = {column.name for column in schema.columns}
    extra = [name for name in table.names if name not in known]
    if extra:
        shown = ", ".join(f"'{name}'" for name in extra[:8])
        found.add("note", None, f"{len(extra)} columns are not in the schema and are left alone: {shown}")
    return [column for column in read if column.name in table.names]


def _scan(table: Table, columns: list[Column], found: _Findings) -> None:
    seen = {column.name: _Seen() for column in columns}
    broken: set[str] = set()
    rows = 0
    chunk_rows = max(1, min(CHUNK_ROWS, CHUNK_VALUES // len(columns)))
    for chunk in table.chunks([column.name for column in columns], chunk_rows):
        for column in columns:
            if column.name in broken:
                continue
            try:
                _look(column, chunk[column.name], rows, table, seen[column.name])
            except DataError as error:
                broken.add(column.name)
                found.add("error", column.name, str(error))
        rows += len(chunk[columns[0].name])
    if not rows:
        found.add("error", None, "There are no rows")
        return
    for column in columns:
        if column.name not in broken:
            _conclude(column, seen[column.name], rows, found)


def _look(column: Column, data: Any, row0: int, table: Table, seen: _Seen) -> None:
    if column.role == "label":
        values, counts = np.unique(decode_label(column, data, row0, is_text=table.is_text), return_counts=True)
        seen.labels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        return
    if column.role == "time":
        times = decode_time(column, data, row0, is_text=table.is_text)
        if len(times):
            seen.low, seen.high = min(seen.low, float(times.min())), max(seen.high, float(times.max()))
        return
    if column.role in ("person", "entity"):
        values, counts = np.unique(decode_key(column, data, row0, is_text=table.is_text), return_counts=True)
        seen.keys.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        return
    out = np.empty(len(data))
    tally = decode_feature(column, data, out, row0, is_text=table.is_text, is_code=table.is_code)
    if seen.tally.first is None and tally.first is not None:
        seen.tally.first = row0 + tally.first
    for key in ("missing", "infinite", "outside", "undeclared"):
        setattr(seen.tally, key, getattr(seen.tally, key) + getattr(tally, key))
    finite = out[np.isfinite(out)]
    if len(finite):
        seen.low, seen.high = min(seen.low, float(finite.min())), max(seen.high, float(finite.max()))


def _conclude(column: Column, seen: _Seen, rows: int, found: _Findings) -> None:
    name, tally = column.name, seen.tally
    if column.role == "label":
        anomalies = seen.labels[1]
        if anomalies in (0, rows):
            only = "anomalies" if anomalies else "normal records"
            found.add("warning", name, f"Label '{name}' has one class: {rows} {only}; nothing can be evaluated")
        return
    if column.role == "time":
        found.add("note", name, f"Time '{name}' runs over {seen.high - seen.low:g} (seconds, where it is a date)")
        return
    if column.role in ("person", "entity"):
        what = {"person": "persons", "entity": "entities"}[column.role]
        most = max(seen.keys.values())
        found.add("note", name, f"{len(seen.keys)} {what} in {rows} rows; most records of one: {most}")
        return
    if tally.infinite:
        message = f"Column '{name}' has {tally.infinite} infinite values, first in row {tally.first}"
        found.add("error", name, message)
    if tally.missing:
        refused = column.missing == "refuse"
        how = "and missing = 'refuse'" if refused else f"replaced by missing = {column.missing!r}"
        where = f"{tally.missing} missing values of {rows}, first in row {tally.first}"
        found.add("error" if refused else "note", name, f"Column '{name}' has {where}, {how}")
    if tally.undeclared:
        count = f"{tally.undeclared} values ({tally.undeclared / rows:.2%})"
        found.add("warning", name, f"Column '{name}': {count} are no declared category")
    if tally.outside:
        count = f"{tally.outside} values ({tally.outside / rows:.2%})"
        found.add("warning", name, f"Column '{name}': {count} lie outside [{column.low:g}, {column.high:g}]")
    if seen.low == seen.high:
        found.add("warning", name, f"Column '{name}' is constant; it cannot tell anything apart")
    elif column.low is not None and column.high is not None:
        scale = np.log1p if column.scale == "log" else float
        low, high = max(seen.low, column.low), min(seen.high, column.high)
        used = (scale(high) - scale(low)) / (scale(column.high) - scale(column.low))
        if used < NARROW:
            found.add(
                "warning",
                name,
                f"Column '{name}' uses {max(used, 0.0):.2%} of its range [{column.low:g}, {column.high:g}]; "
                "most bins stay empty. Check the unit, or declare a narrower range",
            )
