"""One private histogram ahead of the fit: how each feature is distributed, for bin edges with fine tails and scales."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from blindsight.circuits import spread, unspread
from blindsight.data import Schema

from ._counts import BlockCounts
from ._features import category_names, count_query, one_hot_bins, public_range
from ._queries import SumQuery, Total

__all__ = ["PREPARATION_BINS", "SHARE", "Preparation", "Scaling", "preparation_query"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

PREPARATION_BINS = 256
"""Bins per number: edges are read off with the precision of one of them."""

SHARE = 0.25
"""Part of the fit's share of the budget that learned scales cost; the fit takes the rest."""

TAIL = 0.0005
"""Outermost quantile that learned edges resolve; beyond it lie only the ends of what was counted."""

FLOOR = 1.0 / PREPARATION_BINS
"""Smallest scale, as a part of the declared range: about one fine bin. A constant column has this one."""

DECLARED_DEVIATION = 0.125
"""Deviation that a feature is taken to have where nothing was learned, as a part of its declared range."""

NORMAL_IQR = 1.349
"""Interquartile range of a normal distribution, in deviations."""


def preparation_query(schema: Schema) -> SumQuery:
    """Counts per feature and fine, evenly spaced public bin; L2 sensitivity sqrt(d). Charged like any other sum."""
    return replace(count_query("prepare", one_hot_bins(schema, PREPARATION_BINS)), fraction=SHARE)


@dataclass(frozen=True, kw_only=True, eq=False)
class Preparation:
    """What the histogram says, made consistent where it was noisy.

    Parameters
    ----------
    counts : ndarray of shape (length,), int64
        As released.
    noise_variance : float
    edges : tuple of ndarray
        Per feature the public inner edges of the fine bins.
    shares : tuple of ndarray
        Per feature the estimated share of the records in each fine bin; adds up to 1.
    """

    counts: Ints
    noise_variance: float
    edges: tuple[Floats, ...]
    shares: tuple[Floats, ...]

    @classmethod
    def from_total(cls, schema: Schema, total: Total) -> Self:
        """Read a released total; ValueError when it does not fit the schema."""
        encoder = one_hot_bins(schema, PREPARATION_BINS)
        counts = np.asarray(total.values)
        if counts.dtype != np.int64 or counts.shape != (encoder.length,):
            raise ValueError("the preparation has another length than the schema asks for")
        blocks = BlockCounts.read(encoder, total).blocks
        return cls(
            counts=counts,
            noise_variance=float(total.noise_variance),
            edges=tuple(np.asarray(inner) for inner in encoder.edges),
            shares=tuple(block / max(block.sum(), 1e-9) for block in blocks),
        )

    def quantiles(self, feature: int, levels: Floats) -> Floats:
        """Quantiles of a number feature on the declared scale (see :class:`Scaling`), linear inside a fine bin.

        Parameters
        ----------
        feature : int
        levels : ndarray of shape (k,), float64
            In [0, 1]; 0 and 1 give the ends of the outermost bins that hold anything.

        Returns
        -------
        ndarray of shape (k,), float64
            In [0, 1]: an open outer bin ends at the range.
        """
        share = self.shares[feature]
        # where mass is too small to be a record's, noise is all there is
        held = np.flatnonzero(share > 1e-9)
        if not held.size:  # counts of nobody, which only a file can hold: every bin alike
            share, held = np.ones_like(share), np.arange(share.size)
        ends = np.concatenate([[0.0], np.linspace(0.0, 1.0, share.size - 1), [1.0]])
        first, last = int(held[0]), int(held[-1])
        inside = share[first : last + 1]
        cumulative = np.concatenate([[0.0], np.cumsum(inside) / inside.sum()])
        found: Floats = np.interp(levels, cumulative, ends[first : last + 2])
        return found

    def quantile_edges(self, schema: Schema, bins: int) -> tuple[tuple[float, ...], ...]:
        """Inner edges of at most ``bins`` bins per number: quantiles whose logits are even, from TAIL to 1 - TAIL.

        Two more edges stand at the ends of the counted range, so that the outer bins are for values never seen.
        Categories keep their own bins.
        """
        logits = np.linspace(np.log(TAIL / (1 - TAIL)), -np.log(TAIL / (1 - TAIL)), max(bins - 3, 1))
        levels = np.concatenate([[0.0], 1.0 / (1.0 + np.exp(-logits)), [1.0]])
        return self._edges(schema, lambda feature: self.quantiles(feature, levels))

    def even_edges(self, schema: Schema, bins: int) -> tuple[tuple[float, ...], ...]:
        """Inner edges of ``bins`` bins per number, evenly spaced over the counted range without its outermost TAIL."""

        def even(feature: int) -> Floats:
            low, high = self.quantiles(feature, np.array([TAIL, 1.0 - TAIL]))
            positions: Floats = np.linspace(low, max(high, low + FLOOR), bins - 1)
            return positions

        return self._edges(schema, even)

    def _edges(self, schema: Schema, positions_of: Callable[[int], Floats]) -> tuple[tuple[float, ...], ...]:
        found = []
        for f, column in enumerate(schema.features):
            if column.type == "category":
                inner = self.edges[f]
            else:
                low, high = public_range(column)
                inner = np.unique(unspread(np.unique(positions_of(f)), low, high, log=column.scale == "log"))
            found.append(tuple(float(edge) for edge in inner))
        return tuple(found)

    def centre_scale(self, schema: Schema, *, robust: bool = False) -> Scaling:
        """Location and scale of every number feature.

        Parameters
        ----------
        schema : Schema
        robust : bool
            Median and interquartile range (over 1.349) instead of mean and deviation.
        """
        centres, scales = [], []
        for f in range(len(schema.features)):
            if robust:
                low, centre, high = self.quantiles(f, np.array([0.25, 0.5, 0.75]))
                scale = float(high - low) / NORMAL_IQR
            else:
                share = self.shares[f]
                inner = np.linspace(0.0, 1.0, share.size - 1)
                middles = np.concatenate([[0.0], (inner[1:] + inner[:-1]) / 2.0, [1.0]])
                centre = share @ middles
                scale = float(np.sqrt(max(float(share @ (middles - centre) ** 2), 0.0)))
            centres.append(float(centre))
            scales.append(max(scale, FLOOR))
        return Scaling.of(schema, centres=tuple(centres), scales=tuple(scales))


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Features moved and stretched to about mean 0 and deviation 1, on the scale that the schema declares.

    A value's position is ``circuits.spread`` of it: 0 at the low end of the declared range, 1 at the high end,
    linear or logarithmic. Centre and scale are in positions.

    Parameters
    ----------
    lows, highs, logs : tuple
        Declared range of each feature, and whether it is logarithmic.
    centres, scales : tuple of float
        ``standardise`` gives ``(position - centre) / scale``.
    """

    lows: tuple[float, ...]
    highs: tuple[float, ...]
    logs: tuple[bool, ...]
    centres: tuple[float, ...]
    scales: tuple[float, ...]

    @classmethod
    def of(cls, schema: Schema, *, centres: tuple[float, ...], scales: tuple[float, ...]) -> Self:
        """Build one for the number features of a schema; categories are taken as the range of their codes."""
        ranges = [
            (0.0, float(max(len(category_names(c)), 1))) if c.type == "category" else public_range(c)
            for c in schema.features
        ]
        return cls(
            lows=tuple(low for low, _ in ranges),
            highs=tuple(high for _, high in ranges),
            logs=tuple(c.type != "category" and c.scale == "log" for c in schema.features),
            centres=centres,
            scales=scales,
        )

    @classmethod
    def declared(cls, schema: Schema, *, deviation: float = DECLARED_DEVIATION) -> Self:
        """Scale by the declared ranges alone: centre in the middle, ``deviation`` of the range as the scale."""
        d = len(schema.features)
        return cls.of(schema, centres=(0.5,) * d, scales=(deviation,) * d)

    def standardise(self, X: Floats) -> Floats:
        """Return (n, d) float64 -> (n, d) float64, not clipped."""
        out = np.empty(X.shape, dtype=np.float64)
        each = zip(self.lows, self.highs, self.logs, self.centres, self.scales, strict=True)
        for f, (low, high, log, centre, scale) in enumerate(each):
            out[:, f] = (spread(X[:, f], low, high, log=log) - centre) / scale
        return out
