"""Evaluation from two private score histograms: normal and anomalous records on one public grid."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import auc

from blindsight.data import Records
from blindsight.detectors import Detector, ScoreHistogram, SumQuery, Total, score_edges
from blindsight.errors import DataError

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
    noise_stddev: float
    certificate: dict[str, Any] | None = field(default=None, repr=False)

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
            "noise_stddev": self.noise_stddev,
            "certificate": self.certificate,
        }


def _edges(model: Detector) -> Ints:
    low, first = model._first_score()
    high = model.circuit_.bounds(model.encoder_)[1]
    return score_edges(low, first, high, 512 if model.noise_variance_ == 0 else 128)


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
    normal, anomalous = (
        ScoreHistogram(edges=edges, counts=counts, noise_variance=total.noise_variance)
        for counts in np.split(total.values, 2)
    )
    n, a = max(normal.n_records, 1.0), max(anomalous.n_records, 1.0)
    false_positive = np.concatenate([[1.0], np.minimum(normal.tail / n, 1.0), [0.0]])[::-1]
    true_positive = np.concatenate([[1.0], np.minimum(anomalous.tail / a, 1.0), [0.0]])[::-1]
    area = float(auc(false_positive, true_positive))
    flagged = n * false_positive + a * true_positive
    precision = np.divide(a * true_positive, flagged, out=np.ones_like(flagged), where=flagged > 0)
    average_precision = float(np.sum(np.diff(true_positive) * precision[1:]))
    at = model.threshold_ / model.score_scale_
    middle = np.concatenate([[edges[0] - 1.0], edges.astype(np.float64), [edges[-1] + 1.0]])[::-1]
    fpr = float(np.interp(-at, -middle, false_positive))
    tpr = float(np.interp(-at, -middle, true_positive))
    return Evaluation(
        auroc=area,
        average_precision=average_precision,
        false_positive_rate=fpr,
        false_negative_rate=1.0 - tpr,
        threshold=model.threshold_,
        normal=normal.n_records,
        anomalous=anomalous.n_records,
        roc=np.column_stack([false_positive, true_positive]),
        noise_stddev=float(np.sqrt(total.noise_variance)),
        certificate=certificate,
    )
