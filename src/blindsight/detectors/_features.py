"""From the schema's features to public encoders: shared by the detectors and by descriptive statistics."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from blindsight.circuits import MAX_LENGTH, Monomials, OneHot, OneHotBins, even_edges
from blindsight.data import Column, Records, Schema
from blindsight.errors import ParameterError

from ._queries import SumQuery

__all__ = ["category_names", "count_query", "one_hot_bins", "public_range", "quantiser"]


def public_range(column: Column) -> tuple[float, float]:
    """Low and high of a number feature; a schema holds no number feature without them."""
    assert column.low is not None
    assert column.high is not None
    return float(column.low), float(column.high)


def category_names(column: Column) -> tuple[str, ...]:
    """Declared categories of a column; empty for numbers."""
    return column.categories or ()


def one_hot_bins(schema: Schema, bins: int) -> OneHotBins:
    """Build ``bins - 2`` evenly spaced bins and two open outer ones per number, one bin per category and one more.

    Evenly spaced on the scale that the schema declares, linear or logarithmic.
    """
    length = sum(len(category_names(c)) + 1 if c.type == "category" else bins for c in schema.features)
    if length > MAX_LENGTH:  # before building: a schema may come from another party
        raise ParameterError("The encoding is too long", got=f"{length} slots", rule=f"at most {MAX_LENGTH}")
    edges = []
    for column in schema.features:
        if column.type == "category":
            inner = np.arange(len(category_names(column))) + 0.5
        else:
            inner = even_edges(*public_range(column), bins - 1, log=column.scale == "log")
        edges.append(tuple(float(edge) for edge in inner))
    return OneHotBins(edges=tuple(edges))


def count_query(name: str, encoder: OneHot) -> SumQuery:
    """Counts per block and slot: of records per feature and bin, tree and leaf, projection and bin.

    Privacy
    -------
    One record adds 1 to exactly one slot of each of the b blocks: L2 sensitivity sqrt(b), add or remove one record.
    """

    def add(accumulator: npt.NDArray[np.int64], chunk: Records) -> None:
        encoder.count(chunk.X, accumulator)

    return SumQuery(name=name, length=encoder.length, sensitivity_l2=math.sqrt(encoder.blocks), max_abs=1, add=add)


def quantiser(columns: tuple[Column, ...], *, levels: int, logs: bool) -> Monomials:
    """Build the monomials of number columns over their public ranges; ``logs`` honours the declared scale."""
    ranges = [public_range(column) for column in columns]
    return Monomials(
        lows=tuple(low for low, _ in ranges),
        highs=tuple(high for _, high in ranges),
        logs=tuple(logs and column.scale == "log" for column in columns),
        levels=levels,
    )
