"""What a schema looks like in a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blindsight import _html

if TYPE_CHECKING:
    from ._schema import Schema

__all__ = ["schema_html"]


def schema_html(schema: Schema) -> str:
    """One row a column: name, role, type, range or categories, rule for missing values."""
    rows = []
    for column in schema.columns:
        bounds = "" if column.low is None else f"{column.low:g} to {column.high:g}"
        if column.categories:
            shown = ", ".join(map(str, column.categories[:12]))
            bounds = f"{shown}, and {len(column.categories) - 12} more" if len(column.categories) > 12 else shown
        rows.append((column.name, column.role, column.type, bounds, column.unit or "", column.missing))
    learned = "" if schema.ranges == "declared" else " They were learned from records: no public knowledge."
    return _html.block(
        f"Schema of {schema.n_features} features",
        _html.text(f"Ranges: {schema.ranges}.{learned}"),
        _html.table(("column", "role", "type", "range or categories", "unit", "missing"), rows),
    )
