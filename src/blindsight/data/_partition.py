"""One table cut into many parties' tables, alike or not, from a seed: for simulations of fleets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from blindsight.errors import DataError, ParameterError

from ._column import Column
from ._decode import decode_key, read_floats
from ._schema import Schema
from ._tables import open_table

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Split", "partition"]

Kind = Literal["iid", "dirichlet", "quantile"]
CHUNK_ROWS = 1 << 16
GROUPS = 10
"""Equal parts of a column of numbers that a Dirichlet split deals out one by one."""
NOISE = 0.3
"""Of a split by quantile, in standard deviations of the rank: neighbours overlap, as organisations do."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """How unlike the parties are.

    Parameters
    ----------
    kind : {"iid", "dirichlet", "quantile"}
        "iid": rows at random, equally many each. "dirichlet": each value of a column (each tenth of its range of
        ranks, for numbers) is dealt to the parties in shares drawn from a symmetric Dirichlet distribution (Hsu, Qi
        and Brown 2019), so that sizes and contents differ. "quantile": rows sorted by a column with noise of 0.3
        standard deviations of the rank, cut into equal parts.
    alpha : float
        Of the Dirichlet distribution: 100 is nearly alike, 0.1 is very unlike.
    column : str, optional
        By default the label where the table has it (Dirichlet), else the first feature.
    """

    kind: Kind = "iid"
    alpha: float = 0.5
    column: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ParameterError(
                "A split is of no such kind", got=repr(self.kind)[:80], rule="iid, dirichlet or quantile"
            )
        if not (isinstance(self.alpha, int | float) and 1e-3 <= self.alpha <= 1e6):
            raise ParameterError("alpha of a split is out of its domain", got=repr(self.alpha)[:80], rule="1e-3 to 1e6")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``iid``, ``dirichlet:ALPHA``, ``dirichlet:ALPHA:COLUMN``, ``quantile`` or ``quantile:COLUMN``.

        Raises
        ------
        ParameterError
        """
        kind, _, rest = text.partition(":")
        alpha, _, column = rest.partition(":") if kind == "dirichlet" else ("", "", rest)
        try:
            number = float(alpha or 0.5)
        except ValueError:
            number = math.nan
        if math.isnan(number) or (kind == "iid" and rest):
            raise ParameterError(
                "The split cannot be read",
                got=repr(text)[:80],
                rule="iid, dirichlet:ALPHA[:COLUMN] or quantile[:COLUMN]",
                fix="dirichlet:0.5",
            )
        return cls(kind=kind, alpha=number, column=column or None)  # type: ignore[arg-type]  # checked on construction


def partition(source: object, schema: Schema, parties: int, split: Split, *, seed: int) -> dict[str, pl.DataFrame]:
    """Cut a table into one for each party: ``party-0000`` and so on.

    Parameters
    ----------
    source : path or table with column names
    schema : Schema
        Its columns alone are kept.
    parties : int
    split : Split
    seed : int
        The same seed gives the same parties.

    Returns
    -------
    dict of name to polars table
        Each row of the source at exactly one party, at least one at each, in the source's order.

    Raises
    ------
    DataError
        Fewer rows than parties; a column that is missing; a value that is no number.
    ParameterError
        The split is by a column that is not there.
    """
    frame = _frame(source, schema)
    if frame.height < parties:
        raise DataError(
            "There are fewer rows than parties",
            got=f"{frame.height:,} rows, {parties:,} parties",
            rule="a party has at least one row",
            fix="simulate fewer parties, or give more rows",
        )
    generator = np.random.default_rng([seed, 3])
    if split.kind == "iid":
        owner = generator.permutation(np.arange(frame.height) % parties)
    elif split.kind == "quantile":
        owner = _by_rank(_ranks(_split_column(frame, schema, split)), parties, generator)
    else:
        owner = _by_dirichlet(_groups(_split_column(frame, schema, split)), parties, split.alpha, generator)
    order = np.argsort(owner, kind="stable")
    ends = np.cumsum(np.bincount(owner, minlength=parties))
    digits = max(4, len(str(parties - 1)))
    return {f"party-{i:0{digits}d}": frame[rows] for i, rows in enumerate(np.split(order, ends[:-1]))}


def _frame(source: object, schema: Schema) -> pl.DataFrame:
    """The schema's columns of a table as one frame; numbers that came as text are numbers."""
    import polars as pl

    table = open_table(source, schema.feature_names)
    if table.is_code:
        raise DataError(
            "A table to be split has no column names",
            rule="a path, or a pandas, polars or Arrow table, or a dict of columns",
            fix="give the columns the schema's names",
        )
    read = [column for column in schema.columns if column.role != "ignore" and column.name in table.names]
    parts = []
    row0 = 0
    for chunk in table.chunks([column.name for column in read], CHUNK_ROWS):
        columns: dict[str, Any] = {}
        for column in read:
            columns[column.name] = _typed(column, chunk[column.name], row0, is_text=table.is_text)
        parts.append(pl.DataFrame(columns))
        row0 += parts[-1].height
    return pl.concat(parts, how="vertical_relaxed") if parts else pl.DataFrame()


def _typed(column: Column, data: Any, row0: int, *, is_text: bool) -> Any:
    """A column as a table in memory holds it: what a file says in text and the schema calls a number is one."""
    if not is_text or column.type != "number":
        return data
    if column.role in ("person", "entity"):
        return decode_key(column, data, row0, is_text=True)
    return read_floats(column, data, row0, is_text=True)


def _split_column(frame: pl.DataFrame, schema: Schema, split: Split) -> pl.Series:
    label = schema.label
    first = schema.feature_names[0]
    name = split.column
    if name is None:
        name = label.name if split.kind == "dirichlet" and label is not None and label.name in frame.columns else first
    if name not in frame.columns:
        raise ParameterError(
            "The split is by a column that is not there",
            got=repr(name)[:80],
            rule="a column of schema and table",
            fix="one of " + ", ".join(frame.columns)[:300],
        )
    return frame.get_column(name)


def _ranks(column: pl.Series) -> npt.NDArray[np.float64]:
    """Places of the values in order, from 0 on; equal values share a rank, missing ones the first."""
    return (column.rank("dense").cast(float).fill_null(0.0)).to_numpy()


def _groups(column: pl.Series) -> npt.NDArray[np.int64]:
    """The number of each row's value, or of its tenth where there are more values than that and they are numbers."""
    ranks = _ranks(column)
    if column.dtype.is_numeric() and len(np.unique(ranks)) > GROUPS:
        return np.argsort(np.argsort(ranks, kind="stable"), kind="stable").astype(np.int64) * GROUPS // len(ranks)
    return np.unique(ranks, return_inverse=True)[1].astype(np.int64)


def _by_rank(ranks: npt.NDArray[np.float64], parties: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    noisy = ranks + NOISE * ranks.std() * generator.standard_normal(len(ranks))
    owner = np.empty(len(ranks), dtype=np.int64)
    owner[np.argsort(noisy, kind="stable")] = np.arange(len(ranks)) * parties // len(ranks)
    return owner


def _by_dirichlet(
    groups: npt.NDArray[np.int64], parties: int, alpha: float, generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    owner = np.empty(len(groups), dtype=np.int64)
    for group in range(int(groups.max()) + 1):
        rows = generator.permutation(np.flatnonzero(groups == group))
        ends = np.cumsum(generator.dirichlet(np.full(parties, alpha)))
        owner[rows] = np.minimum(np.searchsorted(ends, (np.arange(len(rows)) + 0.5) / len(rows)), parties - 1)
    # a party without a row cannot take part: each takes one from whoever has most
    counts = np.bincount(owner, minlength=parties)
    for empty in np.flatnonzero(counts == 0):
        richest = int(np.argmax(counts))
        owner[np.flatnonzero(owner == richest)[0]] = empty
        counts[richest] -= 1
        counts[empty] += 1
    return owner
