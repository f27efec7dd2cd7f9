"""Evaluation from two private score histograms: normal and anomalous records on one public grid."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from blindsight.data import Records
from blindsight.detectors import Detector, SumQuery, Total
from blindsight.errors import BlindsightWarning, DataError, ParameterError

from ._bootstrap import spread_of
from ._curves import Curves, curves_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ._breakdown import Breakdown

__all__ = ["Evaluation", "evaluation_from_total", "evaluation_query", "known"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How well a model ranks labelled records, from private sums.

    Parameters
    ----------
    auroc, average_precision : float
        Areas under the ROC and precision-recall curves; inside a bin both rates grow evenly.
        The second is NaN where one class has no record, and the first then says nothing: ``measurable`` is False.
    false_positive_rate, false_negative_rate : float
        At the model's ``threshold_``; NaN where there is no record of that class.
    threshold : float
    normal, anomalous : float
        Records of each kind, as released.
    roc : ndarray of shape (k, 2), float64
        False and true positive rate at every grid edge, from (0, 0) to (1, 1).
    precision_recall : ndarray of shape (k, 2), float64
        Recall and precision at the same edges; precision is 1 where nothing is flagged.
    thresholds : ndarray of shape (k,), float64
        Scores above which a record counts as flagged at each of these points; from infinity to -infinity.
    auroc_stddev, false_positive_rate_stddev, false_negative_rate_stddev : float
        What the noise alone makes uncertain, at most .5; 0 for exact sums.
    intervals : mapping of measure to (low, high)
        95% confidence intervals of ``auroc``, ``average_precision``, ``false_positive_rate`` and
        ``false_negative_rate``: noise, and the chance that lies in a finite number of records, together. See Notes.
    noise_stddev : float
        Standard deviation of the noise on each count; 0 for exact sums.
    source : {"parties", "validation set"}
        Whose records: everybody's, by private sums; or a set that the coordinator holds, read exactly and locally.
    certificate : dict
        Privacy of this release.
    breakdown : mapping of party name to Breakdown
        Each party's own figures. Empty unless the parties are in this process: they are computed and kept at each
        party and never leave it.

    Notes
    -----
    Intervals are the estimate plus and minus Student's t times the standard error of a parametric bootstrap: 200
    histograms drawn from the released ones (multinomial sampling, then the release's own noise), each measured like
    the released ones (Efron and Tibshirani 1993, section 6.5). Post-processing: no privacy is spent. Records count as
    independent; several of one person or series make the true uncertainty larger.
    """

    auroc: float
    average_precision: float
    false_positive_rate: float
    false_negative_rate: float
    threshold: float
    normal: float
    anomalous: float
    roc: Floats
    precision_recall: Floats
    thresholds: Floats
    auroc_stddev: float
    false_positive_rate_stddev: float
    false_negative_rate_stddev: float
    noise_stddev: float
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    source: Literal["parties", "validation set"] = "parties"
    certificate: dict[str, Any] | None = field(default=None, repr=False)
    breakdown: Mapping[str, Breakdown] = field(default_factory=dict, repr=False)

    @property
    def measurable(self) -> bool:
        """Whether ``auroc`` means something: both classes have records, and the noise leaves it known to within .1
        (one standard deviation)."""
        return self.auroc_stddev <= 0.1

    @property
    def both_classes(self) -> bool:
        """Whether there are normal and anomalous records, as released."""
        return min(self.normal, self.anomalous) > 0

    def threshold_for(self, *, fpr: float) -> float:
        """Score above which a fraction ``fpr`` of the normal records lies.

        Exact sums never give more than asked for: the threshold stands at an edge of the grid. Noisy ones are
        interpolated between edges.

        Parameters
        ----------
        fpr : float in (0, 1)
            Target false positive rate.

        Returns
        -------
        float
            In units of ``decision_function``.

        Warns
        -----
        BlindsightWarning
            The records are too few, or the noise is too large, to tell this rate from half or twice as much.
        """
        if not isinstance(fpr, float) or not 0 < fpr < 1:
            raise ParameterError("fpr is out of its domain", got=repr(fpr)[:60], rule="0 < fpr < 1", fix="fpr=0.01")
        if self.normal * fpr < 10 or self.false_positive_rate_stddev > fpr / 2:
            warnings.warn(
                f"A false positive rate of {fpr:g} cannot be set precisely: {self.normal:,.0f} normal records"
                + (f", and noise of ±{self.false_positive_rate_stddev:.2g} on the rate" if self.noise_stddev else "")
                + ". Evaluate on more records, or with more of the budget.",
                BlindsightWarning,
                stacklevel=2,
            )
        rates, scores = self.roc[1:-1, 0], self.thresholds[1:-1]
        if self.noise_stddev == 0:
            return float(scores[max(int(np.searchsorted(rates, fpr, side="right")) - 1, 0)])
        return float(np.interp(fpr, rates, scores))

    def contamination_for(self, model: Detector, *, fpr: float) -> float:
        """``contamination`` that puts the model's ``threshold_`` where :meth:`threshold_for` says.

        ``model.set_params(contamination=evaluation.contamination_for(model, fpr=.01))``: the threshold then travels
        with the model file. Nothing is spent: it is read off the released score histogram.

        Returns
        -------
        float in (0, .5]
        """
        score = self.threshold_for(fpr=fpr) / model.score_scale_
        histogram = model.score_histogram_
        total = max(histogram.n_records, 1.0)
        above = float(np.interp(score, histogram.edges, histogram.tail))
        return float(np.clip(above / total, 0.5 / total, 0.5))

    def plot(self) -> Figure:
        """Draw the ROC and the precision-recall curve; needs matplotlib.

        Returns
        -------
        matplotlib.figure.Figure
            ``figure.savefig("roc.png")``; in a notebook it shows itself.
        """
        from ._plot import plot_curves

        return plot_curves(self)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for run records and reports; the parties' own breakdowns are left out, and NaN is None."""
        return {
            "auroc": self.auroc,
            "average_precision": known(self.average_precision),
            "false_positive_rate": known(self.false_positive_rate),
            "false_negative_rate": known(self.false_negative_rate),
            "threshold": self.threshold,
            "normal": self.normal,
            "anomalous": self.anomalous,
            "roc": [[float(a), float(b)] for a, b in self.roc],
            "precision_recall": [[float(a), float(b)] for a, b in self.precision_recall],
            "auroc_stddev": self.auroc_stddev,
            "false_positive_rate_stddev": self.false_positive_rate_stddev,
            "false_negative_rate_stddev": self.false_negative_rate_stddev,
            "intervals": {name: list(interval) for name, interval in self.intervals.items()},
            "noise_stddev": self.noise_stddev,
            "source": self.source,
            "certificate": self.certificate,
        }

    def _repr_html_(self) -> str:
        from ._plot import evaluation_html

        return evaluation_html(self)


TAIL_SHARES = (0.5, 0.25, 0.1, 0.05, 0.02, 0.01)
"""Edges for noisy histograms stand where these shares of the fitted records score higher.

Few bins, and none in the lower half: every bin adds its noise to the AUROC, weighted by how far its rank is from that
of the anomalies (measured in benchmarks/evaluation_noise.py).
"""


def _edges(model: Detector, *, private: bool) -> Ints:
    if not private and model.score_histogram_.noise_variance == 0:
        grid = model._score_grid()
        return grid[3::4] if grid.size > 8 else grid
    histogram = model.score_histogram_  # released with the model, so that nothing more is spent on the grid
    own = model.contamination  # an edge where alerts begin: their rates are then counted, not interpolated
    shares = np.array(sorted([own, *(share for share in TAIL_SHARES if not 0.7 < share / own < 1.4)], reverse=True))
    places = np.interp(-shares * histogram.n_records, -histogram.tail, histogram.edges)
    return np.unique(np.rint(places).astype(np.int64))


def evaluation_query(model: Detector, *, private: bool | None = None) -> SumQuery:
    """Two histograms of scores, normal then anomalous, on a grid that the model fixes.

    Parameters
    ----------
    model : Detector
    private : bool, optional
        Whether noise will be added, so that few bins are better than many; by default, whether the model's own
        histogram has noise.

    Privacy
    -------
    One record adds 1 to one bin of one of the two: L2 sensitivity 1 (add or remove one record). A detector of aligned
    windows counts windows, of which one record is in one at most; of other windows no noise hides a record, and the
    detector refuses (``Detector.check_privacy``).
    """
    edges = _edges(model, private=_is_noisy(model) if private is None else private)

    length = 2 * (edges.size + 1)

    def count(chunk: Records) -> Ints:
        if chunk.label is None:
            raise DataError(
                "Evaluation needs labels",
                rule="the schema has a column of role 'label' and the records hold it",
                fix="add the label column, or declare its role in the schema",
            )
        scores, anomalous = model._cases(chunk)
        place = np.searchsorted(edges, scores, side="right")
        return np.bincount(place + (edges.size + 1) * anomalous, minlength=length)

    return model._counting("evaluation", length, count)


def known(value: float) -> float | None:
    """A measure as a file holds it: None where it is NaN, for which JSON has no word."""
    return None if math.isnan(value) else float(value)


def _is_noisy(model: Detector) -> bool:
    return model.score_histogram_.noise_variance > 0


def evaluation_from_total(
    model: Detector,
    total: Total,
    certificate: dict[str, Any] | None,
    *,
    source: Literal["parties", "validation set"] = "parties",
    breakdown: Mapping[str, Breakdown] | None = None,
) -> Evaluation:
    """Read AUROC, AP and error rates off the released histograms."""
    variance = total.noise_variance
    edges = _edges(model, private=variance > 0 or _is_noisy(model))
    normal, anomalous = (counts.astype(np.float64) for counts in np.split(total.values, 2))
    at = model.threshold_ / model.score_scale_
    curves = curves_of(edges, normal, anomalous, variance, at)
    auroc_stddev = _noise_on_auroc(curves, normal, anomalous, variance)
    values, intervals = curves.measures(), {}
    if min(normal.sum(), anomalous.sum()) <= 0:
        # nothing to rank against: say so, rather than print the 0 or 1 that the formula gives
        values["auroc"], auroc_stddev = 0.5, 0.5
        values["average_precision"] = math.nan
        if normal.sum() <= 0:
            values["false_positive_rate"] = math.nan
        if anomalous.sum() <= 0:
            values["false_negative_rate"] = math.nan
        warnings.warn(
            f"The evaluation data hold {'one class only' if variance == 0 else 'too few of one class for the noise'}: "
            f"{max(normal.sum(), 0):,.0f} normal and {max(anomalous.sum(), 0):,.0f} anomalous records, as released. "
            "AUROC and the rates of that class cannot be measured; evaluate on more records of both classes.",
            BlindsightWarning,
            stacklevel=3,
        )
    else:
        errors = spread_of(curves)
        intervals = {
            name: (max(value - errors[name], 0.0), min(value + errors[name], 1.0)) for name, value in values.items()
        }
    bins_above = int(np.sum(edges >= at)) + 1
    noise = math.sqrt(variance * bins_above)
    return Evaluation(
        **values,
        threshold=model.threshold_,
        normal=max(float(normal.sum()), 0.0),
        anomalous=max(float(anomalous.sum()), 0.0),
        roc=np.column_stack([curves.false_positive, curves.true_positive]),
        precision_recall=np.column_stack([curves.true_positive, curves.precision]),
        thresholds=np.concatenate([[math.inf], edges[::-1] * model.score_scale_, [-math.inf]]),
        auroc_stddev=min(auroc_stddev, 0.5),
        false_positive_rate_stddev=min(noise / curves.normal, 0.5),
        false_negative_rate_stddev=min(noise / curves.anomalous, 0.5),
        intervals=intervals,
        noise_stddev=math.sqrt(variance),
        source=source,
        certificate=certificate,
        breakdown=breakdown or {},
    )


def _noise_on_auroc(curves: Curves, normal: Floats, anomalous: Floats, variance: float) -> float:
    """First-order propagation of the counts' noise: AUROC is the mean, over anomalous records, of the share of normal
    ones below."""
    below = (np.cumsum(normal) - normal / 2) / curves.normal
    above = (np.cumsum(anomalous[::-1])[::-1] - anomalous / 2) / curves.anomalous
    area = curves.measures()["auroc"]
    spread = np.sum((below - area) ** 2) / curves.anomalous**2 + np.sum((above - area) ** 2) / curves.normal**2
    return math.sqrt(variance * float(spread))
