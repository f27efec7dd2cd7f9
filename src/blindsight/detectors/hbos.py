"""HBOS by counting: how rare each feature's bin is, summed over the features.

Parties sum: one count per feature and bin. Combine: -log of the share of records in each bin; all bins of a feature
are equally wide, so that this is its density. Circuit: the inner product of the one-hot bins with that table.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from blindsight.data import Schema

from ._binned import BinnedDetector
from ._counting import frequency_term

__all__ = ["HBOS"]

Floats = npt.NDArray[np.float64]


class HBOS(BinnedDetector):
    """Histogram-based outlier score (Goldstein and Dengel 2012) on public bins of equal width.

    Parameters
    ----------
    contamination : float in (0, .5]
        Fraction of the fitted records above ``threshold_``.
    bins : int in [4, 1024]
        Bins per numeric feature, two of them open, as for :class:`ECOD`. More than about sixteen do harm: a density
        needs many records in every bin.
    edges : {"declared", "learned"}
        ``"learned"`` spreads the bins evenly over the middle of the data instead of the declared range, from one more
        private histogram; the model is then not secret.
    schema : Schema, optional
        Without it ``fit`` infers one and the ranges count as learned.

    Notes
    -----
    Learned edges are equally spaced here, never quantiles: bins of equal mass have no density to tell apart.

    Privacy
    -------
    As for :class:`ECOD`: one count per feature and record, L2 sensitivity sqrt(d), add or remove one record.
    """

    name = "HBOS"

    def __init__(
        self,
        *,
        contamination: float = 0.1,
        bins: int = 16,
        edges: Literal["declared", "learned"] = "declared",
        schema: Schema | None = None,
    ) -> None:
        super().__init__(contamination=contamination, bins=bins, edges=edges, schema=schema)

    def _learned_edges(self, schema: Schema) -> tuple[tuple[float, ...], ...]:
        assert self.preparation_ is not None
        return self.preparation_.even_edges(schema, self.bins)

    def _number_term(self, fitted: Floats, edges: Floats, n: float) -> Floats:  # noqa: ARG002 (the base's signature)
        return frequency_term(fitted, n)
