"""The schema: what every party and every scorer publicly agrees a record looks like."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from blindsight.errors import FormatError, SchemaError

from ._column import Column, Role, show
from ._plain import MAX_COLUMNS, VERSION, columns_from_plain
from ._toml import schema_from_toml, schema_to_toml

__all__ = ["Schema"]

MAX_FILE_BYTES = 1 << 22


@dataclass(frozen=True)
class Schema:
    """Columns in order, and whether their ranges were declared or learned.

    Parameters
    ----------
    columns : sequence of Column
        At least one feature; at most one label and one person column; names are unique.
    ranges : {"declared", "learned"}
        ``"learned"`` marks ranges or categories that were read from records. Differential privacy refuses
        them, and a blind scorer says that its model is then not secret.

    Raises
    ------
    SchemaError
        Names what is wrong and where.

    Notes
    -----
    *Privacy*: a schema is public. Write into it what anybody may know about such records (a heart rate lies
    between 20 and 250), never what these records happen to hold.
    """

    columns: tuple[Column, ...]
    ranges: Literal["declared", "learned"] = "declared"

    def __post_init__(self) -> None:
        columns = tuple(self.columns)
        object.__setattr__(self, "columns", columns)
        if not all(isinstance(column, Column) for column in columns):
            raise SchemaError("A schema is made of Column values", got=str({type(c).__name__ for c in columns})[:80])
        if self.ranges not in ("declared", "learned"):
            raise SchemaError("ranges is out of its domain", got=show(self.ranges), rule="'declared' or 'learned'")
        if len(columns) > MAX_COLUMNS:
            raise SchemaError("The schema has too many columns", got=str(len(columns)), rule=f"at most {MAX_COLUMNS}")
        seen: set[str] = set()
        for column in columns:
            if column.name in seen:
                raise SchemaError(f"Column '{column.name}' is declared twice", fix="remove one of the two")
            seen.add(column.name)
        for role in ("label", "person"):
            several = [column.name for column in columns if column.role == role]
            if len(several) > 1:
                raise SchemaError(f"The schema has several columns of role '{role}'", got=", ".join(several[:5]))
        if not self.features:
            raise SchemaError("The schema has no feature", fix="give at least one column role = 'feature'")

    @property
    def features(self) -> tuple[Column, ...]:
        """The feature columns, in the order of the feature matrix."""
        return tuple(column for column in self.columns if column.role == "feature")

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features, in the order of the feature matrix."""
        return tuple(column.name for column in self.features)

    @property
    def n_features(self) -> int:
        """Number of features d."""
        return len(self.features)

    @property
    def label(self) -> Column | None:
        """The label column, if there is one."""
        return next((column for column in self.columns if column.role == "label"), None)

    @property
    def person(self) -> Column | None:
        """The column that says whose record it is, if there is one."""
        return next((column for column in self.columns if column.role == "person"), None)

    @property
    def entities(self) -> tuple[Column, ...]:
        """The columns that say what a record is about (host, terminal, machine): one series per combination."""
        return tuple(column for column in self.columns if column.role == "entity")

    @property
    def time(self) -> Column | None:
        """The column that orders a series' records; None where there is none, or several and the choice is open."""
        times = [column for column in self.columns if column.role == "time"]
        return times[0] if len(times) == 1 else None

    def declare(self) -> Schema:
        """Return the same schema marked as declared, on the caller's word that its ranges are public.

        Notes
        -----
        *Privacy*: nothing is computed here. Ranges that were learned from private records stay a leak after
        this call; it is the caller who says that they could have been written down without looking.
        """
        return replace(self, ranges="declared")

    @classmethod
    def infer(cls, sample: object, *, roles: Mapping[str, Role] | None = None, label: str | None = None) -> Schema:
        """Propose a schema from a sample; its ranges are marked as learned.

        Parameters
        ----------
        sample : array, DataFrame, Arrow table, dict of columns, or path
            Of a file the first 262,144 rows are looked at. Columns of an array are called x0, x1, ...
        roles : mapping of column name to role, optional
            Overrides; a column that is not named is a feature. (Dates become ``time``; strings with more than
            256 different values become ``ignore``, with a warning: nobody could bin them.)
        label : str, optional
            Name of the label column. No column becomes the label by its name alone.

        Returns
        -------
        Schema
            With ``ranges == "learned"``. Numbers get a robust range rounded outward, and ``scale="log"``
            where they are nonnegative with a heavy tail; strings become categories.

        Notes
        -----
        *Privacy*: the ranges and categories describe the sample. Use public or old records, or write the
        schema by hand (``draft`` prepares it).
        """
        from ._infer import infer_columns

        return cls(infer_columns(sample, roles=dict(roles or {}), label=label), ranges="learned")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Schema:
        """Read a schema from a TOML file of at most 4 MiB.

        Raises
        ------
        SchemaError
            The file is missing, is not TOML, or says something that a schema cannot.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                raw = file.read(MAX_FILE_BYTES + 1)
            text = raw.decode("utf-8")
        except OSError as error:
            raise SchemaError(
                f"The schema '{path}' cannot be read",
                got=error.strerror,
                fix="give the path of a schema; 'blindsight schema draft RECORDS.csv > schema.toml' begins one",
            ) from error
        except UnicodeDecodeError as error:
            raise SchemaError(f"The schema '{path}' is not UTF-8 text", fix="save it as UTF-8") from error
        if len(raw) > MAX_FILE_BYTES:
            raise SchemaError(f"The schema '{path}' is too large", rule=f"at most {MAX_FILE_BYTES} bytes")
        try:
            return cls.from_toml(text)
        except SchemaError as error:
            raise SchemaError(f"'{path}': {error.what}", got=error.got, rule=error.rule, fix=error.fix) from error

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the schema as TOML; an existing file is replaced."""
        Path(path).write_text(self.to_toml(), encoding="utf-8")

    @classmethod
    def from_toml(cls, text: str) -> Schema:
        """Parse the TOML form, of at most 4 MiB; errors name the column and the fix."""
        if len(text) > MAX_FILE_BYTES:
            raise SchemaError("The schema is too large", rule=f"at most {MAX_FILE_BYTES} characters")
        columns, ranges = schema_from_toml(text)
        return cls(columns, ranges)

    def to_toml(self) -> str:
        """Return the TOML form, for people; reading it back gives an equal schema."""
        return schema_to_toml(self.columns, self.ranges)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; the form that travels in offers and model files."""
        return {
            "version": VERSION,
            "ranges": self.ranges,
            "columns": [column.to_plain() for column in self.columns],
        }

    @classmethod
    def from_json(cls, value: object) -> Schema:
        """Rebuild a schema from untrusted JSON values.

        Raises
        ------
        FormatError
            Unknown version or key, wrong type, a value out of its domain, or more than 10,000 columns.
        """
        try:
            columns, ranges = columns_from_plain(value)
            return cls(columns, ranges)
        except SchemaError as error:
            raise FormatError(
                "The description of a schema is malformed",
                got=error.what,
                fix="ask the sender for a fresh copy",
            ) from error

    def _repr_html_(self) -> str:
        from ._display import schema_html

        return schema_html(self)

    def digest(self) -> str:
        """SHA-256 of the canonical JSON form, 64 hexadecimal digits; equal schemas have equal digests."""
        canonical = json.dumps(
            self.to_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
        )
        return hashlib.sha256(b"blindsight schema\0" + canonical.encode("ascii")).hexdigest()
