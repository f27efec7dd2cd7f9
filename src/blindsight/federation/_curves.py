"""ROC and precision-recall curves of two score histograms, and what is read off them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Curves", "curves_of"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

PIECES = 8
"""Points inside a bin at which precision is taken."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Curves:
    """Rates above every edge, from the highest down: 0 at the start and 1 at the end.

    Parameters
    ----------
    normal, anomalous : float
        Records of each kind: as released, and at least what noise could fake.
    false_positive, true_positive : ndarray of shape (k + 2,), float64
        Non-decreasing.
    edges : ndarray of shape (k,), int64
    noise_variance : float
        Of the counts behind the curves.
    at : float
        Score of the alarm threshold.
    """

    normal: float
    anomalous: float
    false_positive: Floats
    true_positive: Floats
    edges: Ints
    noise_variance: float
    at: float

    @property
    def precision(self) -> Floats:
        """Share of the flagged records that are anomalous; 1 where nothing is flagged."""
        return _precision(self.anomalous * self.true_positive, self.normal * self.false_positive)

    def measures(self) -> dict[str, float]:
        """AUROC, average precision, and the error rates at the threshold."""
        fpr, tpr = self.false_positive, self.true_positive
        auroc = float(np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2))
        # between two points of the curve both counts grow evenly (Davis and Goadrich 2006, section 5)
        share = (np.arange(PIECES) + 0.5) / PIECES
        hits = self.anomalous * (tpr[:-1, None] + np.diff(tpr)[:, None] * share)
        false = self.normal * (fpr[:-1, None] + np.diff(fpr)[:, None] * share)
        average_precision = float(np.sum(np.diff(tpr)[:, None] / PIECES * _precision(hits, false)))
        places = np.concatenate([[self.edges[0] - 1.0], self.edges.astype(np.float64), [self.edges[-1] + 1.0]])
        return {
            "auroc": min(max(auroc, 0.0), 1.0),
            "average_precision": min(max(average_precision, 0.0), 1.0),
            "false_positive_rate": float(np.interp(self.at, places, fpr[::-1])),
            "false_negative_rate": 1.0 - float(np.interp(self.at, places, tpr[::-1])),
        }


def _precision(hits: Floats, false: Floats) -> Floats:
    flagged = hits + false
    return np.divide(hits, flagged, out=np.ones_like(flagged), where=flagged > 0)


def curves_of(edges: Ints, normal: Floats, anomalous: Floats, variance: float, at: float) -> Curves:
    """Curves of two histograms on one grid.

    Parameters
    ----------
    edges : ndarray of shape (k,), int64
    normal, anomalous : ndarray of shape (k + 1,), float64
        Counts, possibly noisy.
    variance : float
        Of the noise on each count.
    at : float
        Score of the alarm threshold, in the edges' units.
    """
    n, false_positive = _rates(normal, variance)
    a, true_positive = _rates(anomalous, variance)
    return Curves(
        normal=n,
        anomalous=a,
        false_positive=false_positive,
        true_positive=true_positive,
        edges=edges,
        noise_variance=variance,
        at=at,
    )


def _rates(counts: Floats, variance: float) -> tuple[float, Floats]:
    """Number of records (at least what noise could fake), and the share above each edge, 0 and 1 at the ends.

    Noisy tails are made monotone by isotonic regression, which is post-processing: what is known of counts, that none
    is negative, takes part of the noise out.
    """
    total = max(float(counts.sum()), math.sqrt(variance * counts.size), 1.0)
    tail = np.cumsum(counts[::-1])[:-1]
    if variance > 0:
        from scipy.optimize import isotonic_regression

        tail = isotonic_regression(tail, weights=1.0 / np.arange(1, tail.size + 1)).x
    return total, np.concatenate([[0.0], np.clip(tail / total, 0.0, 1.0), [1.0]])
