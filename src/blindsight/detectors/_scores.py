"""The score histogram: one more private sum, from which any threshold is read without going back to the data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ._domains import number

__all__ = ["ScoreHistogram", "scaled_counts", "score_edges"]

Ints = npt.NDArray[np.int64]


def score_edges(low: int, first: int, high: int, bins: int) -> Ints:
    """Public grid over all scores that the released circuit can return, finer where scores are small.

    Distances from ``low`` grow by equal ratios from ``first`` to ``high - low``. No observed score is used.

    Parameters
    ----------
    low, high : int
        Static bounds of the circuit.
    first : int
        Distance of the first edge from ``low``: what a very ordinary record is sure to exceed.
    bins : int
        Number of bins wanted; rounding may leave fewer.

    Returns
    -------
    ndarray of shape (k,), int64
        Strictly increasing inner edges; a score s lies in bin ``searchsorted(edges, s, side="right")``.
    """
    span = max(high - low, 2)
    inner = low + np.geomspace(min(max(first, 1), span / 2), span, bins - 1)
    edges: Ints = np.unique(np.rint(inner).astype(np.int64))
    return edges


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreHistogram:
    """Counts of integer scores on a public grid.

    Parameters
    ----------
    edges : ndarray of shape (k,), int64
        Strictly increasing inner edges.
    counts : ndarray of shape (k + 1,), int64
        Records per bin; noisy (hence possibly negative) when the histogram was released with noise.
    noise_variance : float
        Variance of the noise on each count.
    """

    edges: Ints
    counts: Ints
    noise_variance: float = 0.0

    @property
    def tail(self) -> npt.NDArray[np.float64]:
        """Estimated number of records scoring at or above each edge, shape (k,), non-increasing.

        Noisy tails are made monotone by isotonic regression, which is post-processing and unbiased where the tail is
        steep.
        """
        above: npt.NDArray[np.float64] = np.cumsum(self.counts[::-1], dtype=np.float64)[::-1][1:]
        if self.noise_variance > 0:
            from scipy.optimize import isotonic_regression

            bins_above = np.arange(above.size, 0, -1)
            above = isotonic_regression(above, weights=1.0 / bins_above, increasing=False).x
        clipped: npt.NDArray[np.float64] = np.clip(above, 0.0, self.n_records)
        return clipped

    @property
    def n_records(self) -> float:
        """Number of records, as released."""
        return float(max(int(self.counts.sum()), 0))

    @property
    def deviation(self) -> float:
        """Standard deviation of the noise in ``counts.sum()``: that of all bins together."""
        return math.sqrt(self.noise_variance * self.counts.size)

    def rebinned(self, edges: Ints, scale_ratio: float) -> ScoreHistogram:
        """Move the counts onto another grid, each bin by its midpoint.

        ``scale_ratio`` is the old circuit's score scale over the new one's. Used when a model was updated and its
        earlier records cannot be scored again.
        """
        if scale_ratio == 1.0 and np.array_equal(edges, self.edges):
            return self
        counts = np.zeros(edges.size + 1, dtype=np.int64)
        place = np.searchsorted(edges, self.middles * scale_ratio, side="right")
        np.add.at(counts, place, self.counts)
        return ScoreHistogram(edges=edges, counts=counts, noise_variance=self.noise_variance)

    @property
    def middles(self) -> npt.NDArray[np.float64]:
        """Midpoint of every bin, in integer score units; the outer bins stand at their edge."""
        return np.concatenate([[self.edges[0]], (self.edges[1:] + self.edges[:-1]) / 2, [self.edges[-1]]])

    def threshold(self, contamination: float) -> float:
        """Score above which a fraction ``contamination`` of the records lie.

        An exact histogram never flags more than asked: the threshold stands just below an edge, so that tied scores
        stay together. A noisy one, whose bins are wide, is interpolated inside the bin.

        Returns
        -------
        float
            In integer score units.
        """
        number("contamination", contamination, 0.0, 0.5, open_low=True)
        total = max(self.n_records, 1.0)
        wanted = contamination * total
        tail = self.tail
        below = np.flatnonzero(tail <= wanted)
        if below.size == 0:
            return float(self.edges[-1])
        j = int(below[0])
        if self.noise_variance == 0:
            return float(self.edges[j]) - 0.5  # scores are integers: half a step below the first one flagged
        if j == 0:
            return float(self.edges[0])
        upper, lower = tail[j - 1], tail[j]
        fraction = (upper - wanted) / (upper - lower) if upper > lower else 1.0
        return float(self.edges[j - 1] + fraction * (self.edges[j] - self.edges[j - 1]))

    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation of the binned scores (bin midpoints), in integer score units."""
        middles = self.middles
        weights = np.diff(np.concatenate([[self.n_records], self.tail, [0.0]])) * -1.0
        weights = np.maximum(weights, 0.0)
        total = weights.sum()
        if total <= 0:
            return float(middles[0]), 1.0
        mean = float(weights @ middles / total)
        return mean, max(float(np.sqrt(weights @ (middles - mean) ** 2 / total)), 1.0)


def scaled_counts(counts: Ints, total: int) -> Ints:
    """Scale nonnegative counts to add up to ``total``, by largest remainders; all zeros stay zero."""
    present = int(counts.sum())
    if present in (0, total):
        return counts
    exact = counts * (total / present)
    scaled: Ints = np.floor(exact).astype(np.int64)
    missing = total - int(scaled.sum())
    scaled[np.argsort(scaled - exact, kind="stable")[:missing]] += 1
    return scaled
