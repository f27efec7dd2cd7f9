"""Principal components from summed moments: how far a record lies out along each of them.

Parties sum: (1, x)(1, x)' of quantised, norm-clipped records, as for Mahalanobis. Combine: mean, deviations,
correlation, its eigenvectors. Circuit: the inner product of the monomials of (1, x) with an integer quadratic form.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from blindsight.data import Schema

from ._domains import number
from ._moments import ROUNDING, MomentDetector, eigenvalue_floor

__all__ = ["PCA"]

Floats = npt.NDArray[np.float64]


class PCA(MomentDetector):
    """Weighted squared distances along the principal components of the standardised features (Shyu et al. 2003).

    Parameters
    ----------
    contamination : float in (0, .5]
        Fraction of the fitted records above ``threshold_``.
    whitening : float in [0, 1]
        A component of eigenvalue v counts v ** -whitening: 0 counts all alike (in rank, nearly PyOD's
        ``PCA(weighted=False)``), 1 is the Mahalanobis distance of the standardised features.
    norm_clip : float in (0, 1]
        As for :class:`Mahalanobis`: less costs less noise.
    eigenvalue_floor : float in (0, 1)
        Smallest eigenvalue kept, as a fraction of the mean one: what makes rank-deficient data safe.
    schema : Schema, optional
        Without it ``fit`` infers one and the ranges count as learned. Number columns only.

    Notes
    -----
    PyOD's default divides by the eigenvalues without a floor and returns 1e17 where a column repeats another.

    Privacy
    -------
    The same sum as :class:`Mahalanobis`: L2 sensitivity 5 * (levels**2 + R**2), add or remove one record.
    """

    name = "PCA"

    def __init__(
        self,
        *,
        contamination: float = 0.1,
        whitening: float = 0.5,
        norm_clip: float = 1.0,
        eigenvalue_floor: float = 1e-3,
        schema: Schema | None = None,
    ) -> None:
        self.contamination = contamination
        self.whitening = whitening
        self.norm_clip = norm_clip
        self.eigenvalue_floor = eigenvalue_floor
        self.schema = schema

    def _validate(self) -> None:
        super()._validate()
        number("whitening", self.whitening, 0.0, 1.0)

    def _form(self, covariance: Floats, noise: float) -> Floats:
        variances = np.diag(covariance)
        floor = eigenvalue_floor(variances, self.eigenvalue_floor, ROUNDING, noise)
        inverse_deviations = 1.0 / np.sqrt(np.maximum(variances, floor))
        correlation = covariance * np.outer(inverse_deviations, inverse_deviations)
        # a constant has been given a variance above: it stands alone, and is not floored a second time
        np.fill_diagonal(correlation, 1.0)
        values, vectors = np.linalg.eigh(correlation)
        rounding = ROUNDING * float(inverse_deviations.min()) ** 2
        kept = np.maximum(
            values, eigenvalue_floor(values, self.eigenvalue_floor, rounding, noise * rounding / ROUNDING)
        )
        directions = inverse_deviations[:, None] * vectors
        form: Floats = (directions * kept**-self.whitening) @ directions.T
        return form
