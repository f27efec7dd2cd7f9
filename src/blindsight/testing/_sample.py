"""Records made from a schema: legal ones, and legal ones at its limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from blindsight.data import Records, Schema, records

if TYPE_CHECKING:
    import polars as pl

__all__ = ["sample_chunk", "sample_records"]


def sample_records(schema: Schema, rows: int, seed: int, *, extreme: float = 0.2) -> pl.DataFrame:
    """Make records that obey a schema and go to its limits.

    Parameters
    ----------
    schema : Schema
    rows : int
    seed : int
    extreme : float
        Fraction of values at the ends of the range, beyond it, huge, tiny, or of undeclared categories. The schema
        calls all of them legal.

    Returns
    -------
    polars.DataFrame
        One column per feature, label, person, time (in order) and entity.
    """
    import polars as pl

    generator = np.random.default_rng(seed)
    columns: dict[str, Any] = {}
    for column in schema.columns:
        odd = generator.random(rows) < extreme
        if column.role == "feature" and column.type == "category":
            names = [*(column.categories or ()), "never declared"]
            usual = generator.integers(len(names) - 1, size=rows)
            columns[column.name] = [names[i] for i in np.where(odd, len(names) - 1, usual)]
        elif column.role == "feature":
            assert column.low is not None
            assert column.high is not None
            span = column.high - column.low
            usual_values = column.low + span * generator.beta(2, 5, size=rows)
            ends = np.array([column.low, column.high, column.low - span, column.high + 3 * span, 1e300, -1e300, 5e-324])
            columns[column.name] = np.where(odd, generator.choice(ends, rows), usual_values)
        elif column.role == "label":
            codes = (generator.random(rows) < 0.1).astype(np.int64)
            columns[column.name] = [column.categories[c] for c in codes] if column.categories else codes
        elif column.role == "person":
            persons = generator.integers(max(rows // 3, 1), size=rows)
            columns[column.name] = [f"p{i}" for i in persons] if column.type == "text" else persons
        elif column.role == "time":
            columns[column.name] = np.arange(rows, dtype=np.float64) if column.type == "number" else _seconds(rows)
        elif column.role == "entity":
            columns[column.name] = [f"e{i % 3}" for i in range(rows)] if column.type == "text" else np.arange(rows) % 3
    return pl.DataFrame(columns)


def _seconds(rows: int) -> Any:
    return np.datetime64("2024-01-01T00:00:00") + np.arange(rows).astype("timedelta64[s]")


def sample_chunk(schema: Schema, table: Any) -> Records:
    """Decode a table that fits one chunk."""
    (chunk,) = list(records(schema, table, for_scoring=True, warn=False))
    return chunk
