"""CSV and Parquet files in bounded memory, both through polars.

Parquet is read as slices of a scan: peak memory does not grow with the file's length; the size of its row groups,
which the writer chose, bounds it. (Polars' own batch iterator holds several row groups: 250 MiB against 100 MiB at 20
million rows of ten columns.) CSV is cut into blocks at row ends, so that neither memory nor row numbers depend on a
reader's internals.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blindsight.errors import DataError

from ._column import show

if TYPE_CHECKING:
    import polars as pl

    from ._tables import ColumnData

__all__ = ["CsvTable", "ParquetTable"]

BLOCK_BYTES = 1 << 23
"""CSV is read in blocks of this size; it is also the longest row accepted."""


class ParquetTable:
    """A Parquet file. Row groups of some 100,000 to 1,000,000 rows, the default of every writer, read
    fastest."""

    is_text = False
    is_positional = False
    is_code = False

    def __init__(self, path: Path) -> None:
        import polars as pl

        self._path = path
        self._scan = pl.scan_parquet(path, glob=False, hive_partitioning=False)
        try:
            self.names = tuple(self._scan.collect_schema().names())
            self._rows = int(self._scan.select(pl.len()).collect().item())
        except _failures() as error:
            raise self._unreadable(error) from error

    def chunks(self, names: Sequence[str], chunk_rows: int) -> Iterator[dict[str, ColumnData]]:
        """Yield consecutive slices of the named columns."""
        import polars.selectors as cs

        scan = self._scan.select(cs.by_name(*names))  # a plain string would be a pattern where it starts with ^
        for start in range(0, self._rows, chunk_rows):
            expected = min(chunk_rows, self._rows - start)
            try:
                frame = scan.slice(start, expected).collect()
            except _failures() as error:
                raise self._unreadable(error) from error
            if frame.height != expected:
                raise DataError(
                    f"The file '{self._path}' changed while it was read",
                    got=f"{frame.height} rows where {expected} were announced",
                    fix="write to a new file and rename it when it is complete",
                )
            yield {name: frame.get_column(name) for name in names}

    def _unreadable(self, error: BaseException) -> DataError:
        return DataError(
            f"The file '{self._path}' is not readable Parquet",
            got=str(error).splitlines()[0][:200] if str(error) else type(error).__name__,
            fix="export it again; it may be truncated or of another format",
        )


class CsvTable:
    """A CSV file after RFC 4180: UTF-8, comma, double quotes, one header row. Compressed files are not
    read."""

    is_text = True
    is_positional = False
    is_code = False

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            header = file.readline(BLOCK_BYTES)
        self._start = len(header)
        try:
            text = header.decode("utf-8-sig")
            fields = next(csv.reader([text], strict=True), [])
        except UnicodeDecodeError as error:
            raise self._not_utf8() from error
        except csv.Error as error:
            raise DataError(
                f"The header of '{path}' is malformed", got=str(error)[:100], rule="one line, quotes closed"
            ) from error
        if not any(fields):
            raise DataError(f"The file '{path}' has no header", rule="the first line names the columns")
        for other in ";\t|":
            if len(fields) == 1 and other in fields[0]:
                raise DataError(
                    f"The file '{path}' is not separated by commas",
                    got=show(text.strip()),
                    fix="export it with commas",
                )
        for position, name in enumerate(fields):
            if name in fields[:position]:
                raise DataError(f"The file '{path}' has two columns '{name}'", fix="rename or drop one of them")
        self.names = tuple(fields)

    def chunks(self, names: Sequence[str], chunk_rows: int) -> Iterator[dict[str, ColumnData]]:
        """Yield the named columns as text, at most one block of 8 MiB at a time."""
        row0 = 0
        # Names of our own stand in for the file's, which polars would read as patterns where they begin with ^.
        keys = {name: f"c{position}" for position, name in enumerate(self.names)}
        with self._path.open("rb") as file:
            file.seek(self._start)
            rest = b""
            while True:
                block = file.read(BLOCK_BYTES)
                is_last = len(block) < BLOCK_BYTES
                rows, rest = ((rest + block).rstrip(b"\r\n"), b"") if is_last else _cut(rest + block)
                if len(rest) > BLOCK_BYTES:
                    raise DataError(
                        f"The file '{self._path}' has no end of row after row {row0}",
                        rule=f"a row is at most {BLOCK_BYTES} bytes, and every quote is closed",
                        fix="look for an unpaired double quote",
                    )
                if rows:
                    frame = self._parse(rows, [keys[name] for name in names], row0)
                    row0 += frame.height
                    for start in range(0, frame.height, chunk_rows):
                        part = frame.slice(start, chunk_rows)
                        yield {name: part.get_column(keys[name]) for name in names}
                if is_last:
                    return

    def _parse(self, rows: bytes, keys: Sequence[str], row0: int) -> pl.DataFrame:
        import polars as pl

        width = len(self.names)
        last = f"c{width - 1}"
        header = ",".join(f"c{position}" for position in range(width)) + "\n"
        try:
            frame = pl.read_csv(
                header.encode() + rows,
                columns=list(dict.fromkeys([*keys, last])),
                infer_schema=False,
            )
        except _failures() as error:
            self._find_ragged(rows, row0)
            if "utf-8" in str(error).lower():
                raise self._not_utf8() from error
            raise DataError(
                f"The file '{self._path}' is malformed after row {row0}", got=str(error).splitlines()[0][:200]
            ) from error
        # Polars fills a row that is too short with nulls and says nothing; count the separators instead.
        if b'"' not in rows:
            commas = np.count_nonzero(np.frombuffer(rows, dtype=np.uint8) == ord(","))
            if commas != frame.height * (width - 1):
                self._find_ragged(rows, row0)
        elif frame.get_column(last).null_count():
            self._find_ragged(rows, row0)
        return frame

    def _find_ragged(self, rows: bytes, row0: int) -> None:
        """Raise DataError for the first row with another number of values than the header."""
        try:
            text = rows.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._not_utf8() from error
        rows_of_fields = enumerate(csv.reader(io.StringIO(text, newline="")))
        while True:
            try:
                offset, fields = next(rows_of_fields)
            except StopIteration:
                return
            except csv.Error as error:  # a value beyond the csv module's own limit of 128 KiB
                raise DataError(
                    f"The file '{self._path}' is malformed after row {row0}", got=str(error)[:100]
                ) from error
            if len(fields) != len(self.names) and not (len(self.names) == 1 and not fields):
                raise DataError(
                    f"Row {row0 + offset} of '{self._path}' has {len(fields)} values",
                    rule=f"{len(self.names)}, like the header",
                    fix="look for an unquoted comma, a blank line or a truncated end",
                )

    def _not_utf8(self) -> DataError:
        return DataError(f"The file '{self._path}' is not UTF-8 text", fix="save it as UTF-8")


def _cut(buffer: bytes) -> tuple[bytes, bytes]:
    """Split after the last line end that lies outside quotes: an even number of quotes stands before it."""
    end = buffer.rfind(b"\n")
    if b'"' in buffer:
        quotes = buffer.count(b'"', 0, end + 1)
        while end >= 0 and quotes % 2:
            earlier = buffer.rfind(b"\n", 0, end)
            quotes -= buffer.count(b'"', earlier + 1, end + 1)
            end = earlier
    # Blank lines at the end go to the rest: at the end of the file they mean nothing, elsewhere they are an
    # error.
    last = end
    while last >= 0 and buffer[last] in b"\r\n":
        last -= 1
    end = buffer.find(b"\n", last + 1, end + 1)
    return buffer[: end + 1], buffer[end + 1 :]


def _failures() -> tuple[type[BaseException], ...]:
    """What reading a damaged file can raise; a panic in polars is no subclass of Exception."""
    import polars as pl

    return (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)
