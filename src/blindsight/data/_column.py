"""One column of a schema: what it is, what it may hold, and what to do where it is empty."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, SupportsFloat, get_args

import numpy as np

from blindsight.errors import SchemaError

__all__ = ["MAX_CATEGORIES", "MAX_TEXT", "Column", "Role", "check_text", "show"]

Role = Literal["feature", "identifier", "person", "entity", "quasi-identifier", "sensitive", "label", "time", "ignore"]
Type = Literal["number", "category", "text"]
Scale = Literal["linear", "log"]

MAX_TEXT = 128
"""Longest name, unit or category, in characters."""
MAX_CATEGORIES = 10_000
"""Most categories of one column."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column and everything that is publicly known about it.

    Parameters
    ----------
    name : str
        The column's name in tables and files; at most 128 printable characters.
    role : {"feature", "identifier", "person", "entity", "quasi-identifier", "sensitive", "label", "time", "ignore"}
        Detectors read features. ``person`` names whose record it is (``unit="person"`` counts by it),
        ``entity`` what the record is about (a host, a terminal, a machine) and ``time`` when it was made: together
        they order records into series. ``label`` is 0 for normal and 1 for anomaly and serves evaluation only. The
        other roles are never read for training or scoring; they tell the reader, and later work, what the column is.
    type : {"number", "category", "text"}
        Features are numbers or categories. A person or an entity is a number (whole) or text. A label is a number
        (0 or 1) or a category with exactly two values. A time is a number (as it stands: seconds, steps) or text (ISO
        8601, or the table's own date type: seconds since 1970).
    unit : str, optional
        Unit of measurement, for people ("mmHg"); not interpreted.
    low, high : float, optional
        Public range of a number feature; required there. Values outside are legal and are counted: encoders
        put them in the outermost bins or clip them.
    categories : tuple of str, optional
        Public values of a category, in the order of their codes 0 .. K - 1; everything else has code K. A
        label's two categories are (normal, anomaly). Whole numbers and booleans are stored as "17", "true",
        "false".
    missing : "refuse", "middle", float or str
        What an empty value means: an error; the middle of the public range (numbers); or this very number or
        category.
    scale : {"linear", "log"}
        How bins should be spaced over the range. ``"log"`` needs ``low >= 0``.

    Raises
    ------
    SchemaError
        Any value above is out of its domain; the message names the column.
    """

    name: str
    role: Role = "feature"
    type: Type = "number"
    unit: str | None = None
    low: float | None = None
    high: float | None = None
    categories: tuple[str, ...] | None = None
    missing: str | float = "refuse"
    scale: Scale = "linear"

    def __post_init__(self) -> None:
        check_text(self.name, "A column's name")
        where = f"Column '{self.name}'"
        _member(where, "role", self.role, get_args(Role))
        _member(where, "type", self.type, get_args(Type))
        _member(where, "scale", self.scale, get_args(Scale))
        if self.unit is not None:
            check_text(self.unit, f"The unit of column '{self.name}'")
        if self.categories is not None:
            object.__setattr__(self, "categories", _categories(where, self.categories))
        for key in ("low", "high"):
            object.__setattr__(self, key, _bound(where, key, getattr(self, key)))
        self._check_type()
        self._check_range()
        self._check_missing()

    def _check_type(self) -> None:
        where = f"Column '{self.name}'"
        allowed = {
            "feature": ("number", "category"),
            "person": ("number", "text"),
            "entity": ("number", "text"),
            "label": ("number", "category"),
        }
        if self.role in allowed and self.type not in allowed[self.role]:
            raise SchemaError(
                f"{where} has role '{self.role}' and type '{self.type}'",
                rule=f"a {self.role} is of type {' or '.join(allowed[self.role])}",
                fix="change its type, or set role = 'ignore'",
            )
        if self.type == "category" and self.role in ("feature", "label") and not self.categories:
            raise SchemaError(
                f"{where} is a category without declared values",
                rule="categories are public and declared, because a list read from the data would leak",
                fix="write categories = ['...', '...'], or set role = 'ignore'",
            )
        if self.type != "category" and self.categories is not None:
            raise SchemaError(
                f"{where} has categories, but type '{self.type}'",
                fix="set type = 'category' or drop the categories",
            )
        if self.role == "label" and self.categories is not None and len(self.categories) != 2:
            raise SchemaError(
                f"{where} is a label with {len(self.categories)} categories",
                rule="a label has two: the normal one first, the anomalous one second",
            )

    def _check_range(self) -> None:
        where = f"Column '{self.name}'"
        if self.type != "number":
            if self.low is not None or self.high is not None or self.scale != "linear":
                raise SchemaError(
                    f"{where} has a range or a scale, but type '{self.type}'", fix="drop low, high, scale"
                )
            return
        if self.role == "feature" and (self.low is None or self.high is None):
            raise SchemaError(
                f"{where} has no public range",
                rule="every number feature declares low and high; a range read from the data would leak",
                fix="fill in low and high from what the column means, not from the records",
            )
        if (self.low is None) != (self.high is None):
            raise SchemaError(f"{where} has only one end of its range", fix="give both low and high, or neither")
        if self.low is not None and self.high is not None:
            if not self.low < self.high or not math.isfinite(self.high - self.low):
                raise SchemaError(
                    f"{where} has an empty or overflowing range",
                    got=f"[{self.low:g}, {self.high:g}]",
                    rule="low < high",
                )
            if self.scale == "log" and self.low < 0:
                raise SchemaError(
                    f"{where} has scale 'log' and a negative low",
                    got=f"low = {self.low:g}",
                    rule="low >= 0 for 'log'",
                )
        elif self.scale == "log":
            raise SchemaError(f"{where} has scale 'log' and no range", fix="give low and high, or drop the scale")

    def _check_missing(self) -> None:
        where = f"Column '{self.name}'"
        value: object = self.missing
        if value == "refuse":
            return
        if self.role == "feature" and self.type == "number":
            if value == "middle":
                return
            if type(value) in (int, float):
                object.__setattr__(self, "missing", _bound(where, "missing", value))
                return
            rule = "'refuse', 'middle' or a finite number"
        elif self.role == "feature":
            if isinstance(value, str) and value in (self.categories or ()):
                return
            rule = "'refuse' or one of the column's categories"
        else:
            rule = "'refuse': only features have a missing rule"
        raise SchemaError(f"{where} has an unusable missing rule", got=show(value), rule=rule)

    @property
    def middle(self) -> float:
        """Middle of the public range, on the column's scale; stands for a missing number."""
        if self.low is None or self.high is None:
            raise SchemaError(f"Column '{self.name}' has no range, hence no middle")
        if self.scale == "log":
            # half way on the scale that bins are spread on: log(1 + 1000 u) of the position u in the range
            return self.low + (self.high - self.low) * math.expm1(math.log1p(1000.0) / 2) / 1000.0
        return self.low + (self.high - self.low) / 2

    def to_plain(self) -> dict[str, Any]:
        """Return the column as JSON or TOML values; what has its default is left out, the type never is."""
        plain: dict[str, Any] = {"name": self.name, "role": self.role, "type": self.type}
        for field in fields(self)[3:]:
            value = getattr(self, field.name)
            if value != field.default:
                plain[field.name] = list(value) if field.name == "categories" else value
        return plain


def check_text(value: object, what: str) -> str:
    """Return `value` if it is a short printable string; raise SchemaError saying `what` it is otherwise."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT or not value.isprintable():
        got = f"{len(value)} characters: {value[:40]!r}" if isinstance(value, str) else show(value)
        raise SchemaError(f"{what} is unusable", got=got, rule=f"1 to {MAX_TEXT} printable characters")
    return value


def show(value: object, limit: int = 60) -> str:
    """Return a short form of any value for a message; never raises, whatever the value."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        return repr(value if len(value) <= limit else value[:limit] + "...")
    if isinstance(value, bool | float | type(None)) or (isinstance(value, int) and abs(value) < 1 << 64):
        return repr(value)
    return f"a value of type {type(value).__name__}"


def _member(where: str, key: str, value: object, allowed: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise SchemaError(f"{where} has an unknown {key}", got=show(value), rule=f"one of {', '.join(allowed)}")


def _bound(where: str, key: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, SupportsFloat):
        raise SchemaError(f"{where}: {key} is not a number", got=show(value))
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise SchemaError(f"{where}: {key} is not a finite number", got=show(value)) from error
    if not math.isfinite(number):
        raise SchemaError(f"{where}: {key} is not finite", got=repr(number))
    return number + 0.0  # -0.0 becomes 0.0, so that equal schemas have equal digests


def _categories(where: str, values: object) -> tuple[str, ...]:
    if not isinstance(values, tuple | list) or not 0 < len(values) <= MAX_CATEGORIES:
        raise SchemaError(f"{where} has an unusable list of categories", rule=f"1 to {MAX_CATEGORIES} values")
    names = []
    for value in values:
        if isinstance(value, bool):
            value = "true" if value else "false"
        elif isinstance(value, int) and abs(value) < 1 << 63:
            value = str(value)
        names.append(check_text(value, f"A category of column {where[7:]}"))
    if len(set(names)) != len(names):
        double = next(name for i, name in enumerate(names) if name in names[:i])
        raise SchemaError(f"{where} declares a category twice", got=repr(double))
    return tuple(names)
