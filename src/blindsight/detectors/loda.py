"""LODA by counting: how rare a record is on each of many public random projections.

Parties sum: one count per projection and bin. Combine: -log of the share of records in each bin, averaged over the
projections. Circuit: the inner product of the one-hot bins with that table.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from blindsight.circuits import OneHot, ProjectedBins
from blindsight.data import Schema

from ._counting import CountingDetector, frequency_term
from ._counts import BlockCounts
from ._domains import choice, seed_number, whole_number
from ._features import category_names, public_range
from ._preparation import FLOOR, TAIL, Preparation

__all__ = ["LODA"]

Floats = npt.NDArray[np.float64]


class LODA(CountingDetector):
    """Lightweight on-line detector of anomalies (Pevny 2016) on public projections.

    Parameters
    ----------
    contamination : float in (0, .5]
        Fraction of the fitted records above ``threshold_``.
    projections : int in [1, 4096]
        Random projections, each of ``ceil(sqrt(d))`` features with normal weights.
    bins : int in [4, 1024]
        Bins per projection: ``bins - 2`` even ones over the values that records inside the ranges can have, and two
        open outer ones. More rank no better, and noise on few records costs them more.
    scales : {"declared", "learned"}
        What a feature's range is: the declared one, or the middle of the data as one more private histogram tells it,
        which costs budget and marks the model "not secret". For ranges that are much wider than the data.
    seed : int in [0, 2**63)
        Public: every party and every record owner draws the same projections from it.
    schema : Schema, optional
        Without it ``fit`` infers one and the ranges count as learned.

    Notes
    -----
    The score is the mean over the projections of -log of the share of records in the record's bin. All bins of one
    projection are equally wide, so that this is its density up to a constant. The paper chooses the number of bins from
    the data; here it is public. Categories stand at even places on their range, in the order of their declaration.

    Privacy
    -------
    One record adds 1 to exactly one bin of each projection: L2 sensitivity sqrt(projections), add or remove one record.
    Exact counts are a release about persons: an outer bin may hold one of them.
    """

    name = "LODA"

    def __init__(
        self,
        *,
        contamination: float = 0.1,
        projections: int = 100,
        bins: int = 32,
        scales: Literal["declared", "learned"] = "declared",
        seed: int = 0,
        schema: Schema | None = None,
    ) -> None:
        self.contamination = contamination
        self.projections = projections
        self.bins = bins
        self.scales = scales
        self.seed = seed
        self.schema = schema

    def _validate(self) -> None:
        super()._validate()
        whole_number("projections", self.projections, 1, 4096)
        whole_number("bins", self.bins, 4, 1024)
        seed_number(self.seed)
        choice("scales", self.scales, ("declared", "learned"))

    def _learns_scales(self) -> bool:
        return self.scales == "learned"

    def encoder(self, schema: Schema) -> ProjectedBins:
        """Build the projections: a function of schema and parameters and, with learned scales, the preparation."""
        ranges = [
            (-0.5, len(category_names(c)) + 0.5) if c.type == "category" else public_range(c) for c in schema.features
        ]
        parts = [_part(schema, f, self.preparation_) for f in range(len(ranges))]
        return ProjectedBins(
            lows=tuple(low for low, _ in ranges),
            highs=tuple(high for _, high in ranges),
            logs=tuple(c.type != "category" and c.scale == "log" for c in schema.features),
            starts=tuple(start for start, _ in parts),
            stops=tuple(stop for _, stop in parts),
            projections=self.projections,
            bins=self.bins,
            seed=self.seed,
        )

    def _tables(self, schema: Schema, encoder: OneHot, counts: BlockCounts) -> list[Floats]:  # noqa: ARG002
        return [frequency_term(fitted, counts.n) for fitted in counts.blocks]

    @property
    def _slots_per_block(self) -> int:
        return self.bins


def _part(schema: Schema, feature: int, preparation: Preparation | None) -> tuple[float, float]:
    """Part of a feature's spread range that its records take; all of it for categories and where none was learned."""
    if preparation is None or schema.features[feature].type == "category":
        return 0.0, 1.0
    start, stop = (float(v) for v in preparation.quantiles(feature, np.array([TAIL, 1.0 - TAIL])))
    start = min(start, 1.0 - FLOOR)
    return start, max(stop, start + FLOOR)
