"""``schema draft``: the beginning of a schema, for a person to complete."""

from __future__ import annotations

import os
from typing import Any

from blindsight.errors import DataError

from ._column import check_text
from ._infer import INFER_ROWS, few_values, kind_of
from ._plain import VERSION
from ._tables import open_table
from ._toml import column_to_toml

__all__ = ["draft"]

_HEADER = f"""\
# Blindsight schema, drafted from column names and types: no value of any record is in it.
#
# Fill in every low and high, and every list of categories, from what the column means: what could such a
# record hold, anywhere? Not from these records: this file is shared, and a minimum read from data is a leak.
# role:    feature, label (0 normal, 1 anomaly), person (whose record it is), entity (what it is about: host,
#          terminal), time (when), identifier, quasi-identifier, sensitive, ignore
# missing: "refuse" (default), "middle" of the range, a number, or a category
# scale:   "linear" (default) or "log", for amounts and counts with a long tail
version = {VERSION}
ranges = "declared"
"""
_LABEL_WORDS = ("label", "class", "target", "fraud", "is_fraud", "isfraud", "anomaly", "outlier", "attack")
_PERSON_WORDS = ("person", "person_id", "customer", "customer_id", "client_id", "patient", "patient_id")


def draft(path: str | os.PathLike[str]) -> str:
    """Write the beginning of a schema: names and types, ranges left blank.

    Parameters
    ----------
    path : path
        A CSV or Parquet file; the first 262,144 rows decide the types.

    Returns
    -------
    str
        TOML text for a person to complete; ``Schema.from_toml`` names every blank.

    Notes
    -----
    *Privacy*: column names and types are written, no values. Roles are suggested in remarks only.
    """
    table = open_table(path, None)
    chunk = next(table.chunks(table.names, INFER_ROWS), None)
    if chunk is None or not len(chunk[table.names[0]]):
        raise DataError(f"The file '{path}' has no rows", fix="draft from a file with at least one record")
    parts = [_HEADER]
    for name in table.names:
        check_text(name, "A column's name")
        plain, remarks = _draft_column(name, chunk[name], is_text=table.is_text)
        parts.append(column_to_toml(plain, remarks))
    return "\n".join(parts)


def _draft_column(name: str, data: Any, *, is_text: bool) -> tuple[dict[str, Any], list[str]]:
    kind = kind_of(data, is_text=is_text)
    remarks = []
    if name.lower() in _LABEL_WORDS:
        remarks.append('A label? Then: role = "label", and no range.')
    if name.lower() in _PERSON_WORDS:
        remarks.append('Whose record it is? Then: role = "person", type = "text" (or "number").')
    if kind in ("number", "whole"):
        return {"name": name, "role": "feature", "type": "number", "unit": "", "low": "", "high": ""}, remarks
    if kind == "time":
        return {"name": name, "role": "time", "type": "text"}, remarks
    if few_values(data) is None:
        remarks.append("Many different texts: not a feature as it stands.")
        return {"name": name, "role": "ignore", "type": "text"}, remarks
    return {"name": name, "role": "feature", "type": "category", "categories": []}, remarks
