"""From plain values (parsed JSON or TOML, perhaps hostile) to columns."""

from __future__ import annotations

import difflib
from dataclasses import fields
from typing import Any, Literal, cast

from blindsight.errors import SchemaError

from ._column import Column, show

__all__ = ["MAX_COLUMNS", "VERSION", "columns_from_plain"]

VERSION = 1
"""Version of the schema's written form."""
MAX_COLUMNS = 10_000
"""Most columns of one schema."""

MAX_FAULTS, MAX_NAMES = 12, 40
"""Kinds of fault, and columns of each, that one error names."""

_KEYS = tuple(field.name for field in fields(Column))


def columns_from_plain(value: object) -> tuple[tuple[Column, ...], Literal["declared", "learned"]]:
    """Check every type, key and bound; return the columns and whether their ranges were declared.

    Raises
    ------
    SchemaError
        Names the column (by name, or by its number where even the name is unusable) and the rule; where several
        columns are wrong, all of them.
    """
    if not isinstance(value, dict):
        raise SchemaError("A schema is a table of keys", got=type(value).__name__)
    _known_keys(value, ("version", "ranges", "columns"), "The schema")
    if type(value.get("version")) is not int or value["version"] != VERSION:
        raise SchemaError("The schema has another version", got=show(value.get("version")), rule=f"version = {VERSION}")
    ranges = value.get("ranges", "declared")
    if ranges not in ("declared", "learned"):
        raise SchemaError("ranges is out of its domain", got=show(ranges), rule="'declared' or 'learned'")
    rows = value.get("columns")
    if not isinstance(rows, list) or not 0 < len(rows) <= MAX_COLUMNS:
        raise SchemaError("The schema's columns are not a list", rule=f"1 to {MAX_COLUMNS} columns")
    columns: list[Column] = []
    faults: list[tuple[str, SchemaError]] = []
    for number, row in enumerate(rows):
        try:
            columns.append(_column(number, row))
        except SchemaError as error:
            faults.append((_where(number, row), error))
    if len(faults) == 1:
        raise faults[0][1]
    if faults:
        raise _all_of(faults)
    return tuple(columns), cast("Literal['declared', 'learned']", ranges)


def _all_of(faults: list[tuple[str, SchemaError]]) -> SchemaError:
    """One error for all columns that are wrong, those with the same fault named together."""
    alike: dict[tuple[str, str | None, str | None], list[str]] = {}
    for where, error in faults:
        what, _, rest = error.what.partition(where)
        fault = rest.lstrip(": ") if rest and not what else error.what
        alike.setdefault((fault, error.got, error.fix or error.rule), []).append(where.removeprefix("Column "))
    told = []
    for (fault, got, mend), names in list(alike.items())[:MAX_FAULTS]:
        shown = ", ".join(names[:MAX_NAMES]) + (f", ... ({len(names)} in all)" if len(names) > MAX_NAMES else "")
        told.append(f"{shown}: {fault}" + (f" ({got})" if got else "") + (f": {mend}" if mend else ""))
    more = f"; and {len(alike) - MAX_FAULTS} further faults" if len(alike) > MAX_FAULTS else ""
    return SchemaError(
        f"{len(faults)} columns of the schema cannot be used",
        got="; ".join(told) + more,
        rule="a feature has a public range or public categories, and every key a value of its type",
        fix="mend all of them in the schema file",
    )


def _column(number: int, row: object) -> Column:
    if not isinstance(row, dict):
        raise SchemaError(f"Column number {number} is not a table", got=type(row).__name__)
    where = _where(number, row)
    _known_keys(row, _KEYS, where)
    for key in ("name", "type"):
        if key not in row:
            raise SchemaError(f"{where} has no {key}", fix=f"add {key} = '...'")
    arguments: dict[str, Any] = dict(row)
    if arguments.get("unit") == "":
        del arguments["unit"]
    for key in ("low", "high"):
        if arguments.get(key) == "":  # as `schema draft` leaves it
            del arguments[key]
        elif key in arguments and type(arguments[key]) not in (int, float):
            raise SchemaError(f"{where}: {key} is not a number", got=show(arguments[key]))
    if arguments.get("categories") == []:
        del arguments["categories"]
    return Column(**arguments)


def _where(number: int, row: object) -> str:
    name = row.get("name") if isinstance(row, dict) else None
    return f"Column '{name[:40]}'" if isinstance(name, str) else f"Column number {number}"


def _known_keys(table: dict[Any, Any], known: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in known:
            close = difflib.get_close_matches(key[:40] if isinstance(key, str) else "", known, 1)
            raise SchemaError(
                f"{where} has an unknown key",
                got=show(key),
                rule=f"known keys are {', '.join(known)}",
                fix=f"did you mean '{close[0]}'?" if close else None,
            )
