"""Evaluation from two private score histograms: normal and anomalous records on one public grid."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from blindsight.data import Records
from blindsight.detectors import Detector, SumQuery, Total
from blindsight.errors import BlindsightWarning, DataError

__all__ = ["Evaluation", "evaluation_from_total", "evaluation_query"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How well a model ranks labelled records, from private sums.

    Parameters
    ----------
    auroc, average_precision : float
        Areas under the ROC and precision-recall curves; ties inside a bin count half.
    false_positive_rate, false_negative_rate : float
        At the model's ``threshold_``.
    threshold : float
    normal, anomalous : float
        Records of each kind, as released.
    roc : ndarray of shape (k, 2), float64
        False and true positive rate at every grid edge, from (0, 0) to (1, 1).
    auroc_stddev, false_positive_rate_stddev, false_negative_rate_stddev : float
        What the noise alone makes uncertain, at most .5; 0 for exact sums. The chance that lies in a finite number
        of records comes on top.
    noise_stddev : float
        Standard deviation of the noise on each count; 0 for exact sums.
    certificate : dict
        Privacy of this release.
    """

    auroc: float
    average_precision: float
    false_positive_rate: float
    false_negative_rate: float
    threshold: float
    normal: float
    anomalous: float
    roc: Floats
    auroc_stddev: float
    false_positive_rate_stddev: float
    false_negative_rate_stddev: float
    noise_stddev: float
    certificate: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def measurable(self) -> bool:
        """Whether ``auroc`` means something: the noise leaves it known to within .1 (one standard deviation)."""
        return self.auroc_stddev <= 0.1

    def to_json(self) -> dict[str, Any]:
        """Plain values, for run records and reports."""
        return {
            "auroc": self.auroc,
            "average_precision": self.average_precision,
            "false_positive_rate": self.false_positive_rate,
            "false_negative_rate": self.false_negative_rate,
            "threshold": self.threshold,
            "normal": self.normal,
            "anomalous": self.anomalous,
            "roc": [[float(a), float(b)] for a, b in self.roc],
            "auroc_stddev": self.auroc_stddev,
            "false_positive_rate_stddev": self.false_positive_rate_stddev,
            "false_negative_rate_stddev": self.false_negative_rate_stddev,
            "noise_stddev": self.noise_stddev,
            "certificate": self.certificate,
        }


TAIL_SHARES = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01, 0.005])
"""Edges for noisy histograms stand where these shares of the fitted records score higher: few bins, little noise."""


def _edges(model: Detector) -> Ints:
    if model.noise_variance_ == 0:
        return model._score_grid()[3::4]
    histogram = model.score_histogram_  # released with the model, so that nothing more is spent on the grid
    places = np.interp(-TAIL_SHARES * histogram.n_records, -histogram.tail, histogram.edges)
    return np.unique(np.rint(places).astype(np.int64))


def evaluation_query(model: Detector) -> SumQuery:
    """Two histograms of scores, normal then anomalous, on a grid that the model fixes.

    Privacy
    -------
    One record adds 1 to one bin of one of the two: L2 sensitivity 1 (add or remove one record).
    """
    edges = _edges(model)

    def add(accumulator: Ints, chunk: Records) -> None:
        if chunk.label is None:
            raise DataError(
                "Evaluation needs labels",
                rule="the schema has a column of role 'label' and the records hold it",
                fix="add the label column, or declare its role in the schema",
            )
        place = np.searchsorted(edges, model._integer_scores(chunk.X), side="right")
        accumulator += np.bincount(place + (edges.size + 1) * (chunk.label != 0), minlength=accumulator.size)

    return SumQuery(name="evaluation", length=2 * (edges.size + 1), sensitivity_l2=1.0, max_abs=1, add=add)


def evaluation_from_total(model: Detector, total: Total, certificate: dict[str, Any] | None) -> Evaluation:
    """Read AUROC, AP and error rates off the released histograms."""
    edges = _edges(model)
    normal, anomalous = (counts.astype(np.float64) for counts in np.split(total.values, 2))
    variance = total.noise_variance
    n, false_positive = _rates(normal, variance)
    a, true_positive = _rates(anomalous, variance)
    # AUROC = mean over anomalous records of the share of normal ones below, from the counts as released (unbiased
    # above and below the line); the stddev is its first-order propagation of the noise on both
    below = (np.cumsum(normal) - normal / 2) / n
    above = (np.cumsum(anomalous[::-1])[::-1] - anomalous / 2) / a
    area = float(np.clip(anomalous @ below / a, 0.0, 1.0))
    spread = variance * (np.sum((below - area) ** 2) / a**2 + np.sum((above - area) ** 2) / n**2)
    if min(normal.sum(), anomalous.sum()) <= 0:
        # nothing to rank against: say so, rather than print the 0 or 1 that the formula gives
        area, spread = 0.5, 0.25
        warnings.warn(
            f"The evaluation data hold {'one class only' if variance == 0 else 'too few of one class for the noise'}: "
            f"{max(normal.sum(), 0):,.0f} normal and {max(anomalous.sum(), 0):,.0f} anomalous records, as released. "
            "AUROC and the rates of that class cannot be measured; evaluate on more records of both classes.",
            BlindsightWarning,
            stacklevel=3,
        )
    flagged = n * false_positive + a * true_positive
    precision = np.divide(a * true_positive, flagged, out=np.ones_like(flagged), where=flagged > 0)
    average_precision = float(np.sum(np.diff(true_positive) * precision[1:]))
    at = model.threshold_ / model.score_scale_
    middle = np.concatenate([[edges[0] - 1.0], edges.astype(np.float64), [edges[-1] + 1.0]])[::-1]
    fpr = float(np.interp(-at, -middle, false_positive))
    tpr = float(np.interp(-at, -middle, true_positive))
    bins_above = int(np.sum(edges >= at)) + 1
    return Evaluation(
        auroc=area,
        average_precision=average_precision,
        false_positive_rate=fpr,
        false_negative_rate=1.0 - tpr,
        threshold=model.threshold_,
        normal=max(float(normal.sum()), 0.0),
        anomalous=max(float(anomalous.sum()), 0.0),
        roc=np.column_stack([false_positive, true_positive]),
        auroc_stddev=min(math.sqrt(spread), 0.5),
        false_positive_rate_stddev=min(math.sqrt(variance * bins_above) / n, 0.5),
        false_negative_rate_stddev=min(math.sqrt(variance * bins_above) / a, 0.5),
        noise_stddev=math.sqrt(variance),
        certificate=certificate,
    )


def _rates(counts: Floats, variance: float) -> tuple[float, Floats]:
    """Number of records (at least what noise could fake), and the share above each edge, 0 and 1 at the ends.

    Noisy tails are made monotone by isotonic regression, which is post-processing.
    """
    total = max(float(counts.sum()), math.sqrt(variance * counts.size), 1.0)
    tail = np.cumsum(counts[::-1])[:-1]
    if variance > 0:
        from scipy.optimize import isotonic_regression

        tail = isotonic_regression(tail, weights=1.0 / np.arange(1, tail.size + 1)).x
    return total, np.concatenate([[0.0], np.clip(tail / total, 0.0, 1.0), [1.0]])
