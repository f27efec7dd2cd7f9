"""Confidence in what two released histograms say: sampling and noise together, by a parametric bootstrap."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ._curves import Curves, curves_of

__all__ = ["spread_of"]

Floats = npt.NDArray[np.float64]

REPLICATES = 200
CONFIDENCE = 0.95


def spread_of(curves: Curves) -> dict[str, float]:
    """Half-width of every measure's 95% interval.

    Histograms are drawn from the released ones as records would fall (multinomial) and noise would be added (Gaussian),
    and measured alike; the half-width is their standard deviation times Student's t for the smaller class.

    Parameters
    ----------
    curves : Curves

    Returns
    -------
    dict of measure to float

    Privacy
    -------
    Post-processing of released histograms: nothing is spent. The generator is seeded, so that the same release always
    says the same.
    """
    from scipy.stats import t

    generator = np.random.default_rng(0)
    n, a = max(round(curves.normal), 1), max(round(curves.anomalous), 1)
    stddev = math.sqrt(curves.noise_variance)
    # ascending by score, as histograms are
    normal, anomalous = _shares(curves.false_positive), _shares(curves.true_positive)
    drawn = []
    for _ in range(REPLICATES):
        first = generator.multinomial(n, normal) + stddev * generator.standard_normal(normal.size)
        second = generator.multinomial(a, anomalous) + stddev * generator.standard_normal(anomalous.size)
        drawn.append(curves_of(curves.edges, first, second, curves.noise_variance, curves.at).measures())
    quantile = float(t.ppf((1 + CONFIDENCE) / 2, max(min(n, a) - 1, 1)))
    return {name: quantile * float(np.std([measures[name] for measures in drawn])) for name in drawn[0]}


def _shares(rates: Floats) -> Floats:
    shares: Floats = np.maximum(np.diff(rates)[::-1], 0.0)
    shares /= shares.sum()
    return shares
