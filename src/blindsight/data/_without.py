"""A table without some persons' rows, or with theirs alone: what is left out is left out wherever it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from blindsight.errors import DataError

from ._column import Column
from ._decode import decode_key

if TYPE_CHECKING:
    import polars as pl

    from ._tables import Table

    ColumnData = pl.Series | npt.NDArray[Any]

__all__ = ["Without", "person_keys"]

Keep = Callable[[npt.NDArray[Any]], npt.NDArray[np.bool_]]


class Without:
    """A source of records that leaves rows out by person; goes wherever a table does.

    Parameters
    ----------
    source : table or path
        With column names; an array has no persons.
    person : Column
        Of role "person".
    keep : callable (persons of shape (n,), int64 or str) -> bool of shape (n,)
        Which rows stay.

    Notes
    -----
    Rows are numbered after the others are left out, in messages too.
    """

    def __init__(self, source: object, person: Column, keep: Keep) -> None:
        self.source, self.person, self.keep = source, person, keep

    def open(self, table: Table) -> Table:
        """The opened table, filtered.

        Raises
        ------
        DataError
            It has no person column.
        """
        if self.person.name not in table.names or table.is_positional:
            raise DataError(
                f"The person column '{self.person.name}' is missing from the data",
                rule="persons were forgotten here, and their rows are left out by this column",
                fix="add the column to the records",
            )
        return _Filtered(table, self)


class _Filtered:
    def __init__(self, table: Table, without: Without) -> None:
        self._table, self._without = table, without
        self.names, self.is_text = table.names, table.is_text
        self.is_positional, self.is_code = table.is_positional, table.is_code

    def chunks(self, names: Sequence[str], chunk_rows: int) -> Iterator[dict[str, ColumnData]]:
        """Yield chunks with the rows that stay; some may be empty."""
        person, row0 = self._without.person, 0
        wanted = list(dict.fromkeys((*names, person.name)))
        for chunk in self._table.chunks(wanted, chunk_rows):
            persons = decode_key(person, chunk[person.name], row0, is_text=self.is_text)
            row0 += len(persons)
            keep = self._without.keep(persons)
            yield {name: _only(chunk[name], keep) for name in names}


def _only(data: ColumnData, keep: npt.NDArray[np.bool_]) -> ColumnData:
    return data[keep] if isinstance(data, np.ndarray) else data.filter(keep)


def person_keys(person: Column, values: Sequence[str]) -> npt.NDArray[Any]:
    """Persons that somebody has typed, as records have them: shape (n,), int64 or str.

    Raises
    ------
    DataError
    """
    import polars as pl

    return decode_key(person, pl.Series(person.name, list(values), dtype=pl.String), 0, is_text=True)
