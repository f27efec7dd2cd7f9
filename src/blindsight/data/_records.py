"""Records by schema: validated, ordered, encoded as one float64 matrix per chunk."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from blindsight.errors import BlindsightWarning, DataError, ParameterError

from ._column import Column, show
from ._decode import Tally, decode_feature, decode_key, decode_label, decode_time
from ._schema import Schema
from ._tables import Table, open_table

__all__ = ["CHUNK_ROWS", "ClippingReport", "Records", "read_table", "records"]

CHUNK_ROWS = 262_144
"""Most rows of one chunk."""
CHUNK_VALUES = 1 << 23
"""Most values of one chunk (64 MiB of float64): wide tables get fewer rows."""
LEARNED_SHARE = 0.01
"""Learned ranges cut the tails of their own sample; only a larger share outside is worth a warning."""


@dataclass(frozen=True, kw_only=True)
class ClippingReport:
    """How many values fell outside what the schema says; such values are used, in the outermost bins or
    clipped.

    Parameters
    ----------
    rows : int
        Rows that were read.
    outside : mapping of column name to int
        Finite values below low or above high; only columns that have any.
    undeclared : mapping of column name to int
        Values that are no declared category; only columns that have any.
    filled : mapping of column name to int
        Missing values replaced by the column's rule; only columns that have any.
    """

    rows: int = 0
    outside: Mapping[str, int] = field(default_factory=dict)
    undeclared: Mapping[str, int] = field(default_factory=dict)
    filled: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: ClippingReport) -> ClippingReport:
        """Return the report of both chunks together."""
        if not isinstance(other, ClippingReport):
            return NotImplemented
        return ClippingReport(
            rows=self.rows + other.rows,
            outside=_sum(self.outside, other.outside),
            undeclared=_sum(self.undeclared, other.undeclared),
            filled=_sum(self.filled, other.filled),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Records:
    """One chunk of validated records; the arrays are read-only.

    Parameters
    ----------
    X : ndarray of shape (n, d), float64, column-major
        Features in the schema's order; every value finite. A category is its code 0 .. K - 1, an undeclared
        one K.
    person : ndarray of shape (n,), int64 or str, or None
        Whose record it is; None where the schema or an array has no person column, and when scoring.
    label : ndarray of shape (n,), int8, or None
        0 normal, 1 anomaly; None where there is no label column, and when scoring.
    time : ndarray of shape (n,), float64, or None
        When each record was made: seconds since 1970 for dates, numbers as they stand. None where the schema has no
        time column (or several), where the table lacks it, and when scoring without series.
    entity : ndarray of shape (n,), int64 or str, or None
        What each record is about; the values of several entity columns are joined into one text. None as for `time`.
    row0 : int
        Number of the chunk's first row in its source.
    report : ClippingReport
        What fell outside the schema in this chunk.
    """

    X: npt.NDArray[np.float64]
    person: npt.NDArray[Any] | None = None
    label: npt.NDArray[np.int8] | None = None
    time: npt.NDArray[np.float64] | None = None
    entity: npt.NDArray[Any] | None = None
    row0: int = 0
    report: ClippingReport = field(default_factory=ClippingReport)

    def __len__(self) -> int:
        """Return the number of rows n."""
        return len(self.X)

    def only(self, keep: npt.NDArray[np.bool_]) -> Records:
        """Return the chosen rows, shape (n,) of bool, with all that is known of them; the report stays the chunk's."""
        return replace(
            self,
            X=self.X[keep],
            person=None if self.person is None else self.person[keep],
            label=None if self.label is None else self.label[keep],
            time=None if self.time is None else self.time[keep],
            entity=None if self.entity is None else self.entity[keep],
        )

    def __repr__(self) -> str:
        """Return the shape only: records are private."""
        return f"Records(rows={len(self.X)}, features={self.X.shape[1]}, row0={self.row0})"


def records(
    schema: Schema,
    source: object,
    *,
    chunk_rows: int = CHUNK_ROWS,
    for_scoring: bool = False,
    with_series: bool | None = None,
    require_label: bool = False,
    warn: bool = True,
) -> Iterator[Records]:
    """Read records by schema, chunk by chunk; call it again to read them again.

    Parameters
    ----------
    schema : Schema
        Decides which columns are read and what they may hold.
    source : path, array, pandas, polars or Arrow table, or dict of columns
        Tables go by column name, in any order; columns that the schema does not read are left alone. Arrays
        go by position, one column per feature; categories are codes there. Paths end in .csv, .parquet or
        .pq.
    chunk_rows : int, default 262,144
        Most rows of one chunk; tables with more than 32 features get fewer, so that a chunk stays below 64
        MiB.
    for_scoring : bool
        Read features only; person and label are None.
    with_series : bool, optional
        Whether to read time, entity and person columns, where the table has them; as default, unless scoring.
    require_label : bool
        Refuse a source without the schema's label column. Otherwise its labels are None.
    warn : bool
        Warn after the last chunk where values lay outside the schema. A declared range warns of any value, a
        learned one of more than 1 % of a column.

    Yields
    ------
    Records
        In the source's order; at least one chunk, none of them empty.

    Raises
    ------
    DataError
        Missing column, wrong type, missing or infinite value, no rows; names column, row (counted from 0),
        value, rule and fix. A wrong column is found before the first chunk, a wrong value when its chunk is
        reached.

    Notes
    -----
    *Privacy*: nothing is released. Messages quote values: they are for the records' owner only.
    """
    if type(chunk_rows) is not int or chunk_rows < 1:
        raise ParameterError("chunk_rows is out of its domain", got=show(chunk_rows), rule="a whole number, 1 or more")
    table = open_table(source, schema.feature_names)
    wanted = _wanted(schema, table, for_scoring=for_scoring, require_label=require_label)
    if not for_scoring if with_series is None else with_series:
        series = (schema.time, *schema.entities, schema.person if for_scoring else None)
        wanted += [column for column in series if column is not None and column.name in table.names]
    chunk_rows = max(1, min(chunk_rows, CHUNK_VALUES // schema.n_features))
    return _read(schema, table, wanted, chunk_rows, warn=warn)


def read_table(path: str | os.PathLike[str], schema: Schema, *, chunk_rows: int = CHUNK_ROWS) -> Iterator[Records]:
    """Read a CSV or Parquet file by schema in bounded memory; see :func:`records`."""
    if not isinstance(path, str | os.PathLike):
        raise DataError("read_table reads files", got=type(path).__name__, fix="use records(schema, source)")
    return records(schema, path, chunk_rows=chunk_rows)


def _wanted(schema: Schema, table: Table, *, for_scoring: bool, require_label: bool) -> list[Column]:
    """Choose the columns to read; refuse a table that lacks one."""
    wanted = list(schema.features)
    if not for_scoring:
        if schema.person is not None and not table.is_positional:
            wanted.append(schema.person)
        if schema.label is not None and schema.label.name in table.names:
            wanted.append(schema.label)
    if require_label and (schema.label is None or schema.label.name not in table.names):
        if schema.label is None:
            raise DataError("The schema has no label column", fix="give the label column role = 'label'")
        raise DataError(
            f"Label '{schema.label.name}' is not among the columns",
            got=_list(table.names),
            fix="add the label column",
        )
    for column in wanted:
        if column.name not in table.names:
            close = close_name(column.name, table.names)
            raise DataError(
                f"Column '{column.name}' is missing",
                got=f"columns {_list(table.names)}",
                rule=f"the schema names it as {column.role}",
                fix=f"rename '{close}' if that is meant" if close else "add the column",
            )
    return wanted


def close_name(name: str, names: Sequence[str]) -> str | None:
    """Return the name among `names` that was probably meant, letter case aside; None where none is close."""
    lower = {other.lower(): other for other in names}
    close = difflib.get_close_matches(name.lower(), lower, 1, cutoff=0.7)
    return lower[close[0]] if close else None


def _read(schema: Schema, table: Table, wanted: Sequence[Column], chunk_rows: int, *, warn: bool) -> Iterator[Records]:
    names = [column.name for column in wanted]
    total = ClippingReport()
    for chunk in table.chunks(names, chunk_rows):
        decoded = _decode(schema, table, wanted, chunk, total.rows)
        if len(decoded):
            total += decoded.report
            yield decoded
    if not total.rows:
        raise DataError("The source has no rows", fix="check the export or the filter that made it")
    if warn:
        _warn(schema, total)


def _decode(schema: Schema, table: Table, wanted: Sequence[Column], chunk: Mapping[str, Any], row0: int) -> Records:
    rows = len(chunk[wanted[0].name])
    X = np.empty((rows, schema.n_features), order="F")  # column by column in, column by column out to the bins
    outside, undeclared, filled = {}, {}, {}
    person = label = time = None
    entities = []
    position = 0
    for column in wanted:
        data = chunk[column.name]
        if column.role == "person":
            person = decode_key(column, data, row0, is_text=table.is_text)
        elif column.role == "entity":
            entities.append(decode_key(column, data, row0, is_text=table.is_text))
        elif column.role == "time":
            time = decode_time(column, data, row0, is_text=table.is_text)
        elif column.role == "label":
            label = decode_label(column, data, row0, is_text=table.is_text)
        else:
            out = X[:, position]
            position += 1
            tally = decode_feature(column, data, out, row0, is_text=table.is_text, is_code=table.is_code)
            refuse(column, tally, row0)
            if tally.outside:
                outside[column.name] = tally.outside
            if tally.undeclared:
                undeclared[column.name] = tally.undeclared
            if tally.missing:
                filled[column.name] = tally.missing
    entity = _joined(entities)
    for array in (X, person, label, time, entity):
        if array is not None:
            array.flags.writeable = False
    report = ClippingReport(rows=rows, outside=outside, undeclared=undeclared, filled=filled)
    return Records(X=X, person=person, label=label, time=time, entity=entity, row0=row0, report=report)


def _joined(keys: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any] | None:
    """One key a row out of several columns; names are printable, so that the separator is in none of them."""
    if len(keys) < 2:
        return keys[0] if keys else None
    joined = keys[0].astype(str)
    for other in keys[1:]:
        joined = np.char.add(np.char.add(joined, "\x1f"), other.astype(str))
    return joined


def refuse(column: Column, tally: Tally, row0: int) -> None:
    """Raise DataError where a feature's chunk holds infinite values, or missing ones without a rule for
    them."""
    row = row0 + (tally.first or 0)
    if tally.infinite:
        raise DataError(
            f"Column '{column.name}' has {_count(tally.infinite, 'infinite value')}, the first in row {row}",
            rule="every number is finite",
            fix="correct the value, or replace it by a large number inside or outside the range",
        )
    if tally.missing and column.missing == "refuse":
        choice = "'middle' or a number" if column.type == "number" else "one of its categories"
        raise DataError(
            f"Column '{column.name}' has {_count(tally.missing, 'missing value')}, the first in row {row}",
            rule="the schema says missing = 'refuse'",
            fix=f"drop these rows, or set missing to {choice} in the schema",
        )


def _warn(schema: Schema, report: ClippingReport) -> None:
    least = LEARNED_SHARE * report.rows if schema.ranges == "learned" else 0
    parts = []
    for column in schema.features:
        count = report.outside.get(column.name, 0)
        if count > least:
            parts.append((count, f"'{column.name}' outside [{column.low:g}, {column.high:g}]"))
        count = report.undeclared.get(column.name, 0)
        if count > least:
            parts.append((count, f"'{column.name}' of no declared category"))
    if parts:
        said = [
            f"{count:,}{'' if i else f' of {report.rows:,} rows'} have {what}" for i, (count, what) in enumerate(parts)
        ]
        more = f"; and {len(parts) - 5} more columns" if len(parts) > 5 else ""
        warnings.warn(
            f"Values lie outside the {schema.ranges} ranges: {'; '.join(said[:5])}{more}. "
            "They are kept, in the outermost bins or clipped. "
            "If that is not meant, check the unit or widen the range.",
            BlindsightWarning,
            stacklevel=3,
        )


def _sum(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    return {name: a.get(name, 0) + b.get(name, 0) for name in {**a, **b}}


def _list(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:12]) + (f", ... ({len(names)} in all)" if len(names) > 12 else "")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("s" if number != 1 else "")
