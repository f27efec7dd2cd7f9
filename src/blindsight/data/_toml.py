"""The schema's TOML form: read with ``tomllib``, written here, since the standard library has no writer."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from blindsight.errors import SchemaError

from ._column import Column
from ._plain import VERSION, columns_from_plain

__all__ = ["column_to_toml", "schema_from_toml", "schema_to_toml"]

_HEADER = """\
# Blindsight schema: what everybody may know about these records. Ranges and categories are public.
version = {version}
ranges = "{ranges}"  # {remark}
"""
_REMARKS = {
    "declared": "written from what the columns mean, not from the records",
    "learned": "read from records: a leak until somebody declares them public",
}


def schema_from_toml(text: str) -> tuple[tuple[Column, ...], Literal["declared", "learned"]]:
    """Parse TOML text into columns and the ranges' origin."""
    try:
        value = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SchemaError(
            "The schema is not valid TOML",
            got=str(error)[:200],
            rule="what 'blindsight schema draft' writes",
            fix="mend that line: text stands in quotes, every column under a [[columns]] of its own",
        ) from error
    return columns_from_plain(value)


def schema_to_toml(columns: Sequence[Column], ranges: Literal["declared", "learned"]) -> str:
    """Write columns as TOML text, one ``[[columns]]`` table each."""
    header = _HEADER.format(version=VERSION, ranges=ranges, remark=_REMARKS[ranges])
    return "\n".join([header, *(column_to_toml(column.to_plain()) for column in columns)])


def column_to_toml(plain: dict[str, Any], remarks: Iterable[str] = ()) -> str:
    """Write one ``[[columns]]`` table, with remarks as comment lines under its heading."""
    lines = ["[[columns]]", *(f"# {remark}" for remark in remarks)]
    lines += [f"{key} = {_value(value)}" for key, value in plain.items()]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    if isinstance(value, str):
        # A JSON string of printable characters is a TOML basic string.
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    raise AssertionError(type(value))
