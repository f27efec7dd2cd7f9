"""The score histogram: one more private sum, from which any threshold is read without going back to the data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ._domains import number

__all__ = ["ScoreHistogram", "scaled_counts", "score_edges"]

Ints = npt.NDArray[np.int64]

TWO_SIDED_95 = 1.96  # standard deviations on either side of a normal mean that hold 95%


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
        wanted = contamination * max(self.n_records, 1.0)
        tail = self.tail
        j = _first_at_most(tail, wanted)
        if j == tail.size:
            return float(self.edges[-1])
        if self.noise_variance == 0:
            return float(self.edges[j]) - 0.5  # scores are integers: half a step below the first one flagged
        if j == 0:
            return float(self.edges[0])
        upper, lower = tail[j - 1], tail[j]
        fraction = (upper - wanted) / (upper - lower) if upper > lower else 1.0
        return float(self.edges[j - 1] + fraction * (self.edges[j] - self.edges[j - 1]))

    def alert_interval(self, contamination: float) -> tuple[float, float] | None:
        """Shares between which that of the counted records above :meth:`threshold` lies, in 19 releases of 20.

        The exact number of records above an edge is the released number less the noise of all bins above it, which
        are independent: its standard deviation is ``sqrt(bins * noise_variance)``, and 1.96 of them are taken on
        either side. How records lie inside the threshold's own bin is not known, so that the whole bin is added.

        An approximation: the edge is treated as if it had been chosen without looking at the noise, the noise in
        :attr:`n_records` is left out, and :attr:`tail`, which is smoothed, stands for the released numbers.
        ``tests/detectors/test_scores.py`` holds it to at least 92% of simulated releases; the more records the bin
        holds, the more it covers.

        Returns
        -------
        tuple of float or None
            The lowest and the highest share, both in [0, 1]; None where the counts are exact.

        Privacy
        -------
        Computed from what was released; nothing more is.
        """
        number("contamination", contamination, 0.0, 0.5, open_low=True)
        if self.noise_variance == 0:
            return None
        total = max(self.n_records, 1.0)
        tail = self.tail
        j = _first_at_most(tail, contamination * total)
        low, high = (tail[j] if j < tail.size else 0.0), tail[max(j - 1, 0)]
        bins = tail.size - j  # wholly above the threshold
        spread = TWO_SIDED_95 * math.sqrt(self.noise_variance)
        low, high = low - spread * math.sqrt(bins), high + spread * math.sqrt(bins + 1)
        return max(float(low) / total, 0.0), min(float(high) / total, 1.0)

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


def _first_at_most(tail: npt.NDArray[np.float64], wanted: float) -> int:
    """Index of the first edge with at most so many records at or above it; ``tail.size`` where there is none."""
    below = np.flatnonzero(tail <= wanted)
    return int(below[0]) if below.size else tail.size


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
