"""COPOD by counting: tail probabilities of the empirical copula, on the side to which each feature is skewed.

Parties sum: one count per feature and bin. Combine: per feature left and right tail from the cumulative counts, the
sign of the skewness from the binned moments. Circuit: the inner product of the one-hot bins with that table.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ._binned import BinnedDetector, tail_masses

__all__ = ["COPOD"]

Floats = npt.NDArray[np.float64]


class COPOD(BinnedDetector):
    """Copula-based outlier detection (Li et al. 2020, ICDM) on public bins.

    Parameters
    ----------
    contamination : float in (0, .5]
        Fraction of the fitted records above ``threshold_``.
    bins : int in [4, 1024]
        Bins per numeric feature, two of them open, as for :class:`ECOD`.
    edges : {"declared", "learned"}
        As for :class:`ECOD`; learned ones make the model not secret.
    schema : Schema, optional
        Without it ``fit`` infers one and the ranges count as learned.

    Notes
    -----
    With left and right tail terms l = -log F(x) and r = -log(1 - F(x)) of a feature, and its skewness s, the table
    holds max(skew-corrected, (l + r) / 2), where the skew-corrected term is l for s < 0, r for s > 0 and l + r for
    s = 0: algorithm 1 of the paper, with the maximum taken per feature (as in PyOD), so that the score is linear in
    the one-hot bins. The skewness is that of the bins' middles, in the column's own unit.

    Privacy
    -------
    As for :class:`ECOD`: one count per feature and record, L2 sensitivity sqrt(d), add or remove one record.
    """

    name = "COPOD"

    def _number_term(self, fitted: Floats, edges: Floats, n: float) -> Floats:
        left, right = tail_masses(fitted, n)
        skew = skew_sign(fitted, edges)
        corrected = left + right if skew == 0 else (left if skew < 0 else right)
        term: Floats = np.maximum(corrected, (left + right) / 2.0)
        return term


def skew_sign(fitted: Floats, edges: Floats) -> int:
    """Sign of the third central moment of binned values; 0 for one that is nil but for rounding.

    Bins stand at their middle, the open outer ones at their edge.
    """
    middles = np.concatenate([edges[:1], (edges[1:] + edges[:-1]) / 2.0, edges[-1:]])
    span = float(edges[-1] - edges[0])
    present = float(fitted.sum())
    if span <= 0 or present <= 0:
        return 0
    position = (middles - edges[0]) / span
    share = fitted / present
    centred = position - float(share @ position)
    third = float(share @ centred**3)
    return 0 if abs(third) < 1e-12 else int(np.sign(third))
