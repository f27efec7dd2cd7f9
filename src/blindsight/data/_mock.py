"""Mock records: drawn from the schema alone, to show what real ones look like without a word of them."""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from blindsight.errors import ParameterError

from ._column import Column
from ._schema import Schema

if TYPE_CHECKING:
    import polars as pl

__all__ = ["mock_records"]

MAX_ROWS = 1_000_000
ANOMALOUS = 0.05
MISSING = 0.02
_START = datetime(2026, 1, 1)

POOL = 1000
"""Distinct values made up for a text column; rows draw from them."""

_PROVIDERS = {
    "name": "name",
    "email": "email",
    "iban": "iban",
    "account": "iban",
    "card": "credit_card_number",
    "phone": "phone_number",
    "address": "street_address",
    "city": "city",
    "company": "company",
    "merchant": "company",
    "job": "job",
    "ip": "ipv4",
    "url": "url",
    "user": "user_name",
    "comment": "sentence",
    "description": "sentence",
}
"""What Faker makes up for a text column with this word in its name."""


def mock_records(schema: Schema, rows: int, *, seed: int = 0) -> pl.DataFrame:
    """Draw records from what the schema declares: uniform over every range and list of categories.

    Parameters
    ----------
    schema : Schema
    rows : int
        1 to 1,000,000.
    seed : int
        The same seed gives the same table. Nothing here is secret.

    Returns
    -------
    polars.DataFrame, shape (rows, columns)
        Fits the schema; columns are drawn independently. One in twenty is labelled anomalous and 2% of values are
        missing where the schema says what that means. With the extra ``net``, text whose column is called a name, an
        e-mail address, an IBAN and the like reads like one: Faker makes it up. Else it is ``mock-`` and a number.

    Notes
    -----
    *Privacy*: made from the schema, which is public, and from nothing else: no record is read. It is no control:
    beside real records it protects nothing, and a model fitted on it says nothing about them.
    """
    import polars as pl

    if not 1 <= rows <= MAX_ROWS:
        raise ParameterError("The number of mock records is out of its domain", got=str(rows), rule=f"1 to {MAX_ROWS}")
    generator = np.random.default_rng(seed)
    return pl.DataFrame({column.name: _draw(column, rows, generator) for column in schema.columns})


def _invented(column: Column, count: int, generator: np.random.Generator) -> list[str] | None:
    """So many strings that read like what the column is called; None where nobody knows what that is."""
    words = re.split(r"[^a-z]+", column.name.lower())
    provider = next((_PROVIDERS[word] for word in reversed(words) if word in _PROVIDERS), None)
    if provider is None:
        return None
    try:
        from faker import Faker
    except ImportError:
        return None
    faker = Faker(use_weighting=False)
    faker.seed_instance(int(generator.integers(1 << 32)))
    return [str(getattr(faker, provider)()) for _ in range(count)]


def _draw(column: Column, rows: int, generator: np.random.Generator) -> Any:
    """Values of one column, as a list or an array that fits its type."""
    if column.role == "label":
        codes = (generator.random(rows) < ANOMALOUS).astype(int)
        return codes if column.categories is None else [column.categories[code] for code in codes]
    if column.role == "time":
        steps = np.sort(generator.integers(0, 90 * 86_400, size=rows))
        if column.type == "number":
            return steps.astype(float)
        return [(_START + timedelta(seconds=int(step))).isoformat() for step in steps]
    if column.role in ("person", "entity"):
        count = max(1, rows // 4)
        codes = generator.integers(count, size=rows)
        if column.type == "number":
            return codes
        people = _invented(column, min(count, POOL), generator) or [f"{column.role}-{i:06d}" for i in range(count)]
        return [people[code % len(people)] for code in codes]
    if column.type == "category":
        names = column.categories or ("a", "b", "c")
        return _with_gaps([names[code] for code in generator.integers(len(names), size=rows)], column, generator)
    if column.type == "text":
        made_up = _invented(column, min(rows, POOL), generator)
        if made_up is not None:
            return [made_up[code] for code in generator.integers(len(made_up), size=rows)]
        return [f"mock-{code:08x}" for code in generator.integers(1 << 32, size=rows)]
    return _with_gaps(_numbers(column, rows, generator).tolist(), column, generator)


def _numbers(column: Column, rows: int, generator: np.random.Generator) -> npt.NDArray[np.float64]:
    low, high = (0.0, 1.0) if column.low is None or column.high is None else (column.low, column.high)
    position = generator.random(rows)
    if column.scale == "log":  # uniform on the scale that bins are spread on
        position = np.expm1(position * math.log1p(1000.0)) / 1000.0
    values = low + position * (high - low)
    return np.clip(values, low, high)


def _with_gaps(values: list[Any], column: Column, generator: np.random.Generator) -> list[Any]:
    if column.missing == "refuse":
        return values
    return [None if gap else value for value, gap in zip(values, generator.random(len(values)) < MISSING, strict=True)]
