"""Whatever the caller calls a table, as chunks of named columns in bounded memory.

A chunk's column is a polars Series or a one-dimensional NumPy array; nothing is validated here beyond shape.
Every table can be read any number of times, since fitting passes over the records more than once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from blindsight.errors import DataError

from ._without import Without

if TYPE_CHECKING:
    import polars as pl

    ColumnData = pl.Series | npt.NDArray[Any]

__all__ = ["Table", "open_table"]

_ACCEPTED = "a path to a .csv or .parquet file, an array, a pandas, polars or Arrow table, or a dict of columns"


class Table(Protocol):
    """Named columns that can be read in chunks, again and again."""

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in the table's own order."""

    @property
    def is_text(self) -> bool:
        """Whether every value is text that has yet to be parsed (CSV)."""

    @property
    def is_positional(self) -> bool:
        """Whether columns go by position and no column has a name of its own: features only."""

    @property
    def is_code(self) -> bool:
        """Whether category columns hold codes, as in ``Records.X``."""

    def chunks(self, names: Sequence[str], chunk_rows: int) -> Iterator[dict[str, ColumnData]]:
        """Yield the named columns, at most `chunk_rows` rows at a time; all columns of a chunk are equally
        long."""


class _ArrayTable:
    """A numeric matrix whose columns go by position; category columns hold codes."""

    is_text = False
    is_positional = True
    is_code = True

    def __init__(self, array: npt.NDArray[Any], names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._array = array

    def chunks(self, names: Sequence[str], chunk_rows: int) -> Iterator[dict[str, ColumnData]]:
        """Yield views of the array's columns."""
        positions = [self.names.index(name) for name in names]
        for start in range(0, len(self._array), chunk_rows):
            block = self._array[start : start + chunk_rows]
            yield {name: block[:, position] for name, position in zip(names, positions, strict=True)}


class _FrameTable:
    """A polars DataFrame, or an Arrow table, which polars reads without copying."""

    is_text = False
    is_positional = False
    is_code = False

    def __init__(self, frame: pl.DataFrame) -> None:
        self.names = tuple(frame.columns)
        self._frame = frame

    def chunks(self, names: Sequence[str], chunk_rows: int) -> Iterator[dict[str, ColumnData]]:
        for start in range(0, self._frame.height, chunk_rows):
            block = self._frame.slice(start, chunk_rows)
            yield {name: block.get_column(name) for name in names}


class _PandasTable:
    """A pandas DataFrame, column by column and without pyarrow."""

    is_text = False
    is_positional = False
    is_code = False

    def __init__(self, frame: Any) -> None:
        self.names = _unique([str(name) for name in frame.columns])
        self._frame = frame

    def chunks(self, names: Sequence[str], chunk_rows: int) -> Iterator[dict[str, ColumnData]]:
        positions = [self.names.index(name) for name in names]
        for start in range(0, len(self._frame), chunk_rows):
            block = self._frame.iloc[start : start + chunk_rows]
            yield {
                name: _from_pandas(name, block.iloc[:, position])
                for name, position in zip(names, positions, strict=True)
            }


class _DictTable:
    """A mapping of column name to array or list."""

    is_text = False
    is_code = False

    def __init__(self, columns: Mapping[Any, Any], *, is_positional: bool = False) -> None:
        self.is_positional = is_positional
        self._columns = {str(name): _from_sequence(str(name), values) for name, values in columns.items()}
        self.names = tuple(self._columns)
        lengths = {name: len(values) for name, values in self._columns.items()}
        if len(set(lengths.values())) > 1:
            got = ", ".join(f"'{name}': {length}" for name, length in list(lengths.items())[:6])
            raise DataError("The columns differ in length", got=got, rule="one value per row in every column")

    def chunks(self, names: Sequence[str], chunk_rows: int) -> Iterator[dict[str, ColumnData]]:
        for start in range(0, len(self._columns[names[0]]), chunk_rows):
            yield {name: self._columns[name][start : start + chunk_rows] for name in names}


def open_table(source: object, positional: Sequence[str] | None) -> Table:
    """Wrap any supported source.

    Parameters
    ----------
    source : object
        See the message below for what is accepted.
    positional : sequence of str or None
        Names given to an array's columns, in order; None names them x0, x1, ...

    Raises
    ------
    DataError
        The source is of no supported kind, or an array has another number of columns than `positional`.
    """
    if isinstance(source, Without):
        return source.open(open_table(source.source, positional))
    if isinstance(source, str | os.PathLike):
        return _open_path(Path(source))
    if isinstance(source, np.ndarray | list | tuple):
        return _open_array(source, positional)
    if isinstance(source, Mapping):
        if not source:
            raise DataError("The dict of columns is empty", fix="pass one array per column")
        return _DictTable(source)
    is_pandas = _is_from("pandas", source)
    if is_pandas and hasattr(source, "iloc") and getattr(source, "ndim", 0) == 2:
        return _PandasTable(source)
    import polars as pl

    if isinstance(source, pl.DataFrame):
        return _FrameTable(source)
    is_column = is_pandas or isinstance(source, pl.Series)
    if hasattr(source, "__arrow_c_stream__") and not is_column:
        _unique(list(getattr(source, "column_names", [])))
        return _FrameTable(pl.DataFrame(source))
    fix = "call .collect() first" if isinstance(source, pl.LazyFrame) else None
    if hasattr(source, "toarray"):
        fix = "call .toarray() first, if it fits into memory"
    elif hasattr(source, "__next__"):
        fix = "an iterator can be read only once, and fitting reads twice: put the rows into a table or a file"
    raise DataError("The records are of an unknown kind", got=type(source).__name__, rule=_ACCEPTED, fix=fix)


def _open_path(path: Path) -> Table:
    from ._files import CsvTable, ParquetTable

    kinds: dict[str, type[CsvTable] | type[ParquetTable]] = {
        ".csv": CsvTable,
        ".parquet": ParquetTable,
        ".pq": ParquetTable,
    }
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise DataError(
            f"The file '{path}' is of an unknown kind",
            got=path.suffix or "no suffix",
            rule=".csv, .parquet or .pq",
        )
    try:
        if path.stat().st_size == 0:
            raise DataError(f"The file '{path}' is empty", got="0 bytes", fix="export it again, with its records")
    except OSError as error:
        raise DataError(f"The file '{path}' cannot be read", got=error.strerror) from error
    return kind(path)


def _open_array(source: object, positional: Sequence[str] | None) -> Table:
    try:
        array = np.asarray(source)
    except ValueError as error:
        raise DataError("The rows differ in length", rule="every row has one value per column") from error
    if isinstance(source, np.ma.MaskedArray):
        array = np.where(source.mask, np.nan, array)
    if array.ndim != 2:
        raise DataError(
            "The array is not a matrix",
            got=f"shape {array.shape}",
            rule="(n_rows, n_columns)",
            fix="use X.reshape(1, -1) for one record, X.reshape(-1, 1) for one column" if array.ndim == 1 else None,
        )
    names = tuple(positional) if positional is not None else tuple(f"x{i}" for i in range(array.shape[1]))
    if array.shape[1] != len(names):
        raise DataError(
            f"The array has {array.shape[1]} columns and the schema {len(names)} features",
            got=f"shape {array.shape}",
            rule="an array has no names: one column per feature, in the schema's order: "
            + ", ".join(names[:8])
            + (", ..." if len(names) > 8 else ""),
            fix="pass a table with column names, and extra or reordered columns do no harm",
        )
    if array.dtype.kind in "biuf":
        return _ArrayTable(array, names)
    if array.dtype.kind in "OUS":
        columns = {name: array[:, position] for position, name in enumerate(names)}
        return _DictTable(columns, is_positional=True)
    raise DataError("The array holds neither numbers nor text", got=f"dtype {array.dtype}")


def _from_pandas(name: str, series: Any) -> ColumnData:
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    dtype = series.dtype
    if isinstance(dtype, np.dtype):
        if dtype.kind in "biuf":
            return np.asarray(series.to_numpy())
    elif is_numeric_dtype(dtype) and not is_bool_dtype(dtype):
        return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan))
    objects = series.astype(object)
    return _from_objects(name, objects.where(series.notna(), None).tolist())


def _from_sequence(name: str, values: Any) -> ColumnData:
    import polars as pl

    if _is_from("pandas", values):
        return _from_pandas(name, values)
    if isinstance(values, pl.Series):
        return values
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        if values.ndim != 1:
            raise DataError(f"Column '{name}' is not one-dimensional", got=f"shape {values.shape}")
        return values
    if isinstance(values, np.ndarray) and values.dtype.kind in "mM":
        return pl.Series(name, values)
    try:
        return _from_objects(name, list(values))
    except TypeError as error:
        raise DataError(f"Column '{name}' is not an array or a list", got=type(values).__name__) from error


def _from_objects(name: str, values: list[Any]) -> ColumnData:
    import polars as pl

    try:
        return pl.Series(name, values, strict=False)
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"Column '{name}' mixes values that no column can hold",
            got=type(error).__name__,
            fix="clean it first",
        ) from error


def _is_from(package: str, value: object) -> bool:
    return any(kind.__module__.split(".")[0] == package for kind in type(value).__mro__)


def _unique(names: list[str]) -> tuple[str, ...]:
    if len(set(names)) != len(names):
        double = next(name for i, name in enumerate(names) if name in names[:i])
        raise DataError(f"The table has two columns '{double}'", fix="rename or drop one of them")
    return tuple(names)
