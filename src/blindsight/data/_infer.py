"""Propose columns from a sample: robust ranges rounded outward, categories from short lists of strings."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import numpy.typing as npt

from blindsight.errors import BlindsightWarning, DataError, SchemaError

from ._column import Column, Role, Scale, show
from ._decode import read_floats
from ._tables import open_table

if TYPE_CHECKING:
    from ._tables import ColumnData

__all__ = ["INFER_ROWS", "few_values", "infer_columns", "kind_of"]

INFER_ROWS = 262_144
"""Rows of a file that are looked at."""
FEW = 256
"""A column with more different strings than this becomes no category."""
TAIL = 1e-3
"""Share of values that a learned range leaves outside at either end."""
HEAVY = 10.0
"""Upper tail over lower tail, from the centre, beyond which bins are spaced logarithmically."""


def infer_columns(sample: object, *, roles: dict[str, Role], label: str | None) -> tuple[Column, ...]:
    """Propose one column per column of the sample; see ``Schema.infer``."""
    table = open_table(sample, None)
    if label is not None:
        roles = {**roles, label: "label"}
    for name, role in roles.items():
        if name not in table.names:
            raise SchemaError(f"The sample has no column '{name}'", rule=f"it was named as {role}")
        if role not in get_args(Role):
            raise SchemaError(f"Column '{name}' has an unknown role", got=show(role), rule=", ".join(get_args(Role)))
    names = table.names
    limit = INFER_ROWS if isinstance(sample, str | os.PathLike) else sys.maxsize
    chunk = next(table.chunks(names, limit), None) if names else None
    if chunk is None or not len(chunk[names[0]]):
        raise DataError("The sample has no rows", fix="pass a table with records")
    if table.is_positional:
        _refuse_numbers_as_text(chunk, roles)
    columns = [_column(name, chunk[name], roles.get(name), is_text=table.is_text) for name in names]
    ignored = [column.name for column in columns if column.role == "ignore" and column.name not in roles]
    if ignored and not any(column.role == "feature" for column in columns):
        number = next((name for name in ignored if _holds_numbers_as_text(chunk[name])), None)
        raise SchemaError(
            "No column can be a feature",
            got=f"{', '.join(ignored[:8])}: " + (f"{number} holds numbers as text" if number else "text of many kinds"),
            rule=f"a feature is a number, or text of at most {FEW} different values",
            fix="convert numbers to float, or group the values",
        )
    if ignored:
        warnings.warn(
            f"Not used as features: {', '.join(ignored[:8])} (more than {FEW} different strings, "
            "or no type that can be binned). Name their roles to silence this.",
            BlindsightWarning,
            stacklevel=4,
        )
    return tuple(columns)


def _refuse_numbers_as_text(chunk: Mapping[str, ColumnData], roles: Mapping[str, Role]) -> None:
    """Refuse an array whose numbers are strings: NumPy makes them so, and each would be a category of its own."""
    for name, data in chunk.items():
        if roles.get(name, "feature") == "feature" and _holds_numbers_as_text(data):
            raise SchemaError(
                f"Column {name} holds numbers as text",
                got=show(str(next(iter(data.drop_nulls())))),  # type: ignore[union-attr]
                rule="the numbers of an array are numbers",
                fix="convert to float: X.astype(float); where other columns hold text, give a table of typed columns",
            )


def _holds_numbers_as_text(data: ColumnData) -> bool:
    import polars as pl

    is_text = isinstance(data, pl.Series) and data.dtype == pl.String
    return is_text and kind_of(data, is_text=True) in ("number", "whole")


def _column(name: str, data: ColumnData, role: Role | None, *, is_text: bool) -> Column:
    kind = kind_of(data, is_text=is_text)
    if role not in (None, "feature", "label"):
        as_number = (kind == "number" and role not in ("person", "entity")) or kind == "whole"
        return Column(name=name, role=role or "feature", type="number" if as_number else "text")
    if role == "label":
        if kind == "text":
            raise SchemaError(
                f"Label '{name}' is text",
                rule="which of its values is the anomaly cannot be guessed",
                fix="declare it: role='label', type='category', categories=(normal one, anomalous one)",
            )
        return Column(name=name, role="label")
    if kind in ("number", "whole"):
        return _number_column(name, data, is_text=is_text)
    if kind == "time":
        return Column(name=name, role="time", type="text")
    categories = few_values(data)
    if categories is None:
        if role == "feature":
            raise SchemaError(f"Feature '{name}' has more than {FEW} different values", fix="group them, or ignore it")
        return Column(name=name, role="ignore", type="text")
    return Column(name=name, type="category", categories=categories)


def kind_of(data: ColumnData, *, is_text: bool) -> str:
    """Say what a column holds: "number", "whole" (numbers), "time" or "text"."""
    import polars as pl

    if isinstance(data, np.ndarray):
        return "whole" if data.dtype.kind in "iu" else "number"
    if data.dtype == pl.String and is_text:
        try:
            values = read_floats(Column(name="x", role="ignore"), data, 0, is_text=True)
        except DataError:
            return "text"
        known = values[~np.isnan(values)]
        if not len(known):
            return "text"
        return "whole" if (known == np.floor(known)).all() else "number"
    if data.dtype.is_integer():
        return "whole"
    if data.dtype.is_numeric() or data.dtype == pl.Boolean:
        return "number"
    return "time" if data.dtype.is_temporal() else "text"


def _number_column(name: str, data: ColumnData, *, is_text: bool) -> Column:
    values = read_floats(Column(name=name, role="ignore"), data, 0, is_text=is_text).astype(np.float64)
    known = values[np.isfinite(values)]
    if not len(known):
        raise SchemaError(f"Column '{name}' holds no finite number", fix="drop it, or set its role to 'ignore'")
    try:
        low, high, scale = _range_rule(known)
    except SchemaError as error:
        raise SchemaError(f"Column '{name}' gets no range: {error.what}", got=error.got, fix=error.fix) from error
    return Column(name=name, low=low, high=high, scale=scale)


def few_values(data: Any) -> tuple[str, ...] | None:
    """Return the distinct strings of a column, sorted; None where there are none or more than 256."""
    import polars as pl

    try:
        distinct = data.cast(pl.String).drop_nulls().unique()
    except pl.exceptions.PolarsError:
        return None
    distinct = distinct.filter(distinct != "")
    if not 0 < len(distinct) <= FEW:
        return None
    return tuple(sorted(distinct.to_list()))


def _range_rule(values: npt.NDArray[np.float64]) -> tuple[float, float, Scale]:
    """Choose a range and a scale for finite numbers, shape (n,), n >= 1.

    The range leaves at most one value in a thousand outside at either end (none of fewer than 1,000 values), so that a
    single wild value does not empty all other bins, and is then rounded outward to round numbers. Nonnegative values
    are spaced logarithmically where, of those above the least, the upper tail is more than ten times as long as the
    lower one: leaving the least out tells a rare flag (0 or 1) from an amount that is mostly 0.
    """
    smallest, largest = float(values.min()), float(values.max())
    if max(-smallest, largest) > 1e300:
        raise SchemaError("The values overflow any range", got=f"[{smallest:g}, {largest:g}]", fix="rescale them")
    low = float(np.quantile(values, TAIL, method="lower"))
    high = float(np.quantile(values, 1 - TAIL, method="higher"))
    if not low < high:
        low, high = smallest, largest
    scale: Scale = "linear"
    if high - low < max(1e-300, 1e-9 * max(abs(low), abs(high))):  # constant, but other values need a place too
        room = max(1.0, abs(low)) / 2
        low, high = low - room, high + room
    elif smallest >= 0:
        centre = float(np.median(values[values > low]))
        scale = "log" if high - centre > HEAVY * (centre - low) else "linear"
    low, high = _outward(low, high)
    if smallest >= 0:
        low = max(low, 0.0)
    return low, high, scale


def _outward(low: float, high: float) -> tuple[float, float]:
    """Round outward to multiples of 1, 2 or 5 times a power of ten: a twentieth to a fiftieth of the width."""
    width = high - low
    exponent = math.floor(math.log10(width / 20))
    step = next((m for m in (5, 2) if m * 10.0**exponent <= width / 20), 1)
    # Python's float of a decimal literal is the nearest double: .3 and not .30000000000000004
    return (
        float(f"{math.floor(low / (step * 10.0**exponent)) * step}e{exponent}"),
        float(f"{math.ceil(high / (step * 10.0**exponent)) * step}e{exponent}"),
    )
