"""Private descriptive statistics by column: two bounded sums, and what is read off them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from blindsight.data import Records, Schema
from blindsight.detectors import SumQuery, Total, category_names, count_query, one_hot_bins, public_range, quantiser

__all__ = ["ColumnDescription", "describe_column_totals", "describe_query"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

HISTOGRAM_BINS = 64
LEVELS = 1000
HALF = 0.5
"""Part of the "describe" share that each of the two sums takes."""
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@dataclass(frozen=True, kw_only=True)
class ColumnDescription:
    """Private statistics of one feature.

    Parameters
    ----------
    name : str
    count : float
        Records, as released.
    mean, variance : float or None
        Of the values clipped to the declared range; None for categories.
    quantiles : dict of float to float
        Interpolated in the histogram's bins; empty for categories.
    edges : ndarray of shape (k,), float64
        Inner edges of the histogram's bins; for categories halfway between codes.
    histogram : ndarray of shape (k + 1,), int64
        Counts per bin (per category, the last one for undeclared values), noisy if noise was asked for.
    labels : tuple of str
        Names of the categories; empty for numbers.
    """

    name: str
    count: float
    mean: float | None
    variance: float | None
    quantiles: dict[float, float]
    edges: Floats
    histogram: Ints
    labels: tuple[str, ...]


def _numbers(schema: Schema) -> list[int]:
    return [f for f, column in enumerate(schema.features) if column.type != "category"]


def describe_query(schema: Schema, part: str) -> SumQuery:
    """Return one of the two sums behind ``describe``.

    Parameters
    ----------
    schema : Schema
    part : {"histogram", "moments"}

    Privacy
    -------
    Histogram: one count per feature, L2 sensitivity sqrt(d). Moments: with q the value's level in -1000 .. 1000, one
    record adds 1000 q and q**2 per number column, both at most 10**6: L2 sensitivity 10**6 sqrt(2 d). Add or remove
    one record.
    """
    if part == "histogram":
        return replace(count_query("describe/histogram", one_hot_bins(schema, HISTOGRAM_BINS)), fraction=HALF)
    numbers = _numbers(schema)
    grid = quantiser(tuple(schema.features[f] for f in numbers), levels=LEVELS, logs=False)

    def add_moments(accumulator: Ints, chunk: Records) -> None:
        q = grid.quantise(chunk.X[:, numbers])
        accumulator[: len(numbers)] += LEVELS * q.sum(axis=0)
        accumulator[len(numbers) :] += np.einsum("ij,ij->j", q, q)

    return SumQuery(
        name="describe/moments",
        length=2 * len(numbers),
        sensitivity_l2=LEVELS**2 * math.sqrt(2 * len(numbers)),
        max_abs=LEVELS**2,
        add=add_moments,
        fraction=HALF,
    )


def describe_column_totals(schema: Schema, histogram: Total, moments: Total | None) -> list[ColumnDescription]:
    """Read count, mean, variance, histogram and quantiles of every feature off the two totals."""
    encoder = one_hot_bins(schema, HISTOGRAM_BINS)
    blocks = np.split(histogram.values, encoder.offsets[1:])
    count = max(float(np.mean([block.sum() for block in blocks])), 1.0)
    numbers = _numbers(schema)
    result = []
    for f, (column, block) in enumerate(zip(schema.features, blocks, strict=True)):
        edges = np.asarray(encoder.edges[f])
        mean = variance = None
        quantiles: dict[float, float] = {}
        if f in numbers and moments is not None:
            j = numbers.index(f)
            low, high = public_range(column)
            half = (high - low) / 2
            first = float(moments.values[j]) / (LEVELS * count)
            second = float(moments.values[len(numbers) + j]) / count
            # noise can push a mean of bounded values beyond their bounds; the bounds are public
            mean = float(np.clip((low + high) / 2 + half * first / LEVELS, low, high))
            variance = min(max((half / LEVELS) ** 2 * (second - first**2), 0.0), half**2)
            quantiles = _quantiles(edges, block)
        result.append(
            ColumnDescription(
                name=column.name,
                count=count,
                mean=mean,
                variance=variance,
                quantiles=quantiles,
                edges=edges,
                histogram=block,
                labels=category_names(column),
            )
        )
    return result


def _quantiles(edges: Floats, counts: Ints) -> dict[float, float]:
    """Interpolate linearly between the edges; what lies beyond them is reported at the outer edge."""
    cumulative = np.maximum.accumulate(np.maximum(np.cumsum(counts)[:-1], 0)).astype(np.float64)
    total = max(float(counts.sum()), 1.0)
    return {q: float(np.interp(q * total, cumulative, edges)) for q in QUANTILES}
