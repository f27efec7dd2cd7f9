"""ECOD by counting: how far out in its tail each feature lies, summed over the features.

Parties sum: one count per feature and bin. Combine: per feature the larger of the two tail terms -log F(x) and
-log(1 - F(x)), read from the cumulative counts. Circuit: the inner product of the one-hot bins with that table.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ._binned import BinnedDetector, tail_masses

__all__ = ["ECOD"]

Floats = npt.NDArray[np.float64]


class ECOD(BinnedDetector):
    """Empirical-cumulative-distribution outlier detection (Li et al. 2022, TKDE) on public bins.

    Parameters
    ----------
    contamination : float in (0, .5]
        Fraction of the fitted records above ``threshold_``.
    bins : int in [4, 1024]
        Bins per numeric feature: ``bins - 2`` evenly spaced over the declared range (logarithmically where the schema
        says ``scale = "log"``) and two open outer ones for values beyond it.
    edges : {"declared", "learned"}
        ``"learned"`` puts the edges at quantiles with fine tails, read from one more private histogram; the model is
        then not secret under blind scoring.
    schema : Schema, optional
        Without it ``fit`` infers one and the ranges count as learned.

    Notes
    -----
    The paper sums three times over the features and takes the largest sum; taking the larger tail per feature instead
    keeps the score linear in the one-hot bins, hence exact under encryption, and ranks better (docs/detectors/ecod.md).
    Categories score -log of their frequency; an undeclared category scores as one that was never seen.

    Privacy
    -------
    One record adds 1 to exactly one bin of each of the d features: L2 sensitivity sqrt(d), add or remove one record.
    Exact counts are a release about persons: a tail bin may hold one of them. Learned edges are a second release of
    the same sensitivity; it takes a quarter of the fit's share of the budget, the counts the rest.
    """

    name = "ECOD"
    ordinary = 0.05

    def _number_term(self, fitted: Floats, edges: Floats, n: float) -> Floats:  # noqa: ARG002 (the base's signature)
        left, right = tail_masses(fitted, n)
        larger: Floats = np.maximum(left, right)
        return larger
