"""Mahalanobis distance from summed moments: how far a record lies from the mean, in units of the covariance.

Parties sum: (1, x)(1, x)' of quantised, norm-clipped records. Combine: mean, covariance, eigenvalue floor, inverse.
Circuit: the inner product of the monomials of (1, x) with the integer precision matrix.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from blindsight.data import Schema

from ._moments import ROUNDING, MomentDetector, eigenvalue_floor

__all__ = ["Mahalanobis"]

Floats = npt.NDArray[np.float64]


class Mahalanobis(MomentDetector):
    """Squared Mahalanobis distance on public quantised features.

    Parameters
    ----------
    contamination : float in (0, .5]
        Fraction of the fitted records above ``threshold_``.
    norm_clip : float in (0, 1]
        While fitting, records are pulled to the ball of radius ``norm_clip * sqrt(d)`` half ranges around the middle
        of the declared ranges. 1 clips nothing that the range has not clipped; less costs less noise. Scoring clips
        to the ranges alone.
    eigenvalue_floor : float in (0, 1)
        Smallest eigenvalue kept, as a fraction of the mean one: what makes rank-deficient data safe.
    schema : Schema, optional
        Without it ``fit`` infers one and the ranges count as learned. Number columns only.

    Privacy
    -------
    With z = (levels, x) and |x| <= R, one record adds 5 z_i**2 and 7 z_i z_j (i < j): L2 sensitivity at most
    5 * (levels**2 + R**2), because 49 <= 2 * 25. Add or remove one record. Quantised before counting, so totals are
    exact integers however the rows are split.
    """

    name = "Mahalanobis"

    def __init__(
        self,
        *,
        contamination: float = 0.1,
        norm_clip: float = 1.0,
        eigenvalue_floor: float = 1e-3,
        schema: Schema | None = None,
    ) -> None:
        self.contamination = contamination
        self.norm_clip = norm_clip
        self.eigenvalue_floor = eigenvalue_floor
        self.schema = schema

    def _form(self, covariance: Floats, noise: float) -> Floats:
        values, vectors = np.linalg.eigh(covariance)
        floor = eigenvalue_floor(values, self.eigenvalue_floor, ROUNDING, noise)
        inverse: Floats = (vectors / np.maximum(values, floor)) @ vectors.T
        return inverse
