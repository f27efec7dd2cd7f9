"""From one column as it came to the float64 values that encoders read; counts what is missing, wrong or
outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from blindsight.errors import DataError

from ._column import MAX_TEXT, Column, show

if TYPE_CHECKING:
    import polars as pl

    from ._tables import ColumnData

__all__ = [
    "MISSING_WORDS",
    "Tally",
    "decode_feature",
    "decode_key",
    "decode_label",
    "decode_number",
    "decode_time",
    "read_floats",
]

Floats = npt.NDArray[np.float64]

MISSING_WORDS = ("", "na", "n/a", "nan", "null", "none")
"""What a CSV file may write for a missing number, in any case. (A category is missing only where it is empty:
NA is Namibia.)"""


@dataclass(kw_only=True)
class Tally:
    """What one chunk of one column held besides ordinary values.

    Parameters
    ----------
    missing, infinite, outside, undeclared : int
        Numbers of missing values, infinite values, finite values outside the range, undeclared categories.
    first : int or None
        Offset within the chunk of the first missing or infinite value; None where there is none.
    """

    missing: int = 0
    infinite: int = 0
    outside: int = 0
    undeclared: int = 0
    first: int | None = None


def decode_feature(column: Column, data: ColumnData, out: Floats, row0: int, *, is_text: bool, is_code: bool) -> Tally:
    """Write one feature's chunk into `out`; missing values are replaced by the column's rule, or its middle.

    Parameters
    ----------
    column : Column
        The feature.
    data : Series or ndarray, shape (n,)
        The chunk as it came.
    out : ndarray of shape (n,), float64
        Receives numbers, or codes 0 .. K - 1 with K for every undeclared category.
    row0 : int
        Number of the chunk's first row, for messages.
    is_text : bool
        Numbers are text to be parsed.
    is_code : bool
        Categories come as codes 0 .. K, as in ``Records.X``.

    Raises
    ------
    DataError
        Wrong type, naming column, row and value. Missing and infinite values are only counted.
    """
    if column.type == "category":
        return _codes(column, data, out, row0) if is_code else _categories(column, data, out, row0)
    return decode_number(column, data, out, row0, is_text=is_text)


def decode_number(column: Column, data: ColumnData, out: Floats, row0: int, *, is_text: bool) -> Tally:
    """Write a chunk of numbers into `out`, counting what is missing, infinite or outside the range."""
    out[:] = read_floats(column, data, row0, is_text=is_text)
    tally = Tally()
    if not len(out):
        return tally
    # One pass each: a NaN or an infinity anywhere shows in the extremes.
    low, high = out.min(), out.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = ~np.isfinite(out)
        infinite = np.isinf(out)
        tally.infinite = int(infinite.sum())
        tally.missing = int(bad.sum()) - tally.infinite
        tally.first = int(np.argmax(infinite if tally.infinite else bad))
        if column.missing not in ("refuse", "middle"):
            out[bad & ~infinite] = column.missing
        elif column.low is not None:
            out[bad & ~infinite] = column.middle
        else:
            out[bad & ~infinite] = 0.0
        low, high = out.min(), out.max()
    if column.low is not None and column.high is not None and (low < column.low or high > column.high):
        tally.outside = int(((out < column.low) | (out > column.high)).sum()) - tally.infinite
    return tally


def read_floats(column: Column, data: ColumnData, row0: int, *, is_text: bool) -> npt.NDArray[Any]:
    """Return a chunk's numbers as they are, NaN where they are missing; refuse what is no number."""
    import polars as pl

    if isinstance(data, np.ndarray):
        return data
    if data.dtype == pl.Null:
        return np.full(len(data), np.nan)
    if data.dtype == pl.String and is_text:
        return _parse(column, data, row0)
    if data.dtype == pl.Boolean or data.dtype.is_numeric():
        if data.null_count() or data.dtype == pl.Boolean or data.dtype.is_decimal():
            return data.cast(pl.Float64).fill_null(float("nan")).to_numpy()
        return data.to_numpy()
    row, value = 0, "only missing values"
    if data.dtype in (pl.String, pl.Categorical, pl.Enum):
        words = data.cast(pl.String)
        suspects = words.is_not_null() & words.cast(pl.Float64, strict=False).is_null()
        chosen = suspects if suspects.any() else words.is_not_null()
        row = chosen.arg_max() or 0
        value = show(words[row])
        fix = f"convert the column to numbers, or set type = 'category' and its categories in '{column.name}'"
    else:
        row = data.is_not_null().arg_max() or 0
        value = f"{data[row]!s}"[:60]
        fix = "convert the column to numbers (hours, days, counts), or set role = 'ignore'"
    raise DataError(
        f"Column '{column.name}' is not a number in row {row0 + row}",
        got=f"{value}, type {data.dtype}",
        rule="the schema says type = 'number'",
        fix=fix,
    )


def _parse(column: Column, words: pl.Series, row0: int) -> npt.NDArray[Any]:
    """Parse a CSV column: the fast way first, and word by word only where that fails."""
    import polars as pl

    numbers = words.cast(pl.Float64, strict=False)
    if numbers.null_count() > words.null_count():
        words = words.str.strip_chars()
        numbers = words.cast(pl.Float64, strict=False)
        failed = numbers.is_null() & words.is_not_null() & ~words.str.to_lowercase().is_in(list(MISSING_WORDS))
        if failed.any():
            row = failed.arg_max() or 0
            raise DataError(
                f"Column '{column.name}' is not a number in row {row0 + row}",
                got=show(words[row]),
                rule="the schema says type = 'number', written like 1234.5 or 1e-3",
                fix="correct the value, or leave it empty and set a missing rule",
            )
    return numbers.fill_null(float("nan")).to_numpy()


def _words(column: Column, data: ColumnData, row0: int) -> pl.Series:
    """Return a column's values as text: whole numbers as "17", booleans as "true" and "false"."""
    import polars as pl

    series = pl.Series(data) if isinstance(data, np.ndarray) else data
    if series.dtype.is_float():
        series = series.fill_nan(None)
        wrong = (series != series.round(0)).fill_null(False) | series.is_infinite().fill_null(False)
        if wrong.any():
            row = wrong.arg_max() or 0
            raise DataError(
                f"Column '{column.name}' is neither text nor a whole number in row {row0 + row}",
                got=show(float(series[row])),
                rule=f"the schema says type = '{column.type}'",
                fix="convert the column to text, or set type = 'number'",
            )
        series = series.cast(pl.Int64, strict=False)
    if series.dtype == pl.Boolean:
        return series.replace_strict([True, False], ["true", "false"], default=None, return_dtype=pl.String)
    if series.dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null) or series.dtype.is_integer():
        return series.cast(pl.String)
    raise DataError(
        f"Column '{column.name}' holds no {column.type} values",
        got=f"type {series.dtype}",
        rule=f"the schema says type = '{column.type}': text, whole numbers or booleans",
        fix="convert the column to text, or set role = 'ignore'",
    )


def _categories(column: Column, data: ColumnData, out: Floats, row0: int) -> Tally:
    import polars as pl

    names = column.categories or ()
    words = _words(column, data, row0)
    codes = words.replace_strict(
        list(names), list(range(len(names))), default=len(names), return_dtype=pl.UInt32
    ).to_numpy()
    out[:] = codes
    tally = Tally()
    empty = words.is_null() | (words == "").fill_null(False) if "" not in names else words.is_null()
    tally.missing = int(empty.sum())
    if tally.missing:
        mask = empty.to_numpy()
        tally.first = int(np.argmax(mask))
        out[mask] = names.index(str(column.missing)) if column.missing != "refuse" else len(names)
    unknown = int((codes == len(names)).sum())
    tally.undeclared = unknown - tally.missing
    return tally


def _codes(column: Column, data: ColumnData, out: Floats, row0: int) -> Tally:
    """Check codes that come in a numeric array."""
    count = len(column.categories or ())
    out[:] = np.asarray(data)
    tally = Tally()
    missing = np.isnan(out)
    tally.missing = int(missing.sum())
    if tally.missing:
        tally.first = int(np.argmax(missing))
        names = column.categories or ()
        out[missing] = names.index(str(column.missing)) if column.missing != "refuse" else count
    wrong = ~((out >= 0) & (out <= count) & (out == np.floor(out)))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"Column '{column.name}' has no such category code in row {row0 + row}",
            got=show(float(out[row])),
            rule=f"an array holds codes: 0 .. {count - 1} as declared and {count} for any other value",
            fix="pass a table with column names to use the categories themselves",
        )
    tally.undeclared = int((out == count).sum()) - (tally.missing if column.missing == "refuse" else 0)
    return tally


def decode_label(column: Column, data: ColumnData, row0: int, *, is_text: bool) -> npt.NDArray[np.int8]:
    """Return labels, shape (n,), int8: 0 normal, 1 anomaly.

    Raises
    ------
    DataError
        A label is missing or is neither of the two values.
    """
    out = np.empty(len(data))
    if column.type == "category":
        tally = _categories(column, data, out, row0)
        rule = f"'{(column.categories or ('',))[0]}' (normal) or '{(column.categories or ('',))[-1]}' (anomaly)"
    else:
        tally = decode_number(column, data, out, row0, is_text=is_text)
        rule = "0 (normal) or 1 (anomaly)"
    if tally.missing:
        raise DataError(
            f"Label '{column.name}' is missing in row {row0 + (tally.first or 0)}",
            rule=rule,
            fix="drop rows without a label before evaluating",
        )
    wrong = (out != 0) & (out != 1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(f"Label '{column.name}' has another value in row {row0 + row}", got=show(data[row]), rule=rule)
    return out.astype(np.int8)


_KEYS = {
    "person": ("Person", "every record belongs to somebody, so that each person's share can be bounded"),
    "entity": ("Entity", "every record is about something, so that series stay apart"),
}


def decode_key(column: Column, data: ColumnData, row0: int, *, is_text: bool) -> npt.NDArray[Any]:
    """Return a person or entity column, shape (n,): int64 for type "number", text for type "text".

    Raises
    ------
    DataError
        A value is missing (a record of nobody cannot be bounded), too long, or not a whole number.
    """
    import polars as pl

    what, why = _KEYS[column.role]
    series = pl.Series(data) if isinstance(data, np.ndarray) else data
    if is_text and column.type == "number":
        series = series.str.strip_chars().cast(pl.Int64, strict=False)
    words = _words(column, series, row0)
    empty = words.is_null() | (words == "").fill_null(False)
    if empty.any():
        raise DataError(
            f"{what} '{column.name}' is missing or unusable in row {row0 + (empty.arg_max() or 0)}",
            got=show(data[empty.arg_max() or 0]),
            rule=why,
            fix="fill the column in, or drop the rows",
        )
    if column.type == "number":
        whole = words.cast(pl.Int64, strict=False)
        if whole.null_count():
            row = whole.is_null().arg_max() or 0
            raise DataError(
                f"{what} '{column.name}' is not a whole number in row {row0 + row}",
                got=show(words[row]),
                rule="the schema says type = 'number', within 64 bits",
                fix="set type = 'text' in the schema",
            )
        return whole.to_numpy()
    longest = words.str.len_chars()
    if (longest > MAX_TEXT).any():
        raise DataError(
            f"{what} '{column.name}' is too long in row {row0 + ((longest > MAX_TEXT).arg_max() or 0)}",
            rule=f"at most {MAX_TEXT} characters",
        )
    return words.to_numpy().astype(str)


def decode_time(column: Column, data: ColumnData, row0: int, *, is_text: bool) -> Floats:
    """Return when each record was made, shape (n,), float64: seconds since 1970, or a number as it stands.

    Raises
    ------
    DataError
        A value is missing, infinite, or neither a number nor a date.
    """
    import polars as pl

    series = pl.Series(data) if isinstance(data, np.ndarray) and data.dtype.kind in "mMOUS" else data
    if isinstance(series, pl.Series) and series.dtype == pl.String and column.type != "number":
        series = _dates(series.str.strip_chars())
    if isinstance(series, pl.Series) and series.dtype.is_temporal():
        if series.dtype == pl.Date:
            series = series.cast(pl.Datetime("us"))
        unit = {"ns": 1e9, "us": 1e6, "ms": 1e3}[getattr(series.dtype, "time_unit", None) or "ns"]  # a pl.Time has ns
        out: Floats = series.to_physical().cast(pl.Float64).fill_null(float("nan")).to_numpy() / unit
    else:
        out = np.array(read_floats(column, series, row0, is_text=is_text), dtype=np.float64)
    bad = ~np.isfinite(out)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(
            f"Time '{column.name}' is missing or unreadable in row {row0 + row}",
            got=show(data[row]) if isinstance(data[row], str | float | int) else str(data[row])[:60],
            rule="a number, or a date and time as in 2026-05-31T13:45:00",
            fix="correct the value or drop the row; or set role = 'ignore' where no order in time is needed",
        )
    return out


def _dates(words: pl.Series) -> pl.Series:
    """Parse text as ISO 8601 dates, or as numbers where every word is one; null where neither works."""
    import polars as pl

    numbers = words.cast(pl.Float64, strict=False)
    if not numbers.null_count():
        return numbers
    iso = words.str.replace("T", " ", literal=True)
    for pattern in ("%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.fZ", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M"):
        parsed = iso.str.to_datetime(pattern, time_unit="us", strict=False)
        if parsed.null_count() < len(parsed):
            return parsed
    return words.str.to_date("%Y-%m-%d", strict=False)
