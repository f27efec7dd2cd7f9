"""One private histogram ahead of the fit: how each feature is distributed, for bin edges with fine tails and scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from blindsight.data import Schema

from ._counts import consistent_counts
from ._features import count_query, one_hot_bins
from ._queries import SumQuery, Total

__all__ = ["PREPARATION_BINS", "Preparation", "preparation_query"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

PREPARATION_BINS = 256
"""Bins per number: edges are read off with the precision of one of them."""

SHARE = 0.25
"""Part of the fit's share of the budget that learned scales cost; the fit takes the rest."""


def preparation_query(schema: Schema) -> SumQuery:
    """Counts per feature and fine, evenly spaced public bin; L2 sensitivity sqrt(d). Charged like any other sum."""
    query = count_query("prepare", one_hot_bins(schema, PREPARATION_BINS))
    return SumQuery(
        name=query.name,
        length=query.length,
        sensitivity_l2=query.sensitivity_l2,
        max_abs=query.max_abs,
        add=query.add,
        fraction=SHARE,
    )


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
        blocks = np.split(counts, encoder.offsets[1:])
        n = max(float(np.mean([block.sum() for block in blocks])), 1.0)
        fitted = [b.astype(np.float64) if total.noise_variance == 0 else consistent_counts(b, n) for b in blocks]
        return cls(
            counts=counts,
            noise_variance=float(total.noise_variance),
            edges=tuple(np.asarray(inner) for inner in encoder.edges),
            shares=tuple(f / max(f.sum(), 1e-9) for f in fitted),
        )
